"""Checks of a tokenised batch, and what is derived from its attention mask."""

from __future__ import annotations

from collections.abc import Callable

import torch

_INTEGER_DTYPES = (torch.int64, torch.int32)


def check_inputs(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
    max_length: int,
    *,
    has_segments: bool = True,
) -> torch.Tensor:
    """Check a padded batch and return its attention mask.

    Reads one small result back from the device, for all checks of values together; nothing when there is neither an
    attention mask nor token types to check.

    Args:
        input_ids: int64 or int32 [B, L].
        attention_mask: [B, L] of 1 (or True) for valid tokens and 0 (or False) for padding, on either side; `None`
            when there is no padding.
        token_type_ids: int64 or int32 [B, L], or `None`.
        max_length: the longest L that the backbone has positions for.
        has_segments: whether the backbone tells segments apart. Where it does not, `token_type_ids` may be given, as
            tokenizers do, but all of them have to be 0.

    Returns:
        The attention mask, bool [B, L]; all True when none was given.

    Raises:
        TypeError: an argument is not a tensor, or ids are not integers.
        ValueError: wrong shape or device, too long, mask values other than 0 and 1, a row without a valid token, or
            token types other than 0 for a backbone without segments.
    """
    _check_ids("input_ids", input_ids)
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids must have shape [batch, length], got {list(input_ids.shape)}")
    batch_size, length = input_ids.shape
    if length > max_length:
        raise ValueError(
            f"input length {length} exceeds the backbone's {max_length} positions; truncate the input, "
            f"for example tokenizer(..., truncation=True, max_length={max_length})"
        )
    faults: list[tuple[torch.Tensor, Callable[[], str]]] = []
    if token_type_ids is not None:
        _check_ids("token_type_ids", token_type_ids)
        _check_like_input_ids("token_type_ids", token_type_ids, input_ids)
        if not has_segments:
            faults.append(
                (
                    (token_type_ids != 0).any(),
                    lambda: "token_type_ids must be 0: this backbone does not tell segments apart; leave them out",
                )
            )
    if attention_mask is None:
        if batch_size > 0 and length == 0:
            raise ValueError(f"no valid token in row(s) {list(range(batch_size))}: input_ids has length 0")
        valid = torch.ones_like(input_ids, dtype=torch.bool)
    else:
        if not isinstance(attention_mask, torch.Tensor):
            raise TypeError(f"attention_mask must be a tensor, got {type(attention_mask).__name__}")
        _check_like_input_ids("attention_mask", attention_mask, input_ids)
        valid = attention_mask != 0
        empty_rows = ~valid.any(dim=1)
        # A mask in the additive convention (0 = valid, -10000 = padding) would be read the wrong way round.
        other_values = valid & (attention_mask != 1)
        faults += [
            (other_values.any(), lambda: "attention_mask must hold only 1 (valid token) and 0 (padding)"),
            (
                empty_rows.any(),
                lambda: (
                    f"no valid token in row(s) {empty_rows.nonzero().flatten().tolist()}: attention_mask is 0 "
                    "throughout; leave these samples out or give them at least one token"
                ),
            ),
        ]
    if faults:
        found = torch.stack([fault for fault, _ in faults]).tolist()
        for is_fault, (_, describe) in zip(found, faults, strict=True):
            if is_fault:
                raise ValueError(describe())
    return valid


def make_position_ids(attention_mask: torch.Tensor, first_position: int = 0) -> torch.Tensor:
    """Positions counted from each row's first valid token, so that padding on the left does not move a sample.

    Args:
        attention_mask: bool [B, L].
        first_position: position of the first valid token; see `backbones.first_position`.

    Returns:
        int64 [B, L]; `first_position` on the padding before the first valid token too. Equal to 0..L-1 where the row
        starts with a valid token and the first position is 0, which is what BERT uses.
    """
    columns = torch.arange(first_position, first_position + attention_mask.shape[1], device=attention_mask.device)
    if attention_mask.numel() == 0:
        return columns.expand(attention_mask.shape)
    first = attention_mask.int().argmax(dim=1, keepdim=True)  # [B, 1]
    return (columns - first).clamp(min=first_position)


def _check_ids(name: str, ids: torch.Tensor) -> None:
    if not isinstance(ids, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(ids).__name__}")
    if ids.dtype not in _INTEGER_DTYPES:
        raise TypeError(f"{name} must be int64 or int32, got {ids.dtype}")


def _check_like_input_ids(name: str, tensor: torch.Tensor, input_ids: torch.Tensor) -> None:
    if tensor.shape != input_ids.shape:
        raise ValueError(f"{name} must have the shape of input_ids, {list(input_ids.shape)}, got {list(tensor.shape)}")
    if tensor.device != input_ids.device:
        raise ValueError(f"{name} is on {tensor.device} but input_ids is on {input_ids.device}")
