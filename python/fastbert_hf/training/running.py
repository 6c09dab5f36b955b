"""One run of a training step: arguments for `transformers.Trainer`, the run folder, resuming, and the report."""

from __future__ import annotations

import importlib.util
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback, get_available_reporting_integrations
from typing_extensions import Unpack

from fastbert_hf.data import ClassificationData, TextData, TokenisedDataset
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training.checks import vocabulary_of
from fastbert_hf.training.freezing import training_only
from fastbert_hf.training.interruption import CheckpointOnInterrupt
from fastbert_hf.training.run_folder import (
    BestCheckpoint,
    LogEveryEpoch,
    MetricsFile,
    describe_run,
    epoch_metrics,
    open_run,
)
from fastbert_hf.training.settings import LabelSettings, TrainingSettings
from fastbert_hf.training.step_log import show_progress
from fastbert_hf.training.trainer import LabelTrainer, StepTrainer


@dataclass(frozen=True)
class TrainingResult:
    """Report of a training step; of a resumed run, all of it except `seconds` covers the whole run.

    Attributes:
        losses: mean training loss of every epoch.
        steps: optimiser steps taken.
        seconds: wall-clock time of this call.
        epochs: for every epoch, what a line of `metrics.jsonl` holds: `epoch`, `step` (the last one), `loss`,
            `grad_norm`, `learning_rate`, and with dev data `dev_loss` (mean over batches), `dev_accuracy` and
            `dev_macro_f1` (means over the exit heads that the step trains), and both scores for each of these heads
            where there are several.
        truncated: training texts that are longer than the setting `max_length`, at which they were cut off.
        best_epoch: with dev data, the epoch whose weights the model has now; else `None`.
    """

    losses: list[float]
    steps: int
    seconds: float
    epochs: list[dict[str, float]]
    truncated: int
    best_epoch: float | None


class RunOptions(TypedDict, total=False):
    """What every training step can be given beside model, data and settings, by keyword.

    Attributes:
        dev: labelled texts to score after every epoch. At the end the model has the weights of the epoch with the best
            score; without `dev`, those of the last epoch.
        run_dir: folder for the run: `run.json` (settings with seed, configuration, data, versions, machine),
            `metrics.jsonl` (one line per epoch), `tensorboard/` where TensorBoard is installed, and a checkpoint after
            every epoch that `from_pretrained` can load. Ctrl-C writes one after the current step (with several
            processes, the last epoch's stays). Without it nothing is kept.
        resume: go on from the newest checkpoint of `run_dir` (from the beginning if it has none yet), with the same
            result as an uninterrupted run. All other arguments must be those of that run, except what only watches it
            (`settings.keep_checkpoints`, `report_to` and the like).
        callbacks: of `transformers`, called as by its `Trainer`. Those that save their state (`ExportableState`, as
            `EarlyStoppingCallback` does) get it back in a resumed run.
        quiet: do not tell on stderr how the step goes: with a bar on a terminal, otherwise in plain lines.
        score_to_beat: on `dev`, of an earlier run; what is told on stderr calls no lower one the best.
    """

    dev: ClassificationData | None
    run_dir: str | Path | None
    resume: bool
    callbacks: Sequence[TrainerCallback]
    quiet: bool
    score_to_beat: float


def run_on_labels(
    make_trainer: Callable[..., LabelTrainer],
    model: FastBertForSequenceClassification,
    parts: Sequence[nn.Module],
    tokenizer: PreTrainedTokenizerBase,
    data: ClassificationData,
    settings: LabelSettings,
    **run: Unpack[RunOptions],
) -> TrainingResult:
    """Train `parts` of `model` in place on labels, and report; other arguments and errors as in `fine_tune`."""
    with training_only(model, parts) as frozen:
        return run_step(partial(make_trainer, data=data), model, tokenizer, data, settings, frozen, **run)


def run_step(
    make_trainer: Callable[..., StepTrainer],
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: TextData,
    settings: TrainingSettings,
    frozen: list[str],
    *,
    dev: ClassificationData | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    quiet: bool = False,
    score_to_beat: float = -math.inf,
) -> TrainingResult:
    """Train `model` in place with what `make_trainer` makes, and report.

    Leaves the model in eval mode, with the texts among its `seen_texts`, and without the calibrated setting that it may
    have had. Other arguments and errors as in `fine_tune`.

    Args:
        frozen: parameters that the step would train, were they not frozen by the user.
    """
    if resume and run_dir is None:
        raise ValueError("resume=True needs the run_dir of the run to go on with")
    with _output_folder(run_dir) as folder, _forward_kept(model):
        arguments = _arguments(settings, folder, keeps_run=run_dir is not None, has_dev=dev is not None)
        if arguments.world_size > 1 and dev is not None and run_dir is None:
            raise ValueError("with dev data, several processes need a run_dir to share the best checkpoint in")
        dataset, dev_dataset = (
            None if part is None else TokenisedDataset(part, tokenizer, settings.max_length, settings.stride)
            for part in (data, dev)
        )
        assert dataset is not None
        for tokenised in (dataset, dev_dataset):
            if tokenised is not None:
                tokenised.check_ids(vocabulary_of(model))
        steps_per_epoch = math.ceil(
            math.ceil(len(dataset) / settings.batch_size) / arguments.gradient_accumulation_steps
        )
        arguments.warmup_steps = int(math.ceil(steps_per_epoch * settings.epochs) * settings.warmup_fraction)

        trainer = make_trainer(model, dataset, dev_dataset, settings, arguments)
        checkpoint: Path | None = None
        interrupt = CheckpointOnInterrupt(steps_per_epoch)
        trainer.add_callback(LogEveryEpoch())
        show_progress(
            trainer, settings, steps_per_epoch, has_dev=dev is not None, score_to_beat=score_to_beat, quiet=quiet
        )
        for callback in callbacks:
            trainer.add_callback(callback)
        if run_dir is not None:
            description = describe_run(trainer.step_name, model, data, dev, settings, callbacks, frozen)
            checkpoint = _open_shared_run(folder, description, resume, trainer)
            trainer.add_callback(interrupt)
            trainer.add_callback(BestCheckpoint())
            trainer.add_callback(MetricsFile(folder, steps_per_epoch))
            _add_tensorboard(trainer, folder, checkpoint)
        # Processes are interrupted at different steps and would wait for each other; they keep the last epoch's.
        catches = run_dir is not None and arguments.world_size == 1
        model.calibrated_setting = None  # it holds for the weights as they were
        model.seen_texts = model.seen_texts.with_run(data, dev)
        model.config.trained_max_length, model.config.trained_stride = settings.max_length, settings.stride
        try:
            with interrupt.installed() if catches else nullcontext():
                outcome = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            model.eval()
    if interrupt.requested:
        raise KeyboardInterrupt(f"stopped with a checkpoint in {run_dir}; resume=True goes on from there")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise ValueError("training diverged, and left weights that are not finite; lower the learning rate")
    epochs = epoch_metrics(trainer.state.log_history, steps_per_epoch)
    best_step = trainer.state.best_global_step
    return TrainingResult(
        losses=[epoch["loss"] for epoch in epochs],
        steps=outcome.global_step,
        seconds=outcome.metrics["train_runtime"],
        epochs=epochs,
        truncated=dataset.truncated,
        best_epoch=best_step / steps_per_epoch if best_step else None,
    )


def _arguments(settings: TrainingSettings, folder: Path, *, keeps_run: bool, has_dev: bool) -> TrainingArguments:
    on_accelerator = torch.accelerator.is_available()
    given = dict(settings.arguments)
    reports = _reports(given.pop("report_to", "none"), keeps_run)
    arguments = TrainingArguments(
        output_dir=str(folder),
        save_strategy="epoch" if keeps_run or has_dev else "no",
        save_total_limit=settings.keep_checkpoints,
        save_only_model=not keeps_run,
        eval_strategy="epoch" if has_dev else "no",
        load_best_model_at_end=has_dev,
        metric_for_best_model=settings.best_by if has_dev else None,
        greater_is_better=True,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        bf16=settings.precision == "bf16",
        remove_unused_columns=False,
        logging_strategy="steps" if "logging_steps" in given else "epoch",
        logging_nan_inf_filter=False,  # a diverged run should look like one
        report_to=reports,
        restore_callback_states_from_checkpoint=True,
        **{
            "lr_scheduler_type": "linear",
            "use_cpu": not on_accelerator,
            "ddp_find_unused_parameters": False,
            "dataloader_pin_memory": on_accelerator,
            "disable_tqdm": False,
            **given,
        },
    )
    # Else that of accelerate's launcher would win, and run.json would not tell.
    arguments.mixed_precision = "bf16" if settings.precision == "bf16" else "no"
    devices = max(1, arguments.n_gpu) * arguments.world_size
    if settings.batch_size % devices:
        raise ValueError(
            f"batch_size={settings.batch_size} cannot be shared evenly by {devices} devices; make it a multiple"
        )
    arguments.per_device_train_batch_size = arguments.per_device_eval_batch_size = settings.batch_size // devices
    return arguments


def _reports(asked: str | Sequence[str], keeps_run: bool) -> list[str]:
    """Return where Trainer shall report to: without TensorBoard, whose files `_add_tensorboard` keeps in the folder."""
    names = [asked] if isinstance(asked, str) else list(asked)
    if "all" in names:
        names = get_available_reporting_integrations()
    elif "tensorboard" in names and not keeps_run:
        raise ValueError("report_to='tensorboard' needs a run_dir to keep its files in")
    return [name for name in names if name not in ("tensorboard", "none")]


def _open_shared_run(folder: Path, description: dict[str, Any], resume: bool, trainer: Trainer) -> Path | None:
    found: list[Path | None] = [None]
    if trainer.is_world_process_zero():
        found = [open_run(folder, description, resume)]
    if trainer.args.world_size > 1:
        broadcast_object_list(found)
    return found[0]


def _add_tensorboard(trainer: Trainer, folder: Path, checkpoint: Path | None) -> None:
    if importlib.util.find_spec("tensorboard") is None or not trainer.is_world_process_zero():
        return
    from torch.utils.tensorboard import SummaryWriter

    # What an interrupted run logged behind its checkpoint comes again.
    purge = None if checkpoint is None else int(checkpoint.name.rpartition("-")[2]) + 1
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
    trainer.add_callback(TensorBoardCallback(writer))


@contextmanager
def _output_folder(run_dir: str | Path | None) -> Iterator[Path]:
    if run_dir is not None:
        yield Path(run_dir)
        return
    # Trainer creates its output folder even when it saves nothing, and finds the best epoch's weights again in it.
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


@contextmanager
def _forward_kept(model: torch.nn.Module) -> Iterator[None]:
    """Take back what mixed-precision training leaves on the model.

    Accelerate puts an autocasting `forward` on the instance and leaves it there, so that later inference would
    silently run in bfloat16.
    """
    forward = model.__dict__.get("forward")
    try:
        yield
    finally:
        model.__dict__.pop("_original_forward", None)
        if forward is None:
            model.__dict__.pop("forward", None)
        else:
            model.__dict__["forward"] = forward
