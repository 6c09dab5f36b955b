"""Commands from dataclasses: what is declared is what the user can give, and what the work gets; and fast help."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

import fastbert_cli
import fastbert_hf.data
import fastbert_hf.training
from fastbert_cli import options
from fastbert_cli.command import Command, Given, Option, add_command
from fastbert_cli.errors import CommandError, reported
from fastbert_kernels.backends import BACKENDS
from fastbert_kernels.engine.dtypes import PRODUCTS


def halves(text: str) -> tuple[str, ...]:
    if ":" not in text:
        raise CommandError(f"{text}: no colon")
    return tuple(text.split(":"))


@dataclass(frozen=True)
class Oven:
    heat: Annotated[int, Option("Degrees.", min=0, max=300)] = 180
    kind: Annotated[Literal["gas", "wood"], Option("Of fire.", "--fire")] = "gas"
    shelves: int = 3  # of the configuration alone


@dataclass(frozen=True)
class Recipe:
    oven: Oven = field(default_factory=Oven)
    sides: Annotated[tuple[str, ...] | None, Option("As top:bottom.", parse=halves)] = None


@dataclass(frozen=True)
class Bake(Command):
    """Bake a cake."""

    cake: Annotated[Path, Option("Which.", metavar="CAKE")]
    oven: Oven
    topping: Annotated[tuple[str, ...], Option("May be repeated.")] = ()
    sugar: Annotated[float | None, Option("Spoons.")] = None
    cool: Annotated[bool | None, Option("Afterwards.", "--cool/--hot")] = None

    def run(self) -> None:
        """Show what the work gets."""
        if self.sugar == 13:
            raise KeyboardInterrupt
        print(repr(self))

    def stopped(self) -> str:
        """Name the cake."""
        return f"{self.cake} is raw"


@dataclass(frozen=True)
class Cook(Command):
    """Cook by a configuration."""

    recipe: Given[Recipe] = field(default_factory=Given)

    def run(self) -> None:
        """Show the settings."""
        print(dict(self.recipe))


def invoke(kind: type[Command], *words: object):
    app = typer.Typer()
    add_command(app, kind)
    return CliRunner().invoke(app, [str(word) for word in words])


def work_of(result) -> str:
    assert result.exit_code == 0, f"{result.output} {result.stderr} {result.exception!r}"
    return result.stdout.strip()


def test_the_work_gets_one_object_with_groups_and_defaults():
    assert work_of(invoke(Bake, "pie")) == repr(Bake(Path("pie"), Oven()))
    words = ("pie", "--heat", 90, "--fire", "wood", "--topping", "a", "--topping", "b", "--sugar", 1.5, "--hot")
    assert work_of(invoke(Bake, *words)) == repr(Bake(Path("pie"), Oven(90, "wood"), ("a", "b"), 1.5, False))


def test_of_a_configuration_only_what_was_given_by_its_key():
    assert work_of(invoke(Cook)) == "{}"
    # The value of the default, but given.
    assert work_of(invoke(Cook, "--heat", 180, "--sides", "nuts:jam")) == repr(
        {"oven.heat": 180, "sides": ("nuts", "jam")}
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [([], "CAKE"), (["--heat", 301, "pie"], "300"), (["--fire", "coal", "pie"], "wood"), (["--shelves", 2], "shelves")],
)
def test_bad_options_are_refused(words, named):
    result = invoke(Bake, *words)
    assert result.exit_code == 2 and named in result.stderr and not result.stdout


def test_errors_of_parsing_and_ctrl_c_are_one_line():
    result = invoke(Cook, "--sides", "nuts")
    assert (result.exit_code, result.stderr) == (2, "fastbert cook: nuts: no colon\n")
    result = invoke(Bake, "pie", "--sugar", 13)
    assert (result.exit_code, result.stderr) == (130, "\nfastbert bake: pie is raw\n")


def burn(fault):
    """Return what becomes of a command whose work ends with `fault`."""

    @dataclass(frozen=True)
    class Burn(Command):
        """Fail."""

        def run(self) -> None:
            """Fail."""
            raise fault

    return invoke(Burn)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (ValueError("a\nvalue"), "a value\n"),
        (MemoryError(), "out of memory; give smaller batches"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "standard output, or another stream, cannot be written (No space left on device)",
        ),
    ],
)
def test_faults_of_users_and_machines_are_one_line(fault, message):
    result = burn(fault)
    assert result.exit_code == 2 and result.stderr.startswith(f"fastbert burn: {message}")
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_a_reader_that_went_away_is_told_nothing():
    result = burn(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert (result.exit_code, result.stderr) == (1, "")


def test_a_fault_of_ours_asks_for_a_report():
    result = burn(KeyError(0))
    assert result.exit_code == 1 and "Traceback" in result.stderr and "KeyError: 0" in result.stderr
    assert "please report it" in result.stderr.splitlines()[-1]


def test_output_that_cannot_be_flushed_is_told(monkeypatch, capsys):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(typer.Exit) as caught, reported("bake"):
        print("a cake")
    assert caught.value.exit_code == 2 and "No space left on device" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["info"]])
def test_a_full_disk_behind_standard_output_is_told(monkeypatch, capsys, words):
    with contextlib.suppress(OSError), open("/dev/full", "w", buffering=1) as full:  # closing it writes, too
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "argv", ["fastbert", *words])
        with pytest.raises(SystemExit) as caught:
            fastbert_cli.main()
        told = capsys.readouterr().err
    assert caught.value.code == 2 and "No space left on device" in told and told.count("\n") == 1


def test_no_output_at_all_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit, match="2"):
        fastbert_cli.main()
    assert "standard output is closed" in capsys.readouterr().err


def test_the_help_shows_every_option_with_its_default():
    shown = " ".join(invoke(Bake, "--help").stdout.replace("│", "").split())
    for words in (
        "Bake a cake.",
        "CAKE",
        "Which.",
        "--heat",
        "[default: 180]",
        "--fire",
        "<gas|wood>",
        "--cool",
        "--hot",
    ):
        assert words in shown
    assert "shelves" not in shown


# The real commands.


@pytest.fixture(scope="module")
def commands():
    from fastbert_cli.app import app

    return typer.main.get_command(app).commands


def test_no_two_options_of_a_command_share_a_name(commands):
    every = ["adopt", "analyze", "calibrate", "compare", "convert", "demo", "distill", "evaluate", "export", "info"]
    assert sorted(commands) == [*every, "predict", "serve", "train"]
    for command in commands.values():
        names = [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]
        assert len(names) == len(set(names)) >= 1


def test_every_option_says_what_it_does(commands):
    for command in commands.values():
        assert command.help and all(parameter.help for parameter in command.params if parameter.name != "help")


def test_backends_and_products_are_those_of_the_kernels():
    assert ("auto", *BACKENDS, options.UNPATCHED) == options.BACKENDS
    assert options.PRODUCTS == PRODUCTS


FIRST_LOOK = """
import json, pathlib, sys
from typer.testing import CliRunner
from fastbert_cli.app import app
folder = pathlib.Path(sys.argv[1])
assert not {"torch", "transformers", "yaml"} & {*sys.modules}  # so that no help waits for them
for words in json.loads(sys.argv[2]):
    result = CliRunner().invoke(app, [word.format(folder=folder) for word in words])
    print(json.dumps([result.exit_code, result.output, sorted({"torch", "transformers"} & {*sys.modules})]))
"""
SAVED = {"model_type": "fastbert", "id2label": {"0": "no", "1": "yes"}}


def test_mistakes_are_told_before_the_libraries_are_imported(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(SAVED))
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "score").mkdir()
    (tmp_path / "score" / "config.json").write_text('{"model_type": "bert", "id2label": {"0": "score"}}')
    (tmp_path / "texts.txt").write_text("good\n")
    (tmp_path / "empty.txt").write_text("good\n\nbad\n")
    (tmp_path / "hole.csv").write_text("text,id\ngood,1\n,2\n")
    (tmp_path / "latin.txt").write_bytes("schön\n".encode("latin-1"))
    (tmp_path / "columns.tsv").write_text("body\tlabel\ngood\tyes\n")
    (tmp_path / "labels.tsv").write_text("text\tlabel\ngood\tyes\nbad\tperhaps\n")
    (tmp_path / "none.tsv").write_text("text\tlabel\n")
    model, data = "{folder}/model", "--data"
    cases = [
        (["--version"], 0, "fastbert "),
        (["predict", "-h"], 0, "--on-empty"),
        (["predict", model], 2, "FILE"),
        (["predict", model, "{folder}/absent.txt"], 2, "absent.txt: cannot be read"),
        (["predict", "{folder}/absent", "{folder}/texts.txt"], 2, "absent: no such folder; name a folder into which"),
        (["predict", "{folder}/bert", "{folder}/texts.txt"], 2, "holds a model of the type 'bert', not 'fastbert'"),
        (["predict", model, "{folder}/empty.txt"], 2, "line 2: empty text (a blank line); fill it in or delete"),
        (["predict", model, "{folder}/latin.txt"], 2, "line 1: not UTF-8 text"),
        (["predict", model, "{folder}/texts.txt", "--backend", "abacus"], 2, "unknown backend 'abacus'"),
        (["evaluate", model, data, "{folder}/columns.tsv"], 2, "no column text"),
        (["evaluate", model, data, "{folder}/labels.tsv"], 2, "line 3: unknown label 'perhaps'"),
        (["calibrate", model, data, "{folder}/labels.tsv"], 2, "no target; give exactly one of --max-drop"),
        (["calibrate", model, data, "{folder}/none.tsv", "--max-drop", "0.1"], 2, "none.tsv: no samples"),
        (["analyze", model, data, "{folder}/none.tsv", "--out", "{folder}/texts.txt"], 2, "a file; name a folder"),
        (["train", "--train", "{folder}/absent.tsv"], 2, "absent.tsv: cannot be read"),
        (["train", "--train", "{folder}/labels.tsv", "--epochs", "0"], 2, "epochs must be above 0"),
        (["train", "--train", "{folder}/labels.tsv", "--dev", "{folder}/columns.tsv"], 2, "columns.tsv, line 1: no"),
        (["distill", model, "--texts", "{folder}/hole.csv"], 2, "hole.csv, line 3: empty text"),
        (["distill", model, "--texts", "{folder}/texts.txt", "--dev", "{folder}/labels.tsv"], 2, "unknown label"),
        (["adopt", model, "--texts", "{folder}/texts.txt"], 2, "is a FastBERT already; fastbert distill"),
        (
            ["adopt", "{folder}/absent", "--texts", "{folder}/texts.txt"],
            2,
            "absent: no such folder; name a folder into",
        ),
        (
            ["adopt", "{folder}/score", "--texts", "{folder}/texts.txt", "--dev", "{folder}/labels.tsv"],
            2,
            "--dev takes labels, and this model has one output, a score; leave it out",
        ),
        (
            ["adopt", "{folder}/score", "--texts", "{folder}/texts.txt", "--objective", "ce"],
            2,
            "--objective ce: this model has one output, a score, and students learn its square distance",
        ),
        (
            ["adopt", "{folder}/score", "--texts", "{folder}/texts.txt", "--temperature", "2"],
            2,
            "--temperature 2: this model has one output, a score, and students learn its square distance",
        ),
        (["adopt", "{folder}/bert"], 2, "no texts to distill from; name a file with --texts"),
        (["export", "{folder}/bert", "--to", "{folder}/x"], 2, "holds a model of the type 'bert', not 'fastbert'"),
        (["demo", "--train", "{folder}/labels.tsv"], 2, "--train is for --dev: one file is trained on"),
        (["demo", "--train", "{folder}/labels.tsv", "--dev", "{folder}/none.tsv"], 2, "none.tsv: no samples"),
        (["demo", "--speed", "0"], 2, "every --speed must be above 0 and at most 1"),
        (["demo", "--out", "{folder}/texts.txt"], 2, "texts.txt: a file; name a folder"),
        (["convert", "{folder}/absent.bin", "--to", "{folder}/x"], 2, "absent.bin: cannot be read (no such file)"),
    ]
    asked = json.dumps([words for words, _, _ in cases])
    command = [sys.executable, "-c", FIRST_LOOK, str(tmp_path), asked]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    for (words, code, told), line in zip(cases, result.stdout.splitlines(), strict=True):
        got, output, imported = json.loads(line)
        output = " ".join(output.split())
        assert got == code and told in output and not imported, (words, got, output, imported)
    assert not (tmp_path / "fastbert-out").exists()


def test_names_of_the_library_that_wait_are_there():
    for package in (fastbert_hf, fastbert_hf.data, fastbert_hf.training):
        assert set(package.__all__) <= {*dir(package)}
        assert all(getattr(package, name) is not None for name in package.__all__)
        with pytest.raises(AttributeError, match="has no attribute 'absent'"):
            package.__getattr__("absent")
    assert pickle.loads(pickle.dumps(fastbert_hf.FastBertConfig)) is fastbert_hf.FastBertConfig
