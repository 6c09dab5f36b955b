"""What a host file provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastbert_kernels.engine.arrival import Arrival
from fastbert_kernels.engine.dtypes import EncoderDtype
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.engine.entrance import Entrance
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.rule import Rule
from fastbert_kernels.engine.spans import Left
from fastbert_kernels.hosts.derived import Derived


class OwnForward(Exception):
    """Raised by a host's `forward` for a call that the model's own forward has to answer; the message says what of the
    call it is, and is passed on to the user once."""


@dataclass(frozen=True)
class Entry:
    """Samples as they come to a pool.

    Attributes:
        arrival: those that run through layers, in order; None for nobody.
        left: those that were answered before the first layer, by their places among all; None for nobody.
    """

    arrival: Arrival | None
    left: Left | None = None


@dataclass(frozen=True)
class Host:
    """How one FastBERT implementation maps to the engine.

    Attributes:
        name: as users know the implementation.
        matches: whether a model is of it. It is asked about models that exist, so it never has to import the
            implementation.
        encoder: (model, dtype or None, backend) -> the model's layers and heads, derived from its parameters when first
            needed; ValueError with the reason for a model of this implementation that cannot be patched.
        forward: (model, encoder, *args, **kwargs) -> what the host's own `forward(*args, **kwargs)` returns, or
            NotImplemented for a call that the host's own forward should answer; OwnForward, where a user who counts on
            the fast path has to be told.
        pack: (model, encoder, *inputs) -> the batch that the encoder runs, its tokens embedded; which inputs, the host
            file says. None where the user's own code embeds, or where an answer depends on the padding.
        probe: (model, lengths, generator) -> inputs of `pack`: texts of random tokens of the model's vocabulary, of
            these lengths or as long as the model allows. None without `pack`.
        scores: (model, logits [B, N] of the encoder) -> what dtype="auto" compares in place of labels and
            uncertainties, [B, K], or None for a model whose answer is the best of N classes. None where all models of
            the host are so.
        calibrated_in: model -> the precision, as "float32", on whose answers the exits that it takes by default were
            chosen, or None.
        enter: (model, encoder, *inputs, **options) -> any number of samples for a pool, checked and not embedded. None
            where an answer of the model is more than its row of the results.
        embed: (model, encoder, texts of several arrivals of `enter`) -> their rows in front of the first layer,
            [T, H]; on a CPU each row is as it is in a call with its arrival alone. There is one where there is `enter`.
        usual_rules: model -> the rules by which its samples leave as a rule, for which graphs are recorded in front of
            traffic. None: that of the paper.
        entrance: model -> how it embeds padded texts, for encoders that do so in a recorded graph; None for a model
            that cannot. None where no model of the host can.
        methods: name -> (model, encoder, *args, **kwargs) -> result, which `patch` adds to the instance as methods
            called without `encoder`, and `unpatch` removes. A model that has such an attribute already is refused.
        own_ways: name of a method -> (model, *args, **kwargs) -> the same result in the host's own way, which is taken
            where the method returns NotImplemented, or where modules were changed after `patch`.
        inference_only: the host's own forward is inference in every mode and switches dropout and autograd off by
            itself, and so does `forward`: it is called in train mode and with autograd on, too.
        training_methods: names of the host's own methods with which training begins, whose optimisers may change
            weights behind the back of the version counters: calling one has everything derived anew at the next call.
    """

    name: str
    matches: Callable[[nn.Module], bool]
    encoder: Callable[[nn.Module, EncoderDtype | None, str], Derived[Encoder]]
    forward: Callable[..., Any]
    pack: Callable[..., PackedBatch] | None = None
    probe: Callable[[Any, Sequence[int], torch.Generator], Sequence[Any]] | None = None
    scores: Callable[[Any, Tensor], Tensor | None] | None = None
    calibrated_in: Callable[[Any], str | None] | None = None
    enter: Callable[..., Entry] | None = None
    embed: Callable[[Any, Encoder, Sequence[Any]], Tensor] | None = None
    usual_rules: Callable[[Any], Sequence[Rule]] | None = None
    entrance: Callable[[Any], Entrance | None] | None = None
    methods: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    own_ways: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    inference_only: bool = False
    training_methods: tuple[str, ...] = ()
