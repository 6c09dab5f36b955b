"""`fastbert.FastBERT` and its pair version `FastBERT_S2`, of the paper's authors (`fastbert` 0.2.2 on PyPI).

It takes one text a call, pads it to `seq_length` tokens and masks the padding by adding -10000 to the scores. In
float32 e^x is 0 below -104, so padding has exactly no weight where scores differ by less than 9896, and the result is
that of the text alone. Every text is segment 1: its mask is what the segment embedding is looked up with.
"""

from __future__ import annotations

import itertools
import math
import numbers
import warnings
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastbert_kernels import ops
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.derived import Derived
from fastbert_kernels.engine.encoder import Encoder, hidden_dtype, prepare_encoder
from fastbert_kernels.engine.folding import fold_attentive_head
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.rule import ENTROPY_RULE
from fastbert_kernels.hosts.base import Host
from fastbert_kernels.hosts.bert_layers import Parameters, linear_parameters
from fastbert_kernels.hosts.uer_layers import (
    LAYER_NORM,
    attention_parameters,
    check_kinds,
    layer_parameters,
    layer_weights,
)

Answer = tuple[Hashable, int]  # label, number of executed layers

_MODULE = "fastbert.fastbert"
_WINDOW = 1024  # texts whose tokens are in memory at a time
_BATCH_TOKENS = 8192
_UNCERTAINTY_FLOOR = torch.finfo(torch.float32).eps


def _is_a(model: nn.Module, name: str) -> bool:
    return any(kind.__module__ == _MODULE and kind.__qualname__ == name for kind in type(model).__mro__)


def encoder(model: Any, dtype: torch.dtype | None, backend: str) -> Derived[Encoder]:
    _check(model)
    layers, heads = list(model.kernel.encoder.transformer), list(model.classifiers)
    # All parameters in one list, so that one comparison tells whether any has changed.
    parts = [*map(layer_parameters, layers), *map(_head_parameters, heads)]

    def build(*tensors: Tensor) -> Encoder:
        remaining = iter(tensors)
        groups = [list(itertools.islice(remaining, len(part))) for part in parts]
        precision = hidden_dtype(dtype, tensors[0].dtype)
        return prepare_encoder(
            [layer_weights(layer, group) for layer, group in zip(layers, groups[: len(layers)], strict=True)],
            [
                fold_attentive_head(*group, num_attention_heads=head.self_atten.heads_num, dtype=precision)
                for head, group in zip(heads, groups[len(layers) :], strict=True)
            ],
            dtype,
            backend,
        )

    return Derived(list(itertools.chain.from_iterable(parts)), build)


def _check(model: Any) -> None:
    """ValueError for a model whose answers would not be those of the package's own code."""
    own = "FastBERT_S2" if _is_a(model, "FastBERT_S2") else "FastBERT"
    for name, owner in (("forward", own), ("_fast_infer", "FastBERT")):
        function = getattr(type(model), name)
        if (function.__module__, function.__qualname__) != (_MODULE, f"{owner}.{name}"):
            raise ValueError(f"{type(model).__name__} has a {name} of its own, so it cannot be patched")
    if model.labels_num < 2:
        raise ValueError("a model with one label has nothing to decide and cannot be patched")
    check_kinds(model.kernel.encoder, {"": "encoders.bert_encoder.BertEncoder"}, "the encoder")
    check_kinds(
        model.kernel.embedding, {"": "layers.embeddings.BertEmbedding", "layer_norm": LAYER_NORM}, "the embedding"
    )


def _head_parameters(head: Any) -> Parameters:
    """What `fold_attentive_head` takes, in its order."""
    if (type(head).__module__, type(head).__qualname__) != (_MODULE, "BertMiniClassifier"):
        raise ValueError(
            f"exit heads of the kind {type(head).__name__} cannot be patched, only BertMiniClassifier; the unpatched "
            "model serves them"
        )
    if head.pooling in ("mean", "max", "last"):  # anything else is the first token to it
        raise ValueError(
            f"exit heads with pooling={head.pooling!r} cannot be patched: in this package that takes padding, too (the "
            "mean even goes over the features); the unpatched model serves them, as does pooling='first' patched"
        )
    check_kinds(head, {"self_atten": "layers.multi_headed_attn.MultiHeadedAttention"}, "an exit head")
    parameters = [
        *linear_parameters([head.output_layer_0]),
        *attention_parameters(head.self_atten),
        *linear_parameters([head.output_layer_1, head.output_layer_2]),
    ]
    parameters.remove((head.self_atten.linear_layers[1], "bias"))  # that of the keys drops out of the softmax
    return parameters


def forward(model: Any, encoder: Encoder, sentence: str, speed: float = 0.0) -> Answer:
    (answer,) = _answers(model, encoder, [sentence], speed)
    if answer[0] is None:
        raise ValueError("the logits of this text are not finite, so it has no label; look at the model's weights")
    return answer


def forward_pair(model: Any, encoder: Encoder, sent_a: str, sent_b: str, speed: float = 0.0) -> Answer:
    return forward(model, encoder, model._merge(sent_a, sent_b), speed)


def predict(
    model: Any, encoder: Encoder, sentences: Iterable[str], speed: float = 0.0
) -> list[Answer | tuple[None, int]]:
    """What the model answers to each text, in batches.

    Args:
        sentences: any number of texts, each as a call of the model takes one.
        speed: the Speed of all of them, as in a call.

    Returns:
        (label, number of executed layers) of each text, in order. Where logits are not finite the label is None, and a
        RuntimeWarning names the texts.
    """
    if isinstance(sentences, str):
        raise TypeError("sentences must be a list of texts, not one text; for one text call the model itself")
    answers = _answers(model, encoder, sentences, speed)
    if bad := [number for number, (label, _) in enumerate(answers) if label is None]:
        warnings.warn(f"logits are not finite for text(s) {bad}: they have no label", RuntimeWarning, stacklevel=3)
    return answers


def predict_pairs(
    model: Any, encoder: Encoder, pairs: Iterable[tuple[str, str]], speed: float = 0.0
) -> list[Answer | tuple[None, int]]:
    """What the model answers to each pair of texts, in batches.

    Args:
        pairs: any number of pairs (A-sentence, B-sentence). speed: the Speed of all of them, as in a call.

    Returns:
        As of `predict` of `FastBERT`.
    """
    return predict(model, encoder, (model._merge(*pair) for pair in pairs), speed)


@torch.inference_mode()
def _answers(model: Any, encoder: Encoder, texts: Iterable[str], speed: float) -> list[Answer | tuple[None, int]]:
    if model.training:
        model.eval()  # as the package leaves it
    threshold = _threshold(speed, model.labels_num)
    answers: list[Any] = []
    remaining = iter(texts)
    while window := list(itertools.islice(remaining, _WINDOW)):
        samples = [_token_ids(model, text) for text in window]
        place = len(answers)
        answers.extend([None] * len(samples))
        for batch in _batches(samples):
            results = _run(model, encoder, [samples[number] for number in batch], threshold)
            # Of the probabilities, among which rounding may make other ties than among the logits.
            labels = F.softmax(results.logits, dim=1).argmax(dim=1).tolist()
            finite, layers = results.uncertainty.isfinite().tolist(), results.exit_layer.tolist()
            for number, label, known, layer in zip(batch, labels, finite, layers, strict=True):
                answers[place + number] = (model.id2label[label] if known else None, layer)
    return answers


def _threshold(speed: float, num_labels: int) -> float:
    """The Speed that decides alike here.

    The package clamps probabilities to [eps, 1 - eps] in front of the logarithm, so its uncertainties are never less
    than eps / log N, and at a Speed up to that no text leaves early.
    """
    if not isinstance(speed, (numbers.Real, Tensor)):
        raise TypeError(f"speed must be a number, not {speed!r}")
    speed = float(speed)
    return speed if speed > _UNCERTAINTY_FLOOR / math.log(num_labels) else 0.0


def _token_ids(model: Any, text: str) -> list[int]:
    """Without padding."""
    ids, mask = model._convert_to_id_and_mask(text)
    return ids[: sum(mask)]


def _batches(samples: list[list[int]]) -> Iterator[list[int]]:
    """Numbers of samples of similar length, of up to so many tokens together."""
    batch: list[int] = []
    tokens = 0
    for number in sorted(range(len(samples)), key=lambda number: len(samples[number])):
        if batch and tokens + len(samples[number]) > _BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(number)
        tokens += len(samples[number])
    if batch:
        yield batch


def _run(model: Any, encoder: Encoder, samples: list[list[int]], threshold: float) -> Results:
    device, lengths = model.kernel.embedding.word_embedding.weight.device, [len(ids) for ids in samples]
    ids = torch.tensor(list(itertools.chain.from_iterable(samples)), device=device)
    positions = torch.tensor([position for length in lengths for position in range(length)], device=device)
    batch = PackedBatch(
        hidden=_embed(model.kernel.embedding, encoder, ids, positions),
        cu_seqlens=torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device),
        sample_index=torch.arange(len(samples), dtype=torch.int32, device=device),
        speed=torch.full((len(samples),), threshold, dtype=torch.float32, device=device),
        max_seqlen=max(lengths),
    )
    return encoder.run(batch, ENTROPY_RULE if threshold > 0 else None)


def _embed(own: Any, encoder: Encoder, ids: Tensor, positions: Tensor) -> Tensor:
    """[T, H] of the encoder's dtype, for ids and positions [T]."""
    words, segment = own.word_embedding.weight, own.segment_embedding.weight[1:2]
    if isinstance(encoder, CompiledEncoder) and words.dtype == torch.float32:
        return ops.embed(
            ids,
            positions,
            None,
            words,
            own.position_embedding.weight,
            segment,
            own.layer_norm.gamma,
            own.layer_norm.beta,
            layer_norm_eps=own.layer_norm.eps,
            dtype=encoder.dtype,
            layer_norm="unbiased",
        )
    return own.layer_norm(own.word_embedding(ids) + own.position_embedding(positions) + segment).to(encoder.dtype)


HOST = Host(
    name="fastbert.FastBERT",
    matches=lambda model: _is_a(model, "FastBERT") and not _is_a(model, "FastBERT_S2"),
    encoder=encoder,
    forward=forward,
    methods={"predict": predict},
    inference_only=True,
    training_methods=("_forward_for_loss",),
)
PAIR_HOST = Host(
    name="fastbert.FastBERT_S2",
    matches=lambda model: _is_a(model, "FastBERT_S2"),
    encoder=encoder,
    forward=forward_pair,
    methods={"predict": predict_pairs},
    inference_only=True,
    training_methods=("_forward_for_loss",),
)
