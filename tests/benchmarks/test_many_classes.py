"""Criteria among many classes: figures against their definitions, and a run of the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import many_classes
from criteria import figures, tables
from criteria.figures import (
    Contender,
    Curve,
    compare,
    contenders,
    differences,
    separation,
    uncertainty_by_layer,
    with_temperatures,
)
from criteria.tables import markdown
from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.calibration import ExitRecords, ExitRule, simulate
from fastbert_hf.calibration.temperature import fit_temperatures
from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.exits.criteria import criteria_for
from fastbert_hf.flops import ModelShape
from fastbert_hf.training import evaluate
from helpers.training import make_model, make_tokenizer
from module_docstrings import ModuleDocstrings


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(figures, "_RESAMPLES", 20)
        yield


def make_records(size: int = 400, classes: int = 12, heads: int = 4, seed: int = 0) -> ExitRecords:
    """Deeper heads are right more often, and heads are surer when they are right."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (size,), generator=generator)
    logits = torch.randn(size, heads, classes, generator=generator)
    logits[torch.arange(size), :, labels] += torch.linspace(2, 5, heads) - 2 * torch.rand(size, 1, generator=generator)
    lengths = torch.randint(3, 40, (size,), generator=generator)
    return ExitRecords(logits, labels, lengths, ModelShape(32, 64, heads, 16, classes))


@pytest.fixture(scope="module")
def compared() -> dict:
    return compare(make_records(seed=1), make_records(seed=2))


def result_of(compared: dict) -> dict:
    data = {"classes": ["a"] * 12, "samples": {"train": 5, "dev": 400, "test": 400}, "versions": {"python": "3"}}
    settings = {"epochs": 1.0, "distil_epochs": 2.0, "seed": 0, "precision": "fp32"}
    return json.loads(json.dumps({"data": data, "settings": settings, **compared}))


def test_contenders_are_all_criteria_with_every_k_below_the_number_of_classes() -> None:
    assert [one.parameter for one in contenders(12) if one.criterion == "top_k_entropy"] == [2, 3, 5, 10]
    assert {one.criterion for one in contenders(96)} == set(criteria_for(None))
    assert len({one.name for one in contenders(96)}) == len(contenders(96))


@pytest.mark.parametrize("ties", [False, True])
def test_separation_counts_pairs(ties: bool) -> None:
    draw = np.random.default_rng(0)
    uncertainty = draw.integers(4, size=37).astype(np.float32) if ties else draw.random(37, dtype=np.float32)
    right = draw.random(37) < 0.6
    pairs = [(w > r) + 0.5 * (w == r) for w in uncertainty[~right] for r in uncertainty[right]]
    assert separation(uncertainty, right) == pytest.approx(np.mean(pairs))
    assert separation(uncertainty, np.ones(37, bool)) is None is separation(uncertainty, np.zeros(37, bool))


def test_separations_by_layer() -> None:
    records = make_records(seed=2)
    found = uncertainty_by_layer(records, Contender("confidence"))
    unsure = 1 - records.logits.softmax(dim=-1).amax(dim=-1).numpy()
    right = records.right
    for head, at in enumerate(found):
        assert at["wrong_above_right"] == pytest.approx(separation(unsure[:, head], right[:, head]), abs=1e-3)
        mended = right[:, -1] & ~right[:, head]
        wanted = separation(unsure[:, head], ~mended)
        assert at["spoilt_above_kept"] == (None if wanted is None else pytest.approx(wanted, abs=1e-3))
    assert found[-1]["spoilt_above_kept"] is None


def test_chosen_rules_keep_the_wish_on_dev_and_are_measured_on_test(compared) -> None:
    dev, test = make_records(seed=1), make_records(seed=2)
    for name, one in compared["criteria"].items():
        careful = one["chosen"]["drop of at most 1 point"]["dev"]
        assert careful["drop"] <= 0.01 + 1e-9, name
        found = one["chosen"]["speed-up of 1.5"]
        assert found["dev"]["flops_speedup"] >= 1.5
        if found["rule"]["patience"] is None:
            criterion = next(c for c in contenders(12) if c.name == name)
            setting = found["rule"]
            rule = ExitRule(
                tuple(setting["layers"]), tuple(setting["speeds"]), criterion.criterion, criterion.parameter
            )
            for part, records in (("dev", dev), ("test", test)):
                assert found[part]["accuracy"] == simulate(records, rule).accuracy
                assert found[part]["flops_speedup"] == simulate(records, rule).flops_speedup


def test_what_cannot_be_chosen_says_why() -> None:
    slow = compare(make_records(seed=1, heads=2), make_records(seed=2, heads=2), lambda doing: None)
    for one in (slow["criteria"]["normalised entropy"], slow["searched"]):
        assert "no rule has a FLOPs speed-up of 2" in one["chosen"]["speed-up of 2"]["not_found"]
    assert "-" in markdown(result_of(slow))


def test_curves_and_speeds_are_those_of_the_simulation(compared) -> None:
    test = make_records(seed=2)
    for name, one in compared["criteria"].items():
        speedups = [at["flops_speedup"] for at in one["curve"]]
        assert speedups == sorted(speedups), name
        for speed, at in one["at_speeds"].items():
            contender = next(c for c in contenders(12) if c.name == name)
            wanted = simulate(
                test, ExitRule.one_speed([1, 2, 3], float(speed), contender.criterion, contender.parameter)
            )
            assert (at["accuracy"], at["flops_speedup"]) == (wanted.accuracy, wanted.flops_speedup)
        full = next(at for at in one["curve"] if at["threshold"] is None)
        assert full["accuracy"] == test.full_depth_accuracy


def test_mean_accuracy_lies_on_the_curve() -> None:
    records = make_records(600, seed=3)
    curve = Curve(records, Contender("entropy"))
    rows = np.arange(600)
    fine = [simulate(records, ExitRule.one_speed([1, 2, 3], speed)) for speed in np.linspace(0, 1, 401)]
    speedups, accuracies = zip(*sorted((one.flops_speedup, one.accuracy) for one in fine), strict=True)
    expected = np.interp(np.linspace(1.5, 2.5, 21), speedups, accuracies).mean()
    assert curve.mean_accuracy(rows) == pytest.approx(expected, abs=0.01)
    # Every sample twice is the same curve.
    assert curve.mean_accuracy(np.repeat(rows, 2)) == pytest.approx(curve.mean_accuracy(rows), abs=1e-12)


def test_a_criterion_does_not_differ_from_itself_and_noise_does() -> None:
    records = make_records(seed=4)
    same, other = Curve(records, Contender("entropy")), Curve(records, Contender("entropy"))
    noise = Curve(records, Contender("confidence"))
    noise._uncertainty = np.random.default_rng(0).random(noise._uncertainty.shape, dtype=np.float32)
    found = differences({"a": same, "b": other, "noise": noise}, "a")
    assert found["a"]["difference"] == found["b"]["difference"] == 0 and found["b"]["interval"] == [0, 0]
    assert found["noise"]["interval"][1] < 0


def test_a_certified_rule_is_measured_on_test(compared) -> None:
    for one in (*compared["criteria"].values(), compared["searched"]):
        at = one["certified"]["test"]
        assert at["drop"] <= at["spoilt"] + 1e-9 and at["flops_speedup"] > 0
    assert compared["searched"]["certified"]["samples"] == 320


def test_temperatures_are_those_of_dev_and_change_no_prediction(compared) -> None:
    dev, test = make_records(seed=1), make_records(seed=2)
    found = compared["temperatures"]
    assert found["temperatures"] == pytest.approx(fit_temperatures(dev))
    assert found["calibration_error"]["after"] != found["calibration_error"]["before"]
    for one in found["criteria"].values():
        assert one["certified"] is None
        assert max(at["accuracy"] for at in one["curve"] if at["threshold"] is None) == test.full_depth_accuracy


def test_temperatures_mend_heads_that_are_too_sure() -> None:
    dev, test = make_records(seed=1), make_records(seed=2)
    spoil = torch.tensor([6.0, 1.0, 0.2, 1.0])[:, None]
    dev, test = (replace(records, logits=records.logits * spoil) for records in (dev, test))
    contender = Contender("confidence")
    found = with_temperatures(dev, test, {one.name: Curve(test, one) for one in contenders(12) if one.compares_speed})
    first, _, third, _ = found["temperatures"]
    assert first > 3 * third
    errors = found["calibration_error"]
    assert all(errors["after"][head] < errors["before"][head] for head in (0, 2))
    assert found["criteria"][contender.name]["mean_accuracy"]["difference"] > 0


def test_tables_and_chart(compared, tmp_path: Path) -> None:
    result = result_of(compared)
    text = markdown(result)
    for heading in ("12 modules", *(one.name for one in contenders(12)), "any, a Speed per layer"):
        assert heading in text
    assert "None" not in text and "nan" not in text
    certified = [line for line in text.split("## Certified")[1].splitlines() if line.startswith("| ")]
    assert len(certified) == 2 + len(compared["criteria"]) + 1 and certified[-2].startswith("| patience | ")
    many_classes.draw(result, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_settings_in_words() -> None:
    rules = [
        ExitRule(()),
        ExitRule((1, 2), (0.25, 0.25)),
        ExitRule((1, 2), (0.25, 0.5)),
        ExitRule((1, 2), criterion="patience", parameter=2),
    ]
    words = ["full depth", "0.25", "per layer", "2 in a row"]
    assert [tables.speed_in_words(figures.setting(rule)) for rule in rules] == words


def tiny_data() -> ModuleDocstrings:
    """Three classes, each with its word, among words of no class."""
    words, fillers = ("good", "bad", "film"), ("the", "was", "very")

    def part(size: int, seed: int) -> ClassificationData:
        draw = np.random.default_rng(seed)
        labels = [number % 3 for number in range(size)]
        texts = [
            " ".join(
                [*draw.choice(fillers, draw.integers(1, 6)), words[label], f"{seed}.{number}"]
            )  # seen nowhere else
            for number, label in enumerate(labels)
        ]
        return ClassificationData(texts, None, labels, ["a", "b", "c"])

    return ModuleDocstrings(part(48, 0), part(800, 1), part(60, 2), {"python": "3"})


class Command:
    """The command with a tiny model and data, in one folder; `builds` counts how often the data was built."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.builds = folder, 0
        monkeypatch.setattr(many_classes, "build_module_docstrings", self._build)
        monkeypatch.setattr(many_classes, "make_model", lambda *_: (make_model(num_labels=3), make_tokenizer()))

    def _build(self, **_: object) -> ModuleDocstrings:
        self.builds += 1
        return tiny_data()

    def __call__(self, *arguments: str) -> dict:
        folders = ["--run", str(self.folder / "run"), "--out", str(self.folder / "out")]
        many_classes.main([*folders, "--rows", "40", "--epochs", "2", "--distil-epochs", "2", *arguments])
        return json.loads((self.folder / "out" / "many_classes_cpu.json").read_text())


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Command(tmp_path_factory.mktemp("command"), monkeypatch)


@pytest.fixture(scope="module")
def first(command: Command) -> dict:
    return command()


def test_command_writes_what_it_trained(command: Command, first: dict) -> None:
    names = {path.name for path in (command.folder / "out").iterdir()}
    assert names == {"many_classes_cpu.json", "many_classes_cpu.md", "many_classes_cpu.png"}
    assert first["data"]["samples"] == {"train": 40, "dev": 400, "test": 60}
    assert first["data"]["sha256"] == tiny_data().checksum and first["machine"]["versions"]["torch"]
    assert len(first["epochs"]["fine_tune"]) == len(first["epochs"]["distil"]) == 2
    model = FastBertForSequenceClassification.from_pretrained(command.folder / "run" / "model")
    dataset = TokenisedDataset(tiny_data().test, make_tokenizer(), 40)
    assert first["layers"]["test_accuracy"][-1] == pytest.approx(evaluate(model, dataset).accuracy)


def test_command_goes_on_behind_the_finished_steps(command: Command, first: dict) -> None:
    builds = command.builds
    kept = (command.folder / "run" / "dev.safetensors").read_bytes()
    for name in ("dev", "test"):
        (command.folder / "run" / f"{name}.safetensors").unlink()
    again = command()
    assert (command.folder / "run" / "dev.safetensors").read_bytes() == kept
    assert again["criteria"] == first["criteria"] and command.builds == builds + 1


def test_command_does_not_train_again(command: Command, first: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_classes, "train_and_record", lambda *_: pytest.fail("trained again"))
    assert command()["criteria"] == first["criteria"]


def test_command_refuses_a_run_with_other_settings(command: Command, first: dict) -> None:
    with pytest.raises(SystemExit, match=r"\(epochs: 2.0 there, 3.0 now\); choose another folder with --run"):
        command("--epochs", "3")
