"""The benchmark of adopted classifiers: who sees which texts, and a run from a backbone to the table."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import adopted_classifiers as benchmark
from adopting.engines import engines
from adopting.models import TASKS, Texts
from peers.contestant import FULL_DEPTH_PEER, Answer, Contestant, Entry, NotAvailable


def test_no_text_has_two_parts(two_class_data):
    texts = Texts.read(two_class_data / "sst2")
    parts = (texts.labelled, texts.traffic, texts.calibration, texts.new)
    assert [len(part) for part in parts] == [80, 80, 100, 40]
    assert len({text for part in parts for text in part.texts}) == 300


def test_from_a_backbone_to_the_table(quick_run, tmp_path):
    benchmark.main([*quick_run, "--out", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()
    options = benchmark.parse_arguments(quick_run)
    case = benchmark.run_task("sst2", options)  # of the models that are there
    eager, *rows = case["rows"]
    whole, early, *auto = (row for row in rows if row["contestant"].startswith(("patched", "adopted")))
    assert eager["other_labels_than_eager"] == 0 and eager["over_eager"] == 1
    assert whole["largest_logit_difference"] < 1e-4 and "other_labels_than_own_full_depth" not in whole
    assert early["contestant"] == "adopted, float32" and early["calibration_texts"] == benchmark.QUICK_TEXTS
    assert early["other_labels_than_own_full_depth"] <= case["texts"] and early["flops_speedup"] > 0
    assert len(auto) == 2 and case["texts"] == 40 and case["traffic"] == benchmark.QUICK_TEXTS
    page = benchmark.table({"rounds": 1, "threads": 1, "max_disagreement": 0.2, "tasks": [case]})
    assert "| adopted, float32 |" in page and "at most 20% other labels" in page
    assert "## sst2, 3-layer backbone: 40 new texts" in page


def plain_pytorch(setup):
    model = setup.classifier()
    return Contestant(lambda request: Answer(model(request.input_ids, request.attention_mask)))


def nobody(setup):
    raise NotAvailable("there is none")


def test_other_engines_answer_as_the_classifier_does(monkeypatch):
    config = BertConfig(hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=2, vocab_size=60)
    classifier = BertForSequenceClassification(config).eval()
    batch = {"input_ids": torch.randint(1, 60, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.int64)}
    batch["attention_mask"][1, 4:] = 0
    entry = Entry("nobody", FULL_DEPTH_PEER, "int8", nobody)
    monkeypatch.setattr("adopting.engines._ENTRIES", (Entry("plain", FULL_DEPTH_PEER, "float32", plain_pytorch), entry))
    with torch.inference_mode(), engines(classifier, [batch]) as (calls, missing):
        assert missing == {"nobody": "there is none"} and [*calls] == ["plain"]
        torch.testing.assert_close(calls["plain"](batch), classifier(**batch).logits)
    pairs = batch | {"token_type_ids": torch.ones(3, 7, dtype=torch.int64)}
    with engines(classifier, [pairs]) as (calls, missing):
        assert not calls and all("segments" in reason for reason in missing.values())


def test_what_was_measured_beside_other_engines_is_measured_again(quick_run, tmp_path, monkeypatch):
    """A run folder from before an engine was measured, or installed, would hide it."""
    seen = []

    def measure(*models, **settings):
        seen.append("measured")
        return {"texts": 40, "rows": [], "missing": {}, "times": len(seen)}

    monkeypatch.setattr(benchmark, "open_models", lambda *what: tmp_path)
    monkeypatch.setattr(benchmark, "fine_tuned", lambda folder, *what: folder)
    monkeypatch.setattr(benchmark, "adopted", lambda folder, *what: (folder, None))
    monkeypatch.setattr(benchmark, "measure", measure)
    versions = {"onnxruntime": None}
    monkeypatch.setattr("adopting.engines.peer_versions", versions.copy)
    options = benchmark.parse_arguments(quick_run)
    options.quick = False

    def times():
        return benchmark.run_task("sst2", options)["times"]

    assert (times(), times()) == (1, 1)
    versions["onnxruntime"] = "1.20.0"
    assert (times(), times()) == (2, 2)
    monkeypatch.setattr("adopting.engines._ENTRIES", (Entry("plain", FULL_DEPTH_PEER, "float32", plain_pytorch),))
    assert (times(), times()) == (3, 3)
    (file,) = tmp_path.glob("measured_*.json")
    file.write_text('{"texts": 40, "rows": [], "times": 0}')  # of before other engines were measured
    assert (times(), times()) == (4, 4)


def test_data_that_is_not_there_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_arguments(["--data", str(tmp_path)])
    message = capsys.readouterr().err
    assert "there is no" in message and all(name in message for name in TASKS)
