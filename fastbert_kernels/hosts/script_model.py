"""`FastBertClassifier` of the authors' script run_fastbert.py (github.com/autoliuweijie/FastBERT), recognised by its
structure, since it is in no package.

Its parts are of the toolkit UER, as those of the package `fastbert`, but a call takes a batch of token ids, and the
Speed is the model's attribute `threshold`. A sample leaves at an uncertainty that is not above it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastbert_kernels.engine.dtypes import EncoderDtype
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.rule import ENTROPY_RULE, FULL_DEPTH
from fastbert_kernels.hosts.base import Host
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.hosts.padding import ValidTokens
from fastbert_kernels.hosts.parameters import Parameters
from fastbert_kernels.hosts.structure import differences, differences_of_call, find, refuse, unknown_parameters
from fastbert_kernels.hosts.uer_layers import LAYER_NORM, check_kinds
from fastbert_kernels.hosts.uer_models import (
    ENTROPY_FLOOR,
    Decision,
    attentive_head_parameters,
    attentive_head_weights,
    check_first_token,
    derived_encoder,
    embed,
)

_LINEAR = {f"output_layer_{number}": nn.Linear for number in range(3)}
_ABOVE_ALL = 2.0  # no uncertainty reaches it


def matches(model: nn.Module) -> bool:
    layers, heads = find(model, "encoder.transformer"), find(model, "classifiers")
    return (
        isinstance(layers, nn.ModuleList)
        and isinstance(heads, nn.ModuleList)
        and len(heads) > 0
        and all(find(head, "self_atten") is not None for head in heads)
    )


def encoder(model: Any, dtype: EncoderDtype | None, backend: str) -> Derived[Encoder]:
    layers, heads = list(model.encoder.transformer), list(model.classifiers)
    found = [] if find(model, "embedding") is not None else ["embedding is missing"]
    found += [f"{name} is missing" for name in ("threshold", "labels_num") if not hasattr(model, name)]
    if len(heads) != len(layers):
        found.append(f"classifiers has {len(heads)} heads for {len(layers)} layers")
    for number, head in enumerate(heads):
        found += _differences_of_head(head, f"classifiers[{number}].")
    found += unknown_parameters(model, ("embedding.", "encoder.transformer.", "classifiers."))
    found += differences_of_call(model, forward)
    refuse(model, HOST.name, found)
    if model.labels_num < 2:
        raise ValueError("a model with one label has nothing to decide and cannot be patched")
    check_kinds(model.encoder, {"": "encoders.bert_encoder.BertEncoder"}, "the encoder")
    check_kinds(model.embedding, {"": "layers.embeddings.BertEmbedding", "layer_norm": LAYER_NORM}, "the embedding")
    return derived_encoder(
        model, model.embedding, layers, heads, _head_parameters, attentive_head_weights, dtype, backend
    )


def _differences_of_head(head: Any, prefix: str) -> list[str]:
    known = (*(f"{name}." for name in _LINEAR), "self_atten.")
    return differences(head, _LINEAR, prefix) + unknown_parameters(head, known, prefix)


def _head_parameters(head: Any) -> Parameters:
    check_first_token(head)
    return attentive_head_parameters(head)


def _decision(model: Any) -> Decision:
    """Leave at a normalised entropy that is not above `threshold`, so with NaN at once, and where that is below
    `ENTROPY_FLOOR` not early. In float32 "at most t" is "below the number next to t"."""
    threshold = float(model.threshold)
    if threshold < ENTROPY_FLOOR / math.log(model.labels_num):
        return 0.0, FULL_DEPTH
    if not threshold < _ABOVE_ALL:
        return _ABOVE_ALL, ENTROPY_RULE
    above = torch.nextafter(torch.tensor(threshold, dtype=torch.float32), torch.tensor(torch.inf))
    return above.item(), ENTROPY_RULE


def forward(
    model: Any, encoder: Encoder, src: Tensor, label: Tensor | None, mask: Tensor, fast: bool = True
) -> tuple[None, Tensor] | Any:
    """None, where training has the loss, and logits [B, N] of the head that answers: with `fast` the one at which a
    sample leaves, else the last.

    Args:
        src: token ids [B, L].
        label: not looked at.
        mask: segments [B, L] from 1 on, 0 for padding.

    Raises:
        ValueError: logits that are not finite, in fast mode, as the unpatched model does by its torch.distributions
            (whose checks torch.compile turns off for a whole process; this one stays).
    """
    valid = mask > 0
    if len(src) == 0 or not bool(valid[:, 0].all()):
        return NotImplemented  # nothing to do, or answers at a first position that is padding
    threshold, rule = _decision(model) if fast else (0.0, FULL_DEPTH)
    logits = encoder.run(pack(model, encoder, src, mask, threshold), rule).logits
    if fast and not bool((finite := logits.isfinite().all(dim=1)).all()):
        rows = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"logits of row(s) {rows} are not finite, so they have no uncertainty; look at the weights")
    return None, logits.to(model.embedding.word_embedding.weight.dtype)


def pack(model: Any, encoder: Encoder, src: Tensor, mask: Tensor, threshold: float) -> PackedBatch:
    """Embed a padded batch and pack it.

    Args:
        src: token ids [B, L].
        mask: segments [B, L] from 1 on, 0 for padding, which no sample begins with.
        threshold: what the uncertainty of all samples is compared with.
    """
    tokens = ValidTokens.of(mask > 0)
    hidden = embed(model, encoder, tokens.take(src), tokens.rows % src.shape[1], tokens.take(mask))
    return PackedBatch.of(hidden, tokens.cu_seqlens, tokens.max_seqlen, threshold)


def probe(model: Any, lengths: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Return inputs of `pack`: random texts of these lengths, or as long as the model allows."""
    words, positions = model.embedding.word_embedding.weight, model.embedding.position_embedding.weight
    mask = (torch.arange(min(max(lengths), len(positions))) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(len(words), mask.shape, generator=generator)
    return ids.to(words.device), mask.to(words.device), 0.0


_NAME = "FastBertClassifier of run_fastbert.py"
# The script's optimiser writes past the version counters, between `train()` and `eval()`.
HOST = Host(_NAME, matches, encoder, forward, pack, probe, training_methods=("train",))
