"""The folder of a training run: what was run, how it went, and where to go on from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from fastbert_hf.data import ClassificationData, TextData
from fastbert_hf.files import write_atomically
from fastbert_hf.machine import describe_machine
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training.settings import TrainingSettings
from fastbert_hf.training.trainer_arguments import FREE_ARGUMENTS

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"

# What a resumed run may have otherwise: none of it changes the result.
_FREE_SETTINGS = ("keep_checkpoints", "cache_dir", "cache_limit_gb")
_FREE_MODEL_FIELDS = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "trained_max_length",
    "trained_stride",
    "exit_zero_buckets",  # no step trains exit zero
)


def describe_run(
    step: str,
    model: FastBertForSequenceClassification,
    data: TextData,
    dev: ClassificationData | None,
    settings: TrainingSettings,
    callbacks: Sequence[TrainerCallback],
    frozen: list[str],
) -> dict[str, Any]:
    """Return what `run.json` says: step, settings with the seed, callbacks, configuration of the model, parameters that
    the user froze, data, versions and machine."""
    return {
        "step": step,
        "settings": asdict(settings),
        "callbacks": [f"{type(callback).__module__}.{type(callback).__qualname__}" for callback in callbacks],
        "frozen": frozen,
        "model": model.config.to_dict(),
        "data": {"train": _describe_data(data), "dev": None if dev is None else _describe_data(dev)},
        "machine": describe_machine(),
    }


def open_run(folder: Path, description: dict[str, Any], resume: bool) -> Path | None:
    """Start a run in `folder`, or find where to go on.

    Args:
        folder: made if it is not there.
        description: see `describe_run`.
        resume: go on with the run that is there.

    Returns:
        The newest complete checkpoint; `None` to begin at the beginning.

    Raises:
        ValueError: without `resume`, `folder` holds a run already; with it, it holds none or one of another step, with
            other settings, another model or other data.
    """
    file = folder / RUN_FILE
    description = json.loads(json.dumps(description, default=str))
    if not resume:
        # A run that ended before its first checkpoint leaves nothing to lose.
        if any(folder.glob("checkpoint-*")):
            raise ValueError(f"{folder} holds a run already; resume it or choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(description, indent=2) + "\n")
        return None
    if not file.exists():
        raise ValueError(f"{folder} holds no run to resume (it has no {RUN_FILE}); start one without resume")
    _check_same(folder, json.loads(file.read_text(encoding="utf-8")), description)
    return _last_complete_checkpoint(folder)


def _check_same(folder: Path, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    before_arguments, now_arguments = (run["settings"].pop("arguments", {}) for run in (stored, asked))
    differences = [
        f"{what} {before!r} there and {now!r} now"
        for what, before, now in (
            ("step", stored["step"], asked["step"]),
            *_pairs(stored["settings"], asked["settings"], _FREE_SETTINGS),
            *_pairs(before_arguments, now_arguments, FREE_ARGUMENTS),
            # Runs of before had none, and froze nothing.
            ("callbacks", stored.get("callbacks", []), asked["callbacks"]),
            ("frozen parameters", stored.get("frozen", []), asked["frozen"]),
            *_pairs(stored["model"], asked["model"], _FREE_MODEL_FIELDS),
            *_pairs(stored["data"], asked["data"], ()),
        )
        if before != now
    ]
    if differences:
        raise ValueError(
            f"{folder} holds another run: {'; '.join(differences)}. Resume with the same, or choose another folder"
        )


def _pairs(stored: dict[str, Any], asked: dict[str, Any], free: tuple[str, ...]) -> list[tuple[str, Any, Any]]:
    names = [name for name in {**stored, **asked} if name not in free]
    return [(name, stored.get(name), asked.get(name)) for name in names]


def _last_complete_checkpoint(folder: Path) -> Path | None:
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((path for path in checkpoints if _is_complete(path)), None)


def _is_complete(checkpoint: Path) -> bool:
    # Trainer writes its state last; a run that was killed in mid-write has none, or half of one.
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _describe_data(data: TextData) -> dict[str, Any]:
    digest = hashlib.sha256()
    labels = data.label_ids if isinstance(data, ClassificationData) else ()
    for column in (data.texts, data.pairs or (), labels):
        for value in column:
            digest.update(f"{value}\0".encode(errors="surrogatepass"))
        digest.update(b"\1")
    return {"texts": len(data), "sha256": digest.hexdigest()}


def epoch_metrics(log_history: list[dict[str, float]], steps_per_epoch: int) -> list[dict[str, float]]:
    """Return Trainer's log as one entry per epoch.

    It has `epoch`, `step` (the last one), mean training `loss`, `grad_norm` and `learning_rate` of the last step, and
    with dev data `dev_loss` and the scores.

    An epoch may have its training loss in several entries of the log, each the mean since the one before.
    """
    epochs: dict[int, dict[str, float]] = {}
    logged = 0
    for entry in log_history:
        step = int(entry["step"])
        number = math.ceil(step / steps_per_epoch)
        epoch = epochs.setdefault(number, {"epoch": number})
        if "loss" in entry:
            begin = (number - 1) * steps_per_epoch
            before = epoch.get("loss", 0.0) * (logged - begin) + entry["loss"] * (step - logged)
            epoch |= {"step": step, "loss": before / (step - begin)}
            epoch |= {name: entry[name] for name in ("grad_norm", "learning_rate") if name in entry}
            logged = step
        epoch |= {
            f"dev_{name.removeprefix('eval_')}": value
            for name, value in entry.items()
            if name.startswith("eval_") and not name.endswith(("_runtime", "_per_second"))
        }
    return list(epochs.values())


class LogEveryEpoch(TrainerCallback):
    """Log at the end of every epoch, whenever else Trainer logs, so that every entry is of one epoch."""

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        control.should_log = True


class BestCheckpoint(TrainerCallback):
    """Find the best checkpoint where the run's folder is now.

    Trainer knows the path of the run's beginning. When it leads nowhere any more, because the folder was moved or the
    process runs in another one, Trainer forgets that checkpoint, and the run would end with the last epoch's weights.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if not state.best_global_step:
            return
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.best_global_step}"
        if not checkpoint.is_dir():
            raise ValueError(f"{checkpoint} is gone, which had the best score; start again in another folder")
        state.best_model_checkpoint = str(checkpoint)


class MetricsFile(TrainerCallback):
    """Keep `metrics.jsonl` up to date: one JSON object per epoch, see `epoch_metrics`."""

    def __init__(self, folder: Path, steps_per_epoch: int) -> None:
        self._file = folder / METRICS_FILE
        self._steps_per_epoch = steps_per_epoch

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            entries = epoch_metrics(state.log_history, self._steps_per_epoch)
            write_atomically(self._file, "".join(json.dumps(entry) + "\n" for entry in entries))
