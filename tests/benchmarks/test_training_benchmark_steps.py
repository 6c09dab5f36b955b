"""The steps of the training benchmark in their run folder: what is kept, and what an interruption costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastbert_hf.data import ClassificationData
from fastbert_hf.progress import no_progress
from fastbert_hf.training import DistillationSettings, LabelSettings
from fastbert_hf.training.trainer import StepTrainer
from helpers.stopping import CountedBatches, Stopped
from helpers.training import make_data, make_model, make_tokenizer
from trained import steps as module
from trained.steps import RECORDS, Parts, Runs, load, report_of

EPOCHS = 3
LABELS = LabelSettings(epochs=EPOCHS, learning_rate=2e-3, batch_size=8, max_length=16)
STUDENTS = DistillationSettings(epochs=EPOCHS, batch_size=8, max_length=16, cache_dir="the run folder")
STEPS = EPOCHS * 3  # of 24 texts


def make_runs(folder: Path, labels: LabelSettings = LABELS, test: ClassificationData | None = None) -> Runs:
    parts = Parts(make_data(24), make_data(10), make_data(6), make_data(20) if test is None else test)
    return Runs(folder, "mrpc", "e5-small", 0, parts, lambda: (make_model(), make_tokenizer()), labels)


def trained(runs: Runs, variant: str) -> Path:
    if variant == "joint":
        return runs.joint()
    return runs.students(variant, replace(STUDENTS, targets="hard" if variant == "hard" else "soft"))


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> CountedBatches:
    return CountedBatches(monkeypatch, StepTrainer)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    runs = make_runs(tmp_path_factory.mktemp("whole"))
    return {variant: trained(runs, variant) for variant in ("distilled", "hard", "joint")}


# Stopped in the second epoch: of step 1, of step 2, of joint training.
@pytest.mark.parametrize(("variant", "stops_at"), [("distilled", 4), ("hard", STEPS + 5), ("joint", 4)])
def test_an_interruption_costs_an_epoch_at_most(whole, batches, tmp_path, variant, stops_at) -> None:
    batches.stops_at = stops_at
    with pytest.raises(Stopped):
        trained(make_runs(tmp_path), variant)
    batches.stops_at, batches.taken = -1, 0
    folder = trained(make_runs(tmp_path), variant)
    in_all = STEPS if variant == "joint" else 2 * STEPS
    assert batches.taken == in_all - stops_at // 3 * 3  # whole epochs are not done again
    found, wanted = report_of(folder), report_of(whole[variant])
    for step, losses in wanted["losses"].items():
        assert found["losses"][step] == pytest.approx(losses, rel=1e-2)
    if variant != "joint":
        assert [point["epoch"] for point in found["course"]["points"]] == [0, 1, 2, 3]
        assert found["course"]["points"][0] == wanted["course"]["points"][0]
    for one, other in zip(*(load(path)[0].parameters() for path in (folder, whole[variant])), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_step_1_is_trained_once(whole, batches, tmp_path) -> None:
    trained(make_runs(tmp_path), "hard")
    batches.taken = 0
    trained(make_runs(tmp_path), "distilled")
    assert batches.taken == STEPS
    distilled, hard = (load(whole[variant])[0].state_dict() for variant in ("distilled", "hard"))
    differ = {".".join(name.split(".")[:2]) for name, one in distilled.items() if not torch.equal(one, hard[name])}
    assert differ == {"heads.0", "heads.1"}  # the students of three layers


def test_what_is_finished_is_not_trained_again_and_leaves_no_checkpoints(whole, batches) -> None:
    folder = whole["joint"].parent
    for variant, path in whole.items():
        assert trained(make_runs(folder), variant) == path
    assert batches.taken == 0
    names = {path.name for path in folder.iterdir()} - {"cache", "steps"}
    assert names == {f"mrpc-e5-small-{variant}-0" for variant in ("distilled", "hard", "joint", "teacher")}
    assert not list(folder.glob("steps/*/*/checkpoint-*"))
    assert (folder / "steps" / "mrpc-e5-small-joint-0" / "joint" / "metrics.jsonl").exists()


def test_exits_are_recorded_once(whole, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = make_runs(whole["joint"].parent)
    records = runs.records(whole["joint"], no_progress)
    assert len(records) == 20 and (whole["joint"] / RECORDS).exists()
    monkeypatch.setattr(module, "record_exits", lambda *_, **__: pytest.fail("recorded again"))
    assert torch.equal(runs.records(whole["joint"], no_progress).logits, records.logits)


def test_other_settings_and_texts_are_refused(whole) -> None:
    folder = whole["joint"].parent
    with pytest.raises(SystemExit, match=r"joint epochs: 3 there, 4 now\)"):
        make_runs(folder, replace(LABELS, epochs=4)).joint()
    with pytest.raises(SystemExit, match=r"texts test: \w+ there, \w+ now\)"):
        make_runs(folder, test=make_data(19)).joint()
    with pytest.raises(SystemExit, match="mrpc-e5-small-teacher-0 holds a run with other settings"):
        trained(make_runs(folder, replace(LABELS, learning_rate=1e-3)), "hard")


def test_models_of_which_nothing_is_said_are_refused(tmp_path) -> None:
    make_model().save_pretrained(tmp_path / "mrpc-e5-small-joint-0")
    with pytest.raises(SystemExit, match="mrpc-e5-small-joint-0 holds something without run.json"):
        make_runs(tmp_path).joint()
