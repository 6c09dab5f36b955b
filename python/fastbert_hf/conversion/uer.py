"""Checkpoints with the names of the toolkit UER: the packages `fastbert` and `fastplm`, and their authors' script
`run_fastbert.py` (github.com/autoliuweijie/FastBERT)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional
from transformers import BertConfig

from fastbert_hf.configuration import FastBertConfig
from fastbert_hf.conversion import checkpoint
from fastbert_hf.conversion.checkpoint import ConversionError, Entry, layer_norm, linear
from fastbert_hf.conversion.original import Original, Probe, Weights, attend

# Attention heads by hidden size, layers and intermediate size of the models that the packages offer. The number leaves
# no trace in a checkpoint.
KNOWN_MODELS = {
    (768, 12, 3072): 12,
    (1024, 24, 4096): 16,
    (512, 6, 2048): 8,
    (384, 3, 1536): 6,
    (768, 6, 3072): 12,
    (312, 4, 1200): 12,
    (192, 12, 768): 12,
}
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"gelu": functional.gelu, "relu": functional.relu}
EPS = 1e-6  # added to the standard deviation
HEAD_ATTENTION_HEADS = 2

_PAIRS = {
    "fastbert": (
        "[CLS] $A [SEP] $B",
        "a pair is [CLS] A [SEP] B, all of segment 1 there: token_type_ids 0 throughout",
    ),
    "fastplm": (
        "[CLS] $A [SEP] $B:1 [SEP]:1",
        "a pair is [CLS] A [SEP] B [SEP], of segments 1 and 2 there: token_type_ids 0 and 1",
    ),
}
_PAIRS["script"] = _PAIRS["fastplm"]


def read(
    state: Mapping[str, torch.Tensor], settings: Mapping[str, Any], format: str, labels: Mapping[str, Any]
) -> Original:
    """Read a checkpoint.

    Args:
        state: as in the file.
        settings: fields of the JSON file that configures the kernel; may be empty.
        format: "fastbert", "fastplm" or "script".
        labels: `id2label` for the configuration, or nothing.

    Raises:
        ConversionError: names or sizes do not fit, or the model is of a kind that cannot be converted.
    """
    kernel = "" if format == "script" else "kernel."
    _refuse_other_kinds(state, settings, kernel)
    depth = checkpoint.count_layers(state, rf"{kernel}encoder\.transformer\.(\d+)\.")
    entries = _entries(kernel, max(depth, 1))
    left_out = {name: "pretraining head" for name in state if name.startswith(f"{kernel}target.")}
    checkpoint.check_names(state.keys() - left_out.keys(), (entry.source for entry in entries), format)
    sizes = checkpoint.solve_sizes(state, entries)
    checkpoint.check_label_names(labels, sizes["N"])
    hidden_size, inner = sizes["H"], sizes["I"]
    found = {"hidden_size": hidden_size, "emb_size": hidden_size, "feedforward_size": inner, "layers_num": depth}
    checkpoint.check_settings(settings, found)
    if sizes["S"] != 3:
        raise ConversionError(f"the segment table has {sizes['S']} rows, not the 3 of padding, first and second text")
    heads, whence = _attention_heads(settings, hidden_size, depth, inner)
    activation = settings.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise ConversionError(f"hidden_act {activation!r} is not known; it must be one of {', '.join(ACTIVATIONS)}")

    probe = Probe.make(sizes["V"], sizes["P"], segments=2)
    deviations: list[torch.Tensor] = []
    weights = Weights({name.removeprefix(kernel): value for name, value in state.items() if name not in left_out})
    logits = _forward(weights, probe, depth, heads, activation, deviations)
    shrink = math.sqrt((hidden_size - 1) / hidden_size)
    rows = torch.cat([deviation.flatten() for deviation in deviations]) * shrink
    eps = equivalent_eps(rows, EPS * shrink)
    residual = float(((rows + EPS * shrink) / (rows**2 + eps).sqrt() - 1).abs().max())

    parameters = {entry.target: state[entry.source].double() for entry in entries}
    for entry in entries:
        if entry.source.endswith(".gamma"):
            parameters[entry.target] = parameters[entry.target] * shrink
    segments = "backbone.embeddings.token_type_embeddings.weight"
    parameters[segments] = parameters[segments][1:]
    template, pairs = _PAIRS[format]
    return Original(
        config=FastBertConfig(
            BertConfig(
                vocab_size=sizes["V"],
                hidden_size=hidden_size,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                intermediate_size=inner,
                hidden_act=activation,
                max_position_embeddings=sizes["P"],
                type_vocab_size=2,
                layer_norm_eps=eps,
            ),
            head_hidden_size=sizes["C"],
            head_num_attention_heads=HEAD_ATTENTION_HEADS,
            num_labels=sizes["N"],
            **labels,
        ),
        parameters=parameters,
        mapped={entry.source: entry.target for entry in entries},
        left_out=left_out,
        notes=[
            f"{heads} attention heads per layer and {activation} {whence}; exit heads with 2 attention heads that look "
            "at the first token",
            f"LayerNorm divides by the unbiased deviation plus {EPS:g} there: its weights are multiplied with "
            f"sqrt({hidden_size - 1}/{hidden_size}), and layer_norm_eps {eps:.3g} inside the root comes nearest on the "
            f"random texts, where rows then differ by a factor of at most 1 + {residual:.1e}",
            "segments: row 1 of the table (first text) became token type 0, row 2 (second text) token type 1; row 0 "
            "(padding) is left out, since nothing attends to padding",
            f"inputs: a single text is [CLS] and its tokens, without [SEP]; {pairs}",
        ],
        special_tokens=("[CLS] $A", template),
        probe=probe,
        logits=logits,
        includes_speed=format == "script",
    )


def equivalent_eps(deviations: torch.Tensor, eps: float) -> float:
    """The e with which sqrt(s^2 + e) comes nearest to s + eps, by least squares of the relative error over rows with
    the standard deviations s [R].

    Since sqrt(s^2 + e) = s + e / 2s + ..., the error of a row is (eps - e / 2s) / s.
    """
    inverse = deviations.double().clamp(min=eps).reciprocal()
    return float(2 * eps * (inverse**3).sum() / (inverse**4).sum())


def _entries(kernel: str, depth: int) -> list[Entry]:
    own, embeddings = f"{kernel}embedding", "backbone.embeddings"
    entries = [
        Entry(f"{own}.word_embedding.weight", f"{embeddings}.word_embeddings.weight", "VH"),
        Entry(f"{own}.position_embedding.weight", f"{embeddings}.position_embeddings.weight", "PH"),
        Entry(f"{own}.segment_embedding.weight", f"{embeddings}.token_type_embeddings.weight", "SH"),
        *layer_norm(f"{own}.layer_norm", f"{embeddings}.LayerNorm"),
    ]
    for number in range(depth):
        own, layer = f"{kernel}encoder.transformer.{number}", f"backbone.encoder.layer.{number}"
        for index, name in enumerate(("query", "key", "value")):
            entries += linear(f"{own}.self_attn.linear_layers.{index}", f"{layer}.attention.self.{name}", "HH")
        entries += [
            *linear(f"{own}.self_attn.final_linear", f"{layer}.attention.output.dense", "HH"),
            *layer_norm(f"{own}.layer_norm_1", f"{layer}.attention.output.LayerNorm"),
            *linear(f"{own}.feed_forward.linear_1", f"{layer}.intermediate.dense", "IH"),
            *linear(f"{own}.feed_forward.linear_2", f"{layer}.output.dense", "HI"),
            *layer_norm(f"{own}.layer_norm_2", f"{layer}.output.LayerNorm"),
        ]
    for number in range(depth):
        own, head = f"classifiers.{number}", f"heads.{number}"
        entries += linear(f"{own}.output_layer_0", f"{head}.projection", "CH")
        for index, name in enumerate(("query", "key", "value")):
            entries += linear(f"{own}.self_atten.linear_layers.{index}", f"{head}.{name}", "CC")
        entries += [
            *linear(f"{own}.self_atten.final_linear", f"{head}.attention_output", "CC"),
            *linear(f"{own}.output_layer_1", f"{head}.dense", "CC"),
            *linear(f"{own}.output_layer_2", f"{head}.classifier", "NC"),
        ]
    return entries


def _refuse_other_kinds(state: Mapping[str, torch.Tensor], settings: Mapping[str, Any], kernel: str) -> None:
    encoder = settings.get("encoder", "bert")
    if any(name.startswith(f"{kernel}encoder.conv") for name in state) or encoder == "gatedcnn":
        raise ConversionError("a GCNN: its layers are gated convolutions, and fastbert_hf has attention layers only")
    if any(name.startswith(f"{kernel}encoder.transformer.self_attn.") for name in state) or encoder == "albert":
        raise ConversionError(
            "an ALBERT: all its layers share their weights behind a projection of the embeddings, and no backbone of "
            "fastbert_hf has layers that stay equal in training"
        )
    if encoder == "gpt" or (
        encoder == "bert"
        and "classifiers.0.output_layer_1.weight" in state
        and "classifiers.0.output_layer_0.weight" not in state
    ):
        raise ConversionError(
            "exit heads without output_layer_0 are those of fastplm's GPT, whose tokens do not see what follows them; "
            "the layers of fastbert_hf look both ways"
        )
    if encoder != "bert":
        raise ConversionError(f"encoder {encoder!r}: fastbert_hf has attention layers only")
    pooling = settings.get("pooling", "first")
    if pooling != "first":
        raise ConversionError(
            f"pooling {pooling!r}: the exit heads of fastbert_hf that attend look at the first token, and those here "
            "pool over the outputs of all tokens, padding among them"
        )


def _attention_heads(settings: Mapping[str, Any], hidden_size: int, depth: int, inner: int) -> tuple[int, str]:
    if "heads_num" in settings:
        heads = settings["heads_num"]
        if not isinstance(heads, int) or heads < 1 or hidden_size % heads:
            raise ConversionError(f"heads_num {heads!r} does not divide the hidden size {hidden_size}")
        return heads, "by the configuration given"
    heads = KNOWN_MODELS.get((hidden_size, depth, inner), 0)
    if not heads:
        raise ConversionError(
            f"how many attention heads has this model? None of the packages' models has {depth} layers of "
            f"{hidden_size} with {inner} inside; give its JSON file, with heads_num, as configuration (--config)"
        )
    return heads, f"as in the packages' model with {depth} layers of {hidden_size} (the checkpoint does not say)"


def _forward(
    weights: Weights, probe: Probe, depth: int, heads: int, activation: str, deviations: list[torch.Tensor]
) -> torch.Tensor:
    """Logits [B, L, N] as the original computes them; appends the deviation of every row that a LayerNorm saw."""

    def normalise(module: str, x: torch.Tensor) -> torch.Tensor:
        deviation = x.std(dim=-1, keepdim=True)
        deviations.append(deviation[probe.valid])
        return (
            weights[f"{module}.gamma"] * (x - x.mean(dim=-1, keepdim=True)) / (deviation + EPS)
            + weights[f"{module}.beta"]
        )

    def attention(module: str, x: torch.Tensor, heads: int) -> torch.Tensor:
        projected = [weights.linear(f"{module}.linear_layers.{index}", x) for index in range(3)]
        query, key, value = projected
        return weights.linear(f"{module}.final_linear", attend(query, key, value, heads, mask))

    mask = (1.0 - probe.valid.double()) * -10000.0
    hidden = normalise(
        "embedding.layer_norm",
        weights["embedding.word_embedding.weight"][probe.ids]
        + weights["embedding.position_embedding.weight"][: probe.ids.shape[1]]
        + weights["embedding.segment_embedding.weight"][(probe.segments + 1) * probe.valid],
    )
    logits = []
    for number in range(depth):
        layer, head = f"encoder.transformer.{number}", f"classifiers.{number}"
        hidden = normalise(f"{layer}.layer_norm_1", attention(f"{layer}.self_attn", hidden, heads) + hidden)
        inner = ACTIVATIONS[activation](weights.linear(f"{layer}.feed_forward.linear_1", hidden))
        hidden = normalise(f"{layer}.layer_norm_2", weights.linear(f"{layer}.feed_forward.linear_2", inner) + hidden)
        narrow = torch.tanh(weights.linear(f"{head}.output_layer_0", hidden))
        first = attention(f"{head}.self_atten", narrow, HEAD_ATTENTION_HEADS)[:, 0]
        logits.append(
            weights.linear(f"{head}.output_layer_2", torch.tanh(weights.linear(f"{head}.output_layer_1", first)))
        )
    return torch.stack(logits, dim=1)
