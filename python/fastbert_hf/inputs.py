"""Checks of a tokenised batch, and what is derived from its attention mask."""

from __future__ import annotations

from collections.abc import Callable

import torch

_INTEGER_DTYPES = (torch.int64, torch.int32)
IGNORED = -100  # label of a sample that does not count, as in PyTorch
_Fault = tuple[torch.Tensor, Callable[[], str]]  # whether it is there, bool [], and what to say then


def check_inputs(
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
    max_length: int,
    *,
    num_segments: int = 2,
    vocabulary: int | None = None,
    inputs_embeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Check a padded batch and return its attention mask.

    Reads one small result back from the device, for all checks of values together; nothing on a GPU when there is
    neither an attention mask nor token types to check.

    Args:
        input_ids: int64 or int32 [B, L]; `None` with `inputs_embeds`.
        attention_mask: [B, L] of 1 (or True) for valid tokens and 0 (or False) for padding, on either side; `None`
            when there is no padding.
        token_type_ids: int64 or int32 [B, L], or `None`.
        max_length: the longest L that the backbone has positions for.
        num_segments: how many segments the backbone tells apart. Where it is 1, `token_type_ids` may be given, as
            tokenizers do, but all of them have to be 0.
        vocabulary: number of token ids that the backbone has; `None`: ids are not compared with it.
        inputs_embeds: float [B, L, E] in place of ids.

    Returns:
        The attention mask, bool [B, L]; all True when none was given.

    Raises:
        TypeError: an argument is not a tensor, or ids are not integers.
        ValueError: both of ids and embeddings or neither, wrong shape or device, too long, mask values other than 0
            and 1, a row without a valid token, token types other than 0 for a backbone without segments, or ids and
            token types outside their tables (where they are looked at; see above).
    """
    given = check_forms(input_ids, attention_mask, token_type_ids, max_length, inputs_embeds=inputs_embeds)
    valid = torch.ones_like(given, dtype=torch.bool) if attention_mask is None else attention_mask != 0
    faults = _faults_of_values(valid, attention_mask, token_type_ids, num_segments)
    if faults or _is_read_for_free(given):
        faults += _outside_tables(input_ids, token_type_ids, vocabulary, num_segments)
    _raise_first(faults)
    return valid


def check_forms(
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
    max_length: int,
    *,
    inputs_embeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Check kinds, shapes and devices of a padded batch, but no values; nobody waits for a device.

    Args:
        input_ids: as in `check_inputs`, and so the others.

    Returns:
        A tensor [B, L] on the device of the batch: the ids, or one number of every embedding.

    Raises:
        TypeError, ValueError: as `check_inputs`.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give either input_ids or inputs_embeds")
    if input_ids is not None:
        _check_ids("input_ids", input_ids)
        if input_ids.dim() != 2:
            raise ValueError(f"input_ids must have shape [batch, length], got {list(input_ids.shape)}")
        given = input_ids
    else:
        given = _rows_of(inputs_embeds)
    batch_size, length = given.shape
    if length > max_length:
        raise ValueError(
            f"input length {length} exceeds the backbone's {max_length} positions; truncate the input, "
            f"for example tokenizer(..., truncation=True, max_length={max_length})"
        )
    if token_type_ids is not None:
        _check_ids("token_type_ids", token_type_ids)
        _check_like("token_type_ids", token_type_ids, given)
    if attention_mask is None:
        if batch_size > 0 and length == 0:
            raise ValueError(f"no valid token in row(s) {list(range(batch_size))}: input_ids has length 0")
    else:
        if not isinstance(attention_mask, torch.Tensor):
            raise TypeError(f"attention_mask must be a tensor, got {type(attention_mask).__name__}")
        _check_like("attention_mask", attention_mask, given)
    return given


def check_values(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
    *,
    num_segments: int,
    vocabulary: int | None,
) -> None:
    """Check the values of a padded batch, wherever it is; the host waits for the device.

    Args:
        input_ids: as in `check_inputs`, and so the others; their forms are checked.

    Raises:
        ValueError: as `check_inputs`.
    """
    valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
    faults = _faults_of_values(valid, attention_mask, token_type_ids, num_segments)
    _raise_first(faults + _outside_tables(input_ids, token_type_ids, vocabulary, num_segments))


def check_packed_ids(
    input_ids: torch.Tensor, token_type_ids: torch.Tensor | None, vocabulary: int | None, num_segments: int
) -> None:
    """Raise `ValueError` for token ids or token types [T] outside their tables, where they are in host memory; other
    arguments as in `check_inputs`."""
    if _is_read_for_free(input_ids):
        _raise_first(_outside_tables(input_ids, token_type_ids, vocabulary, num_segments))


def check_position_ids(position_ids: torch.Tensor, valid: torch.Tensor, positions: int) -> torch.Tensor:
    """Return positions of the caller's own choice as int64 [B, L].

    Args:
        position_ids: int64 or int32 [B, L], or [1, L] for all rows.
        valid: bool [B, L].
        positions: rows of the backbone's position table.

    Raises:
        TypeError: not a tensor of integers.
        ValueError: wrong shape or device, or (in host memory) a position that the table does not have.
    """
    _check_ids("position_ids", position_ids)
    if position_ids.dim() == 2 and position_ids.shape[0] == 1:
        position_ids = position_ids.expand(valid.shape[0], -1)
    _check_like("position_ids", position_ids, valid)
    if _is_read_for_free(position_ids) and bool(((position_ids < 0) | (position_ids >= positions)).any()):
        raise ValueError(f"position_ids must be rows of the backbone's table of {positions} positions, from 0")
    return position_ids.long()


def check_class_ids(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return labels in the form that the cross-entropy with `logits` [B, N] takes.

    Args:
        labels: integer [B] or [B, 1], class ids, or -100 for a sample that does not count; or float [B, N], the
            probabilities of the classes.

    Raises:
        TypeError: neither integers nor floating point numbers.
        ValueError: another shape, or (in host memory) an id that is no class.
    """
    if not isinstance(labels, torch.Tensor) or labels.dtype == torch.bool or labels.is_complex():
        raise TypeError("labels must be a tensor of class ids (integers)")
    if labels.is_floating_point():
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels are {labels.dtype} {list(labels.shape)}; give class ids (int64, [{len(logits)}]), or one "
                f"probability for each class ({list(logits.shape)})"
            )
        return labels
    if labels.numel() != len(logits):
        raise ValueError(f"labels must be one class id for each of {len(logits)} samples, got {list(labels.shape)}")
    labels = labels.reshape(-1).long()
    if _is_read_for_free(labels):
        wrong = (labels != IGNORED) & ((labels < 0) | (labels >= logits.shape[1]))
        if bool(wrong.any()):
            raise ValueError(
                f"labels has {int(labels[wrong][0])}, but the classes are 0 to {logits.shape[1] - 1}; number them from "
                "0"
            )
    return labels


def make_position_ids(
    valid: torch.Tensor, first_position: int = 0, counted: torch.Tensor | None = None
) -> torch.Tensor:
    """Return positions counted from each row's first valid token, so that padding on the left does not move a sample.

    Args:
        valid: the attention mask, bool [B, L].
        first_position: position of the first valid token; see `backbone_families.first_position`.
        counted: bool [B, L], False where a token has the row before the first one and moves no other
            (`backbones.uncounted_id`); `None`: all of them count.

    Returns:
        int64 [B, L]; the first position or the row before it on the padding before the first valid token. Equal to
        0..L-1 where the row starts with a valid token, the first position is 0 and all are counted: what BERT uses.
    """
    shape, device = valid.shape, valid.device
    if valid.numel() == 0:
        return torch.zeros(shape, dtype=torch.int64, device=device)
    first = valid.int().argmax(dim=1, keepdim=True)  # [B, 1]
    if counted is None:
        columns = torch.arange(first_position, first_position + shape[1], device=device)
        return (columns - first).clamp(min=first_position)
    numbers = counted.cumsum(dim=1)
    numbers = numbers - numbers.gather(1, first) + counted.gather(1, first)  # 1 for the first that counts
    return numbers.clamp(min=1) * counted + (first_position - 1)


def _check_ids(name: str, ids: torch.Tensor) -> None:
    if not isinstance(ids, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(ids).__name__}")
    if ids.dtype not in _INTEGER_DTYPES:
        raise TypeError(f"{name} must be int64 or int32, got {ids.dtype}")


def _check_like(name: str, tensor: torch.Tensor, given: torch.Tensor) -> None:
    if tensor.shape != given.shape:
        raise ValueError(f"{name} must have the shape of input_ids, {list(given.shape)}, got {list(tensor.shape)}")
    if tensor.device != given.device:
        raise ValueError(f"{name} is on {tensor.device} but input_ids is on {given.device}")


def _rows_of(inputs_embeds: torch.Tensor | None) -> torch.Tensor:
    """Return one number of every token of `inputs_embeds` [B, L, E], which has the shape and device of ids."""
    if not isinstance(inputs_embeds, torch.Tensor) or not inputs_embeds.is_floating_point():
        raise TypeError("inputs_embeds must be a tensor of floating point numbers")
    if inputs_embeds.dim() != 3 or inputs_embeds.shape[2] == 0:
        raise ValueError(f"inputs_embeds must have shape [batch, length, width], got {list(inputs_embeds.shape)}")
    return inputs_embeds[:, :, 0]


def _is_read_for_free(tensor: torch.Tensor) -> bool:
    """Return whether values can be looked at without waiting for a device or breaking what is being recorded."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def _faults_of_values(
    valid: torch.Tensor, attention_mask: torch.Tensor | None, token_type_ids: torch.Tensor | None, num_segments: int
) -> list[_Fault]:
    """Look for what mask and token types must not hold; `valid` is the mask as bool [B, L]."""
    faults: list[_Fault] = []
    if token_type_ids is not None and num_segments <= 1:
        faults.append(
            (
                (token_type_ids != 0).any(),
                lambda: "token_type_ids must be 0: this backbone does not tell segments apart; leave them out",
            )
        )
    if attention_mask is not None:
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
    return faults


def _outside_tables(
    input_ids: torch.Tensor | None, token_type_ids: torch.Tensor | None, vocabulary: int | None, num_segments: int
) -> list[_Fault]:
    faults = []
    if input_ids is not None and vocabulary is not None:
        knows = (
            f"the model knows {vocabulary} ids, from 0; use the tokenizer that the model was trained with, or "
            "model.resize_token_embeddings(len(tokenizer)) and train"
        )
        faults.append(_outside("input_ids has the token id", input_ids, vocabulary, knows))
    if token_type_ids is not None and num_segments > 1:
        knows = f"the model tells {num_segments} segments apart, from 0"
        faults.append(_outside("token_type_ids has", token_type_ids, num_segments, knows))
    return faults


def _outside(has: str, ids: torch.Tensor, rows: int, knows: str) -> _Fault:
    outside = (ids < 0) | (ids >= rows)

    def describe() -> str:
        place = outside.nonzero()[0].tolist()
        return f"{has} {int(ids[tuple(place)])} in row {place[0]}, but {knows}"

    return outside.any(), describe


def _raise_first(faults: list[_Fault]) -> None:
    if faults:
        found = torch.stack([fault for fault, _ in faults]).tolist()
        for is_fault, (_, describe) in zip(found, faults, strict=True):
            if is_fault:
                raise ValueError(describe())
