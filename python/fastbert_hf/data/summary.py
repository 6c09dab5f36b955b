"""What was read: counts of texts, classes and duplicates, and what in them looks like a mistake."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from fastbert_hf.data.errors import listed, quoted
from fastbert_hf.data.samples import ClassificationData, TextData
from fastbert_hf.data.seen import text_keys

_FEWEST = 20  # texts, below which counts say little
_NEARLY_ALL = 0.95
# A scale has few values, on most of which there are many texts: stars have 10 in halves, marks from 0 to 10 have 21.
# Measurements have nearly as many values as texts. Ten texts of a class are what docs/training.md asks for.
_LONGEST_SCALE, _FEW_TEXTS = 21, 10
_FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]+(e[+-]?[0-9]+)?", re.IGNORECASE)
_NUMBER = re.compile(rf"[+-]?[0-9]+(e[+-]?[0-9]+)?|{_FRACTION.pattern}", re.IGNORECASE)


@dataclass(frozen=True)
class DataSummary:
    """Counts of some texts.

    Attributes:
        texts: how many there are.
        duplicates: texts that occur before, but for case and blanks.
        contradictions: of these, texts whose labels differ from those before; 0 without labels.
        classes: number of texts by the name of their class, in the order of ids; empty without labels.
    """

    texts: int
    duplicates: int
    contradictions: int
    classes: dict[str, int]


def summarise(data: TextData) -> DataSummary:
    """Return the counts of `data`."""
    labels: list[Any] = data.label_ids if isinstance(data, ClassificationData) else [0] * len(data)
    first: dict[int, object] = {}
    duplicates = contradictions = 0
    for key, label in zip(text_keys(data).tolist(), labels, strict=True):
        if key in first:
            duplicates += 1
            contradictions += first[key] != label
        else:
            first[key] = label
    classes: dict[str, int] = {}
    if isinstance(data, ClassificationData):
        counts = Counter(chain.from_iterable(labels) if data.multi_label else labels)
        classes = {name: counts[index] for index, name in enumerate(data.label_names)}
    return DataSummary(len(data), duplicates, contradictions, classes)


def refusal_of(train: DataSummary, *, multi_label: bool) -> str | None:
    """Return why no classifier can learn from `train`, with the remedy; `None`: one can.

    No class has two texts, or the labels are those of a regression: numbers of which most have a fraction, more of them
    than a scale has, and most of them on few texts.

    Args:
        train: texts to train on.
        multi_label: a text has any number of classes.
    """
    every = [name for name, texts in train.classes.items() if texts]
    if not every or train.texts < _FEWEST:
        return None
    ranges = "a regression is not what FastBERT does: put them into a few ranges with a name each"
    have = f"{train.texts:,} texts have {len(every):,} different labels"
    if max(train.classes.values()) == 1:
        numbers = not multi_label and all(map(_NUMBER.fullmatch, every))
        reason = (
            f"they are numbers, and {ranges}" if numbers else "is another column the label? --label-column names it"
        )
        return f"{have}, so no class has two texts; {reason}"
    if not multi_label and _most(map(_FRACTION.fullmatch, every)) and _has_more_than_a_scale(train):
        return f"{have}, most of them numbers with a fraction that fewer than {_FEW_TEXTS} texts have; {ranges}"
    return None


def _has_more_than_a_scale(train: DataSummary) -> bool:
    there = [texts for texts in train.classes.values() if texts]
    return len(there) > _LONGEST_SCALE and _most(texts < _FEW_TEXTS for texts in there)


def _most(found: Iterable[object]) -> bool:
    values = [*map(bool, found)]
    return 2 * sum(values) > len(values)


def suspicions(train: DataSummary, dev: DataSummary | None, *, multi_label: bool) -> Iterator[str]:
    """Yield what looks like a mistake in labelled texts, a sentence each.

    Args:
        train: texts to train on.
        dev: texts to score on, if there are any.
        multi_label: a text has any number of classes.
    """
    alike = defaultdict(list)
    for name, texts in train.classes.items():
        alike[" ".join(name.split()).casefold()].append(f"{quoted(name)} ({texts:,} text{'s' * (texts != 1)})")
    for names in alike.values():
        if len(names) > 1:
            yield f"the classes {' and '.join(names)} differ in case or blanks only; if they are one, write them alike"
    absent = [name for name, texts in train.classes.items() if texts == 0]
    if absent:
        yield f"no text to train on has the class {listed(absent)}, which will never be learnt"
    there = [name for name, texts in train.classes.items() if texts]
    if not multi_label and all(map(_NUMBER.fullmatch, there)) and _has_more_than_a_scale(train):
        yield (
            f"the {len(there):,} classes are numbers, and most have fewer than {_FEW_TEXTS} texts; where they measure "
            "or count something, put them into a few ranges with a name each"
        )
    single = [name for name, texts in train.classes.items() if texts == 1]
    if single:
        yield f"one text only has the class {listed(single)}; add some, or join it with another"
    if train.contradictions:
        yield f"{train.contradictions:,} texts to train on occur before with another label; keep the right ones"
    if dev is None:
        return
    scored = [name for name, texts in dev.classes.items() if texts]
    missing = [name for name, texts in dev.classes.items() if texts == 0 and train.classes.get(name)]
    if len(scored) == 1 and not multi_label:
        yield f"the texts to score on have one class only, {quoted(scored[0])}, so scores say nothing; add the others"
    elif missing:
        yield f"no text to score on has the class {listed(missing)}, so scores say nothing of it"
    name, most = max(dev.classes.items(), key=lambda item: item[1], default=("", 0))
    if len(scored) > 1 and dev.texts >= _FEWEST and most >= _NEARLY_ALL * dev.texts and not multi_label:
        yield (
            f"who always answers {quoted(name)} is right on {most / dev.texts:.0%} of the texts to score on; go by "
            "macro F1 (--best-by macro_f1)"
        )
