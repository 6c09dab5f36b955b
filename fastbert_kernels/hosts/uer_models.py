"""What the hosts of `fastbert` and `fastplm` share: two packages of the paper's authors on one toolkit, UER.

Such a model takes one text a call, pads it to `seq_length` tokens and masks the padding by adding -10000 to the
scores. In float32 e^x is 0 below -104, so padding has exactly no weight where scores differ by less than 9896, and the
result is that of the text alone. Its mask is what the segment embedding is looked up with, from 1 on for tokens.
"""

from __future__ import annotations

import itertools
import math
import numbers
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastbert_kernels import ops
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.dtypes import EncoderDtype, hidden_dtype
from fastbert_kernels.engine.encoder import Encoder, prepare_encoder
from fastbert_kernels.engine.folding import fold_attentive_head
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.rule import ENTROPY_RULE, FULL_DEPTH, Rule
from fastbert_kernels.engine.weights import AttentiveHeadWeights, ExitHead
from fastbert_kernels.hosts.base import Host
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.hosts.guard import differences, is_code_of_its_package
from fastbert_kernels.hosts.parameters import ParameterGroups, Parameters, linear_parameters
from fastbert_kernels.hosts.structure import refuse
from fastbert_kernels.hosts.uer_layers import attention_parameters, check_kinds, layer_parameters, layer_weights

Answer = tuple[Hashable, int]  # label, number of executed layers
Decision = tuple[float, Rule]  # what the engine gets for a Speed: threshold of all samples, and rule
# An uncertainty in the packages is at least this divided by what it is normalised with: they clamp probabilities to
# [eps, 1 - eps] in front of the logarithm.
ENTROPY_FLOOR = torch.finfo(torch.float32).eps

_WINDOW = 1024  # texts whose tokens are in memory at a time
_BATCH_TOKENS = 8192

_Sample = tuple[list[int], list[int]]  # token ids and their segments


def is_a(model: nn.Module, module: str, name: str) -> bool:
    """Return whether a model is of the class of that name, or of one derived from it, without importing it."""
    return any(kind.__module__ == module and kind.__qualname__ == name for kind in type(model).__mro__)


def check_methods(model: Any, module: str, **owners: str) -> None:
    """ValueError where a method (by name) is not the one of the class in `module`, so that answers may be others."""
    for name, owner in owners.items():
        function = getattr(type(model), name)
        written = (function.__module__, function.__qualname__) == (module, f"{owner}.{name}")
        if not written or not is_code_of_its_package(function):
            raise ValueError(f"{type(model).__name__} has a {name} of its own, so it cannot be patched")


def attentive_head_weights(head: Any, tensors: list[Tensor], dtype: torch.dtype) -> AttentiveHeadWeights:
    """The folded head from the values of `attentive_head_parameters`, for hidden states of `dtype`."""
    return fold_attentive_head(*tensors, num_attention_heads=head.self_atten.heads_num, dtype=dtype)


def check_first_token(head: Any) -> None:
    """ValueError for a head that pools over tokens."""
    pooling = getattr(head, "pooling", "first")
    if pooling in ("mean", "max", "last"):  # anything else is the first token to it
        raise ValueError(
            f"exit heads with pooling={pooling!r} cannot be patched: in this code that takes padding, too (the mean "
            "even goes over the features); the unpatched model serves them, as does pooling='first' patched"
        )


def attentive_head_parameters(head: Any) -> Parameters:
    """Return what `fold_attentive_head` takes of a head that looks at the first token, in its order."""
    check_kinds(head, {"self_atten": "layers.multi_headed_attn.MultiHeadedAttention"}, "an exit head")
    parameters = [
        *linear_parameters([head.output_layer_0]),
        *attention_parameters(head.self_atten),
        *linear_parameters([head.output_layer_1, head.output_layer_2]),
    ]
    parameters.remove((head.self_atten.linear_layers[1], "bias"))  # that of the keys drops out of the softmax
    return parameters


def derived_encoder(
    model: nn.Module,
    embedding: nn.Module,
    layers: Sequence[nn.Module],
    heads: Sequence[nn.Module],
    head_parameters: Callable[[Any], Parameters],
    head_weights: Callable[[Any, list[Tensor], torch.dtype], ExitHead],
    dtype: EncoderDtype | None,
    backend: str,
) -> Derived[Encoder]:
    """Derive the engine's encoder from L layers of UER, of which some may be the same, and a head behind each.

    Args:
        model: whose they are.
        embedding: as `embed` reads it.
        head_parameters: of a head.
        head_weights: from a head, the values of its parameters, and the dtype of the hidden states.
        dtype: as in `patch`.
        backend: as in `patch`.
    """
    distinct = list(dict.fromkeys(layers))
    replaced = {"embedding": embedding}
    replaced |= {f"layer {number}": layer for number, layer in enumerate(distinct, start=1)}
    replaced |= {f"exit head {number}": head for number, head in enumerate(heads, start=1)}
    refuse(model, "a FastBERT of UER", differences(replaced))
    parts = ParameterGroups([*map(layer_parameters, distinct)], [*map(head_parameters, heads)])

    def build(*tensors: Tensor) -> Encoder:
        of_layers, of_heads = parts.split(tensors)
        precision = hidden_dtype(dtype, tensors[0].dtype)
        weights = {layer: layer_weights(layer, group) for layer, group in zip(distinct, of_layers, strict=True)}
        return prepare_encoder(
            [weights[layer] for layer in layers],
            [head_weights(head, group, precision) for head, group in zip(heads, of_heads, strict=True)],
            dtype,
            backend,
        )

    return Derived(model, parts.flat(), build, replaced.values())


def _host(
    name: str,
    matches: Callable[[nn.Module], bool],
    encoder: Callable[[Any, EncoderDtype | None, str], Derived[Encoder]],
    forward: Callable[..., Any],
    predict: Callable[..., Any],
) -> Host:
    return Host(
        name=name,
        matches=matches,
        encoder=encoder,
        forward=forward,
        pack=pack,
        probe=probe,
        methods={"predict": predict},
        inference_only=True,
        training_methods=("_forward_for_loss",),
    )


def text_and_pair_hosts(
    names: tuple[str, str],
    module: str,
    encoder: Callable[[Any, EncoderDtype | None, str], Derived[Encoder]],
    decision: Callable[[Any, float], Decision],
) -> tuple[Host, Host]:
    """Return the hosts of a package's models, which have one encoder and differ in what they are called with.

    Args:
        names: of the hosts, in messages.
        module: where `FastBERT`, which takes a text, and `FastBERT_S2`, which takes two, are.
        encoder: as in `Host`.
        decision: what the engine gets for a model and a Speed.
    """

    def takes_pairs(model: nn.Module) -> bool:
        return is_a(model, module, "FastBERT_S2")

    def takes_texts(model: nn.Module) -> bool:
        return is_a(model, module, "FastBERT") and not takes_pairs(model)

    texts, pairs = _text_calls(decision), _pair_calls(decision)
    return _host(names[0], takes_texts, encoder, *texts), _host(names[1], takes_pairs, encoder, *pairs)


def _text_calls(decision: Callable[[Any, float], Decision]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return `forward` and `predict` of models called with a text."""

    def forward(model: Any, encoder: Encoder, sentence: str, speed: float = 0.0) -> Answer:
        return _one(model, encoder, sentence, decision(model, _number(speed)))

    def predict(
        model: Any, encoder: Encoder, sentences: Iterable[str], speed: float = 0.0
    ) -> list[Answer | tuple[None, int]]:
        """Return what the model answers to each text, in batches.

        Args:
            sentences: any number of texts, each as a call of the model takes one.
            speed: the Speed of all of them, as in a call.

        Returns:
            (label, number of executed layers) of each text, in order. Where logits are not finite the label is None,
            and a RuntimeWarning names the texts.
        """
        return _many(model, encoder, _checked(sentences), decision(model, _number(speed)))

    return forward, predict


def _pair_calls(decision: Callable[[Any, float], Decision]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return `forward` and `predict` of models called with two texts."""

    def forward(model: Any, encoder: Encoder, sent_a: str, sent_b: str, speed: float = 0.0) -> Answer:
        return _one(model, encoder, model._merge(sent_a, sent_b), decision(model, _number(speed)))

    def predict(
        model: Any, encoder: Encoder, pairs: Iterable[tuple[str, str]], speed: float = 0.0
    ) -> list[Answer | tuple[None, int]]:
        """Return what the model answers to each pair of texts, in batches.

        Args:
            pairs: any number of pairs (A-sentence, B-sentence).
            speed: the Speed of all of them, as in a call.

        Returns:
            (label, number of executed layers) of each pair, in order. Where logits are not finite the label is None,
            and a RuntimeWarning names the pairs.
        """
        merged = (model._merge(*pair) for pair in _checked_pairs(pairs))
        return _many(model, encoder, merged, decision(model, _number(speed)))

    return forward, predict


def entropy_decision(model: Any, speed: float) -> Decision:
    """Leave at a normalised entropy below the Speed; where that is below `ENTROPY_FLOOR` nobody leaves early."""
    if not speed > ENTROPY_FLOOR / math.log(model.labels_num):
        return 0.0, FULL_DEPTH
    return speed, ENTROPY_RULE


def _number(speed: Any) -> float:
    if not isinstance(speed, (numbers.Real, Tensor)):
        raise TypeError(f"speed must be a number, not {speed!r}")
    return float(speed)


def _one(model: Any, encoder: Encoder, text: str, decision: Decision) -> Answer:
    (answer,) = _answers(model, encoder, [text], decision)
    label, layers = answer
    if label is None:
        raise ValueError("the logits of this text are not finite, so it has no label; look at the model's weights")
    return label, layers


def _checked(sentences: Iterable[str]) -> Iterator[str]:
    if isinstance(sentences, str):
        raise TypeError("sentences must be a list of texts, not one text; for one text call the model itself")
    for number, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise TypeError(f"sentences must be a list of texts, but number {number} is {sentence!r}")
        yield sentence


def _checked_pairs(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for number, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or [isinstance(text, str) for text in pair] != [True, True]:
            raise TypeError(f"pairs must be a list of pairs of texts, but number {number} is {pair!r}")
        yield pair[0], pair[1]


def _many(model: Any, encoder: Encoder, texts: Iterable[str], decision: Decision) -> list[Answer | tuple[None, int]]:
    answers = _answers(model, encoder, texts, decision)
    if bad := [number for number, (label, _) in enumerate(answers) if label is None]:
        warnings.warn(f"logits are not finite for text(s) {bad}: they have no label", RuntimeWarning, stacklevel=4)
    return answers


@torch.inference_mode()
def _answers(model: Any, encoder: Encoder, texts: Iterable[str], decision: Decision) -> list[Answer | tuple[None, int]]:
    if model.training:
        model.eval()  # as the packages leave it
    answers: list[Any] = []
    remaining = iter(texts)
    while window := list(itertools.islice(remaining, _WINDOW)):
        samples = [tokens_of(model, text) for text in window]
        place = len(answers)
        answers.extend([None] * len(samples))
        for batch in _batches([len(ids) for ids, _ in samples]):
            results = run_batch(model, encoder, [samples[number] for number in batch], decision)
            # Of the probabilities, among which rounding may make other ties than among the logits.
            labels = F.softmax(results.logits, dim=1).argmax(dim=1).tolist()
            finite, layers = results.uncertainty.isfinite().tolist(), results.exit_layer.tolist()
            for number, label, known, layer in zip(batch, labels, finite, layers, strict=True):
                answers[place + number] = (model.id2label[label] if known else None, layer)
    return answers


def tokens_of(model: Any, text: str) -> tuple[list[int], list[int]]:
    """Token ids and their segments, without padding; ValueError where the model has no such segment."""
    ids, segments = model._convert_to_id_and_mask(text)
    length = sum(segment > 0 for segment in segments)
    rows = model.kernel.embedding.segment_embedding.weight.shape[0]
    if max(segments) >= rows:
        raise ValueError(
            f"this text has segment {max(segments)}, one for each [SEP], but the model's segments end at {rows - 1}; "
            "take [SEP] out of it"
        )
    return ids[:length], segments[:length]


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Numbers of samples of similar length, of up to so many tokens together."""
    batch: list[int] = []
    tokens = 0
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        if batch and tokens + lengths[number] > _BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(number)
        tokens += lengths[number]
    if batch:
        yield batch


def run_batch(model: Any, encoder: Encoder, samples: Sequence[_Sample], decision: Decision) -> Results:
    """Run one batch; `samples` are of `tokens_of`."""
    threshold, rule = decision
    return encoder.run(pack(model, encoder, samples, threshold), rule)


def pack(model: Any, encoder: Encoder, samples: Sequence[_Sample], threshold: float) -> PackedBatch:
    """Embed samples, one row of tokens behind the other.

    Args:
        samples: token ids and segments of each, as `tokens_of` gives them.
        threshold: what the uncertainty of all of them is compared with.
    """
    device, lengths = model.kernel.embedding.word_embedding.weight.device, [len(ids) for ids, _ in samples]

    def row(parts: Iterable[Iterable[int]]) -> Tensor:
        return torch.tensor(list(itertools.chain.from_iterable(parts)), device=device)

    ids, segments = (row(parts) for parts in zip(*samples, strict=True))
    hidden = embed(model.kernel, encoder, ids, row(map(range, lengths)), segments)
    cu_seqlens = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    return PackedBatch.of(hidden, cu_seqlens, max(lengths), threshold)


def probe(model: Any, lengths: Sequence[int], generator: torch.Generator) -> tuple[list[_Sample], float]:
    """Return inputs of `pack`: random texts of these lengths, or as long as the model allows."""
    own = model.kernel.embedding
    words, positions = len(own.word_embedding.weight), len(own.position_embedding.weight)
    samples: list[_Sample] = []
    for length in lengths:
        ids = torch.randint(words, (min(length, positions),), generator=generator).tolist()
        samples.append((ids, [1] * len(ids)))
    return samples, 0.0


def embed(kernel: Any, encoder: Encoder, ids: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
    """[T, H] of the encoder's dtype, for ids, positions and segments [T]; `kernel` has `embedding` and `encoder`."""
    own, words = kernel.embedding, kernel.embedding.word_embedding.weight
    projection = getattr(kernel.encoder, "linear", None)  # of an ALBERT, from the embedding size to the hidden size
    dtype = encoder.dtype if projection is None else words.dtype
    if isinstance(encoder, CompiledEncoder) and words.dtype == torch.float32:
        hidden = ops.embed(
            ids,
            positions,
            segments,
            words,
            own.position_embedding.weight,
            own.segment_embedding.weight,
            own.layer_norm.gamma,
            own.layer_norm.beta,
            layer_norm_eps=own.layer_norm.eps,
            dtype=dtype,
            layer_norm="unbiased",
        )
    else:
        rows = own.word_embedding(ids) + own.position_embedding(positions) + own.segment_embedding(segments)
        hidden = own.layer_norm(rows)
    return (hidden if projection is None else projection(hidden)).to(encoder.dtype)
