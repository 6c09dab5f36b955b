"""Converted models of the format UER against the packages themselves."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from transformers import AutoTokenizer

from fastbert_hf import FastBertForSequenceClassification, predict
from fastbert_hf.conversion import uer
from fastbert_hf.conversion.comparison import compare
from helpers.uer_checkpoints import LENGTH, SPEEDS, TEXTS, convert, make_checkpoint


def changed(made, tmp_path, change):
    """The same with a checkpoint to whose state dict `change` was done."""
    state = torch.load(made["checkpoint"])
    state = change(state) or state
    torch.save(state, tmp_path / "changed.bin")
    return made | {"checkpoint": tmp_path / "changed.bin"}


def all_logits(folder, ids, segments, **options):
    model = FastBertForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        return model(ids, (segments > 0).long(), (segments - 1).clamp(min=0), output_all_exits=True, **options)


def assert_answers_of(made, folder):
    output = all_logits(folder, made["ids"], made["segments"])
    torch.testing.assert_close(output.all_logits, made["logits"], rtol=0, atol=3e-5)
    for speed, layers in zip(SPEEDS, made["exits"], strict=True):
        assert all_logits(folder, made["ids"], made["segments"], speed=speed).exit_layer.tolist() == layers.tolist()


@pytest.mark.parametrize("package", ["fastbert", "fastplm"])
def test_a_package_and_the_converted_model_give_the_same_answers(package, request, tmp_path):
    made = request.getfixturevalue("fastbert") if package == "fastbert" else make_checkpoint(package, tmp_path)
    assert len(set(made["exits"].flatten().tolist())) > 1  # texts leave early or late, so the exits mean something
    report = convert(made, tmp_path / "out", format=package, label_names=["a", "b", "c"])
    assert_answers_of(made, tmp_path / "out")
    assert report.comparison.equal_exits == 1 and len(report.comparison.layers) == 3
    (residual,) = (note for note in report.notes if note.startswith("LayerNorm"))
    assert 0 < float(re.search(r"at most 1 \+ (\S+)$", residual)[1]) < 1e-5
    for layer in report.comparison.layers:
        assert 0 < layer.logits_float64 < 3e-5 and 0 < layer.logits < 5e-5 and 0 < layer.uncertainty < 1e-5

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text, ids in zip(TEXTS, made["ids"].tolist(), strict=True):
        own = tokenizer(text, truncation=True, max_length=LENGTH)
        assert own["input_ids"] + [0] * (LENGTH - len(own["input_ids"])) == ids
        assert set(own["token_type_ids"]) == {0}
    assert tokenizer.model_max_length == 512
    model = FastBertForSequenceClassification.from_pretrained(tmp_path / "out")
    texts = [text for text in TEXTS if text]
    assert set(predict(model, tokenizer, texts, speed=0.5, max_length=LENGTH).label_names) <= {"a", "b", "c"}


def test_the_report_names_every_parameter_once(fastbert, tmp_path):
    report = convert(fastbert, tmp_path / "out")
    state = torch.load(fastbert["checkpoint"])
    assert report.mapped.keys() | report.left_out.keys() == state.keys()
    assert not report.mapped.keys() & report.left_out.keys()
    assert all(name.startswith("kernel.target.") for name in report.left_out) and len(report.left_out) == 10
    model = FastBertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert sorted(report.mapped.values()) == sorted(name for name, _ in model.named_parameters())
    assert report.format == "fastbert" and report.detected and report.tokenizer
    written = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert written["comparison"]["equal_exits"] == 1 and written["notes"] == list(report.notes)
    assert model.config.converted_from["format"] == "fastbert"
    assert any("without [SEP]" in note for note in model.config.converted_from["notes"])


@pytest.mark.parametrize(
    ("format", "pieces", "types"),
    [
        ("fastbert", ["[CLS]", "good", "[SEP]", "bad"], [0, 0, 0, 0]),
        ("fastplm", ["[CLS]", "good", "[SEP]", "bad", "[SEP]"], [0, 0, 0, 1, 1]),
    ],
)
def test_pairs_become_tokens_as_the_format_has_them(fastbert, tmp_path, format, pieces, types):
    convert(fastbert, tmp_path / "out", format=format)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    pair = tokenizer("good", "bad")
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == pieces and pair["token_type_ids"] == types


def test_second_texts_have_the_row_of_segment_2(fastbert, tmp_path):
    state = torch.load(fastbert["checkpoint"])
    report = convert(fastbert, tmp_path / "out")
    model = FastBertForSequenceClassification.from_pretrained(tmp_path / "out")
    table = model.backbone.embeddings.token_type_embeddings.weight
    assert torch.equal(table, state["kernel.embedding.segment_embedding.weight"][1:])
    assert any("row 0 (padding) is left out" in note for note in report.notes)


def test_the_authors_script_has_the_same_parameters_under_shorter_names(fastbert, tmp_path):
    def shorten(state):
        short = {name.removeprefix("kernel."): value for name, value in state.items() if ".target." not in name}
        return {f"module.{name}": value for name, value in short.items()}

    report = convert(changed(fastbert, tmp_path, shorten), tmp_path / "out")
    assert report.format == "script" and not report.left_out
    assert_answers_of(fastbert, tmp_path / "out")
    assert all(not name.startswith("module.") for name in report.mapped)


def test_half_precision_is_read_and_saved_in_single(fastbert, tmp_path):
    convert(changed(fastbert, tmp_path, lambda state: {n: v.half() for n, v in state.items()}), tmp_path / "out")
    model = FastBertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    output = all_logits(tmp_path / "out", fastbert["ids"], fastbert["segments"])
    assert 0 < (output.all_logits - fastbert["logits"]).abs().max() < 0.1


def test_the_comparison_sees_a_wrong_parameter(fastbert, tmp_path):
    """A difference that it would not see could not have been reported either."""
    state, settings = torch.load(fastbert["checkpoint"]), json.loads(fastbert["settings"].read_text())
    original = uer.read(state, settings, "fastbert", {})
    model = FastBertForSequenceClassification(original.config)
    names = ["heads.1.key.weight", "backbone.encoder.layer.1.attention.self.key.weight"]
    names += ["backbone.embeddings.token_type_embeddings.weight", "backbone.encoder.layer.2.output.LayerNorm.weight"]
    for name in names:
        parameters = {other: value.float() for other, value in original.parameters.items()}
        parameters[name] = parameters[name].flip(0)
        model.load_state_dict(parameters)
        worst = [layer.logits_float64 for layer in compare(model.eval(), original).layers]
        assert max(worst) > 1e-2, name
        assert worst[0] < 3e-5 or "embeddings" in name  # what lies behind a layer does not change it


def test_equivalent_eps_is_the_minimum_of_the_squared_errors():
    deviations = torch.tensor([0.05, 0.06, 0.7, 1.3, 2.0], dtype=torch.float64)
    eps = 1e-3

    def error(candidate):
        return (((deviations + eps) / (deviations**2 + candidate).sqrt() - 1) ** 2).sum()

    best = uer.equivalent_eps(deviations, eps)
    grid = torch.logspace(-6, -2, 4001, dtype=torch.float64)
    assert math.isclose(best, float(grid[torch.stack([error(c) for c in grid]).argmin()]), rel_tol=0.05)
    assert math.isfinite(uer.equivalent_eps(torch.zeros(3), 1e-6))


def test_known_sizes_need_no_configuration():
    assert uer.KNOWN_MODELS[768, 12, 3072] == 12 and uer.KNOWN_MODELS[312, 4, 1200] == 12


def test_blank_lines_of_a_vocabulary_keep_their_place(fastbert, tmp_path):
    pieces = fastbert["vocabulary"].read_text(encoding="utf-8").splitlines()
    pieces[7] = "\u2028"
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    convert(fastbert, tmp_path / "out", vocabulary=tmp_path / "vocab.txt")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids("good") == pieces.index("good") and len(tokenizer) == len(pieces)
