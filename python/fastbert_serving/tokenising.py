"""Single texts and pairs of one request, tokenised each as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch

from fastbert_hf.data import Text
from fastbert_hf.text_windows import TokenisedWindow, WindowTokeniser


def tokenised(texts: Sequence[Text], tokeniser: Callable[[], WindowTokeniser]) -> TokenisedWindow:
    """Return the window of the texts of a request.

    Args:
        texts: at least one, single texts and pairs in any order.
        tokeniser: makes a tokeniser, which takes texts of one kind.

    Raises:
        TypeError, ValueError: as of `WindowTokeniser`, with the position of the text in question in `texts`.
    """
    windows: list[TokenisedWindow] = []
    begin = 0
    for _, run in groupby(texts, key=lambda text: isinstance(text, str)):
        of_a_kind = list(run)
        windows.append(tokeniser()(of_a_kind, begin))
        begin += len(of_a_kind)
    return windows[0] if len(windows) == 1 else _joined(windows)


def _joined(windows: list[TokenisedWindow]) -> TokenisedWindow:
    """Return the window of consecutive ones that begin at position 0."""
    lengths = torch.cat([each.lengths for each in windows])
    rows = lengths.argsort(descending=True, stable=True)

    def packed(tokens: list[torch.Tensor]) -> torch.Tensor:
        of_rows = torch.cat(tokens).split(lengths.tolist())
        return torch.cat([of_rows[row] for row in rows.tolist()])

    # Where one kind has no segments, all its tokens are of the first.
    segments = [each.token_type_ids for each in windows]
    filled = [
        torch.zeros_like(each.input_ids) if given is None else given
        for each, given in zip(windows, segments, strict=True)
    ]
    return TokenisedWindow(
        start=0,
        num_texts=sum(each.num_texts for each in windows),
        order=torch.cat([each.start + each.order for each in windows])[rows],
        lengths=lengths[rows],
        input_ids=packed([each.input_ids for each in windows]),
        token_type_ids=packed(filled) if any(given is not None for given in segments) else None,
        pad_token_id=windows[0].pad_token_id,
        truncated=torch.cat([each.truncated for each in windows])[rows],
    )
