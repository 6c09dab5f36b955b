"""How much each class counts in the loss of the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch

from fastbert_hf.data import ClassificationData
from fastbert_hf.data.errors import listed
from fastbert_hf.training.settings import LabelSettings


def class_weights_of(
    settings: LabelSettings, data: ClassificationData, label_ids: Sequence[Any] | None = None
) -> torch.Tensor | None:
    """Return the weight of every class, float32 [N] in the order of their ids; `None`: all count alike.

    With "balanced", of n texts of which a class has n_c: n / (N n_c), so that all classes count alike and a text 1 on
    average; multi-label: (n - n_c) / n_c, so that for each class the texts that have it count as much as the others.

    Args:
        settings: with `class_weights`.
        data: the training data, whose classes are weighted.
        label_ids: classes of the samples that these texts were made into, where texts have passages, each of which
            counts as a text; `None`: those of `data`.

    Raises:
        ValueError: a name that is no class, a class without a weight, or (with "balanced") one that no text has, or
            that all have.
    """
    asked, names = settings.class_weights, data.label_names
    if asked is None:
        return None
    if isinstance(asked, Mapping):
        unknown, missing = [name for name in asked if name not in names], [name for name in names if name not in asked]
        if unknown:
            raise ValueError(f"class_weights names {listed(unknown)}, but the classes are {listed(names)}")
        if missing:
            raise ValueError(f"class_weights has no weight for {listed(missing)}; give every class one, as 1")
        return torch.tensor([asked[name] for name in names])
    label_ids = data.label_ids if label_ids is None else label_ids
    counts = Counter(chain.from_iterable(label_ids) if data.multi_label else label_ids)
    absent = [name for index, name in enumerate(names) if not counts[index]]
    if absent:
        raise ValueError(
            f"class_weights balanced: no text has the class {listed(absent)}; give every class a weight by name"
        )
    total = len(label_ids)
    if not data.multi_label:
        return torch.tensor([total / (len(names) * counts[index]) for index in range(len(names))])
    everywhere = [name for index, name in enumerate(names) if counts[index] == total]
    if everywhere:
        raise ValueError(
            f"class_weights balanced: all texts have the class {listed(everywhere)}; give every class a weight by name"
        )
    return torch.tensor([(total - counts[index]) / counts[index] for index in range(len(names))])
