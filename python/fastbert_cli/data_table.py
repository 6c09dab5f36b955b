"""What a run has read, as one table before training begins, and what in it looks like a mistake."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from fastbert_cli.errors import CommandError
from fastbert_cli.texts import note_unknown
from fastbert_hf.data import ClassificationData, TextData, TokenisedDataset
from fastbert_hf.data.seen import text_keys
from fastbert_hf.data.summary import DataSummary, refusal_of, summarise, suspicions
from fastbert_hf.data.tokenised import whole_lengths

_MOST_ROWS = 20  # of classes, one in each
_MOST_CLASSES = 100  # whose counts are shown, several in a row
_FEW = 300  # texts without labels


@dataclass(frozen=True)
class DataTable:
    """The texts of a run by what they are for, as "train" and "dev", with the counts of each."""

    parts: Mapping[str, TextData]
    summaries: Mapping[str, DataSummary]

    @classmethod
    def of(cls, train: TextData, dev: ClassificationData | None, **more: TextData) -> DataTable:
        """Count the texts.

        Args:
            train: texts to train on.
            dev: labelled texts to score on, if there are any.
            **more: others, by what they are for.
        """
        parts = {"train": train, **({} if dev is None else {"dev": dev}), **more}
        return cls(parts, {name: summarise(part) for name, part in parts.items()})

    def check(self) -> None:
        """Raise `CommandError` for labels from which nothing can be learnt, and for dev texts that choose nothing."""
        train = self.parts["train"]
        several = isinstance(train, ClassificationData) and train.multi_label
        refusal = refusal_of(self.summaries["train"], multi_label=several)
        if refusal is not None:
            raise CommandError(refusal)
        learnt, scored = self._keys()
        if len(scored) and np.array_equal(np.unique(learnt), np.unique(scored)):
            raise CommandError(
                f"--dev has the {len(scored):,} texts that are trained on, so that the best epoch would be the one "
                "that remembers most of them; give other labelled texts, or leave --dev out"
            )

    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the texts to learn from, and of those to score on."""
        learnt = [text_keys(part) for name, part in self.parts.items() if name != "dev"]
        dev = self.parts.get("dev")
        return np.concatenate(learnt), np.empty(0, np.uint64) if dev is None else text_keys(dev)

    def _notes(self) -> Iterator[str]:
        learnt, scored = self._keys()
        both = int(np.isin(scored, learnt).sum())
        if both:
            yield (
                f"{both:,} of {len(scored):,} texts of --dev are trained on too; scores on them flatter, and the best "
                "epoch is chosen by them: take them out of one of the files"
            )
        train = self.parts["train"]
        if isinstance(train, ClassificationData):
            dev = self.summaries.get("dev")
            yield from suspicions(self.summaries["train"], dev, multi_label=train.multi_label)
        elif len(train) < _FEW:
            yield (
                f"{len(train):,} text{'s are' if len(train) > 1 else ' is'} little for students to learn from, which "
                "need no labels: give all the texts that you have, but for those that fastbert calibrate gets, 299 or "
                "more of their own"
            )

    def show(self, console: Console, tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int | None) -> None:
        """Print the table: texts, tokens, duplicates and classes of every part; say on stderr what looks wrong.

        Args:
            console: to print on.
            tokenizer: of the model.
            max_length: longest sample in tokens.
            stride: as in `TokenisedDataset`.
        """
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        for name in self.parts:
            table.add_column(name, justify="right")
        datasets = [TokenisedDataset(part, tokenizer, max_length, stride) for part in self.parts.values()]
        tokens = [_Tokens.of(*pair, tokenizer) for pair in zip(datasets, self.parts.values(), strict=True)]
        every = list(self.summaries.values())
        table.add_row("texts", *(f"{each.texts:,}" for each in every))
        table.add_row("tokens, median", *(f"{each.median:,}" for each in tokens))
        table.add_row("tokens, longest", *(f"{each.longest:,}" + " or more" * each.goes_on for each in tokens))
        if stride is None:
            table.add_row(f"cut off at {max_length}", *(f"{each.truncated:,}" for each in datasets))
        else:
            table.add_row(f"passages of {max_length}", *(f"{len(each):,}" for each in datasets))
        table.add_row("occur before", *(f"{each.duplicates:,}" for each in every))
        if any(each.classes for each in every):
            table.add_row(
                "  with another label", *(f"{each.contradictions:,}" if each.classes else "" for each in every)
            )
            for name, cells in self._classes():
                table.add_row(Text(name), *cells)  # no markup
        console.print(table)
        self._show_many_classes(console)
        for note in self._notes():
            print(f"note: {note}", file=sys.stderr)
        note_unknown(datasets[0], tokenizer)

    def _classes(self) -> list[tuple[str, list[str]]]:
        """Return a row for every class, or for what many classes have in common."""
        counts = [list(each.classes.values()) for each in self.summaries.values()]
        names = next(list(each.classes) for each in self.summaries.values() if each.classes)
        if len(names) <= _MOST_ROWS:
            return [
                (f"class {name}", [f"{part[index]:,}" if part else "" for part in counts])
                for index, name in enumerate(names)
            ]
        places = {"smallest": 0, "median": len(names) // 2, "largest": -1}  # among the counts in their order
        return [(f"{len(names)} classes", [""] * len(counts))] + [
            (f"  texts of the {way}", [f"{sorted(part)[place]:,}" if part else "" for part in counts])
            for way, place in places.items()
        ]

    def _show_many_classes(self, console: Console) -> None:
        """Print the counts of more classes than have rows in the table, several of them in a row."""
        counts = {name: list(each.classes.items()) for name, each in self.summaries.items() if each.classes}
        by_class = [*zip(*counts.values(), strict=True)]  # of every class, name and count in each part
        if not _MOST_ROWS < len(by_class) <= _MOST_CLASSES:
            return
        console.print(f"texts by class, {' and '.join(counts)}:", soft_wrap=True)
        cells = [Text(f"{parts[0][0]} {' '.join(f'{texts:,}' for _, texts in parts)}") for parts in by_class]
        console.print(Columns(cells, padding=(0, 3)))


@dataclass(frozen=True)
class _Tokens:
    """Of the texts of a part, uncut."""

    median: int
    longest: int
    goes_on: bool  # some text does, beyond what was looked at

    @classmethod
    def of(cls, dataset: TokenisedDataset, part: TextData, tokenizer: PreTrainedTokenizerBase) -> _Tokens:
        lengths, goes_on = whole_lengths(dataset, part, tokenizer)
        lengths = sorted(lengths) or [0]
        return cls(lengths[len(lengths) // 2], lengths[-1], goes_on)
