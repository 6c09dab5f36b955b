"""Checkpoints of github.com/BitVoyage/FastBERT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional
from transformers import BertConfig

from fastbert_hf.configuration import FastBertConfig
from fastbert_hf.conversion import checkpoint
from fastbert_hf.conversion.checkpoint import ConversionError, Entry, layer_norm, linear
from fastbert_hf.conversion.original import Original, Probe, Weights, attend

# Vocabulary, positions, hidden size, layers and intermediate size of the backbone that the repository trains by
# default; it has 12 attention heads and gelu, and its exit heads have 8.
_CHINESE_BERT = (21128, 512, 768, 12, 3072)
_CHINESE_BERT_SETTINGS: dict[str, Any] = {"num_attention_heads": 12, "hidden_act": "gelu", "cls_num_attention_heads": 8}
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"gelu": functional.gelu, "relu": functional.relu}
_EPS = 1e-12
_SHARED = "graph.layer_classifier."  # another name of the last exit head


def read(state: Mapping[str, torch.Tensor], settings: Mapping[str, Any], labels: Mapping[str, Any]) -> Original:
    """Read a checkpoint; arguments and errors as of `uer.read`."""
    depth = checkpoint.count_layers(state, r"graph\.layers\.(\d+)\.")
    entries = _entries(max(depth, 1))
    last = "graph.layer_classifiers.final_classifier."
    shared = {_SHARED + entry.source.removeprefix(last) for entry in entries if entry.source.startswith(last)}
    checkpoint.check_names(state, {entry.source for entry in entries} | shared, "bitvoyage")
    different = sorted(
        name for name in shared if not torch.equal(state[name], state[last + name.removeprefix(_SHARED)])
    )
    if different:
        raise ConversionError(
            f"{different[0]} and {last + different[0].removeprefix(_SHARED)} differ: this checkpoint is older than the "
            "repository's commit a451f98, before which the head that was trained was not the one that answers"
        )
    sizes = checkpoint.solve_sizes(state, entries)
    checkpoint.check_label_names(labels, sizes["N"])
    backbone = (sizes["V"], sizes["P"], sizes["H"], depth, sizes["I"])
    found = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "intermediate_size")
    checkpoint.check_settings(
        settings,
        {
            **dict(zip(found, backbone, strict=True)),
            "type_vocab_size": sizes["S"],
            "cls_hidden_size": sizes["C"],
            "num_class": sizes["N"],
        },
    )
    known: Mapping[str, Any] = _CHINESE_BERT_SETTINGS if backbone == _CHINESE_BERT else {}
    missing = [name for name in _CHINESE_BERT_SETTINGS if name not in settings and name not in known]
    if missing:
        raise ConversionError(
            f"the checkpoint does not say {', '.join(missing)}; give the JSON files that have them (--config "
            "bert_config.json --config fastbert_cls.json)"
        )
    heads, activation, head_heads = ({**known, **settings}[name] for name in _CHINESE_BERT_SETTINGS)
    for count, width in ((heads, sizes["H"]), (head_heads, sizes["C"])):
        if not isinstance(count, int) or count < 1 or width % count:
            raise ConversionError(f"{count!r} attention heads do not divide the width {width}")
    if activation not in _ACTIVATIONS:
        raise ConversionError(f"hidden_act {activation!r} is not known; it must be one of {', '.join(_ACTIVATIONS)}")

    parameters = {entry.target: state[entry.source].double() for entry in entries}
    for number in range(depth):
        output = f"heads.{number}.attention_output"
        parameters[f"{output}.weight"] = torch.eye(sizes["C"], dtype=torch.float64)
        parameters[f"{output}.bias"] = torch.zeros(sizes["C"], dtype=torch.float64)
    probe = Probe.make(sizes["V"], sizes["P"], sizes["S"])
    return Original(
        config=FastBertConfig(
            BertConfig(
                vocab_size=sizes["V"],
                hidden_size=sizes["H"],
                num_hidden_layers=depth,
                num_attention_heads=heads,
                intermediate_size=sizes["I"],
                hidden_act=activation,
                max_position_embeddings=sizes["P"],
                type_vocab_size=sizes["S"],
                layer_norm_eps=_EPS,
            ),
            head_hidden_size=sizes["C"],
            head_num_attention_heads=head_heads,
            head_activation="identity",
            num_labels=sizes["N"],
            **labels,
        ),
        parameters=parameters,
        mapped={entry.source: entry.target for entry in entries},
        left_out=dict.fromkeys(sorted(shared), "another name of the last exit head"),
        notes=[
            f"{heads} attention heads per layer, {activation}, and {head_heads} attention heads per exit head "
            + ("by the configuration given" if settings else "as in the repository (the checkpoint does not say)"),
            "exit heads have no activations there (head_activation='identity') and no projection behind their "
            "attention (attention_output is the identity)",
            "exit heads look at padding too there, so that answers depend on the batch; the converted model answers as "
            "the original does for one text at a time, as its infer.py runs it",
            "a text that is not sure at the last layer has probabilities of zero there, and here those of that layer",
            "inputs: a text is [CLS] and its tokens, without [SEP], token_type_ids 0",
        ],
        special_tokens=("[CLS] $A", "[CLS] $A [SEP] $B:1 [SEP]:1"),
        probe=probe,
        logits=_forward(Weights(state), probe, depth, heads, head_heads, activation),
    )


def _entries(depth: int) -> list[Entry]:
    embeddings = "backbone.embeddings"
    entries = [
        Entry("embeddings.word_embeddings.weight", f"{embeddings}.word_embeddings.weight", "VH"),
        Entry("embeddings.position_embeddings.weight", f"{embeddings}.position_embeddings.weight", "PH"),
        Entry("embeddings.token_type_embeddings.weight", f"{embeddings}.token_type_embeddings.weight", "SH"),
        *layer_norm("embeddings.LayerNorm", f"{embeddings}.LayerNorm"),
    ]
    for number in range(depth):
        own, layer = f"graph.layers.{number}", f"backbone.encoder.layer.{number}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            entries += linear(f"{own}.{name}", f"{layer}.{name}", "HH")
        entries += [
            *layer_norm(f"{own}.attention.output.LayerNorm", f"{layer}.attention.output.LayerNorm"),
            *linear(f"{own}.intermediate.dense", f"{layer}.intermediate.dense", "IH"),
            *linear(f"{own}.output.dense", f"{layer}.output.dense", "HI"),
            *layer_norm(f"{own}.output.LayerNorm", f"{layer}.output.LayerNorm"),
        ]
    for number in range(depth):
        own, head = f"graph.layer_classifiers.{_head_name(number, depth)}", f"heads.{number}"
        entries += linear(f"{own}.dense_narrow", f"{head}.projection", "CH")
        for name in ("query", "key", "value"):
            entries += linear(f"{own}.selfAttention.{name}", f"{head}.{name}", "CC")
        entries += linear(f"{own}.dense_prelogits", f"{head}.dense", "CC")
        entries += linear(f"{own}.dense_logits", f"{head}.classifier", "NC")
    return entries


def _head_name(number: int, depth: int) -> str:
    return "final_classifier" if number == depth - 1 else f"branch_classifier_{number}"


def _forward(weights: Weights, probe: Probe, depth: int, heads: int, head_heads: int, activation: str) -> torch.Tensor:
    """Logits [B, L, N] as the original computes them, a text at a time."""

    def normalise(module: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = centred.pow(2).mean(dim=-1, keepdim=True)
        return weights[f"{module}.gamma"] * (centred / torch.sqrt(variance + _EPS)) + weights[f"{module}.beta"]

    def attention(module: str, x: torch.Tensor, heads: int) -> torch.Tensor:
        query, key, value = (weights.linear(f"{module}.{name}", x) for name in ("query", "key", "value"))
        return attend(query, key, value, heads)

    def text(ids: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        hidden = normalise(
            "embeddings.LayerNorm",
            weights["embeddings.word_embeddings.weight"][ids]
            + weights["embeddings.position_embeddings.weight"][: len(ids)]
            + weights["embeddings.token_type_embeddings.weight"][segments],
        )[None]
        logits = []
        for number in range(depth):
            layer, head = f"graph.layers.{number}", f"graph.layer_classifiers.{_head_name(number, depth)}"
            attended = weights.linear(
                f"{layer}.attention.output.dense", attention(f"{layer}.attention.self", hidden, heads)
            )
            hidden = normalise(f"{layer}.attention.output.LayerNorm", attended + hidden)
            inner = _ACTIVATIONS[activation](weights.linear(f"{layer}.intermediate.dense", hidden))
            hidden = normalise(f"{layer}.output.LayerNorm", weights.linear(f"{layer}.output.dense", inner) + hidden)
            narrow = weights.linear(f"{head}.dense_narrow", hidden)
            first = attention(f"{head}.selfAttention", narrow, head_heads)[:, 0]
            logits.append(weights.linear(f"{head}.dense_logits", weights.linear(f"{head}.dense_prelogits", first)))
        return torch.cat(logits)

    rows = zip(probe.ids, probe.segments, probe.valid, strict=True)
    return torch.stack([text(ids[valid], segments[valid]) for ids, segments, valid in rows])
