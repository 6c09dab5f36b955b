"""Hugging Face habits: Auto classes, round trips, checkpoints with other names, the pipeline, the model card."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizerFast,
    pipeline,
)
from transformers.utils import ModelOutput

from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from fastbert_hf.model_card import write_model_card
from helpers.families import FAMILIES, VOCABULARY, make_batch, make_model, speed_that_divides

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "pooled": {"head_type": "pooled", "head_pooling": "mean", "head_num_dense_layers": 2, "head_activation": "gelu"},
    "linear": {"head_type": "pooled", "head_pooling": "max", "head_num_dense_layers": 0},
    "some layers": {"exit_layers": [2, 4]},
    "multi-label": {"problem_type": "multi_label_classification", "exit_layers": [1, 4]},
    "names": {"id2label": {0: "low", 1: "middle", 2: "high"}, "num_labels": 3},
}
CASES = [(family, "default") for family in FAMILIES] + [("bert", option) for option in OPTIONS if option != "default"]
CASES += [("roberta", "pooled"), ("distilbert", "some layers"), ("electra-small", "multi-label")]
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10", "w11 w12"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizerFast:
    path = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]  # the models' padding id is 1
    path.write_text("\n".join([*special, *(f"w{number}" for number in range(VOCABULARY - len(special)))]))
    return BertTokenizerFast(str(path))


@pytest.mark.parametrize(("family", "option"), CASES)
@torch.no_grad()
def test_round_trip(family: str, option: str, tmp_path: Path) -> None:
    model = make_model(family, **OPTIONS[option])
    model.save_pretrained(tmp_path)
    ids, mask = make_batch()
    speed = speed_that_divides(model, ids, mask)
    expected = model(ids, mask, speed=speed)
    for loader in (FastBertForSequenceClassification, AutoModelForSequenceClassification):
        loaded = loader.from_pretrained(tmp_path)
        assert isinstance(loaded, FastBertForSequenceClassification) and not loaded.training
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
        output = loaded(ids, mask, speed=speed)
        assert torch.equal(output.logits, expected.logits) and torch.equal(output.exit_layer, expected.exit_layer)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, FastBertConfig)
    assert type(config.backbone_config) is type(model.config.backbone_config)
    for name in ("head_type", "head_pooling", "head_num_dense_layers", "head_activation", "exit_layers", "id2label"):
        assert getattr(config, name) == getattr(model.config, name)
    assert config.multi_label == model.config.multi_label
    assert config.max_position_embeddings == model.config.max_position_embeddings


@pytest.mark.parametrize("option", OPTIONS)
def test_from_backbone_takes_every_option(option: str, tmp_path: Path) -> None:
    model = make_model("bert", **OPTIONS[option])
    model.backbone.save_pretrained(tmp_path)
    settings = {"num_labels": 3, "head_hidden_size": 16} | OPTIONS[option]
    made = FastBertForSequenceClassification.from_backbone(str(tmp_path), **settings)
    assert {name: value.shape for name, value in made.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    assert made.config.exit_layers == model.config.exit_layers
    assert made.config.multi_label == model.config.multi_label


@pytest.mark.parametrize(
    ("old", "new"),
    [("heads.1.dense.0", "heads.1.dense.7"), ("backbone.", "bert."), ("backbone.transformer", "backbone.encoder")],
)
def test_checkpoint_with_other_names_does_not_load(old: str, new: str, tmp_path: Path) -> None:
    make_model("distilbert", **OPTIONS["pooled"]).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name.replace(old, new): value for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(RuntimeError, match=f"missing parameters .*{re.escape(old)}.*unexpected parameters .*{new}"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_checkpoint_of_other_exit_layers_does_not_load(tmp_path: Path) -> None:
    make_model("bert", exit_layers=[1, 2, 4]).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"unexpected parameters \['heads\.2\."):
        FastBertForSequenceClassification.from_pretrained(tmp_path, exit_layers=[2, 4])


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_backbone_is_not_taken_for_a_fastbert(family: str, tmp_path: Path) -> None:
    make_model(family).backbone.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="load it with FastBertForSequenceClassification.from_backbone"):
        FastBertForSequenceClassification.from_pretrained(tmp_path)


@torch.no_grad()
def test_output_is_a_model_output() -> None:
    model = make_model("bert")
    output = model(*make_batch(3), speed=0.5)
    assert isinstance(output, ModelOutput)
    assert list(output) == ["logits", "uncertainty", "exit_layer"]
    assert output["exit_layer"] is output.exit_layer and output.to_tuple()[0] is output.logits


def test_import_brings_what_classifying_needs_and_no_more() -> None:
    names = ("fastbert_hf.training", "fastbert_hf.model_card", "fastbert_kernels", "datasets", "pyarrow")
    program = f"import sys, fastbert_hf; print([name for name in {names} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    ("family", "option"),
    [("bert", "names"), ("bert", "multi-label"), ("electra-small", "pooled"), ("distilbert", "some layers")],
)
@torch.no_grad()
def test_pipeline(family: str, option: str, batch_size: int, tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    model = make_model(family, **OPTIONS[option])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    classify = pipeline("text-classification", model=str(tmp_path), batch_size=batch_size)
    answers = classify(TEXTS, top_k=None)
    squash = torch.sigmoid if model.config.multi_label else torch.nn.Softmax(dim=-1)
    for text, answer in zip(TEXTS, answers, strict=True):
        scores = squash(model(**tokenizer(text, return_tensors="pt")).logits[0])
        expected = {model.config.id2label[index]: score for index, score in enumerate(scores.tolist())}
        assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(expected, abs=1e-5)


def test_pipeline_of_a_pair(tokenizer: BertTokenizerFast) -> None:
    model = make_model("bert")
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    with torch.no_grad():
        scores = model(**tokenizer("w1 w2", "w3", return_tensors="pt")).logits[0].softmax(dim=-1)
    assert classify({"text": "w1 w2", "text_pair": "w3"})["score"] == pytest.approx(scores.max().item(), abs=1e-5)


def test_model_card(tmp_path: Path) -> None:
    model = make_model("electra-small", exit_layers=[2, 4], id2label={0: "no", 1: "yes"}, num_labels=2)
    path = write_model_card(
        tmp_path,
        model=model,
        base_model="google/electra-small-discriminator",
        language=["en", "zh"],
        metrics=[{"Speed": 0.1, "accuracy": 0.912345, "set": "a|b"}, {"Speed": 0.5, "accuracy": 1.0, "set": "c\nd"}],
        metrics_note="Test part of a set.",
    )
    assert path == tmp_path / "README.md" and [file.name for file in tmp_path.iterdir()] == ["README.md"]
    _, header, text = path.read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "fastbert_hf",
        "pipeline_tag": "text-classification",
        "tags": ["fastbert", "early-exit", "electra"],
        "base_model": "google/electra-small-discriminator",
        "language": ["en", "zh"],
    }
    for part in (
        "4 layers of width 32",
        "up to 24 tokens",
        "attentive, width 16, 2 attention heads, behind layers 2, 4",
        "one class of 2: `no`, `yes`",
        "patch(model)",
        "Test part of a set.\n\n| Speed | accuracy | set |\n| --- | --- | --- |\n"
        "| 0.1 | 0.9123 | a\\|b |\n| 0.5 | 1 | c d |\n",
    ):
        assert part in text


def test_model_card_without_extras_and_of_a_multi_label_model(tmp_path: Path) -> None:
    model = make_model("roberta", **OPTIONS["linear"], problem_type="multi_label_classification")
    text = write_model_card(tmp_path, model=model).read_text(encoding="utf-8")
    assert "base_model" not in text and "language" not in text and "## Results" not in text
    assert "pooled (max), no dense layer, behind every layer" in text
    assert "several classes at once, or none of 3" in text
    assert "answers.logits.sigmoid()" in text and "patch(model)" in text
    model = make_model("bert", head_type="pooled", student_pooling="mean")
    text = write_model_card(tmp_path, model=model).read_text(encoding="utf-8")
    assert "pooled (students mean, teacher first), 1 dense layer(s) of width 16 with tanh" in text


@pytest.mark.parametrize("option", ["default", "multi-label"])
def test_program_in_the_model_card_runs(option: str, tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    model = make_model("bert", **OPTIONS[option])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = write_model_card(tmp_path, model=model).read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    scope: dict[str, Any] = {}
    exec(program.replace("path/to/this/folder", str(tmp_path)), scope)
    assert len(scope["answers"]) == 2
    assert AutoTokenizer.from_pretrained(tmp_path).vocab_size == VOCABULARY


def test_faults_of_a_model_card(tmp_path: Path) -> None:
    model = make_model("bert")
    with pytest.raises(FileNotFoundError, match="save the model there first"):
        write_model_card(tmp_path / "missing", model=model)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"row 2 of the metrics has the columns \['b'\], the first row \['a'\]"):
        write_model_card(tmp_path, model=model, metrics=[{"a": 1}, {"b": 1}])
    assert (tmp_path / "README.md").read_text() == "mine"
