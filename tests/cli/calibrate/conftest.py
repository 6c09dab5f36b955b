"""A model whose heads are unsure in all degrees, and labelled texts, for the tests of `fastbert calibrate`."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import BertTokenizerFast

from fastbert_hf import predict as predict_texts
from helpers.models import spread_model

WORDS = ["good", "bad", "fine", "film", "book", "the", "a", "very", "not", "is"]
LABELS = ["no", "perhaps", "yes"]


def text_of(number: int) -> str:
    words = torch.randint(len(WORDS), (1 + number % 9,), generator=torch.Generator().manual_seed(number))
    return " ".join(WORDS[word] for word in words)


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A model whose uncertainties are all over [0, 1], and labels its teacher mostly gets right. Read only."""
    folder = tmp_path_factory.mktemp("calibrate") / "model"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    model = spread_model()
    model.config.id2label = dict(enumerate(LABELS))
    model.save_pretrained(folder)
    texts = [text_of(number) for number in range(400)]
    answers = predict_texts(model, tokenizer, texts).labels.tolist()
    labels = [(answer + (number % 10 == 0)) % 3 for number, answer in enumerate(answers)]
    rows = [f"{LABELS[label]}\t{text}" for label, text in zip(labels, texts, strict=True)]
    (folder.parent / "dev.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    (folder.parent / "texts.txt").write_text("\n".join(texts) + "\n")
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


@pytest.fixture
def dev(original):
    return original.parent / "dev.tsv"
