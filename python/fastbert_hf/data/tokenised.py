"""From texts to tokenised batches."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fastbert_hf.data.samples import ClassificationData, TextData
from fastbert_hf.data.seen import text_keys

# Of a text, as much is looked at as could be that many tokens. A word of text has about five characters.
CHARACTERS_PER_TOKEN = 1000
_TEXTS_AT_ONCE = 1000  # that are tokenised whole


class TokenisedDataset(Dataset[dict[str, Any]]):
    """Texts tokenised once, not padded, and cut off at `max_length` tokens or divided into passages of so many.

    A sample is a text, or one of its passages, which has the label of the text. An item is a dict of lists `input_ids`,
    `attention_mask` and, for pairs and where the tokenizer makes them anyway, `token_type_ids` (0 for the first text
    and 1 for the second). Labelled data adds `labels`: the class id, or for multi-label data a list of floats [N], 1
    for the classes that the sample has and 0 for the others.

    Args:
        data: the texts; `ClassificationData` has labels, `TextData` alone has none.
        tokenizer: a Transformers tokenizer.
        max_length: longest sample in tokens, with special tokens; of a pair the longer text is cut first.
        stride: longer texts are divided into passages that share so many tokens; `None`: they are cut off.

    Attributes:
        max_length: as given.
        num_texts: number of texts; as many as there are samples, unless some were divided.
        text_of_sample: index of the text of every sample.
        label_ids: of every sample, that of its text in `ClassificationData`; else `None`.
        truncated: number of texts that are longer than `max_length` and were cut off.
        text_keys: a number for every text, by which a model knows those of its training, see `seen.text_keys`.
        collate: pads a list of items to its longest; int64 tensors, and float32 [B, N] for multi-label `labels`.

    Raises:
        ValueError: a `max_length` that the special tokens alone take up, or passages that cannot be, see
            `check_passages`.
    """

    def __init__(
        self, data: TextData, tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int | None = None
    ) -> None:
        special = tokenizer.num_special_tokens_to_add(pair=data.pairs is not None)
        max_length = whole_number("max_length", max_length)
        if max_length <= special:  # tokenizers then leave nothing of a text, or do not cut it at all
            raise ValueError(f"max_length must be above {special} (the special tokens), got {max_length}")
        if stride is not None:
            stride = check_passages(tokenizer, max_length, stride, pairs=data.pairs is not None)
        self.max_length = max_length
        self.num_texts = len(data)
        self.text_keys = text_keys(data)
        self.text_of_sample = list(range(len(data)))
        self.collate = DataCollatorWithPadding(tokenizer)
        self._encoded: dict[str, list[list[int]]] = {}
        self.truncated = 0
        if len(data) and stride is not None:
            encoded, self.text_of_sample = encode_passages(tokenizer, data.texts, max_length, stride)
            self._encoded = dict(encoded)
        elif len(data):
            encoded, truncated = encode(
                tokenizer,
                data.texts,
                data.pairs,
                max_length,
                return_token_type_ids=None if data.pairs is None else wants_segment_ids(tokenizer),
            )
            self._encoded, self.truncated = dict(encoded), sum(truncated)
        self.label_ids: list[Any] | None = None
        self._classes: int | None = None
        if isinstance(data, ClassificationData):
            self.label_ids = [data.label_ids[text] for text in self.text_of_sample]
            self._classes = len(data.label_names) if data.multi_label else None

    @property
    def has_passages(self) -> bool:
        """Return True if a text has several samples."""
        return len(self) > self.num_texts

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of every sample."""
        return [len(ids) for ids in self._encoded.get("input_ids", [])]

    def share_of(self, token_id: int) -> float:
        """Return which part of all tokens is `token_id`, such as the one for what a tokenizer does not know."""
        ids = self._encoded.get("input_ids", [])
        return sum(row.count(token_id) for row in ids) / max(sum(map(len, ids)), 1)

    def check_ids(self, vocabulary: int) -> None:
        """Raise `ValueError` for the first text with a token id that a model of `vocabulary` ids does not know."""
        for position, ids in zip(self.text_of_sample, self._encoded.get("input_ids", []), strict=True):
            if ids and max(ids) >= vocabulary:
                raise ValueError(
                    f"text {position} (counted from 0) has the token id {max(ids)}, but the model knows {vocabulary} "
                    "ids; use the tokenizer that belongs to the model, or "
                    "model.resize_token_embeddings(len(tokenizer)) before it is trained"
                )

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the tokens of all samples in their order; labels are not in it."""
        return hashlib.sha256(json.dumps(self._encoded, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.text_of_sample)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {name: values[index] for name, values in self._encoded.items()}
        if self.label_ids is None:
            return item
        label = self.label_ids[index]
        if self._classes is not None:
            label = [float(number in label) for number in range(self._classes)]
        return item | {"labels": label}

    def batches(self, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        """Padded batches in order, the last one possibly smaller."""
        for start in range(0, len(self), batch_size):
            yield self.collate([self[index] for index in range(start, min(start + batch_size, len(self)))])


def whole_lengths(
    dataset: TokenisedDataset, data: TextData, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], bool]:
    """Return how long texts are that may have been cut off or divided.

    Args:
        dataset: of `data`.
        data: the texts.
        tokenizer: that of `dataset`.

    Returns:
        Number of tokens of every text or pair, with special tokens; and whether there is a text of which, as in
        `encode`, no more is looked at than could be `max_length` tokens, so that it has more.
    """
    lengths = [0] * len(data)
    for text, length in zip(dataset.text_of_sample, dataset.lengths, strict=True):
        lengths[text] = max(lengths[text], length)
    cut = [text for text, length in enumerate(lengths) if length >= dataset.max_length]
    reach = dataset.max_length * CHARACTERS_PER_TOKEN
    goes_on = False
    for start in range(0, len(cut), _TEXTS_AT_ONCE):
        some = cut[start : start + _TEXTS_AT_ONCE]
        columns = [[column[text] for text in some] for column in (data.texts, data.pairs) if column is not None]
        goes_on |= any(len(text) > reach for column in columns for text in column)
        with _settings_kept(tokenizer):
            encoded = tokenizer(*([text[:reach] for text in column] for column in columns), verbose=False)
        for text, ids in zip(some, encoded["input_ids"], strict=True):
            lengths[text] = len(ids)
    return lengths, goes_on


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None, max_length: int, **options: Any
) -> tuple[Any, list[bool]]:
    """Tokenise texts, cut off at `max_length` tokens.

    Of a text, no more than 1,000 characters for each of these tokens are looked at, so that one of many megabytes
    costs no more than the tokens that are left of it.

    Args:
        tokenizer: a Transformers tokenizer; its own truncation and padding stay as they are.
        texts: first (or only) text of every sample.
        pairs: second text of every sample, or `None`.
        max_length: tokens with special tokens; of a pair the longer text is cut first.
        **options: of the call of the tokenizer.

    Returns:
        What the tokenizer returns, and for every sample whether it was cut off.
    """
    reach = max_length * CHARACTERS_PER_TOKEN
    columns = [texts] if pairs is None else [texts, pairs]
    read = [[text[:reach] for text in column] for column in columns]
    with _settings_kept(tokenizer):
        encoded = tokenizer(*read, *[None] * (2 - len(read)), truncation=True, max_length=max_length, **options)
        truncated = _truncated(tokenizer, encoded, read, max_length)
    for column in columns:
        truncated = [cut or len(text) > reach for cut, text in zip(truncated, column, strict=True)]
    return encoded, truncated


def encode_passages(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int, stride: int, **options: Any
) -> tuple[Any, list[int]]:
    """Tokenise texts whole, the long ones in passages of `max_length` tokens.

    Args:
        tokenizer: a fast tokenizer of Transformers; its own truncation and padding stay as they are.
        texts: single texts.
        max_length: tokens of a passage with special tokens, which every passage has.
        stride: tokens that a passage shares with the one before it.
        **options: of the call of the tokenizer.

    Returns:
        What the tokenizer returns for all passages in order, and for every passage the index of its text.

    Raises:
        ValueError: see `check_passages`.
    """
    stride = check_passages(tokenizer, max_length, stride)
    with _settings_kept(tokenizer):
        encoded = tokenizer(
            texts,
            truncation=True,
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            **options,
        )
    return encoded, encoded.pop("overflow_to_sample_mapping")


def check_passages(tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int, *, pairs: bool = False) -> int:
    """Return the stride as an integer.

    Raises:
        ValueError: passages of pairs or by a tokenizer in Python, or a stride that leaves no room for new tokens.
    """
    if pairs:
        raise ValueError("passages are of single texts, and these are pairs; cut them off (stride=None, --stride none)")
    if not tokenizer.is_fast:
        raise ValueError(
            "passages need a fast tokenizer (tokenizer.is_fast); cut long texts off (stride=None, --stride none)"
        )
    room = max_length - tokenizer.num_special_tokens_to_add()
    shared = _integer(stride)
    if shared is None or not 0 <= shared < room:
        raise ValueError(
            f"stride must be an integer of at least 0 and below {room} (max_length without special tokens), got "
            f"{stride!r}; None (--stride none) cuts long texts off instead"
        )
    return shared


def whole_number(name: str, value: Any) -> int:
    """Return `value`, of whatever kind of integer, as Python's; raise `ValueError` for anything else."""
    number = _integer(value)
    if number is None:
        raise ValueError(f"{name} must be an integer, got {value!r}")
    return number


def _integer(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _truncated(tokenizer: Any, encoded: Any, columns: list[list[str]], max_length: int) -> list[bool]:
    encodings = getattr(encoded, "encodings", None)
    if encodings is not None:
        return [bool(encoding.overflowing) for encoding in encodings]
    # A tokenizer in Python does not say; what fills all places is tokenised again.
    return [
        len(ids) >= max_length
        and len(tokenizer(*(column[row] for column in columns), verbose=False)["input_ids"]) > max_length
        for row, ids in enumerate(encoded["input_ids"])
    ]


@contextmanager
def _settings_kept(tokenizer: Any) -> Iterator[None]:
    """Leave the truncation and padding of the Rust tokenizer, which a call of its wrapper sets, as they were."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        if backend.truncation != truncation:
            backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        if backend.padding != padding:
            backend.no_padding() if padding is None else backend.enable_padding(**padding)


def wants_segment_ids(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether pairs of texts get segment ids.

    A tokenizer class that was made for a model says itself whether that model takes them. The general class does not
    know, and leaves them out where a BERT could then not tell the two texts apart; so there they are asked for.
    """
    return type(tokenizer) is PreTrainedTokenizerFast or "token_type_ids" in tokenizer.model_input_names
