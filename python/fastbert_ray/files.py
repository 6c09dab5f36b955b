"""Ray Data: files of texts in, files of answers out, gone on with where an earlier job ended."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
import torch

import fastbert_kernels
from fastbert_hf.data import whole_number
from fastbert_hf.files import sole_writer
from fastbert_hf.prediction import resolve_max_length
from fastbert_ray.answering import CLASS_COLUMNS, SCORE_COLUMNS, Job, Worker
from fastbert_ray.model_folder import Dtype, check_folder, digest_of, load
from fastbert_ray.pieces import Columns, Piece, files_of, plan
from fastbert_ray.record import RECORD, begin_or_go_on

COMPLETE = "_SUCCESS"  # as Hadoop and Spark have it


@dataclass(frozen=True)
class Done:
    """What a call did.

    Attributes:
        rows: answered now.
        pieces: written now.
        pieces_before: that were there already.
    """

    rows: int
    pieces: int
    pieces_before: int


def predict_files(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    text_column: str = "text",
    pair_column: str | None = None,
    keep: Sequence[str] = (),
    speed: float | None = None,
    speedup: float | None = None,
    dtype: Dtype = "weights",
    max_length: int | None = None,
    num_cpus: int = 1,
    workers: int | None = None,
    piece_bytes: int = 8_000_000,
) -> Done:
    """Classify the texts of Parquet files or of JSON lines on the machines of a Ray cluster.

    Every row of the inputs gets one row in the files `part-000000.parquet` (or `.jsonl`, as the inputs) and so on of
    the folder `output`, in the order of the inputs: the columns of `keep`, then `label`, `probability`, `uncertainty`
    and `exit_layer` (`score` in place of the first two where the model has one output), bit for bit those of
    `fastbert_hf.predict`; nulls where the text is empty or null. A multi-label model writes lists of labels and of
    their probabilities. An empty file `_SUCCESS` says that all parts are there.

    Whatever is lost (a worker, a machine, this process), the same call goes on with the pieces that are not written.

    Args:
        inputs: files, or folders of them, under these paths on every machine, as `output` and `model`.
        output: a new folder, or that of an earlier call with the same arguments (but for `num_cpus` and `workers`).
        model: folder of a saved FastBERT and its tokenizer.
        text_column: column, or JSON key, of the text.
        pair_column: of the second text, for a model of pairs.
        keep: columns to copy, as an id.
        speed: as in `fastbert_hf.predict`, and so the next.
        speedup: instead, of a calibrated model.
        dtype: precision: "weights" (as saved), "fp32", "bf16" or "int8".
        max_length: longer texts are cut off at so many tokens; `None`: as in training.
        num_cpus: processors of a worker, and threads that compute in it.
        workers: each holds the model; `None`: as many as the cluster has processors for.
        piece_bytes: of a piece, about: what is in memory at once, and lost with a worker.

    Raises:
        OtherJobError: `output` holds something else.
        OutputInUseError: another call writes there.
        ValueError: no such model, or an argument, file or setting that cannot be used.
        ray.exceptions.RayTaskError: a worker failed of itself, as on a line that is no JSON; what was written stays.
    """
    num_cpus, piece_bytes = whole_number("num_cpus", num_cpus), whole_number("piece_bytes", piece_bytes)
    workers = None if workers is None else whole_number("workers", workers)
    for name, value in (("num_cpus", num_cpus), ("piece_bytes", piece_bytes), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    folder, columns = check_folder(model), Columns(text_column, pair_column, tuple(keep))
    _check_settings(folder, columns, speed, speedup, max_length)
    files = files_of([inputs] if isinstance(inputs, str | os.PathLike) else inputs)
    pieces = plan(files, columns, piece_bytes)
    out = Path(os.path.abspath(output))
    job = Job(folder, digest_of(folder), dtype, num_cpus, speed, speedup, max_length, columns, out, tuple(pieces))
    out.mkdir(parents=True, exist_ok=True)
    with sole_writer(out / RECORD):
        begin_or_go_on(out, _described(job, piece_bytes))
        missing = [piece for piece in pieces if not job.part(piece).exists()]
        rows = _run(job, missing, workers) if missing else 0
        lost = [piece.number for piece in pieces if not job.part(piece).exists()]
        if lost:
            raise RuntimeError(f"{out}: part {lost[0]} was written and is gone; call again")
        (out / COMPLETE).touch()
    return Done(rows, len(missing), len(pieces) - len(missing))


def _check_settings(
    folder: Path, columns: Columns, speed: float | None, speedup: float | None, max_length: int | None
) -> None:
    """Raise what is wrong with the settings here, and not on every machine."""
    model, tokenizer = load(folder)
    model.resolve_speed(speed, speedup, 1)
    resolve_max_length(model, tokenizer, max_length)
    answer = SCORE_COLUMNS if model.config.gives_scores else CLASS_COLUMNS
    for name in columns.keep:
        if name in answer or columns.keep.count(name) > 1:
            raise ValueError(f"keep has a column {name}, and the output would have two of that name")


def _described(job: Job, piece_bytes: int) -> dict[str, object]:
    """Return all that an answer or the cut into pieces depends on, as plain data."""
    return {
        "model": job.digest,
        "dtype": job.dtype,
        "speed": job.speed,
        "speedup": job.speedup,
        "max_length": job.max_length,
        "text_column": job.columns.text,
        "pair_column": job.columns.pair,
        "keep": job.columns.keep,
        "piece_bytes": piece_bytes,
        "inputs": list(dict.fromkeys((piece.path, piece.size, piece.modified) for piece in job.pieces)),
        "versions": {"fastbert_kernels": fastbert_kernels.__version__, "torch": torch.__version__},
    }


def _run(job: Job, missing: Sequence[Piece], workers: int | None) -> int:
    """Let workers of Ray Data write the missing parts, and return how many rows these have.

    A piece is a block of one row, so that Ray, which gives the block of a lost worker to another, gives it that piece.
    """
    if workers is None:
        workers = max(int(ray.cluster_resources().get("CPU", 1)) // job.threads, 1)
    size = min(workers, len(missing))
    numbers = ray.data.from_items([{"piece": piece.number} for piece in missing], override_num_blocks=len(missing))
    answered = numbers.map_batches(
        Worker,
        fn_constructor_args=[job],
        batch_size=1,
        num_cpus=job.threads,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=size),
    )
    return sum(int(row["rows"]) for row in answered.iter_rows())
