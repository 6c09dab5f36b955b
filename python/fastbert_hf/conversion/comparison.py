"""How far the converted model's answers are from the original's."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from fastbert_hf.conversion.original import Original
from fastbert_hf.exits.uncertainty import normalised_entropy
from fastbert_hf.modeling import FastBertForSequenceClassification

SPEEDS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class LayerDifference:
    """Largest differences behind one layer, over random texts: of logits with the converted model in float64, which is
    what conversion itself changes, and of logits and uncertainty with the model as it is saved, in float32."""

    layer: int
    logits_float64: float
    logits: float
    uncertainty: float


@dataclass(frozen=True)
class Comparison:
    """The converted model against the original's arithmetic in float64.

    Attributes:
        texts: number of texts of random ids.
        tokens: number of their tokens.
        largest_logit: of the original, absolute, for scale.
        equal_exits: share of texts that leave at the same layer, over `speeds`.
    """

    texts: int
    tokens: int
    largest_logit: float
    layers: tuple[LayerDifference, ...]
    speeds: tuple[float, ...]
    equal_exits: float


@torch.inference_mode()
def compare(model: FastBertForSequenceClassification, original: Original) -> Comparison:
    """Run `model`, in float32, on the random texts of `original`."""
    logits, uncertainty = _answers(model, original)
    exact = _exact_logits(model, original)
    expected = normalised_entropy(original.logits)
    differences = zip(
        _largest(exact - original.logits),
        _largest(logits - original.logits),
        _largest(uncertainty - expected),
        strict=True,
    )
    exits = [
        _exit_layers(expected, speed, original.includes_speed) == _exit_layers(uncertainty, speed, False)
        for speed in SPEEDS
    ]
    return Comparison(
        texts=len(logits),
        tokens=int(original.probe.valid.sum()),
        largest_logit=original.logits.abs().max().item(),
        layers=tuple(LayerDifference(layer, *values) for layer, values in enumerate(differences, start=1)),
        speeds=SPEEDS,
        equal_exits=torch.stack(exits).double().mean().item(),
    )


def _answers(model: FastBertForSequenceClassification, original: Original) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, L, N] and uncertainty [B, L]."""
    probe = original.probe
    output = model.eval()(probe.ids, probe.valid.long(), probe.segments, output_all_exits=True)
    return output.all_logits, output.all_uncertainty


def _exact_logits(model: FastBertForSequenceClassification, original: Original) -> torch.Tensor:
    """[B, L, N] of the model in float64, from the exit heads: what the model returns is float32 in any case."""
    double, logits = copy.deepcopy(model).double(), []
    for head in double.heads:
        head.register_forward_hook(lambda module, given, output: logits.append(output))
    _answers(double, original)
    return torch.stack(logits, dim=1)


def _exit_layers(uncertainty: torch.Tensor, speed: float, inclusive: bool) -> torch.Tensor:
    """[B], for uncertainty [B, L]."""
    exits = uncertainty <= speed if inclusive else uncertainty < speed
    exits = exits.clone()
    exits[:, -1] = True
    return exits.int().argmax(dim=1) + 1


def _largest(difference: torch.Tensor) -> list[float]:
    """By layer, of a difference [B, L] or [B, L, N]."""
    return difference.abs().double().transpose(0, 1).flatten(1).amax(dim=1).tolist()
