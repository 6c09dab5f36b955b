"""What training tells: plain lines without a terminal, by the names of teacher and students, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from transformers.utils import logging

from fastbert_hf.training import distill, fine_tune
from helpers.training import QUICK, QUICK_DISTILLATION, make_data, make_model, make_tokenizer


@pytest.fixture(autouse=True)
def no_bars_of_transformers() -> Iterator[None]:
    """It shows how it writes files, as the command line does not let it."""
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def test_lines_for_steps_and_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    model, data, dev = make_model(), make_data(), make_data(20)
    first = fine_tune(model, make_tokenizer(), data, QUICK, dev=dev)
    out, err = capsys.readouterr()
    assert "{" not in out + err and "\r" not in out + err
    lines = err.splitlines()
    assert sum(line.startswith("step 1: ") for line in lines) == 15  # of 16 steps, all but the last
    assert "step 1: 9 of 16 steps (epoch 2), " in err
    epochs = [line for line in lines if line.startswith("step 1, epoch ")]
    for line, epoch in zip(epochs, first.epochs, strict=True):
        told = (
            f"step 1, epoch {epoch['epoch']} of 2: loss {epoch['loss']:.4f}; dev accuracy {epoch['dev_accuracy']:.2%}"
        )
        assert line.startswith(told)
    assert epochs[0].endswith("best so far")

    second = distill(model, make_tokenizer(), data, QUICK_DISTILLATION, dev=dev)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("step 2, epoch 2 of 2: "))
    last = second.epochs[-1]
    assert last["dev_accuracy_teacher"] == first.epochs[first.best_epoch > 1]["dev_accuracy"]
    assert f"dev accuracy: teacher {last['dev_accuracy_teacher']:.2%}" in line
    layers = ", ".join(f"layer {layer} {last[f'dev_accuracy_layer_{layer}']:.2%}" for layer in (1, 2))
    assert f"students: {layers}" in line
    assert last["dev_accuracy"] == pytest.approx(sum(last[f"dev_accuracy_layer_{layer}"] for layer in (1, 2)) / 2)


def test_the_best_epoch_is_better_than_an_earlier_run(capsys: pytest.CaptureFixture[str]) -> None:
    for earlier, called in ((2.0, False), (-1.0, True)):
        dev = make_data(20)
        fine_tune(make_model(), make_tokenizer(), make_data(), QUICK, dev=dev, score_to_beat=earlier)
        assert ("best so far" in capsys.readouterr().err) == called


def test_without_dev_data_and_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    settings = replace(QUICK, epochs=1.5, arguments={"disable_tqdm": True})
    fine_tune(make_model(), make_tokenizer(), make_data(), settings)
    epochs = [line for line in capsys.readouterr().err.splitlines() if ", epoch " in line and "steps" not in line]
    assert len(epochs) == 2 and epochs[1].startswith("step 1, epoch 2 of 1.5: loss ")
    fine_tune(make_model(), make_tokenizer(), make_data(), QUICK, quiet=True)
    assert capsys.readouterr() == ("", "")
