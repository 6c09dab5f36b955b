"""A worker of a job on files: it holds the model, and answers piece after piece into a file of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from fastbert_hf.files import write_atomically
from fastbert_hf.prediction import Predictions, predict
from fastbert_ray.model_folder import Dtype, digest_of, load_patched
from fastbert_ray.pieces import Columns, Piece, Rows, read

CLASS_COLUMNS = ("label", "probability", "uncertainty", "exit_layer")
SCORE_COLUMNS = ("score", "uncertainty", "exit_layer")


@dataclass(frozen=True)
class Job:
    """What all workers of a job do.

    Attributes:
        model: folder, under this path on every machine.
        digest: of the folder.
        dtype: precision.
        threads: that compute in a worker.
        speed: as in `fastbert_hf.predict`, and so the next two.
        speedup: or None.
        max_length: or None.
        columns: that are read and copied.
        output: folder of the parts.
        pieces: of the inputs.
    """

    model: Path
    digest: str
    dtype: Dtype
    threads: int
    speed: float | None
    speedup: float | None
    max_length: int | None
    columns: Columns
    output: Path
    pieces: tuple[Piece, ...]

    def part(self, piece: Piece) -> Path:
        """Return the file of a piece's answers; the order of the names is that of the inputs."""
        return self.output / f"part-{piece.number:06d}{Path(piece.path).suffix}"


class Worker:
    """The class whose instances Ray Data keeps on the machines, each with a model."""

    def __init__(self, job: Job) -> None:
        """Load the model.

        Raises:
            ValueError: the folder on this machine holds another than the job began with.
        """
        if digest_of(job.model) != job.digest:
            raise ValueError(f"{job.model}: another model on this machine than on the one that began the job")
        self._job = job
        self._model, self._tokenizer = load_patched(job.model, job.dtype, job.threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Answer the pieces whose numbers the batch has; return them with their rows.

        To do it again, since a worker was lost before it could say that it had, writes the same file again.
        """
        numbers = [int(number) for number in batch["piece"]]
        return {"piece": numbers, "rows": [self._answer(self._job.pieces[number]) for number in numbers]}

    def _answer(self, piece: Piece) -> int:
        job = self._job
        rows = read(piece, job.columns)
        texts = [text for text in rows.texts if text is not None]
        try:
            answers = predict(
                self._model,
                self._tokenizer,
                texts,
                speed=job.speed,
                speedup=job.speedup,
                max_length=job.max_length,
                progress=False,
            )
        except ValueError as error:
            raise ValueError(f"{piece.path}, piece {piece.number}, texts that are not empty: {error}") from error
        if not bool(answers.logits.isfinite().all()):
            raise ValueError(
                f"{piece.path}, piece {piece.number}: answers that are not finite, from NaN or inf in weights"
            )
        columns = _in_rows(rows, _columns(answers))
        content = _parquet(rows, columns, answers.multi_label) if _is_table(rows) else _json_lines(rows, columns)
        write_atomically(job.part(piece), content)
        return len(rows.texts)


def _is_table(rows: Rows) -> bool:
    return isinstance(rows.kept, pyarrow.Table)


def _columns(answers: Predictions) -> dict[str, list[Any]]:
    """Return what is written of the texts. Floats are those of float32, not rounded."""
    course = {"uncertainty": answers.uncertainty.tolist(), "exit_layer": answers.exit_layer.tolist()}
    if answers.logits.shape[-1] == 1:
        return {"score": answers.scores.tolist(), **course}
    probabilities = answers.probabilities
    if answers.multi_label:
        chosen = [row[has].tolist() for row, has in zip(probabilities, answers.labels, strict=True)]
        return {"label": answers.label_names, "probability": chosen, **course}
    return {"label": answers.label_names, "probability": probabilities.amax(dim=-1).tolist(), **course}


def _in_rows(rows: Rows, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the columns with `None` where a text is empty."""
    numbers = iter(range(len(rows.texts)))
    places = [None if text is None else next(numbers) for text in rows.texts]
    return {name: [None if i is None else values[i] for i in places] for name, values in columns.items()}


def _parquet(rows: Rows, columns: dict[str, list[Any]], multi_label: bool) -> bytes:
    assert isinstance(rows.kept, pyarrow.Table)
    several = pyarrow.list_ if multi_label else lambda kind: kind
    kinds = {
        "label": several(pyarrow.string()),
        "probability": several(pyarrow.float32()),
        "exit_layer": pyarrow.int32(),
    }
    table = rows.kept if rows.kept.num_columns else None
    for name, values in columns.items():
        array = pyarrow.array(values, kinds.get(name, pyarrow.float32()))
        table = pyarrow.table({name: array}) if table is None else table.append_column(name, array)
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _json_lines(rows: Rows, columns: dict[str, list[Any]]) -> str:
    assert isinstance(rows.kept, list)
    answers = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return "".join(json.dumps(kept | answer) + "\n" for kept, answer in zip(rows.kept, answers, strict=True))
