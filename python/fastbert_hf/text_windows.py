"""Texts without end, tokenised window by window ahead of the model, and cut into batches of similar length."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from fastbert_hf.data import Text, check_passages, encode, encode_passages, wants_segment_ids

THREAD_NAME = "fastbert-tokenizer"
# At which a window ends before it has its number of texts: passages of long ones would not fit into memory together.
WINDOW_CHARACTERS = 1 << 23


@dataclass(frozen=True)
class TokenisedWindow:
    """Consecutive texts of the input, tokenised to n rows; the longest stands first, those of equal length in order.

    A text is a row, or several where long texts are taken in passages.

    Attributes:
        start: position in the input of the window's first text.
        num_texts: how many texts these are.
        order: int64 [n]; row i is the text at position `start + order[i]`, or a passage of it.
        lengths: int64 [n], tokens of every row.
        input_ids: int64 [T], the tokens of all rows one after another.
        token_type_ids: int64 [T], or `None` where the tokenizer gives none.
        pad_token_id: what fills up a padded batch.
        truncated: bool [n], whether the row is longer and was cut off.
    """

    start: int
    num_texts: int
    order: torch.Tensor
    lengths: torch.Tensor
    input_ids: torch.Tensor
    token_type_ids: torch.Tensor | None
    pad_token_id: int
    truncated: torch.Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device) -> TokenisedWindow:
        """The same with the tokens on `device`, without waiting for the transfer; the order stays."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            pinned = tensor.pin_memory() if device.type == "cuda" else tensor
            return pinned.to(device, non_blocking=True)

        return replace(
            self,
            input_ids=move(self.input_ids),
            token_type_ids=None if self.token_type_ids is None else move(self.token_type_ids),
        )

    def of_texts(self, chosen: torch.Tensor) -> TokenisedWindow:
        """Return the window of the texts that `chosen`, bool [num_texts], names, numbered anew in their order."""
        rows = chosen[self.order]
        tokens = rows.repeat_interleave(self.lengths)
        return replace(
            self,
            num_texts=int(chosen.sum()),
            order=(chosen.cumsum(0) - 1)[self.order[rows]],
            lengths=self.lengths[rows],
            input_ids=self.input_ids[tokens],
            token_type_ids=None if self.token_type_ids is None else self.token_type_ids[tokens],
            truncated=self.truncated[rows],
        )

    def padded_batches(self, max_tokens: int) -> Iterator[tuple[slice, dict[str, torch.Tensor]]]:
        """Yield rows and their padded batch in turn, on the device of the tokens.

        A batch is of B rows of which the longest has L tokens, with B x L at most `max_tokens`; a row longer than that
        is a batch of its own. `input_ids`, `attention_mask` and, where there are any, `token_type_ids` are
        int64 [B, L], padded on the right.
        """
        device = self.input_ids.device
        for rows, tokens in self._cut(max_tokens, padding=True):
            lengths = self.lengths[rows]
            # Made on the host and sent: counting it on the device would need the lengths there as well.
            valid = (torch.arange(int(lengths[0])) < lengths[:, None]).to(device)
            batch = {
                "input_ids": _pad(self.input_ids[tokens], valid, self.pad_token_id),
                "attention_mask": valid.long(),
            }
            if self.token_type_ids is not None:
                batch["token_type_ids"] = _pad(self.token_type_ids[tokens], valid, 0)
            yield rows, batch

    def packed_batches(self, max_tokens: int) -> Iterator[tuple[slice, dict[str, torch.Tensor]]]:
        """Yield rows and their packed batch in turn.

        A batch is of B rows with T tokens together, at most `max_tokens`; a row longer than that is a batch of its own.
        `input_ids` and, where there are any, `token_type_ids` are int64 [T] on the device of the tokens; `cu_seqlens`,
        int64 [B + 1], says in host memory where each row begins and the last one ends.
        """
        for rows, tokens in self._cut(max_tokens, padding=False):
            lengths = self.lengths[rows]
            batch = {
                "input_ids": self.input_ids[tokens],
                "cu_seqlens": torch.cat((lengths.new_zeros(1), lengths.cumsum(0))),
            }
            if self.token_type_ids is not None:
                batch["token_type_ids"] = self.token_type_ids[tokens]
            yield rows, batch

    def _cut(self, max_tokens: int, *, padding: bool) -> Iterator[tuple[slice, slice]]:
        """Yield the rows of a batch and their tokens in turn; where `padding` counts, rows are as long as the first."""
        lengths = self.lengths.tolist()
        row = token = 0
        while row < len(lengths):
            end, tokens = row + 1, lengths[row]
            while end < len(lengths):
                size = (end + 1 - row) * lengths[row] if padding else tokens + lengths[end]
                if size > max_tokens:
                    break
                tokens += lengths[end]
                end += 1
            yield slice(row, end), slice(token, token + tokens)
            row, token = end, token + tokens


def _pad(tokens: torch.Tensor, valid: torch.Tensor, value: int) -> torch.Tensor:
    return torch.full_like(valid, value, dtype=torch.int64).masked_scatter_(valid, tokens)


class WindowTokeniser:
    """Checks and tokenises lists of texts.

    Args:
        tokenizer: a Transformers tokenizer, which is left as it was.
        max_length: texts are cut off at this many tokens, special tokens included; of a pair the longer text is cut
            first.
        vocabulary: number of token ids that the model knows.
        stride: longer texts are taken in passages of `max_length` tokens that share so many; `None`: cut off.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, vocabulary: int, stride: int | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._stride = stride
        self._vocabulary = vocabulary
        self._pairs: bool | None = None  # what the first text of the input is

    def apart(self) -> WindowTokeniser:
        """Return one for another thread, with a copy of the tokenizer, so that the caller may go on using its own."""
        own = copy.copy(self)
        own._tokenizer = copy.deepcopy(self._tokenizer)
        return own

    def __call__(self, texts: Sequence[Text], start: int) -> TokenisedWindow:
        """Tokenise `texts`, of which the first stands at position `start` of the input.

        Raises:
            TypeError: an item is neither a string nor a pair of strings.
            ValueError: an empty text, pairs mixed with single texts, a text that the tokenizer fails on or makes no
                tokens of, or token ids that the model does not know. The message names the position of the text.
        """
        if self._pairs is None:
            self._pairs = not isinstance(texts[0], str)
        if self._pairs and self._stride is not None:
            check_passages(self._tokenizer, self._max_length, self._stride, pairs=True)
        for position, text in enumerate(texts, start):
            _check_text(text, position, self._pairs)
        encoded, truncated, text_of_row = self._encode_or_explain(texts, start)
        ids: list[list[int]] = encoded["input_ids"]
        order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
        if not all(ids):
            raise ValueError(
                f"{_name(start + text_of_row[ids.index([])])} has no tokens; use the tokenizer that the model was "
                "trained with, or leave the text out"
            )

        def pack(values: list[list[int]]) -> torch.Tensor:
            return torch.tensor(list(chain.from_iterable(values[index] for index in order)), dtype=torch.int64)

        segments = encoded.get("token_type_ids")
        window = TokenisedWindow(
            start=start,
            num_texts=len(texts),
            order=torch.tensor([text_of_row[index] for index in order]),
            lengths=torch.tensor([len(ids[index]) for index in order]),
            input_ids=pack(ids),
            token_type_ids=None if segments is None else pack(segments),
            pad_token_id=getattr(self._tokenizer, "pad_token_id", None) or 0,  # masked, so any id does
            truncated=torch.tensor([truncated[index] for index in order]),
        )
        if int(window.input_ids.max()) >= self._vocabulary:
            index = next(index for index, values in enumerate(ids) if max(values) >= self._vocabulary)
            raise ValueError(
                f"{_name(start + text_of_row[index])} has the token id {max(ids[index])}, but the model knows "
                f"{self._vocabulary} ids; use the tokenizer that the model was trained with"
            )
        return window

    def _encode_or_explain(self, texts: Sequence[Text], start: int) -> Any:
        try:
            return self._encode(texts)
        except Exception as error:
            position, cause = self._find_culprit(texts, start) or (start, error)
            raise ValueError(
                f"{_name(position)} cannot be tokenised ({type(cause).__name__}: {cause}); "
                "mend or leave out the text, or check the tokenizer"
            ) from cause

    def _encode(self, texts: Sequence[Text]) -> tuple[Any, list[bool], Sequence[int]]:
        """Return the rows as the tokenizer has them, whether each is cut off, and the text of each."""
        firsts: Any
        if self._stride is not None:
            encoded, text_of_row = encode_passages(
                self._tokenizer, list(map(str, texts)), self._max_length, self._stride, return_attention_mask=False
            )
            return encoded, [False] * len(text_of_row), text_of_row
        firsts, seconds = zip(*texts, strict=True) if self._pairs else (texts, None)
        encoded, truncated = encode(
            self._tokenizer,
            list(firsts),
            None if seconds is None else list(seconds),
            self._max_length,
            return_attention_mask=False,
            return_token_type_ids=wants_segment_ids(self._tokenizer) if self._pairs else None,
        )
        return encoded, truncated, range(len(texts))

    def _find_culprit(self, texts: Sequence[Text], start: int) -> tuple[int, Exception] | None:
        for position, text in enumerate(texts, start):
            try:
                self._encode([text])
            except Exception as error:
                return position, error
        return None


def tokenised_ahead(
    texts: Iterable[Text], tokenise: WindowTokeniser, window: int
) -> Generator[TokenisedWindow, None, None]:
    """Windows of `window` texts in input order, of fewer where texts are very long; while the caller works on one, a
    thread tokenises the next.

    The first is tokenised in the caller's thread, since nothing could be computed meanwhile; what fits in it costs
    neither a thread nor a copy of the tokenizer. At most two windows exist at a time. Texts are taken from `texts` in
    the caller's thread. What `texts` or `tokenise` raises is raised here when the caller asks for the window in
    question, so that all windows before it are delivered. The thread ends with the generator: at its end, on an
    exception, and when it is closed.
    """
    iterator = iter(texts)
    start = 0
    elsewhere: WindowTokeniser | None = None

    def begin_next() -> Future[TokenisedWindow] | None:
        nonlocal start, elsewhere
        try:
            taken, _ = _take(iterator, window)
        except Exception as error:
            failed: Future[TokenisedWindow] = Future()
            failed.set_exception(error)
            return failed
        start += len(taken)
        if not taken:
            return None
        elsewhere = elsewhere or tokenise.apart()
        return executor.submit(elsewhere, taken, start - len(taken))

    first, ended = _take(iterator, window)
    if not first:
        return
    current = tokenise(first, 0)
    start = len(first)
    if ended:
        yield current
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=THREAD_NAME) as executor:
        upcoming = begin_next()
        yield current
        while upcoming is not None:
            current = upcoming.result()
            upcoming = begin_next()
            yield current


def _take(iterator: Iterator[Text], window: int) -> tuple[list[Text], bool]:
    """Return the texts of the next window, and whether these are known to be the last."""
    taken: list[Text] = []
    characters = 0
    for text in islice(iterator, window):
        taken.append(text)
        parts = text if isinstance(text, tuple | list) else (text,)
        characters += sum(len(part) for part in parts if isinstance(part, str))
        if characters >= WINDOW_CHARACTERS:
            return taken, False
    return taken, len(taken) < window


def _check_text(text: Any, position: int, pairs: bool) -> None:
    is_pair = isinstance(text, tuple | list) and len(text) == 2 and all(isinstance(part, str) for part in text)
    if not is_pair and not isinstance(text, str):
        found = type(text).__name__
        if isinstance(text, tuple | list):
            found += f" of ({', '.join(type(part).__name__ for part in text)})"
        raise TypeError(f"{_name(position)} is of type {found}; pass a string, or a pair of strings as a tuple")
    if is_pair != pairs:
        is_now, began = ("a pair", "single texts") if is_pair else ("a single text", "pairs")
        raise ValueError(f"{_name(position)} is {is_now}, but the input began with {began}; predict on them apart")
    if not all(part and not part.isspace() for part in (text if is_pair else (text,))):
        raise ValueError(f"{_name(position)} is empty; leave it out or fill it in")


def _name(position: int) -> str:
    return f"text {position} (counted from 0)"
