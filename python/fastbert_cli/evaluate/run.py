"""`fastbert evaluate`: a saved model's scores, FLOPs and times on labelled texts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils import logging

from fastbert_cli import scores
from fastbert_cli.errors import CommandError, faults_explained
from fastbert_cli.models import check_max_length, check_patching, label_names_of, load_model, place_and_patch
from fastbert_hf.data import TokenisedDataset, read_classification_data
from fastbert_hf.files import write_atomically
from fastbert_hf.machine import describe_machine


@dataclass(frozen=True)
class EvaluateSettings:
    """Options of `fastbert evaluate`; see its help."""

    model: Path
    data: str
    split: str | None
    subset: str | None
    text_column: str | None
    pair_column: str | None
    label_column: str | None
    speeds: tuple[float, ...]
    speedups: tuple[float, ...]
    max_length: int | None
    batch_size: int
    timed: bool
    backend: str
    dtype: str
    as_json: bool
    out: Path | None


def run_evaluate(settings: EvaluateSettings) -> None:
    """Prints the scores, and writes them to `settings.out` if that is given.

    Raises:
        CommandError: options that contradict each other, or a model that cannot be used.
        DataFileError: the file or data set cannot be used, or has labels that the model does not know.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    check_patching(settings.backend, settings.dtype)
    if settings.out is not None and not settings.out.parent.is_dir():
        raise CommandError(f"--out {settings.out}: no such folder; make it first")
    if settings.out is not None and settings.out.is_dir():
        raise CommandError(f"--out {settings.out}: a folder; name a file")
    model, tokenizer = load_model(settings.model)
    with faults_explained():
        for speedup in settings.speedups:  # what is wrong with it is said before the data is read
            model.resolve_speed(None, speedup, 1)
    positions = model.config.max_position_embeddings
    max_length = min(positions, tokenizer.model_max_length) if settings.max_length is None else settings.max_length
    check_max_length(model, max_length)
    with faults_explained():
        data = read_classification_data(
            settings.data,
            label_names_of(model),
            split=settings.split,
            subset=settings.subset,
            text_column=settings.text_column,
            pair_column=settings.pair_column,
            label_column=settings.label_column,
            multi_label=model.config.multi_label,
        )
    patched = place_and_patch(model, settings.backend, settings.dtype)
    with faults_explained():
        dataset = TokenisedDataset(data, tokenizer, max_length)
        rows = scores.score(
            model,
            dataset,
            settings.speeds,
            settings.speedups,
            batch_size=settings.batch_size,
            timed=settings.timed,
        )
    results: dict[str, Any] = {
        "machine": describe_machine(),
        "model": str(settings.model),
        "data": settings.data,
        "split": settings.split,
        "texts": len(data),
        "max_length": max_length,
        "batch_size": settings.batch_size,
        "patched": patched,
        "backend": settings.backend,
        "dtype": settings.dtype,
        "layers": model.config.num_hidden_layers,
        "flops_convention": scores.FLOPS_CONVENTION,
        "rows": rows,
    }
    text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    if settings.out is not None:
        with faults_explained(f"--out {settings.out}"):
            write_atomically(settings.out, text)
    if settings.as_json:
        print(text, end="")
        return
    console = Console(highlight=False, soft_wrap=True)
    scores.show(console, rows)
    how = "on the fast kernels" if patched else "without the fast kernels"
    console.print(f"{len(data)} texts in batches of {settings.batch_size}, {how}", markup=False)
    if settings.out is not None:
        console.print(f"written: {settings.out}", markup=False)
