"""`fastbert calibrate`, and what predict and evaluate do with its setting: end to end on a tiny model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from transformers import AutoTokenizer

from fastbert_cli.calibrate import report
from fastbert_cli.setting_in_words import describe_objective
from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf import predict as predict_texts
from fastbert_hf.calibration import Clock, ExitRecords, Objective, figures_of, scale_temperatures, simulate
from fastbert_hf.exits.calibrated_setting import CalibratedSetting
from fastbert_hf.flops import ModelShape, executed_flops, full_depth_flops
from helpers.cli import assert_complaint, invoke, succeed
from helpers.families import make_model as make_family_model
from helpers.populations import make_population

LABELS = ["no", "perhaps", "yes"]


def answers_of(*arguments):
    result = succeed("predict", *arguments)
    header, *lines = result.stdout.splitlines()
    assert header == "label\tprobability\tuncertainty\texit_layer"
    return [(line.split("\t")[0], int(line.split("\t")[3])) for line in lines], result.stderr.splitlines()[-1]


def test_from_labelled_texts_to_the_default_of_predict_and_evaluate(original, folder, dev, tmp_path) -> None:
    texts, kept = original.parent / "texts.txt", tmp_path / "exits.safetensors"
    before, line = answers_of(folder, texts)
    assert {layer for _, layer in before} == {4} and line.endswith("full depth (not calibrated)")

    shown = succeed("calibrate", folder, "--data", dev, "--min-speedup", 1.4, "--records", kept).stdout
    setting, records = CalibratedSetting.load(folder), ExitRecords.load(kept)
    assert setting.figures == figures_of(records, setting.rule, 0.95) and setting.figures.flops_speedup >= 1.4
    for words in (
        "best first",
        "macro F1",
        "setting: a text leaves",
        "target: a FLOPs speed-up of 1.4x or more; measured: ",
        f"accuracy: {setting.figures.accuracy:.2%} (",
        f"FLOPs speed-up: {setting.figures.flops_speedup:.2f}x (",
        f"mean exit layer {setting.figures.mean_exit_layer:.2f}",
        "no guarantee: the target is a speed-up, and the same texts",
        f"written: {folder}",
    ):
        assert words in shown

    by_default, line = answers_of(folder, texts)
    expected = simulate(records, setting.rule)
    assert [layer for _, layer in by_default] == pytest.approx(expected.exit_layers.tolist(), abs=0)
    assert [name for name, _ in by_default] == [LABELS[label] for label in expected.predictions]
    assert line.endswith("calibrated setting (a FLOPs speed-up of 1.4x or more)")
    assert answers_of(folder, texts, "--full-depth")[0] == before
    knob, line = answers_of(folder, texts, "--speedup", 1.3)
    speed = setting.speed_for_speedup(1.3)
    assert knob == answers_of(folder, texts, "--speed", repr(speed))[0] != before
    assert line.endswith(f"speed-up 1.3 (Speed {speed:.4g})")

    rows = json.loads(
        succeed("evaluate", folder, "--data", dev, "--speed", 0.5, "--speedup", 1.3, "--time", "--json").stdout
    )["rows"]
    assert [row["setting"] for row in rows] == ["full depth", "calibrated", "Speed 0.5", "speed-up 1.3"]
    calibrated = rows[1]
    assert calibrated["speed"] is None and calibrated["ms_per_text"] > 0
    for name in ("accuracy", "flops_speedup", "mean_exit_layer"):
        assert calibrated[name] == pytest.approx(getattr(setting.figures, name), rel=1e-9)
    assert rows[0]["flops_speedup"] == 1
    table = succeed("evaluate", folder, "--data", dev, "--speedup", 1.3).stdout
    assert "calibrated" in table and "speed-up 1.3" in table and "Speed 0.1" not in table


def test_flops_of_a_row_are_those_of_the_heads_that_are_asked(folder, dev) -> None:
    succeed("calibrate", folder, "--data", dev, "--min-speedup", 1.3, "--criterion", "entropy")
    setting = CalibratedSetting.load(folder)
    assert set(setting.rule.layers) < {1, 2, 3}, "the case needs a head that is not asked"
    row = json.loads(succeed("evaluate", folder, "--data", dev, "--json", "--backend", "none").stdout)["rows"][1]
    model = FastBertForSequenceClassification.from_pretrained(folder)
    texts = [line.split("\t")[1] for line in dev.read_text().splitlines()[1:]]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    exits = predict_texts(model, tokenizer, texts).exit_layer.tolist()
    shape = ModelShape.from_config(model.config)
    full = done = 0
    for text, layer in zip(texts, exits, strict=True):
        tokens = len(tokenizer(text)["input_ids"])
        one_layer = full_depth_flops(replace(shape, num_layers=5), tokens) - full_depth_flops(shape, tokens)
        one_head = executed_flops(shape, [1], tokens) - one_layer
        full += 4 * one_layer + one_head
        done += layer * one_layer + one_head * sum(head <= layer for head in (*setting.rule.layers, 4))
    assert row["flops_speedup"] == pytest.approx(float(full / done))


def test_guarantee_json_and_dry_run(folder, dev) -> None:
    options = ("--data", dev, "--max-drop", 0.05, "--confidence", 0.9, "--seed", 3, "--json")
    found = json.loads(succeed("calibrate", folder, *options, "--dry-run").stdout)
    assert all(0 < one["macro_f1"] < 1 for one in found["compared"])
    assert not (folder / "fastbert_calibration.json").exists() and not found["saved"]
    evidence = found["setting"]["evidence"]
    assert (evidence["samples"], evidence["samples_for_choosing"], evidence["confidence"]) == (320, 80, 0.9)
    assert evidence["guarantee"].startswith("With 0.9 confidence, at most 0.05 of new samples")
    assert {one["rule"]["criterion"] for one in found["compared"]} >= {"entropy", "confidence", "patience"}
    again = json.loads(succeed("calibrate", folder, *options).stdout)
    assert again["saved"] and again["setting"] == found["setting"]
    assert CalibratedSetting.load(folder).objective.max_drop == 0.05
    one = succeed("calibrate", folder, "--data", dev, "--max-drop", 0.7, "--one-speed", "--criterion", "confidence")
    assert "best first" not in one.stdout and "guarantee: With 0.95 confidence" in one.stdout
    rule = CalibratedSetting.load(folder).rule
    assert rule.criterion == "confidence" and rule.layers == (1, 2, 3) and len(set(rule.speeds)) == 1


def test_predict_says_where_the_guarantee_does_not_hold(original, folder, dev) -> None:
    texts = original.parent / "texts.txt"
    succeed("calibrate", folder, "--data", dev, "--max-drop", 0.1, "--one-speed")
    wish = "calibrated setting (lose at most 10 points of accuracy"
    for dtype in ("weights", "fp32"):
        assert answers_of(folder, texts, "--dtype", dtype)[1].endswith(f"{wish})")
    line = answers_of(folder, texts, "--dtype", "bf16")[1]
    assert line.endswith(f"{wish}; guaranteed in float32, not in bfloat16)")
    assert answers_of(folder, texts, "--dtype", "bf16", "--full-depth")[1].endswith("full depth")
    succeed("calibrate", folder, "--data", dev, "--max-drop", 0.1, "--one-speed", "--max-length", 8)
    assert answers_of(folder, texts, "--max-length", 8)[1].endswith(f"{wish})")
    assert answers_of(folder, texts)[1].endswith(f"{wish}; guaranteed with --max-length 8)")
    succeed("calibrate", folder, "--data", dev, "--min-speedup", 1.2)
    line = answers_of(folder, texts, "--dtype", "bf16")[1]
    assert line.endswith("calibrated setting (a FLOPs speed-up of 1.2x or more)")


def test_the_setting_is_chosen_on_what_runs(original, folder, dev, tmp_path) -> None:
    texts, kept = original.parent / "texts.txt", tmp_path / "exits.safetensors"
    wish = ("--data", dev, "--min-speedup", 1.2, "--records")
    succeed("calibrate", folder, *wish, tmp_path / "float32.safetensors")
    assert CalibratedSetting.load(folder).precision == "float32"
    mixed, words = ("--dtype", "int8", "--bf16-product", "output"), "int8 with output in bfloat16"
    succeed("calibrate", folder, *wish, kept, "--backend", "cpu", *mixed)
    records = ExitRecords.load(kept)
    assert CalibratedSetting.load(folder).precision == records.precision == words
    assert not torch.allclose(records.logits, ExitRecords.load(tmp_path / "float32.safetensors").logits, atol=1e-3)
    assert answers_of(folder, texts, *mixed)[1].endswith("(a FLOPs speed-up of 1.2x or more)")
    note = "note: this model's calibrated setting was chosen on answers in {}, and it runs in {} from now on"
    assert note.format(words, "float32") in succeed("predict", folder, texts).stderr
    assert note.format(words, "int8") in succeed("predict", folder, texts, "--dtype", "int8").stderr
    told = succeed("calibrate", folder, *wish, kept, "--backend", "cpu", *mixed, "--dry-run")
    assert "note" not in told.stderr
    assert "note" not in succeed("predict", folder, texts, *mixed).stderr
    refused = invoke("calibrate", folder, *wish, kept)
    assert_complaint(refused, "calibrate", f"precision {words}, and this run is in float32")
    refused = invoke("calibrate", folder, *wish, kept, "--dtype", "int8", "--temperature-scaling")
    assert_complaint(refused, "calibrate", "then calibrate with --dtype on the texts of another file")


def test_a_promise_without_labels(original, folder, dev, tmp_path) -> None:
    texts, kept = original.parent / "texts.txt", tmp_path / "exits.safetensors"
    wish = ("--max-disagreement", 0.3, "--confidence", 0.9, "--records", kept)
    shown = succeed("calibrate", folder, "--data", texts, *wish).stdout
    setting, records = CalibratedSetting.load(folder), ExitRecords.load(kept)
    figures = setting.figures
    assert records.labels is None and setting.objective == Objective(max_disagreement=0.3)
    for words in (
        "criteria, each with one Speed, on the 80 texts that chose",
        "target: at most 30 % of answers other than at full depth; measured: ",
        f"answers other than at full depth: {figures.disagreement:.2%} (",
        "of the texts that full depth gives a class, so many lose it: ",
        "guarantee: With 0.9 confidence, at most 0.3 of new samples from the same distribution get another answer",
    ):
        assert words in shown
    assert "accuracy" not in shown and figures.accuracy is None and sum(figures.exit_counts) == 320
    by_default, line = answers_of(folder, texts)
    assert line.endswith("calibrated setting (at most 30 % of answers other than at full depth)")
    full_depth = answers_of(folder, texts, "--full-depth")[0]
    differing = sum(one[0] != other[0] for one, other in zip(by_default, full_depth, strict=True))
    assert 0 < differing / 400 <= 0.3
    line = answers_of(folder, texts, "--dtype", "bf16")[1]
    assert line.endswith("guaranteed in float32, not in bfloat16)")

    # Labels may be there; they are not read, not even where the model does not know them.
    strange = tmp_path / "strange.tsv"
    strange.write_text("label\ttext\n" + "".join(f"what\t{line}\n" for line in texts.read_text().splitlines()))
    again = json.loads(succeed("calibrate", folder, "--data", strange, *wish, "--json").stdout)
    assert again["setting"]["figures"] == json.loads(json.dumps(figures.__dict__))
    # What was recorded without labels serves a target with them.
    assert "accuracy: " in succeed("calibrate", folder, "--data", dev, "--min-speedup", 1.2, "--records", kept).stdout
    assert ExitRecords.load(kept).labels is None
    assert "no label" not in succeed("calibrate", folder, "--data", texts, *wish, "--one-speed").stdout


def test_a_promise_for_several_labels(folder, original) -> None:
    labels = {"id2label": dict(enumerate(LABELS)), "num_labels": 3}
    model = make_family_model("bert", **labels, problem_type="multi_label_classification")
    with torch.no_grad():
        for head in model.heads:
            head.classifier.weight *= 30
    model.save_pretrained(folder)
    texts, wish = original.parent / "texts.txt", ("--max-disagreement", 0.5)
    shown = succeed("calibrate", folder, "--data", texts, *wish).stdout
    assert "at most 0.5 of new samples" in shown and "setting: a text leaves when the mean binary entropy" in shown
    fast = succeed("calibrate", folder, "--data", texts, "--min-speedup", 1.2).stdout
    assert "answers other than at full depth: " in fast and "no guarantee: the target is a speed-up" in fast
    refused = invoke("calibrate", folder, "--data", texts, *wish, "--criterion", "confidence")
    assert_complaint(refused, "calibrate", "unknown criterion 'confidence'; choose one of auto, binary_entropy")


def test_the_audit_of_predict(original, folder, tmp_path) -> None:
    texts = original.parent / "texts.txt"
    refused = invoke("predict", folder, texts, "--audit", 0.1)
    assert_complaint(refused, "predict", "this model is not calibrated, so that all texts run to full depth")
    succeed("calibrate", folder, "--data", texts, "--max-disagreement", 0.3)
    alone, audited = (succeed("predict", folder, texts, *audit) for audit in ([], ["--audit", 0.5, "--audit-seed", 0]))
    assert audited.stdout == alone.stdout and "audit" not in alone.stderr
    line, last = audited.stderr.splitlines()[-2:]
    assert last.endswith("calibrated setting (at most 30 % of answers other than at full depth)")
    assert line.startswith("audit: ") and "promised: at most 30 %" in line and "0.95 confidence" in line
    assert line.endswith("of texts leave elsewhere than in the calibration") and "warning" not in audited.stderr
    assert line in succeed("predict", folder, texts, "--audit", 0.5, "--audit-seed", 0).stderr
    assert line not in succeed("predict", folder, texts, "--audit", 0.5, "--audit-seed", 1).stderr
    by_speed = succeed("predict", folder, texts, "--audit", 1, "--speed", 0.9).stderr
    assert "audit: " in by_speed and "of 400 texts got" in by_speed and "promised" not in by_speed
    assert "audit: none of the 400 texts was drawn" in succeed("predict", folder, texts, "--audit", 1e-9).stderr

    other = tmp_path / "other.txt"
    exits = [layer for _, layer in answers_of(folder, texts)[0]]
    late = [text for text, layer in zip(texts.read_text().splitlines(), exits, strict=True) if layer > min(exits)]
    other.write_text("\n".join(late * 4) + "\n")
    warned = succeed("predict", folder, other, "--audit", 0.1).stderr
    assert "warning: the traffic is not that of the calibration (0.95 confidence)" in warned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--audit", 1.5], "--audit 1.5: a share of the texts, above 0 and at most 1"),
        (["--audit", 0], "--audit 0: a share of the texts"),
    ],
)
def test_complaints_about_an_audit(original, folder, options, message) -> None:
    assert_complaint(invoke("predict", folder, original.parent / "texts.txt", *options), "predict", message)


def test_one_point_is_one_point() -> None:
    assert describe_objective(Objective(max_drop=0.01)) == "lose at most 1 point of accuracy"
    assert describe_objective(Objective(max_drop=0.005)) == "lose at most 0.5 points of accuracy"


def test_nothing_but_full_depth_can_be_guaranteed(folder, dev, tmp_path) -> None:
    model = FastBertForSequenceClassification.from_pretrained(folder)
    for head in model.student_classifiers:  # sure, and right about one class only
        head.classifier.bias.data = torch.tensor([90.0, 0.0, 0.0])
    model.save_pretrained(folder)
    shown = succeed("calibrate", folder, "--data", dev, "--max-drop", 0.02).stdout
    assert "setting: full depth" in shown and "no early exit could be shown at 0.95 confidence" in shown
    assert {layer for _, layer in answers_of(folder, dev, "--text-column", "text")[0]} == {4}


@pytest.mark.parametrize("wish", [("--max-drop", 0.1, "--one-speed"), ("--min-speedup", 1.3)])
def test_temperatures_are_saved_in_the_weights(original, folder, dev, tmp_path, wish) -> None:
    kept = tmp_path / "exits.safetensors"
    (folder / "README.md").write_text("mine")
    texts = original.parent / "texts.txt"
    before, _ = answers_of(folder, texts, "--full-depth")
    options = ("--data", dev, *wish, "--temperature-scaling", "--records", kept)
    untouched = {path.name: path.read_bytes() for path in folder.iterdir()}
    dry = json.loads(succeed("calibrate", folder, *options, "--dry-run", "--json").stdout)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == untouched
    shown = succeed("calibrate", folder, *options).stdout
    assert "calibration error before" in shown and "temperatures from 200 texts, measured on 200 others" in shown
    assert (folder / "README.md").read_text() == "mine" and not list(folder.glob(".*"))
    scaling, setting = dry["temperature_scaling"], CalibratedSetting.load(folder)
    assert len(scaling["temperatures"]) == 4 and setting.fingerprint == dry["setting"]["fingerprint"]
    tested = 200 if wish[0] == "--max-drop" else 400
    assert setting.evidence.samples == tested

    old = FastBertForSequenceClassification.from_pretrained(original)
    new = FastBertForSequenceClassification.from_pretrained(folder)
    assert new.calibrated_setting == setting
    for one, other, temperature in zip(old.heads, new.heads, scaling["temperatures"], strict=True):
        for name in ("weight", "bias"):
            was, now = getattr(one.classifier, name), getattr(other.classifier, name)
            torch.testing.assert_close(now * temperature, was, rtol=1e-6, atol=1e-7)
    assert answers_of(folder, texts, "--full-depth")[0] == before
    again = invoke("calibrate", folder, *options)
    seen, other = "nothing can be guaranteed by them", "recorded with other weights than this model has"
    told = seen if wish[0] == "--max-drop" else other
    assert again.exit_code == 2 and told in again.stderr.splitlines()[-1]


def test_temperatures_that_the_texts_do_not_tell_are_named(capsys) -> None:
    records = make_population(400)
    logits = records.logits.clone()
    logits[:, 1] = torch.nn.functional.one_hot(records.known_labels).float()  # always right: the surer the better
    logits[:, 2] = logits[:, 0]
    report.note_bounds(scale_temperatures(replace(records, logits=logits)))
    layer = records.exit_layers[1]
    assert f"note: the temperature of layer {layer} ended at its bound of 0.05 or 20" in capsys.readouterr().err
    logits[:, 1] = logits[:, 0]
    report.note_bounds(scale_temperatures(replace(records, logits=logits)))
    assert capsys.readouterr().err == ""


def test_latency_is_measured(folder, dev, monkeypatch) -> None:
    monkeypatch.setattr(Clock, "of", partial(Clock.of, seconds=0.02))
    shown = succeed(
        *("calibrate", folder, "--data", dev, "--latency-ms", 1000, "--batch-size", 4, "--backend", "none")
    ).stdout
    assert "target: at most 1000 ms per text; measured: " in shown and "in batches of 4 (" in shown
    latency = CalibratedSetting.load(folder).latency
    assert 0 < latency.ms_per_text < 1000 and latency.batch_size == 4 and latency.texts >= 16
    assert latency.precision == "float32, without the fast kernels"
    assert answers_of(folder, dev, "--text-column", "text")[1].endswith("(at most 1000 ms per text)")
    refused = invoke("calibrate", folder, "--data", dev, "--latency-ms", 1e-6)
    assert_complaint(refused, "calibrate", "no exit rule takes 1e-06 ms per text or less: full depth takes")


def test_a_setting_for_other_weights_is_a_note(original, folder, dev) -> None:
    succeed("calibrate", folder, "--data", dev, "--min-speedup", 1.2)
    shutil.copy(original / "model.safetensors", folder / "model.safetensors")
    model = FastBertForSequenceClassification.from_pretrained(original)
    model.heads[0].classifier.bias.data += 1
    model.save_pretrained(folder)
    result = succeed("predict", folder, original.parent / "texts.txt")
    note, line = result.stderr.splitlines()
    assert (
        note.startswith("note: ") and "made for other weights" in note and line.endswith("full depth (not calibrated)")
    )


def test_no_class_loses_more_f1_than_that(folder, dev) -> None:
    shown = succeed("calibrate", folder, "--data", dev, "--max-f1-drop", 0.4).stdout
    setting = CalibratedSetting.load(folder)
    figures = setting.figures
    assert setting.objective == Objective(max_f1_drop=0.4) and setting.evidence.samples == 400
    for words in (
        "target: lose at most 40 points of F1 in any class; measured: ",
        f"macro F1: {figures.macro_f1:.4f}, full depth {figures.full_depth_macro_f1:.4f}",
        # Early heads of this model know little of any class.
        "only full depth does, and no time is saved; more texts, a larger --max-f1-drop or less --confidence may help",
    ):
        assert words in shown
    rows = json.loads(succeed("evaluate", folder, "--data", dev, "--speed", 0.5, "--json").stdout)["rows"]
    assert [row["macro_f1"] for row in rows[:2]] == pytest.approx([figures.full_depth_macro_f1, figures.macro_f1])


def test_few_texts_have_one_speed_by_their_number_alone(folder, dev) -> None:
    found = {}
    for max_drop, words in ((0.02, ()), (0.02, ("--one-speed",)), (0.05, ("--no-one-speed",)), (0.1, ())):
        result = succeed("calibrate", folder, "--data", dev, "--max-drop", max_drop, *words, "--dry-run", "--json")
        found[max_drop, words] = json.loads(result.stdout)["setting"]
        assert ("note: one Speed for all layers, since 400 texts are fewer than 894" in result.stderr) == (
            (max_drop, words) == (0.02, ())
        )
    assert found[0.02, ()] == found[0.02, ("--one-speed",)]
    assert [found[key]["evidence"]["samples_for_choosing"] for key in ((0.02, ()), (0.1, ()))] == [0, 80]


def test_all_criteria_are_compared_where_that_is_asked_for(folder, dev) -> None:
    wish = ("calibrate", folder, "--data", dev, "--max-drop", 0.02, "--dry-run", "--json")
    asked, by_number = (succeed(*wish, *words) for words in (["--criterion", "auto"], ["--seed", 7]))
    assert "note: one Speed" not in asked.stderr and by_number.stderr.endswith("so --seed does nothing\n")
    asked, by_number = (json.loads(result.stdout) for result in (asked, by_number))
    assert {one["rule"]["criterion"] for one in asked["compared"]} >= {"entropy", "confidence", "patience"}
    assert asked["setting"]["evidence"]["samples_for_choosing"] == 80
    assert by_number["compared"] == [] and by_number["setting"]["rule"]["criterion"] == "entropy"
    searched = json.loads(succeed(*wish, "--no-one-speed").stdout)
    assert searched["setting"] == asked["setting"] and searched["compared"] == asked["compared"]
