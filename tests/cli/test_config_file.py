"""The configuration of a run: to a file and back, options over files, and what is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from fastbert_cli.config_file import as_sections, check_same, read_config, write_config
from fastbert_cli.config_values import describe, fits
from fastbert_cli.distill.command import DistillConfig
from fastbert_cli.errors import CommandError
from fastbert_cli.train.command import FineTune, TrainConfig
from fastbert_hf.configuration import FastBertConfig
from fastbert_hf.training import DISTILLATION, FINE_TUNING, schedule_for

# Another value than the default, for every kind of key.
OTHER = {
    "data.train": "größer: a.tsv",
    "data.unlabelled": ["a.txt", "123"],
    "data.multi_label": True,
    "data.label_column": "yes",
    "model.exit_layers": [2, 6],
    "model.head_type": "pooled",
    "fine_tune.learning_rate": 3e-5,
    "fine_tune.epochs": 2.5,
    "distil.cache": True,
    "distil.cache_limit_gb": 1e-3,
    "fine_tune.arguments": {"max_grad_norm": 0.5, "lr_scheduler_kwargs": {"num_cycles": 2}},
    "run.gradient_accumulation": 4,
    "run.lr_scheduler": "cosine",
    "run.report_to": ["wandb", "mlflow"],
    "run.seed": 0,
    "run.steps": "joint",
    "run.precision": "fp32",
}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("flags", [{}, OTHER], ids=["defaults", "other"])
def test_round_trip(tmp_path, flags):
    config = read_config(TrainConfig, None, flags)
    write_config(config, tmp_path / "config.yaml", "fastbert train")
    assert read_config(TrainConfig, tmp_path / "config.yaml", {}) == config
    sections = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    for key, value in flags.items():
        section, name = key.split(".")
        assert sections[section][name] == value


def test_the_file_is_complete_and_says_everything_once():
    sections = as_sections(read_config(TrainConfig, None, {}))
    keys = [key for section in sections.values() for key in section]
    steps = {option.name for option in fields(FINE_TUNING)} | {option.name for option in fields(DISTILLATION)}
    assert steps - {"cache_dir"} <= set(keys)
    assert all(keys.count(key) == 1 for key in ("seed", "precision", "max_length"))


def test_options_win_and_what_is_not_named_has_its_default(tmp_path):
    file = write(tmp_path, "fine_tune: {epochs: 7, learning_rate: 4e-5}\nrun:\ndata: {train: a.tsv}\n")
    config = read_config(TrainConfig, file, {"fine_tune.epochs": 1, "model.max_length": 64, "run.precision": "fp32"})
    first, second = config.fine_tuning(), config.distillation(tmp_path)
    assert (first.epochs, first.learning_rate, first.max_length, first.seed) == (1, 4e-5, 64, 42)
    assert (second.epochs, second.max_length, second.precision) == (DISTILLATION.epochs, 64, "fp32")
    assert second.cache_dir is None and config.data.train == "a.tsv"
    with_cache = read_config(TrainConfig, file, {"distil.cache": True}).distillation(tmp_path)
    assert with_cache.cache_dir == str(tmp_path)


def test_auto_precision_becomes_what_it_means_here():
    assert read_config(TrainConfig, None, {"run.precision": "auto"}).run.precision in ("fp32", "bf16")


def test_defaults_of_the_heads_are_those_of_the_model():
    config, heads = FastBertConfig(), TrainConfig().model.of_the_heads()
    assert heads.pop("exit_layers") is None
    assert heads == {name: getattr(config, name) for name in heads} and len(heads) == 6


def test_defaults_of_the_steps_are_those_of_the_library(tmp_path):
    assert TrainConfig().fine_tune.settings() == FINE_TUNING
    assert TrainConfig().distil.settings() == DISTILLATION


def test_what_is_not_said_comes_from_texts_and_classes():
    rule = schedule_for(3_000, 77, 384, 32)
    chosen = FineTune().completed(3_000, 77, 384, 1)
    assert (chosen.epochs, chosen.learning_rate, chosen.max_epochs) == (rule.epochs, rule.learning_rate, 18)
    assert FineTune(batch_size=8).completed(3_000, 77, 384, 4) == replace(chosen, batch_size=8)
    said = FineTune(epochs=2, learning_rate=1e-3, max_epochs=5)
    assert said.completed(3_000, 77, 384, 1) == said
    assert FineTune(epochs=2).completed(3_000, 77, 384, 1).max_epochs == 12
    shortened = FineTune(max_epochs=5).completed(3_000, 77, 384, 1)
    assert rule.epochs == 9 and shortened.epochs == shortened.max_epochs == 5
    assert FineTune(max_epochs=50).completed(3_000, 77, 384, 1).epochs == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "fine_tune: {epoch: 3}",
            "unknown key fine_tune.epoch; known in fine_tune are epochs, learning_rate",
        ),
        ("fine_tune: {seed: 3}", "unknown key fine_tune.seed; known"),
        ("distil: {cache_dir: x}", "unknown key distil.cache_dir; known"),
        ("tune: {}", "unknown section tune; known are data, model, fine_tune, distil, run"),
        ("fine_tune: {epochs: three}", "fine_tune.epochs must be a number or null, got 'three'"),
        ("fine_tune: {epochs: true}", "fine_tune.epochs must be a number or null, got True"),
        ("fine_tune: {batch_size: 8.5}", "fine_tune.batch_size must be an integer, got 8.5"),
        ("fine_tune: {epochs: 0}", "fine_tune.epochs must be above 0, got 0"),
        ("fine_tune: {epochs: .nan}", "fine_tune.epochs must be a finite number, got nan"),
        ("distil: {cache: 1}", "distil.cache must be true or false, got 1"),
        ("distil: {objective: mse}", "distil.objective must be one of kl, reverse_kl, ce, got 'mse'"),
        ("data: {train: [a.tsv]}", "data.train must be text or null, got ['a.tsv']"),
        ("data: {label_column: yes}", "data.label_column must be text or null, got True"),
        ("data: {unlabelled: a.txt}", "data.unlabelled must be a list of texts, got 'a.txt'"),
        ("model: {exit_layers: [1, b]}", "model.exit_layers must be a list of integers or null, got [1, 'b']"),
        ("data: [train]", "section data must have keys and values, got ['train']"),
        ("- data", "not a mapping of sections"),
        ("run: {seed: 1, seed: 2}", "seed is there twice"),
        ("run: {}\nrun: {}", "run is there twice"),
        ("a: b: c", "not YAML (mapping values are not allowed here"),
        ("!!python/object/apply:os.system [ls]", "not YAML (could not determine a constructor"),
    ],
)
def test_faulty_files_are_refused_with_the_key(tmp_path, text, message):
    file = write(tmp_path, text)
    with pytest.raises(CommandError) as caught:
        read_config(TrainConfig, file, {})
    assert str(caught.value).startswith(f"{file}: {message}") or f"({message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"data: {train: caf\xe9}")
    with pytest.raises(CommandError, match="not YAML"):
        read_config(TrainConfig, tmp_path / "run.yaml", {})
    with pytest.raises(CommandError, match="cannot be read"):
        read_config(TrainConfig, tmp_path, {})


@pytest.mark.parametrize(("text", "value"), [("5e-5", 5e-5), ("1E3", 1000), ("+2.e+1", 20), ("0.5", 0.5), ("3", 3)])
def test_numbers_as_people_write_them(tmp_path, text, value):
    file = write(tmp_path, f"distil: {{temperature: {text}}}")
    assert read_config(TrainConfig, file, {}).distil.temperature == value


def test_a_run_goes_on_only_with_the_same_configuration():
    stored = read_config(TrainConfig, None, OTHER)
    check_same(stored, read_config(TrainConfig, None, OTHER | {"distil.cache": False}), Path("out"))
    with pytest.raises(CommandError, match=r"out holds another run: run.seed is 0 there and 1 now; resume without"):
        check_same(stored, read_config(TrainConfig, None, OTHER | {"run.seed": 1}), Path("out"))


def test_what_was_given_as_an_option_is_named_so(tmp_path):
    stored = read_config(TrainConfig, None, OTHER)
    with pytest.raises(CommandError, match=r"another run: --seed is 0 there and 1 now; resume"):
        check_same(stored, read_config(TrainConfig, None, OTHER | {"run.seed": 1}), Path("out"), {"run.seed": 1})
    file = write(tmp_path, "fine_tune: {learning_rate: 1e-3}\nmodel: {stride: 500}")
    for flags, message in (
        ({"fine_tune.learning_rate": 0}, "--learning-rate must be above 0, got 0"),
        ({"distil.learning_rate": 0}, "--distil-learning-rate must be above 0, got 0"),
        ({"run.seed": 0.5}, "run.seed must be an integer, got 0.5"),
        ({"run.seed": 0}, "stride must be an integer of at least 0 and at most 127, got 500"),
    ):
        with pytest.raises(CommandError) as caught:
            read_config(TrainConfig, file, flags)
        assert str(caught.value) == message


def test_a_run_may_go_on_to_more_epochs_but_not_to_fewer():
    stored = read_config(TrainConfig, None, OTHER | {"fine_tune.max_epochs": 9})
    check_same(stored, read_config(TrainConfig, None, OTHER | {"fine_tune.max_epochs": 12}), Path("out"))
    with pytest.raises(CommandError, match="fine_tune.max_epochs is 9 there and 5 now"):
        check_same(stored, read_config(TrainConfig, None, OTHER | {"fine_tune.max_epochs": 5}), Path("out"))


def test_every_type_of_the_configuration_has_words():
    for config in (TrainConfig(), DistillConfig()):
        for name, values in as_sections(config).items():
            hints = get_type_hints(type(getattr(config, name)))
            for key, value in values.items():
                assert describe(hints[key]) and fits(value, hints[key])


def test_arguments_of_all_steps_and_of_one():
    flags = {"run.gradient_accumulation": 2, "run.report_to": ("wandb",), "distil.arguments": {"adam_beta2": 0.98}}
    config = read_config(TrainConfig, None, flags)
    common = {"gradient_accumulation_steps": 2, "report_to": ["wandb"]}
    assert config.fine_tuning().arguments == common
    assert config.distillation(Path()).arguments == {**common, "adam_beta2": 0.98}
    assert read_config(TrainConfig, None, {}).fine_tuning().arguments == {}, "runs of before can go on"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distil: {arguments: {save_steps: 3}}", "distil.arguments: 'save_steps' cannot be passed on: every epoch"),
        ("fine_tune: {arguments: [1]}", "fine_tune.arguments must be a mapping of names to values"),
        ("run: {gradient_accumulation: 0}", "gradient_accumulation_steps must be an integer of at least 1, got 0"),
        (
            "fine_tune: {arguments: {lr_scheduler_type: cosine}}\nrun: {lr_scheduler: constant}",
            "arguments: lr_scheduler_type is an option of the section run; leave one of them out",
        ),
    ],
)
def test_arguments_that_cannot_be_are_refused(tmp_path, text, message):
    with pytest.raises(CommandError, match=message):
        read_config(TrainConfig, write(tmp_path, text), {})
