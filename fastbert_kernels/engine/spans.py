"""Spans: an encoder is started with a packed batch, advanced to a layer, and read.

A span is the encoder layers from a to b, run for a packed batch that is then read: who left, with which answers, and
who is left. A run is a chain of spans, as a rule of one. Between spans the samples stand still, so that those of
several arrivals which stand behind the same layer can go on as one batch.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels.criteria import Criterion
from fastbert_kernels.engine.answers import Answered
from fastbert_kernels.engine.dtypes import precision_name
from fastbert_kernels.engine.entrance import Entrance, PaddedCall
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.rule import Rule, default_criterion, full_depth
from fastbert_kernels.engine.weights import ExitHead, teacher_classifier


@dataclass
class PackedState:
    """Samples on their way through an encoder, all behind the same layer.

    Attributes:
        batch: the samples that are left, with what the next layer takes.
        rule: by which they leave.
        indices: integers [B] by which the caller knows them, on the device of the batch.
        layer: number of layers that they have behind them, 0..L.
    """

    batch: PackedBatch
    rule: Rule
    indices: Tensor
    layer: int = 0

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def tokens(self) -> int:
        """T, of all samples together."""
        return self.batch.hidden.shape[0]

    def scores(self) -> Tensor:
        """Return the score of every sample at the head that it was asked last, float32 [B]; NaN where there is none.

        Only by STABILITY, whose history has it.
        """
        history = self.batch.history
        if self.rule.criterion is not Criterion.STABILITY or history is None:
            raise ValueError(f"samples that leave by {self.rule.criterion.value} remember no score")
        return torch.where(history[:, 1] > 0, history[:, 0].contiguous().view(torch.float32), math.nan)

    def keep(self, stays: Tensor) -> None:
        """Let go of the samples that do not stay, bool [B]; nobody answers for them."""
        if bool(stays.all()):
            return
        self.batch.keep(stays)
        self.indices = self.indices[stays]

    def split(self, samples: int) -> tuple[PackedState, PackedState]:
        """Divide the state behind the first samples, in which order they are; the parts are views of it.

        On a GPU the host waits, to learn where the tokens of the second part begin.

        Args:
            samples: of the first part.

        Raises:
            ValueError: there are fewer.
        """
        if not 0 <= samples <= len(self):
            raise ValueError(f"a state of {len(self)} samples cannot be split behind {samples}")
        parts = self.batch.split(samples)
        numbers = self.indices[:samples], self.indices[samples:]
        first, rest = (PackedState(part, self.rule, own, self.layer) for part, own in zip(parts, numbers, strict=True))
        return first, rest

    def select(self, samples: Sequence[int]) -> PackedState:
        """Make a state of some of the samples, in the order given; it has a copy of them. On a GPU the host waits.

        Args:
            samples: their places, from 0.
        """
        places = torch.tensor(samples, dtype=torch.int64, device=self.indices.device)
        return PackedState(self.batch.select(places), self.rule, self.indices[places], self.layer)

    @classmethod
    def concatenate(cls, states: Sequence[PackedState]) -> PackedState:
        """Make one state of several, which are used up; its samples are theirs, in order.

        Args:
            states: at least one, of one encoder, all behind the same layer and by the same rule.

        Raises:
            ValueError: there is none, or they differ in layer or rule.
        """
        if not states:
            raise ValueError("there is no state to concatenate")
        first = states[0]
        for name in ("layer", "rule"):
            if len(found := {getattr(state, name) for state in states}) > 1:
                raise ValueError(f"states that are concatenated must have one {name}, not {sorted(map(str, found))}")
        batch = type(first.batch).concatenate([state.batch for state in states])
        return cls(batch, first.rule, torch.cat([state.indices for state in states]), first.layer)


@dataclass
class Left(Results):
    """The answers of n samples that have left, in the order in which they stood.

    Attributes:
        indices: integers [n] by which the caller knows them.
    """

    indices: Tensor


class Encoder(abc.ABC):
    """All layers of a FastBERT, with exit heads behind some or all, the last one among them."""

    @property
    @abc.abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the hidden states."""

    @property
    def precision(self) -> str:
        """The precision of the products as people write it, such as "bfloat16"."""
        return precision_name(self.dtype, ())

    @property
    def attention(self) -> dict[str, dict[str, float]] | str | None:
        """What a kernel of the attention is chosen by, see `AttentionChoice.as_dict`; None where there is no choice."""
        return None

    @property
    @abc.abstractmethod
    def depth(self) -> int:
        """L, the number of layers; a second head behind a layer counts as one."""

    @property
    @abc.abstractmethod
    def num_labels(self) -> int:
        """N, the number of classes."""

    @abc.abstractmethod
    def _run_span(self, state: PackedState, until: int) -> Results:
        """Run the layers of `state` behind `state.layer` up to `until`, which is more.

        The batch of `state` becomes that of the samples that are left, in order, whose `sample_index` stays what it
        was, their row in the results; behind the last layer it is undefined. The rest of `state` stays.

        Args:
            state: B >= 1 samples, numbered from 0 in order.
            until: up to L.

        Returns:
            A row per sample. Those of samples that are left are undefined.
        """

    def warm_up(  # noqa: B027 (most have nothing to do)
        self,
        shapes: Collection[tuple[int, int, int]],
        rules: Sequence[Rule] = (),
        entrance: Entrance | None = None,
    ) -> None:
        """Do now what calls with batches of these shapes are to be spared, such as recording CUDA graphs.

        Args:
            shapes: tokens, samples and longest sample of batches.
            rules: by which samples leave; none is the paper's. One without Speeds of layers stands for full depth, too.
            entrance: how the model embeds padded texts; None where it does so in front of the encoder.
        """

    def record_on_demand(self) -> None:  # noqa: B027 (most have nothing to record)
        """Let calls record the CUDA graphs that they lack, each the first of its size."""

    def takes_padded(self, samples: int, length: int) -> bool:
        """Return whether `answer_padded` may answer a call of so many texts, padded to `length`."""
        return False

    def answer_padded(self, call: PaddedCall, entrance: Entrance, rule: Rule) -> Answered | None:
        """Answer a call from its ids on, where that takes less of the host than to pack and embed in front of `run`.

        Args:
            call: its shapes, dtypes and devices are checked, its values are not.
            entrance: how the model embeds.
            rule: when a head lets a sample out.

        Returns:
            None where the call has to be packed.
        """
        return None

    def start(self, batch: PackedBatch, rule: Rule, indices: Tensor | None = None) -> PackedState:
        """Return the samples of a batch as they stand in front of the first layer.

        Args:
            batch: B >= 1 samples, as `PackedBatch.of` makes them; used up.
            rule: when a head lets a sample out.
            indices: integers [B] by which the caller knows them; None numbers them from 0.

        Raises:
            ValueError: the rule is for another number of layers or of labels.
        """
        rule.check_fits(self.depth, self.num_labels)
        return PackedState(batch, rule, batch.sample_index if indices is None else indices)

    def advance(self, state: PackedState, until: int) -> Left:
        """Run the samples of `state` on, until an exit head lets them out or `until` layers are behind them.

        Afterwards `state` is that of the samples that are left, in order.

        Args:
            state: of this encoder, with any number of samples.
            until: more than `state.layer`, at most L, behind which nobody is left.

        Returns:
            Who left, with the uncertainty that the rule's criterion compares (its entropy for PATIENCE and at full
            depth).

        Raises:
            ValueError: `until` is out of range.
        """
        if not state.layer < until <= self.depth:
            raise ValueError(
                f"samples behind layer {state.layer} of {self.depth} can be advanced to a later one, not {until}"
            )
        size, indices = len(state), state.indices
        if size > 0:
            state.batch.renumber()
            results = self._run_span(state, until)
        else:
            results = Results.empty(state.batch.hidden, 0, self.num_labels)
        state.layer = until
        if until == self.depth:
            state.batch.cut(0, 0)
        survivors = len(state)
        if survivors == 0:
            state.indices = indices[:0]
            return Left(results.logits, results.uncertainty, results.exit_layer, indices)
        kept = state.batch.sample_index.long()
        state.indices = indices[kept]
        leaves = torch.ones(size, dtype=torch.bool, device=indices.device).index_fill_(0, kept, False)
        rows = leaves.int().argsort(descending=True, stable=True)[: size - survivors]  # nobody waits for their number
        return Left(results.logits[rows], results.uncertainty[rows], results.exit_layer[rows], indices[rows])

    def run(self, batch: PackedBatch, rule: Rule) -> Results:
        """Run every sample until an exit head lets it out, or to the last layer.

        Args:
            batch: B >= 1 samples, as `PackedBatch.of` makes them; used up.
            rule: when a head lets a sample out.

        Returns:
            A row per sample, with the uncertainty that the rule's criterion compares (its entropy for PATIENCE and at
            full depth).

        Raises:
            ValueError: the rule is for another number of layers.
        """
        return self._run_span(self.start(batch, rule), self.depth)

    def every_exit(self, batch: PackedBatch, layers: Sequence[int]) -> Tensor:
        """Run every sample to the last layer, and ask the heads behind some layers of all of them.

        A layer with a head is run twice: once for its head, behind which a run lets go of who left.

        Args:
            batch: B >= 1 samples, as `PackedBatch.of` makes them; used up.
            layers: ascending from 1, L the last of them.

        Returns:
            float32 [B, len(layers), N], NaN where a head's logits are not finite.
        """
        size = len(batch)
        state = self.start(batch, full_depth(self.num_labels))
        answers = []
        for layer in layers:
            if layer < self.depth:
                if state.layer < layer - 1:
                    self.advance(state, layer - 1)
                asked = self._all_leaving(state, layer)
                left = self.advance(asked, layer)
            else:
                left = self.advance(state, layer)
            logits = left.logits.new_full((size, self.num_labels), math.nan)
            logits[left.indices.long()] = left.logits
            answers.append(logits)
        return torch.stack(answers, dim=1)

    def _all_leaving(self, state: PackedState, layer: int) -> PackedState:
        """Return a copy of `state` whose samples all leave behind `layer`, the next one, if their logits are finite."""
        speeds = tuple(math.inf if number == layer else None for number in range(1, self.depth + 1))
        rule = Rule(default_criterion(self.num_labels), layer_speeds=speeds)
        batch = dataclasses.replace(
            state.batch,
            hidden=state.batch.hidden.clone(),
            speed=torch.full_like(state.batch.speed, math.inf),
            history=None,
        )
        return PackedState(batch, rule, state.indices, state.layer)


class LayeredEncoder(Encoder):
    """An encoder that has its layers one by one.

    Attributes:
        layers: L.
        heads: L, None behind a layer without an exit head; the last layer has one.
    """

    layers: Sequence[Any]
    heads: Sequence[ExitHead | None]

    @property
    def depth(self) -> int:
        return len(self.layers)

    @property
    def precision(self) -> str:
        first = self.layers[0]
        return first.precision if isinstance(first, TorchLayer) else precision_name(self.dtype, ())

    @property
    def attention(self) -> dict[str, dict[str, float]] | str | None:
        first = self.layers[0]
        return first.attention.as_dict() if isinstance(first, TorchLayer) else None

    @property
    def num_labels(self) -> int:
        return teacher_classifier(self.heads).num_labels
