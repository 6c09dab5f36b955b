"""From texts to batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizerFast, DistilBertTokenizerFast, PreTrainedTokenizerFast

from fastbert_hf.data import ClassificationData, TextData, TokenisedDataset, join_texts
from fastbert_hf.data.tokenised import whole_lengths

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer with BERT's special tokens and segment ids; needs no file."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture
def vocabulary(tmp_path: Path) -> str:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*WORDS, "[MASK]"]))
    return str(path)


def test_tokenised_dataset_cuts_and_collates() -> None:
    data = ClassificationData(["a b c d e", "a", "b c"], None, [2, 0, 1], ["x", "y", "z"])
    dataset = TokenisedDataset(data, make_tokenizer(), max_length=5)
    assert dataset.lengths == [5, 3, 4] and len(dataset) == 3
    batches = list(dataset.batches(2))
    assert [batch["labels"].tolist() for batch in batches] == [[2, 0], [1]]
    assert batches[0]["input_ids"].tolist() == [[2, 4, 5, 6, 3], [2, 4, 3, 0, 0]]
    assert batches[0]["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batches[1]["input_ids"].shape == (1, 4) and batches[1]["input_ids"].dtype == torch.int64


def test_texts_that_were_cut_off_are_counted(vocabulary: str) -> None:
    texts, pairs = ["a b c", "a b", "a"], ["d e", "d", "e"]
    for tokenizer in (make_tokenizer(), SlowTokenizer(make_tokenizer())):
        assert TokenisedDataset(TextData(texts, None), tokenizer, max_length=4).truncated == 1
        assert TokenisedDataset(TextData(texts, None), tokenizer, max_length=5).truncated == 0
        assert TokenisedDataset(TextData(texts, pairs), tokenizer, max_length=6).truncated == 1
    endless = TokenisedDataset(TextData(["a" + " " * 10_000], None), make_tokenizer(), max_length=4)
    assert endless.truncated == 1 and endless.lengths == [3]


@pytest.mark.parametrize("stride", [None, 1])
def test_lengths_of_whole_texts(stride: int | None) -> None:
    tokenizer = make_tokenizer()
    data = TextData(["a", "a b c d e " * 90, "a b", "a b c"], None)
    dataset = TokenisedDataset(data, tokenizer, 4, stride)
    assert whole_lengths(dataset, data, tokenizer) == ([3, 452, 4, 5], False)
    assert max(dataset.lengths) == 4
    pairs = TextData(["a b c d", "a"], ["d " * 20, "e"])
    if stride is None:
        assert whole_lengths(TokenisedDataset(pairs, tokenizer, 6), pairs, tokenizer) == ([27, 5], False)
        slow = SlowTokenizer(tokenizer)
        assert whole_lengths(TokenisedDataset(data, slow, 4), data, slow) == ([3, 452, 4, 5], False)
    endless = TextData(["a " * 5000], None)  # 4 tokens could be 4,000 characters
    assert whole_lengths(TokenisedDataset(endless, tokenizer, 4), endless, tokenizer) == ([2002], True)
    assert whole_lengths(TokenisedDataset(TextData([], None), tokenizer, 4), TextData([], None), tokenizer) == (
        [],
        False,
    )


class SlowTokenizer:
    """A tokenizer that does not say what it cut off, as those in Python."""

    def __init__(self, fast: PreTrainedTokenizerFast) -> None:
        self._fast = fast

    def __getattr__(self, name: str) -> Any:
        if name == "backend_tokenizer":
            raise AttributeError(name)
        return getattr(self._fast, name)

    def __call__(self, *texts: Any, **options: Any) -> dict[str, Any]:
        return dict(self._fast(*texts, **options))


@pytest.mark.parametrize(("size", "sizes"), [(1, [1]), (3, [3]), (7, [3, 3, 1]), (8, [3, 3, 2])])
def test_last_partial_batch_is_kept(size: int, sizes: list[int]) -> None:
    texts = [" ".join("abcde"[: 1 + number % 5]) for number in range(size)]
    dataset = TokenisedDataset(TextData(texts, None), make_tokenizer(), max_length=9)
    batches = list(dataset.batches(3))
    assert [len(batch["input_ids"]) for batch in batches] == sizes
    rows = [row[mask.bool()].tolist() for batch in batches for row, mask in zip(*batch.values(), strict=True)]
    assert rows == [[2, *(WORDS.index(word) for word in text.split()), 3] for text in texts]


def test_pairs_get_segment_ids() -> None:
    data = ClassificationData(["a b", "a"], ["c", "d e"], [0, 1], ["x", "y"])
    dataset = TokenisedDataset(data, make_tokenizer(), max_length=16)
    assert dataset[0]["input_ids"] == [2, 4, 5, 3, 6, 3]
    assert dataset[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_special_tokens_of_a_bert_tokenizer(vocabulary: str) -> None:
    tokenizer = BertTokenizerFast(vocabulary)
    single = TokenisedDataset(TextData(["a b", "a b c d e"], None), tokenizer, max_length=5)
    assert single[0]["input_ids"] == [2, 4, 5, 3]  # a single text ends with [SEP] too
    assert single[1]["input_ids"] == [2, 4, 5, 6, 3]  # and when it is cut off
    pair = TokenisedDataset(TextData(["a b c d e"], ["d"]), tokenizer, max_length=7)
    assert pair[0]["input_ids"] == [2, 4, 5, 6, 3, 7, 3]
    assert pair[0]["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(("pairs", "special"), [(None, 2), (["c"], 3)])
def test_no_room_for_text_is_refused(pairs: list[str] | None, special: int) -> None:
    data = TextData(["a b"], pairs)
    for max_length in (1, special):
        with pytest.raises(ValueError, match=rf"max_length must be above {special} \(the special tokens\), got"):
            TokenisedDataset(data, make_tokenizer(), max_length)
    assert TokenisedDataset(data, make_tokenizer(), special + 1).lengths == [special + 1]


def test_no_segment_ids_where_the_tokenizer_is_of_a_model_without(vocabulary: str) -> None:
    pair = TokenisedDataset(TextData(["a b"], ["d"]), DistilBertTokenizerFast(vocabulary), max_length=9)
    assert pair[0].keys() == {"input_ids", "attention_mask"}
    assert pair[0]["input_ids"] == [2, 4, 5, 3, 7, 3]


def test_without_labels_no_labels_key() -> None:
    data = ClassificationData(["a", "b"], None, [1, 0], ["x", "y"])
    dataset = TokenisedDataset(join_texts(data, TextData(["c d"], None)), make_tokenizer(), max_length=9)
    assert dataset.label_ids is None and len(dataset) == 3
    assert "labels" not in dataset[0] and "labels" not in next(dataset.batches(3))


def test_several_labels_become_vectors() -> None:
    data = ClassificationData(["a", "b", "c"], None, [[0, 2], [], [1]], ["x", "y", "z"], multi_label=True)
    batch = next(TokenisedDataset(data, make_tokenizer(), max_length=9).batches(3))
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_long_texts_become_passages_with_the_label_of_their_text() -> None:
    data = ClassificationData(["a", "a b c d e", "a b c d"], None, [2, 0, 1], ["x", "y", "z"])
    dataset = TokenisedDataset(data, make_tokenizer(), max_length=5, stride=1)
    words = [[WORDS[number] for number in dataset[row]["input_ids"][1:-1]] for row in range(len(dataset))]
    assert ["".join(passage) for passage in words] == ["a", "abc", "cde", "abc", "cd"]
    assert dataset.text_of_sample == [0, 1, 1, 2, 2] and dataset.label_ids == [2, 0, 0, 1, 1]
    assert (dataset.num_texts, dataset.truncated, dataset.has_passages) == (3, 0, True)
    assert dataset.lengths == [3, 5, 5, 5, 4] and dataset[1].keys() == {"input_ids", "attention_mask", "labels"}
    short = TokenisedDataset(data, make_tokenizer(), max_length=7, stride=1)
    assert len(short) == 3 and not short.has_passages
    assert short.fingerprint == TokenisedDataset(data, make_tokenizer(), max_length=7).fingerprint
    with pytest.raises(ValueError, match=r"text 1 \(counted from 0\) has the token id 8, but the model knows 8"):
        dataset.check_ids(8)
    assert TokenisedDataset(data, make_tokenizer(), np.int64(5), np.int32(1)).text_of_sample == dataset.text_of_sample
    several = replace(data, label_ids=[[0, 2], [], [1]], multi_label=True)
    assert TokenisedDataset(several, make_tokenizer(), max_length=5, stride=0)[4]["labels"] == [0, 1, 0]


@pytest.mark.parametrize("stride", [-1, 3, True, 1.0])
def test_passages_that_cannot_be_are_refused(stride: Any) -> None:
    with pytest.raises(ValueError, match=r"stride must be an integer of at least 0 and below 3 .*, got"):
        TokenisedDataset(TextData(["a b"], None), make_tokenizer(), max_length=5, stride=stride)


def test_passages_of_pairs_or_by_a_tokenizer_in_python_are_refused() -> None:
    with pytest.raises(ValueError, match="passages are of single texts, and these are pairs; cut them off"):
        TokenisedDataset(TextData(["a b"], ["c"]), make_tokenizer(), max_length=9, stride=1)
    tokenizer = make_tokenizer()
    slow = type("Slow", (type(tokenizer),), {"is_fast": False})(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="passages need a fast tokenizer"):
        TokenisedDataset(TextData(["a b"], None), slow, max_length=9, stride=1)


@pytest.mark.parametrize("multi_label", [False, True])
def test_empty_dataset(multi_label: bool) -> None:
    data = replace(ClassificationData([], None, [], ["x", "y"]), multi_label=multi_label)
    dataset = TokenisedDataset(data, make_tokenizer(), max_length=16)
    assert len(dataset) == 0 and dataset.lengths == [] and list(dataset.batches(4)) == []
