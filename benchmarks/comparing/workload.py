"""What the contestants of the comparison are given: models, padded batches, and planned exits.

Random weights have no meaningful uncertainty, so a schedule of exit layers is planned and then brought about by the
ordinary means: the biases of the student classifiers are set so that uncertainty falls from layer to layer, and each
sample gets the Speed that lies between its uncertainty at the planned layer and at the layers before. Every contestant
with exits computes its heads, its uncertainties and its comparisons with Speed as always, and nothing is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig

from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from fastbert_hf.data import TokenisedDataset
from harness import MIXED_LENGTHS, sample_lengths
from peers.contestant import Answer, Request

LONGEST = 128
SHAPES = {
    "BERT-base": dict(num_hidden_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=3072),
    "MiniLM-L6": dict(num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536),
    "tiny": dict(num_hidden_layers=4, hidden_size=64, num_attention_heads=4, intermediate_size=256),
}
# Within a layer, random weights spread the samples' logits about as far as the planned uncertainties of neighbouring
# layers lie apart. The classifiers are shrunk by this factor, and logit errors divided by it.
CLASSIFIER_SCALE = 0.125


@dataclass(frozen=True)
class Samples:
    """Texts as token ids. `requests` cuts them into the calls of one run."""

    token_ids: list[list[int]]

    @property
    def lengths(self) -> Tensor:
        return torch.tensor([len(ids) for ids in self.token_ids])

    def requests(self, batch: int, device: torch.device, speed: Tensor | None = None) -> Iterator[Request]:
        """Batches in order, padded on the right to their longest sample, as tokenizers do. `speed` [n]."""
        for begin in range(0, len(self.token_ids), batch):
            part = self.token_ids[begin : begin + batch]
            longest = max(map(len, part))
            input_ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in part])
            lengths = torch.tensor([len(ids) for ids in part])
            yield Request(
                input_ids=input_ids.to(device),
                attention_mask=(torch.arange(longest) < lengths[:, None]).long().to(device),
                speed=None if speed is None else speed[begin : begin + batch].to(device),
            )


@dataclass(frozen=True)
class Exits:
    """One way in which samples leave.

    Attributes:
        label: for tables.
        speed: [n] float32, the Speed of each sample.
        exit_layer: [n] int64, where it leaves in the reference.
        planned: whether every contestant has to leave at these layers. Else samples whose uncertainty comes close to
            their Speed may leave elsewhere in another precision.
    """

    label: str
    speed: Tensor
    exit_layer: Tensor
    planned: bool


def make_random_model(shape: str) -> FastBertForSequenceClassification:
    """Random weights, two labels, and exit heads whose uncertainty falls from layer to layer."""
    torch.manual_seed(0)
    config = FastBertConfig(BertConfig(**SHAPES[shape]), num_labels=2)
    model = FastBertForSequenceClassification(config).eval()
    set_exit_levels(model, random_samples(32, "mixed", model, seed=1))
    return model


@torch.inference_mode()
def set_exit_levels(model: FastBertForSequenceClassification, samples: Samples) -> None:
    """Shrink the classifiers and set the students' biases so that the uncertainty after layer i is about 1 - i / L
    on average over `samples`."""
    depth = len(model.heads)
    for head in model.heads:
        head.classifier.weight.mul_(CLASSIFIER_SCALE)
    logits = reference_answers(model, samples, batch=8).logits  # [n, L, 2]
    for layer, head in enumerate(model.student_classifiers, start=1):
        wanted = _logit_difference(1 - layer / depth)
        shift = wanted - (logits[:, layer - 1, 0] - logits[:, layer - 1, 1]).mean()
        head.classifier.bias.add_(torch.stack([shift, -shift]) / 2)


def _logit_difference(uncertainty: float) -> float:
    """The d >= 0 for which softmax([d, 0]) has this normalised entropy, by bisection."""
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        p = 1 / (1 + math.exp(-middle))
        entropy = -(p * math.log(p) + (1 - p) * math.log1p(-p)) / math.log(2) if p < 1 else 0.0
        low, high = (middle, high) if entropy > uncertainty else (low, middle)
    return low


def random_samples(count: int, kind: str, model: FastBertForSequenceClassification, seed: int) -> Samples:
    """`kind` as in `harness.sample_lengths`; the quantiles of the lengths are fixed, their order is drawn."""
    draw = torch.Generator().manual_seed(seed)
    if kind == "full":
        lengths = sample_lengths(count, kind, LONGEST)
    else:
        lengths = MIXED_LENGTHS.icdf(_shares(count, draw)).long().clamp(3, LONGEST).tolist()
    vocabulary = model.backbone.config.vocab_size
    return Samples([torch.randint(1, vocabulary, (length,), generator=draw).tolist() for length in lengths])


def text_samples(dataset: TokenisedDataset, count: int) -> Samples:
    """The first `count` texts."""
    return Samples([dataset[index]["input_ids"] for index in range(min(count, len(dataset)))])


def _shares(count: int, draw: torch.Generator) -> Tensor:
    """The middles of `count` equal parts of (0, 1), shuffled."""
    return ((torch.arange(count) + 0.5) / count)[torch.randperm(count, generator=draw)]


def plan_exits(count: int, depth: int, mean_depth: float, seed: int = 0) -> Tensor:
    """Exit layers [count] in 1..depth from the truncated geometric distribution with this mean (at least 1).

    Its quantiles are taken rather than random draws, in random order: the mean of a small batch is right too.
    """
    layers = torch.arange(1, depth + 1, dtype=torch.float64)
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        shares = torch.softmax(middle * layers, 0)
        low, high = (middle, high) if (shares * layers).sum() < mean_depth else (low, middle)
    draw = torch.Generator().manual_seed(seed)
    return torch.searchsorted(shares.cumsum(0), _shares(count, draw).double()).clamp(max=depth - 1) + 1


def planned_exits(uncertainty: Tensor, mean_depth: float, depth_of_mean: int = 12) -> Exits:
    """Planned exits, and the Speeds that bring them about.

    Args:
        uncertainty: [n, L] of the reference.
        mean_depth: mean exit layer of a model with `depth_of_mean` layers; scaled to L.

    Raises:
        RuntimeError: a sample's uncertainty does not fall from layer to layer, so that no Speed would do.
    """
    count, depth = uncertainty.shape
    plan = plan_exits(count, depth, max(1.0, mean_depth * depth / depth_of_mean))
    before = torch.cat([torch.ones(count, 1), uncertainty.cummin(dim=1).values], dim=1)  # [n, L + 1]
    upper = before.gather(1, plan[:, None] - 1)[:, 0]
    at_plan = uncertainty.gather(1, plan[:, None] - 1)[:, 0]
    lower = torch.where(plan == depth, 0.0, at_plan)  # behind the last layer everybody leaves
    if not bool((lower < upper).all()):
        raise RuntimeError("the uncertainty of a sample does not fall from layer to layer; no Speed gives the plan")
    return Exits(f"mean depth {mean_depth:g} of {depth_of_mean}", (lower + upper) / 2, plan, planned=True)


def exits_at_speed(uncertainty: Tensor, speed: float) -> Exits:
    """A trained model's own exits. `uncertainty` [n, L]."""
    exits = uncertainty < speed
    exits[:, -1] = True
    speeds = torch.full((len(uncertainty),), speed)
    return Exits(f"Speed {speed:g}", speeds, exits.int().argmax(dim=1) + 1, planned=False)


@torch.inference_mode()
def reference_answers(model: FastBertForSequenceClassification, samples: Samples, batch: int) -> Answer:
    """logits [n, L, N] and uncertainty [n, L] of every exit head, from Transformers layers in the model's own dtype."""
    outputs: Sequence[Any] = [
        model(request.input_ids, request.attention_mask, output_all_exits=True)
        for request in samples.requests(batch, model.device)
    ]
    return Answer(
        logits=torch.cat([output.all_logits for output in outputs]).cpu(),
        uncertainty=torch.cat([output.all_uncertainty for output in outputs]).cpu(),
    )
