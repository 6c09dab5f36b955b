"""What a training step may change: its own part of the model, without what the user froze."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from fastbert_hf.modeling import FastBertForSequenceClassification


@contextmanager
def training_only(model: FastBertForSequenceClassification, parts: Sequence[nn.Module]) -> Iterator[list[str]]:
    """Let only `parts` of `model` train within the block, and of them only parameters that require gradients.

    At the end, however it comes, `requires_grad` of every parameter and `frozen_for_distillation` are as they were.
    Within the block the model is not frozen for distillation.

    Args:
        model: changed in place.
        parts: modules of `model`.

    Yields:
        The names of the parameters of `parts` that the user froze, sorted.

    Raises:
        ValueError: the user froze all of them.
    """
    was_frozen = model.frozen_for_distillation
    model.unfreeze()
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    own = {id(parameter) for part in parts for parameter in part.parameters()}
    try:
        frozen = []
        for name, parameter in model.named_parameters():
            if id(parameter) not in own:
                parameter.requires_grad_(False)
            elif not parameter.requires_grad:
                frozen.append(name)
        if len(frozen) == len(own):
            raise ValueError(
                "every parameter that this step trains is frozen, so nothing would be learned; give some of them "
                "requires_grad_(True)"
            )
        yield sorted(frozen)
    finally:
        model.unfreeze()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
        if was_frozen:
            model.freeze_for_distillation()
