"""What `evaluate` shows below its table: the scores of every class, and the texts that are answered wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text as Plain

from fastbert_cli.errors import faults_explained
from fastbert_hf.by_class import ClassScores, confusion, scores_by_class
from fastbert_hf.data import JSON_LINES, ClassificationData
from fastbert_hf.data.labels import join_labels
from fastbert_hf.files import file_written_atomically, write_atomically
from fastbert_hf.scoring import Row
from fastbert_hf.training import EvaluationResult

_MOST_CLASSES = 12  # of a confusion matrix that is shown whole
_MOST_MISTAKEN = 20  # pairs of classes that are shown of a larger one


class Details:
    """The answers at full depth and at one setting: the second that is scored, if there is one.

    Args:
        data: the texts.
        num_layers: of the model.
        first_layer: 0 for a model with exit zero.
    """

    def __init__(self, data: ClassificationData, num_layers: int, first_layer: int = 1) -> None:
        self._data = data
        self._num_layers, self._first_layer = num_layers, first_layer
        self._found: list[tuple[str, EvaluationResult]] = []

    def add(self, row: Row, result: EvaluationResult) -> None:
        """Take the answers behind a row; those of further settings are forgotten."""
        if len(self._found) < 2:
            self._found.append((row["setting"], result))

    @property
    def _setting(self) -> tuple[str, EvaluationResult]:
        return self._found[-1]

    def _scores(self, result: EvaluationResult) -> list[ClassScores]:
        return scores_by_class(
            result.labels,
            result.predictions,
            result.exit_layers,
            self._data.label_names,
            self._num_layers,
            self._first_layer,
        )

    def as_values(self) -> list[dict[str, Any]]:
        """Return the scores and the confusion matrix of both, for JSON."""
        return [
            {
                "setting": name,
                "classes": [asdict(score) for score in self._scores(result)],
                "confusion": None if self._data.multi_label else self._confusion(result).tolist(),
            }
            for name, result in self._found
        ]

    def _confusion(self, result: EvaluationResult) -> torch.Tensor:
        return confusion(result.labels, result.predictions, len(self._data.label_names))

    def show(self, console: Console) -> None:
        """Print the scores of every class, and which class is taken for which."""
        name, result = self._setting
        full, scores = self._scores(self._found[0][1]), self._scores(result)
        table = Table(box=None, pad_edge=False, title=f"by class, at {name}", title_justify="left", title_style="")
        for heading in ("class", "texts", "precision", "recall", "F1", "F1, full\ndepth", "mean exit\nlayer"):
            table.add_column(heading, justify="left" if heading == "class" else "right")
        for whole, score in zip(full, scores, strict=True):
            figures = (score.precision, score.recall, score.f1, whole.f1, score.mean_exit_layer)
            forms = (*["{:.4f}"] * 4, "{:.2f}")
            cells = ("" if x is None else form.format(x) for x, form in zip(figures, forms, strict=True))
            table.add_row(Plain(score.name), f"{score.texts:,}", *cells)
        console.print()
        console.print(table)
        if not self._data.multi_label:
            console.print()
            console.print(self._confusion_table(result))

    def _confusion_table(self, result: EvaluationResult) -> Table:
        names, matrix = self._data.label_names, self._confusion(result)
        table = Table(box=None, pad_edge=False, title_justify="left", title_style="")
        if len(names) <= _MOST_CLASSES:
            table.title = "texts of a class (rows) by what they are taken for (columns)"
            for heading in ("", *names):
                table.add_column(Plain(heading), justify="right" if heading else "left")
            for name, row in zip(names, matrix.tolist(), strict=True):
                table.add_row(Plain(name), *(f"{count:,}" if count else "." for count in row))
            return table
        wrong = matrix - matrix.diag().diag()
        order = wrong.flatten().argsort(descending=True, stable=True)[:_MOST_MISTAKEN].tolist()
        table.title = "classes that are taken for another most often; --json has the whole matrix"
        for heading in ("class", "taken for", "texts"):
            table.add_column(heading, justify="right" if heading == "texts" else "left")
        for place in order:
            row, column = divmod(place, len(names))
            if wrong[row, column]:
                table.add_row(Plain(names[row]), Plain(names[column]), f"{int(wrong[row, column]):,}")
        return table

    def write_errors(self, file: Path) -> None:
        """Write the texts that the setting answers wrong, the surest first.

        Raises:
            CommandError: the file cannot be written.
        """
        records = list(self._errors())
        with faults_explained(f"--errors {file}"), file_written_atomically(file) as out:
            if file.suffix.lower() in JSON_LINES:
                out.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
                return
            columns = ["row", "label", "predicted", "uncertainty", "exit_layer", *self._text_columns]
            rows = [columns, *([str(record[name]) for name in columns] for record in records)]
            if file.suffix.lower() == ".csv":
                csv.writer(out, lineterminator="\n").writerows(rows)
            else:  # .tsv has no quoting
                out.writelines("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)

    def write_confusion(self, file: Path) -> None:
        """Draw the confusion matrix.

        Raises:
            CommandError: the file cannot be written.
        """
        from fastbert_hf.analysis.class_charts import confusion_chart

        picture = confusion_chart(self._confusion(self._setting[1]).tolist(), self._data.label_names)
        with faults_explained(f"--confusion {file}"):
            write_atomically(file, picture)

    @property
    def _text_columns(self) -> tuple[str, ...]:
        return ("text",) if self._data.pairs is None else ("text_a", "text_b")

    def _errors(self) -> Iterator[dict[str, Any]]:
        _, result = self._setting
        wrong = result.predictions != result.labels
        rows = (wrong.any(dim=1) if wrong.dim() == 2 else wrong).nonzero().flatten()
        for row in rows[result.uncertainties[rows].argsort(stable=True)].tolist():
            texts = (self._data.texts[row], *(() if self._data.pairs is None else (self._data.pairs[row],)))
            yield {
                "row": row + 1,
                "label": self._names(result.labels[row]),
                "predicted": self._names(result.predictions[row]),
                "uncertainty": round(float(result.uncertainties[row]), 6),
                "exit_layer": int(result.exit_layers[row]),
                **dict(zip(self._text_columns, texts, strict=True)),
            }

    def _names(self, chosen: torch.Tensor) -> str:
        names = self._data.label_names
        if chosen.dim() == 0:
            return names[int(chosen)]
        return join_labels(name for name, has in zip(names, chosen.tolist(), strict=True) if has)
