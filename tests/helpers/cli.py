"""Files, a tiny backbone and ways to call commands that the tests of the command line share."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel, BertTokenizerFast
from typer.testing import CliRunner

from fastbert_cli.app import app
from fastbert_hf.training.trainer import StepTrainer
from helpers.small_bert import make_backbone_config

WORDS = ["good", "bad", "fine", "film", "book", "the", "a", "very", "not", "is"]
# Few and quick steps; on the 40 texts, 5 an epoch.
QUICK = ["--epochs", 4, "--learning-rate", 5e-3, "--batch-size", 8, "--max-length", 16, "--precision", "fp32"]
QUICK_DISTIL = ["--distil-epochs", 2, "--distil-batch-size", 8]


def save_tiny_backbone(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": 5 + len(WORDS), "num_hidden_layers": 3, "num_attention_heads": 2}
    config = make_backbone_config(**sizes, max_position_embeddings=32, initializer_range=0.2)
    BertModel(config).save_pretrained(folder)
    return folder


def text_of(number: int) -> str:
    """A text of class number % 2, of varying length."""
    filler = " ".join(WORDS[3 + (number * k) % 7] for k in range(1, 2 + number % 6))
    return f"{('bad', 'good')[number % 2]} {filler}"


def write_data(folder: Path) -> Path:
    """Files train, dev (classes no and yes), pairs, several (labels) and texts."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, numbers in (("train", range(40)), ("dev", range(100, 121))):
        rows = [f"{('no', 'yes')[number % 2]}\t{text_of(number)}" for number in numbers]
        (folder / f"{name}.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    pairs = [f"{('no', 'yes')[n % 2]}\t{text_of(n // 2)}\t{text_of(n // 2 + n % 2)}" for n in range(40)]
    (folder / "pairs.tsv").write_text("\n".join(["label\ttext_a\ttext_b", *pairs]) + "\n")
    several = [f"{'|'.join(w for w in ('film', 'very') if w in text_of(n))}\t{text_of(n)}" for n in range(40)]
    (folder / "several.tsv").write_text("\n".join(["labels\ttext", *several]) + "\n")
    (folder / "texts.txt").write_text("\n".join(text_of(number) for number in range(200, 220)) + "\n")
    return folder


def invoke(*arguments: object) -> object:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> object:
    result = invoke(*arguments)
    assert result.exit_code == 0, f"{result.output}\n{result.stderr}\n{result.exception!r}"
    return result


def assert_complaint(result: object, command: str, message: str) -> None:
    """One line on stderr that begins with the command and has `message`, and exit status 2."""
    assert result.exit_code == 2, f"{result.output} {result.exception!r}"
    assert result.stderr.startswith(f"fastbert {command}: ") and message in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.output


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def assert_same_weights(first: Path, second: Path) -> None:
    before, after = weights(first), weights(second)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def interrupt_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Ctrl-C during the given training step, counted over all steps of training."""
    calls = 0
    original = StepTrainer.training_step

    def step(self: StepTrainer, *arguments: object, **options: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments, **options)

    monkeypatch.setattr(StepTrainer, "training_step", step)


def interrupt(monkeypatch: pytest.MonkeyPatch, call: int, *words: object) -> list[str]:
    """Run a command with Ctrl-C during a training step, as in `interrupt_at`; return the command to go on with."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, call)
        stopped = invoke(*words)
    assert stopped.exit_code == 130
    return command_to_go_on(stopped.stderr)


def command_to_go_on(stderr: str) -> list[str]:
    """Arguments of the command that the last line names."""
    words = shlex.split(stderr.strip().splitlines()[-1].partition("go on with: ")[2])
    assert words[0] == "fastbert"
    return words[1:]


def options_of(data: Path, backbone: Path, **changes: object) -> list[object]:
    """Return the words of `train` for the files of `data`; `changes` are options in place of these or beside them."""
    options: dict[str, object] = {
        "--train": data / "train.tsv",
        "--dev": data / "dev.tsv",
        "--backbone": backbone,
    } | changes
    return [word for option in options.items() for word in option]


def results_of(out: Path) -> dict[str, Any]:
    """Return what a finished run wrote of itself."""
    return json.loads((out / "results.json").read_text())
