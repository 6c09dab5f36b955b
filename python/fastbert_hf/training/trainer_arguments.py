"""Which of `transformers.TrainingArguments` a user may pass on, and why not the others."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

_SETTING = "it is the setting {}"
_EPOCHS = "every epoch ends with a log entry, with dev data scores, and in a run folder a checkpoint"
_BATCHES = "which samples share a batch, and that every sample counts once an epoch, is part of the run"
_NO_EFFECT = "it would have no effect here"

# By name, the reason; what the message says behind it.
REFUSED: Mapping[str, str] = {
    **{
        name: _SETTING.format(setting)
        for name, setting in {
            "num_train_epochs": "epochs",
            "max_steps": "epochs, which may be a fraction",
            "learning_rate": "learning_rate",
            "per_device_train_batch_size": "batch_size",
            "per_device_eval_batch_size": "batch_size",
            "warmup_steps": "warmup_fraction",
            "weight_decay": "weight_decay",
            "seed": "seed",
            "data_seed": "seed",
            "bf16": "precision",
            "fp16": "precision",
            "metric_for_best_model": "best_by",
            "save_total_limit": "keep_checkpoints",
            "label_smoothing_factor": "label_smoothing",
        }.items()
    },
    "output_dir": "it is the argument run_dir",
    "resume_from_checkpoint": "resume=True finds the checkpoint in run_dir",
    "logging_strategy": "give logging_steps; the end of every epoch is logged in any case",
    "logging_nan_inf_filter": "a run that diverges has to look like one",
    **dict.fromkeys(
        (
            "save_strategy",
            "save_steps",
            "save_only_model",
            "enable_jit_checkpoint",
            "eval_strategy",
            "eval_steps",
            "eval_delay",
            "eval_on_start",
            "load_best_model_at_end",
            "greater_is_better",
        ),
        _EPOCHS,
    ),
    **dict.fromkeys(
        ("prediction_loss_only", "eval_do_concat_batches", "batch_eval_metrics", "include_for_metrics"),
        "the scores of an epoch are those of all dev data at every exit head",
    ),
    **dict.fromkeys(
        (
            "auto_find_batch_size",
            "accelerator_config",
            "dataloader_drop_last",
            "dataloader_in_order",
            "train_sampling_strategy",
            "length_column_name",
            "remove_unused_columns",
        ),
        _BATCHES,
    ),
    "ignore_data_skip": "a resumed run has to see the batches that an uninterrupted one sees",
    "restore_callback_states_from_checkpoint": "callbacks always get back the state that they save",
    **dict.fromkeys(
        (
            "push_to_hub",
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
        ),
        "a run folder is no model; upload the finished one (hf upload, or model.push_to_hub)",
    ),
    **dict.fromkeys(
        ("fsdp", "fsdp_config", "deepspeed", "parallelism_config"),
        "every device has the whole model here (accelerate launch --multi_gpu)",
    ),
    **dict.fromkeys(
        (
            "average_tokens_across_devices",
            "bf16_full_eval",
            "fp16_full_eval",
            "label_names",
            "dataloader_multiprocessing_context",
            "use_cache",
            "do_train",
            "do_eval",
            "do_predict",
            "local_rank",
        ),
        _NO_EFFECT,
    ),
}

# What a resumed run may have otherwise: none of it changes the result.
FREE_ARGUMENTS = (
    "report_to",
    "run_name",
    "project",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "disable_tqdm",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "torch_empty_cache_steps",
    "skip_memory_metrics",
    "ddp_timeout",
)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise `ValueError` for names that `TrainingArguments` has not, for those that a training step decides, and for
    values that would be noticed only when training begins."""
    if not arguments:
        return
    from transformers import SchedulerType, TrainingArguments  # here, so that settings do not wait for them

    known = {field.name for field in fields(TrainingArguments)}
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"arguments: transformers.TrainingArguments has no {name!r}{hint}")
        if name in REFUSED:
            raise ValueError(f"arguments: {name!r} cannot be passed on: {REFUSED[name]}")
    steps = arguments.get("gradient_accumulation_steps", 1)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"arguments: gradient_accumulation_steps must be an integer of at least 1, got {steps!r}")
    schedulers = [scheduler.value for scheduler in SchedulerType]
    scheduler = arguments.get("lr_scheduler_type", "linear")
    if scheduler not in schedulers:
        raise ValueError(f"arguments: lr_scheduler_type must be one of {', '.join(schedulers)}, got {scheduler!r}")
