"""What was read: counts of texts, classes and duplicates, and what in them looks like a mistake."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from fastbert_hf.data.errors import listed, quoted
from fastbert_hf.data.samples import ClassificationData, TextData
from fastbert_hf.data.seen import text_keys

_FEWEST = 20  # texts, below which counts say little
_NEARLY_ALL = 0.95


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


def refusal_of(train: DataSummary) -> str | None:
    """Return why no classifier can learn from `train`, with the remedy; `None`: one can."""
    every = [name for name, texts in train.classes.items() if texts]
    if len(every) < train.texts or train.texts < _FEWEST:
        return None
    numbers = all(re.fullmatch(r"[+-]?[0-9]*\.?[0-9]+(e[+-]?[0-9]+)?", name, re.IGNORECASE) for name in every)
    reason = (
        "they are numbers, and a regression is not what FastBERT does: put them into a few ranges with a name each"
        if numbers
        else "is another column the label? --label-column names it"
    )
    return f"{train.texts} texts have {len(every)} different labels, so no class has two texts; {reason}"


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
    single = [name for name, texts in train.classes.items() if texts == 1]
    if single:
        yield f"one text only has the class {listed(single)}; add some, or join it with another"
    if train.contradictions:
        yield f"{train.contradictions:,} texts to train on occur before with another label; keep the right ones"
    if dev is None:
        return
    there = [name for name, texts in dev.classes.items() if texts]
    missing = [name for name, texts in dev.classes.items() if texts == 0 and train.classes.get(name)]
    if len(there) == 1 and not multi_label:
        yield f"the texts to score on have one class only, {quoted(there[0])}, so scores say nothing; add the others"
    elif missing:
        yield f"no text to score on has the class {listed(missing)}, so scores say nothing of it"
    name, most = max(dev.classes.items(), key=lambda item: item[1], default=("", 0))
    if len(there) > 1 and dev.texts >= _FEWEST and most >= _NEARLY_ALL * dev.texts and not multi_label:
        yield (
            f"who always answers {quoted(name)} is right on {most / dev.texts:.0%} of the texts to score on; go by "
            "macro F1 (--best-by macro_f1)"
        )
