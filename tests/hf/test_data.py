from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fastbert_hf.data import ClassificationData, DataFileError, TokenisedDataset, read_classification_file

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer with BERT's special tokens and segment ids; needs no file."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_tsv_takes_quotation_marks_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, "d.tsv", 'label\ttext\n1\the said "no\n0\t"quoted", with comma\n')
    data = read_classification_file(path)
    assert data.texts == ['he said "no', '"quoted", with comma']
    assert (data.label_ids, data.label_names, data.pairs) == ([1, 0], ["0", "1"], None)


def test_csv_has_the_usual_quoting(tmp_path: Path) -> None:
    path = write(tmp_path, "d.csv", 'text,label\n"one, ""two""",b\n"three\nfour",a\n')
    data = read_classification_file(path)
    assert data.texts == ['one, "two"', "three\nfour"]
    assert (data.label_ids, data.label_names, data.id2label) == ([1, 0], ["a", "b"], {0: "a", 1: "b"})


def test_pairs_other_columns_blank_lines_bom_and_windows_line_ends(tmp_path: Path) -> None:
    content = "\ufeffid\tText_A\tlabel\tText_B\r\n7\tx\tyes\ty\r\n\r\n8\tz\tno\tw\r\n"
    data = read_classification_file(write(tmp_path, "d.TSV", content))
    assert (data.texts, data.pairs, data.label_ids) == (["x", "z"], ["y", "w"], [1, 0])


def test_text_a_alone_is_a_single_text(tmp_path: Path) -> None:
    data = read_classification_file(write(tmp_path, "d.tsv", "label\ttext_a\n0\tx\n1\ty\n"))
    assert (data.texts, data.pairs) == (["x", "y"], None)


def test_integer_labels_sort_as_numbers_and_names_as_text(tmp_path: Path) -> None:
    rows = "".join(f"{label}\tx{label}\n" for label in (10, 9, -1))
    assert read_classification_file(write(tmp_path, "i.tsv", "label\ttext\n" + rows)).label_names == ["-1", "9", "10"]
    data = read_classification_file(write(tmp_path, "s.tsv", "label\ttext\n10\tx\n9\ty\nz9\tz\n"))
    assert data.label_names == ["10", "9", "z9"]


def test_second_file_uses_the_ids_of_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, "dev.tsv", "label\ttext\nc\tx\n")
    data = read_classification_file(path, label_names=["a", "c", "b"])
    assert (data.label_ids, data.label_names) == ([1], ["a", "c", "b"])


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("d.txt", "label\ttext\n", "d.txt: unknown ending '.txt'; name it .tsv"),
        ("d.tsv", "", "line 1: no column label; the first line must name the columns, separated by tabs"),
        ("d.tsv", "label,text\n0,x\n", "line 1: no column label"),
        ("d.csv", "label,sentence\n0,x\n", r"line 1: no column text \(or text_a and text_b\)"),
        ("d.tsv", "label\ttext\ttext\n0\tx\ty\n", "line 1: column text appears twice"),
        ("d.tsv", "label\ttext\n", "no samples after the header"),
        ("d.tsv", "label\ttext\n0\tx\n1\t  \n", "line 3: empty text; fill it in or delete"),
        ("d.tsv", "label\ttext\n0\tx\n\ty\n", "line 3: empty label"),
        ("d.tsv", "label\ttext_a\ttext_b\n0\tx\t\n", "line 2: empty text_b"),
        ("d.tsv", "label\ttext\n0\tx\ty\n", "line 2: 3 fields, but the header has 2"),
        ("d.tsv", "label\ttext\n0\tx\n1\n", "line 3: 1 fields, but the header has 2"),
        ("d.tsv", "label\ttext\n0\tx\ry\n1\tz\n", "line 3: 1 fields, but the header has 2"),
        ("d.csv", 'label,text\n0,x\n1,"never closed\n0,y\n', "line 3: broken line"),
        ("d.csv", 'label,text\n0,"x"y\n1,z\n', "line 2: broken line"),
        ("d.csv", 'label,text\n0,"two\nlines"\n1,\n', "line 4: empty text"),
        ("d.tsv", b"label\ttext\n0\tx\n1\tcaf\xe9\n", "line 3: not UTF-8 text; save the file as UTF-8"),
        ("d.tsv", "label\ttext\n0\tx\n".encode("utf-16"), "line 1: not UTF-8 text"),
        ("d.tsv", "label\ttext\n0\tx\n".encode("utf-16-le"), "line 1: holds NUL"),
        ("d.tsv", "label\ttext\n0\tx\n0\ty\n", "only one class, '0'"),
    ],
)
def test_malformed_file_gets_one_line_with_place_and_remedy(
    tmp_path: Path, name: str, content: str | bytes, problem: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataFileError, match=problem) as caught:
        read_classification_file(path)
    message = str(caught.value)
    assert str(path) in message and ";" in message and "\n" not in message


def test_unknown_label_and_missing_file(tmp_path: Path) -> None:
    path = write(tmp_path, "dev.tsv", "label\ttext\na\tx\nq\ty\n")
    with pytest.raises(DataFileError, match=r"line 3: unknown label 'q'; use one of the training labels \(a, b\)"):
        read_classification_file(path, label_names=["a", "b"])
    with pytest.raises(DataFileError, match="cannot be read"):
        read_classification_file(tmp_path / "absent.tsv")


def test_tokenised_dataset_cuts_and_collates() -> None:
    data = ClassificationData(["a b c d e", "a", "b c"], None, [2, 0, 1], ["x", "y", "z"])
    dataset = TokenisedDataset(data, make_tokenizer(), max_length=5)
    assert dataset.lengths == [5, 3, 4] and len(dataset) == 3
    batches = list(dataset.batches(2))
    assert [batch["labels"].tolist() for batch in batches] == [[2, 0], [1]]
    assert batches[0]["input_ids"].tolist() == [[2, 4, 5, 6, 3], [2, 4, 3, 0, 0]]
    assert batches[0]["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batches[1]["input_ids"].shape == (1, 4) and batches[1]["input_ids"].dtype == torch.int64


def test_pairs_get_segment_ids() -> None:
    data = ClassificationData(["a b", "a"], ["c", "d e"], [0, 1], ["x", "y"])
    dataset = TokenisedDataset(data, make_tokenizer(), max_length=16)
    assert dataset[0]["input_ids"] == [2, 4, 5, 3, 6, 3]
    assert dataset[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_empty_dataset() -> None:
    dataset = TokenisedDataset(ClassificationData([], None, [], ["x", "y"]), make_tokenizer(), max_length=16)
    assert len(dataset) == 0 and dataset.lengths == [] and list(dataset.batches(4)) == []
