"""The authors' own package, `fastbert` on PyPI: one text at a time, padded to 128 tokens."""

from __future__ import annotations

import json
import os
import ssl
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastbert_hf import FastBertForSequenceClassification
from peers.contestant import ADAPTIVE_PEER, Answer, Contestant, Entry, NotAvailable, Request, Setup
from peers.onnx_export import require

_LENGTH = 128  # its default
_CONFIGURATION = "same size as the others"


def _build(setup: Setup) -> Contestant:
    config = setup.model.config
    if (config.head_hidden_size, config.head_num_attention_heads) != (128, 2):
        raise NotAvailable("its exit heads have 128 units and 2 attention heads, and this model's have not")
    peer = _make(_import(setup.folder), setup)
    with torch.no_grad():
        _copy_weights(setup.model, peer)
    last: dict[str, Tensor] = {}
    for classifier in peer.classifiers:
        classifier.register_forward_hook(lambda module, inputs, output: last.update(logits=output))
    # The others get token ids too. This is what its own method does behind the tokenizer.
    peer._convert_to_id_and_mask = lambda ids: (
        ids + [0] * (_LENGTH - len(ids)),
        [1] * len(ids) + [0] * (_LENGTH - len(ids)),
    )

    def run(request: Request) -> Answer:
        ids = request.input_ids[0, : int(request.attention_mask.sum())].tolist()
        _, layers = peer(ids, speed=0.0 if request.speed is None else request.speed.item())
        return Answer(last["logits"], torch.tensor([layers]))

    return Contestant(
        run,
        adaptive=True,
        largest_batch=1,
        note=f"pads every text to {_LENGTH} tokens, evaluates all heads at full depth too; its tokenizer is not timed",
    )


def _import(folder: Path) -> Any:
    """The package. On import it makes a folder in the home directory and switches off the check of TLS certificates;
    neither is to stay."""
    home, context = os.environ.get("HOME"), ssl._create_default_https_context
    os.environ["HOME"] = str(folder)
    try:
        return require("fastbert")
    finally:
        ssl._create_default_https_context = context
        if home is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = home


def _make(package: Any, setup: Setup) -> Any:
    config = setup.model.backbone.config
    if config.hidden_act != "gelu" or config.max_position_embeddings != 512:
        raise NotAvailable("it has GELU and 512 positions only")
    file = setup.folder / "pypi_fastbert.json"
    sizes = {
        "emb_size": config.hidden_size,
        "feedforward_size": config.intermediate_size,
        "hidden_size": config.hidden_size,
        "heads_num": config.num_attention_heads,
        "layers_num": config.num_hidden_layers,
        "dropout": 0.0,
        "embedding": "bert",
        "encoder": "bert",
        "pooling": "first",
        "vocab_path": "google_uncased_en_vocab.txt",
    }
    file.write_text(json.dumps(sizes))
    package.config.MODEL_CONFIG_FILE[_CONFIGURATION] = str(file)
    labels = list(range(setup.model.num_labels))
    peer = package.FastBERT(_CONFIGURATION, labels, seq_length=_LENGTH, is_load=False).eval()
    if len(peer.vocab) != config.vocab_size:
        raise NotAvailable(f"it has a vocabulary of {len(peer.vocab)} only")
    return peer


def _copy_weights(model: FastBertForSequenceClassification, peer: Any) -> None:
    embeddings, theirs = model.backbone.embeddings, peer.kernel.embedding
    theirs.word_embedding.weight.copy_(embeddings.word_embeddings.weight)
    theirs.position_embedding.weight.copy_(embeddings.position_embeddings.weight)
    theirs.segment_embedding.weight.copy_(embeddings.token_type_embeddings.weight[0])  # it takes the mask as segment
    _copy_norm(embeddings.LayerNorm, theirs.layer_norm)
    for layer, their in zip(model.backbone.encoder.layer, peer.kernel.encoder.transformer, strict=True):
        attention = layer.attention
        _copy_attention(
            (attention.self.query, attention.self.key, attention.self.value, attention.output.dense), their.self_attn
        )
        _copy_norm(attention.output.LayerNorm, their.layer_norm_1)
        their.feed_forward.linear_1.load_state_dict(layer.intermediate.dense.state_dict())
        their.feed_forward.linear_2.load_state_dict(layer.output.dense.state_dict())
        _copy_norm(layer.output.LayerNorm, their.layer_norm_2)
    for head, their in zip(model.heads, peer.classifiers, strict=True):
        their.output_layer_0.load_state_dict(head.projection.state_dict())
        _copy_attention((head.query, head.key, head.value, head.attention_output), their.self_atten)
        their.output_layer_1.load_state_dict(head.dense.state_dict())
        their.output_layer_2.load_state_dict(head.classifier.state_dict())


def _copy_attention(ours: tuple[nn.Linear, ...], theirs: Any) -> None:
    for source, target in zip(ours, (*theirs.linear_layers, theirs.final_linear), strict=True):
        target.load_state_dict(source.state_dict())


def _copy_norm(ours: nn.LayerNorm, theirs: Any) -> None:
    theirs.gamma.copy_(ours.weight)
    theirs.beta.copy_(ours.bias)


ENTRIES = (Entry("PyPI fastbert float32", ADAPTIVE_PEER, "float32", _build, devices=("cpu",)),)
