"""`fastbert_hf.FastBertForSequenceClassification`: FastBERT on a Transformers backbone."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastbert_kernels.criteria import Criterion
from fastbert_kernels.engine.dtypes import EncoderDtype, hidden_dtype
from fastbert_kernels.engine.encoder import Encoder, prepare_encoder
from fastbert_kernels.engine.folding import fold_attentive_head
from fastbert_kernels.engine.packed import PackedBatch, Results
from fastbert_kernels.engine.rule import Rule
from fastbert_kernels.engine.weights import ExitHead, PooledHeadWeights
from fastbert_kernels.hosts.at_once import answer_at_once, behind_layers, entrance, rule_of, usual_rules
from fastbert_kernels.hosts.backbones import Tokens, embed, embedding_differences
from fastbert_kernels.hosts.base import Host
from fastbert_kernels.hosts.bert_layers import activation_of, has_position_bias, layer_parameters, layer_weights
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.hosts.exit_zero import ask_exit_zero, logits_at_zero, staying
from fastbert_kernels.hosts.guard import differences, is_code_of_its_package
from fastbert_kernels.hosts.packed_inputs import (
    packed_tokens,
    padded_inputs,
    tokens_of_padded,
)
from fastbert_kernels.hosts.parameters import ParameterGroups, Parameters, linear_parameters
from fastbert_kernels.hosts.pool_entry import embed_rows, enter
from fastbert_kernels.hosts.scores import scores
from fastbert_kernels.hosts.structure import refuse

_CLASS = "FastBertForSequenceClassification"
_PACKAGES = ("transformers.", "torch.", "fastbert_hf.")


def matches(model: nn.Module) -> bool:
    # A model of this class exists only where its module was imported.
    modeling = sys.modules.get("fastbert_hf.modeling")
    return modeling is not None and isinstance(model, modeling.FastBertForSequenceClassification)


def encoder(model: Any, dtype: EncoderDtype | None, backend: str) -> Derived[Encoder]:
    own = type(model).forward
    names = (own.__module__, own.__qualname__)
    if names != ("fastbert_hf.modeling", f"{_CLASS}.forward") or not is_code_of_its_package(own):
        raise ValueError(f"{type(model).__name__} has a forward of its own, so it cannot be patched")
    config, layers, heads = model.config, model.layers, model.heads
    if len(heads) != len(config.exit_layers) or config.exit_layers[-1] != len(layers):
        raise ValueError(
            f"this model has {len(layers)} layers and {len(heads)} exit heads, but its configuration names the exit "
            f"layers {config.exit_layers}, so it cannot be patched; set backbone_config.num_hidden_layers and "
            "exit_layers to what is there"
        )
    if model.exit_zero is not None and model.device.type != "cpu":
        raise ValueError(
            f"exit zero is served on a CPU only, and this model is on {model.device}, so it cannot be patched; move it "
            "to the CPU, or call it unpatched"
        )
    backbone, layer_heads = model.backbone, model.layer_heads
    parts = ParameterGroups(
        [layer_parameters(layer, backbone) for layer in layers], [*map(head_parameters, layer_heads)]
    )
    replaced = {"backbone.embeddings": backbone.embeddings, "layers": layers, "heads": heads}
    if has_position_bias(backbone):
        replaced["backbone.encoder"] = backbone.encoder
    changed = differences(replaced, _PACKAGES, [*map(activation_of, layers)])
    refuse(model, HOST.name, changed + embedding_differences(backbone))

    def build(*tensors: Tensor) -> Encoder:
        of_layers, of_heads = parts.split(tensors)
        precision = hidden_dtype(dtype, tensors[0].dtype)
        exit_heads: list[ExitHead | None] = [None] * len(layers)
        for number, head, group in zip(behind_layers(config.exit_layers), layer_heads, of_heads, strict=True):
            exit_heads[number - 1] = _head_weights(head, group, precision)
        return prepare_encoder(
            [layer_weights(layer, group, backbone) for layer, group in zip(layers, of_layers, strict=True)],
            exit_heads,
            dtype,
            backend,
        )

    return Derived(model, parts.flat(), build, replaced.values())


def head_parameters(head: Any) -> Parameters:
    """Return what `_head_weights` takes, in its order."""
    from fastbert_hf.heads import AttentiveHead, PooledHead

    if isinstance(head, PooledHead):
        return linear_parameters([*head.dense, head.classifier])
    if not isinstance(head, AttentiveHead):
        raise ValueError(
            f"exit heads of the kind {type(head).__name__} cannot be patched, only AttentiveHead and PooledHead; the "
            "unpatched model serves them"
        )
    parameters = linear_parameters(
        [head.projection, head.query, head.key, head.value, head.attention_output, head.dense, head.classifier]
    )
    parameters.remove((head.key, "bias"))  # it drops out of the softmax
    return parameters


def _head_weights(head: Any, tensors: list[Tensor], dtype: torch.dtype) -> ExitHead:
    from fastbert_hf.heads import PooledHead

    if isinstance(head, PooledHead):
        return PooledHeadWeights.cast(
            tensors[::2], tensors[1::2], pooling=head.pooling, activation=head.activation, dtype=dtype
        )
    folded = fold_attentive_head(*tensors, num_attention_heads=head.num_attention_heads, dtype=dtype)
    return dataclasses.replace(folded, narrow_activation=head.activation, mlp_activation=head.activation)


def forward(
    model: Any,
    encoder: Encoder,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    speed: Any = None,
    labels: Tensor | None = None,
    output_all_exits: bool = False,
    speedup: float | None = None,
    return_dict: bool | None = None,
    **others: Any,
) -> Any:
    """Answer a call of the model's `forward`, which alone answers one with any of `others`."""
    of_all_layers = model.config.output_hidden_states or model.config.output_attentions
    if others or of_all_layers or input_ids is None:
        return NotImplemented
    inputs = input_ids, attention_mask, token_type_ids
    if not output_all_exits and (output := answer_at_once(model, encoder, *inputs, speed, speedup)) is not None:
        return model.finished_output(output, labels, return_dict)
    tokens = tokens_of_padded(model, encoder, *inputs)
    resolved = model.resolve_speed(speed, speedup, input_ids.shape[0])
    if input_ids.shape[0] == 0:
        return NotImplemented
    if output_all_exits:
        return model.finished_output(_all_exits(model, encoder, tokens, resolved), labels, return_dict)
    results = _run(model, encoder, tokens, resolved)
    return model.finished_output(_output(results), labels, return_dict)


def _all_exits(model: Any, encoder: Encoder, tokens: Tokens, resolved: Any) -> Any:
    """Answer with every exit head on every sample, in the precision that the encoder has."""
    from fastbert_hf.outputs import warn_if_not_finite
    from fastbert_hf.passes import output_of

    layers = behind_layers(model.config.exit_layers)
    all_logits = encoder.every_exit(_embedded(model, encoder, tokens, 0.0), layers)
    if model.exit_zero is not None:
        all_logits = torch.cat([logits_at_zero(model, encoder, tokens)[:, None], all_logits], dim=1)
    output = output_of(model, resolved, all_logits)
    warn_if_not_finite(output.uncertainty)
    return output


@torch.no_grad()
def forward_packed(
    model: Any,
    encoder: Encoder,
    input_ids: Tensor,
    cu_seqlens: Tensor,
    token_type_ids: Tensor | None = None,
    speed: Any = None,
    speedup: float | None = None,
) -> Any:
    """Classify texts whose tokens lie one text behind the other, without padding.

    The answers are those of a call with padded texts. On a GPU the host does not wait for the device, except to check
    `token_type_ids` where the backbone has no segments, and a `speed` that is a tensor.

    Args:
        input_ids: int64 or int32 [T], the tokens of all B texts, on the model's device.
        cu_seqlens: int64 or int32 [B + 1], in host memory: text b has the tokens from cu_seqlens[b] up to
            cu_seqlens[b + 1], at least one.
        token_type_ids: int64 or int32 [T], or None for one segment; as in the model's `forward`.
        speed: as in the model's `forward`.
        speedup: as in the model's `forward`.

    Returns:
        A `fastbert_hf.outputs.FastBertOutput` with a row for each text, in their order.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes do not fit, a text has no token or too many, or a Speed that `resolve_speed` refuses.
        RuntimeError: the model is in train mode.
    """
    tokens = packed_tokens(model, input_ids, cu_seqlens, token_type_ids)
    size = cu_seqlens.shape[0] - 1
    resolved = model.resolve_speed(speed, speedup, size)
    return NotImplemented if size == 0 else _output(_run(model, encoder, tokens, resolved))


@torch.no_grad()
def score_packed(
    model: Any,
    encoder: Encoder,
    input_ids: Tensor,
    cu_seqlens: Tensor,
    token_type_ids: Tensor | None = None,
    *,
    layers: Sequence[int],
    keep: Callable[[int, Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Run a model with one output, and let the caller say behind some layers who goes on.

    Args:
        input_ids: as in `forward_packed`, and so the next two.
        cu_seqlens: B of at least 1 text.
        token_type_ids: or None.
        layers: behind whose student classifiers the caller is asked, ascending.
        keep: (layer, texts [S] that are left, their scores float32 [S]) -> who goes on, bool [S].

    Returns:
        The texts that are left behind the last layer, int64 [S], and their scores, float32 [S].

    Raises:
        TypeError, ValueError: as `forward_packed`.
    """
    tokens = packed_tokens(model, input_ids, cu_seqlens, token_type_ids)
    depth = encoder.depth
    # Nothing changes by less than 0, so that all stay, and what they remember is their score.
    speeds = tuple(0.0 if layer in layers else None for layer in range(1, depth + 1))
    state = encoder.start(_embedded(model, encoder, tokens, 0.0), Rule(Criterion.STABILITY, layer_speeds=speeds))
    for layer in layers:
        if len(state) == 0:
            break
        encoder.advance(state, layer)
        state.keep(keep(layer, state.indices.long(), state.scores()))
    left = encoder.advance(state, depth)
    return left.indices.long(), left.logits[:, 0]


def _score_padded(
    model: Any, input_ids: Tensor, cu_seqlens: Tensor, token_type_ids: Tensor | None = None, **asked: Any
) -> tuple[Tensor, Tensor]:
    """Answer a call of `score_packed` by the model's own layers."""
    from fastbert_hf.passes import run_while_kept

    return run_while_kept(
        model, model.check_batch(*padded_inputs(model, input_ids, cu_seqlens, token_type_ids)), **asked
    )


@torch.no_grad()
def _forward_padded(
    model: Any,
    input_ids: Tensor,
    cu_seqlens: Tensor,
    token_type_ids: Tensor | None = None,
    speed: Any = None,
    speedup: float | None = None,
) -> Any:
    """Answer a call of `forward_packed` by the model's `forward`."""
    return model.forward(*padded_inputs(model, input_ids, cu_seqlens, token_type_ids), speed=speed, speedup=speedup)


def pack(
    model: Any,
    encoder: Encoder,
    input_ids: Tensor,
    cu_seqlens: Tensor,
    token_type_ids: Tensor | None = None,
    speed: float | Tensor = 0.0,
) -> PackedBatch:
    """Embed texts whose tokens lie one text behind the other.

    Args:
        input_ids: as in `forward_packed`, and so the next two.
        cu_seqlens: B of at least 1 text.
        token_type_ids: or None.
        speed: the threshold of all texts, or float32 [B] on the model's device.

    Raises:
        TypeError, ValueError: as `forward_packed`.
    """
    return _embedded(model, encoder, packed_tokens(model, input_ids, cu_seqlens, token_type_ids), speed)


def probe(model: Any, lengths: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return inputs of `pack`: random texts of these lengths, or as long as the model allows."""
    kept = [min(length, model.config.max_position_embeddings) for length in lengths]
    ids = torch.randint(model.config.vocab_size, (sum(kept),), generator=generator)
    return ids.to(model.device), torch.tensor([0, *itertools.accumulate(kept)])


def calibrated_in(model: Any) -> str | None:
    """Return the precision on whose answers the model's calibrated setting was chosen, None where that is not known."""
    setting = model.calibrated_setting
    precision: str | None = None if setting is None else setting.precision
    return precision


def inference_precision(model: Any, encoder: Encoder) -> str:
    """Return the precision in which the model answers, as calibrated settings name it."""
    return encoder.precision


def _precision_of_weights(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def _run(model: Any, encoder: Encoder, tokens: Tokens, resolved: Any) -> Results:
    """Run B >= 1 samples; `resolved` is of the model's `resolve_speed`."""
    rule = rule_of(resolved, model.config.exit_layers)
    if not resolved.asks(0):
        return encoder.run(_embedded(model, encoder, tokens, resolved.sample_speeds), rule)
    at_zero = ask_exit_zero(model, encoder, tokens, resolved)
    if not bool(at_zero.stays.any()):
        return at_zero.merged(None)
    rest = _embedded(model, encoder, staying(tokens, at_zero.stays), resolved.sample_speeds[at_zero.stays])
    rest.history = at_zero.handed_on()
    return at_zero.merged(encoder.run(rest, rule))


def _output(results: Results) -> Any:
    from fastbert_hf.outputs import FastBertOutput, warn_if_not_finite

    warn_if_not_finite(results.uncertainty)
    return FastBertOutput(**vars(results))


def _embedded(model: Any, encoder: Encoder, tokens: Tokens, speed: float | Tensor) -> PackedBatch:
    return PackedBatch.of(embed(model.backbone, encoder, tokens), tokens.cu_seqlens, tokens.max_seqlen, speed)


HOST = Host(
    name=f"fastbert_hf.{_CLASS}",
    matches=matches,
    encoder=encoder,
    forward=forward,
    pack=pack,
    probe=probe,
    scores=scores,
    calibrated_in=calibrated_in,
    enter=enter,
    embed=embed_rows,
    usual_rules=usual_rules,
    entrance=entrance,
    methods={
        "forward_packed": forward_packed,
        "score_packed": score_packed,
        "inference_precision": inference_precision,
    },
    own_ways={
        "forward_packed": _forward_padded,
        "score_packed": _score_padded,
        "inference_precision": _precision_of_weights,
    },
)
