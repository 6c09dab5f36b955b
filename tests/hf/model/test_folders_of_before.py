"""Model folders that were saved before exits had a room of their own load, and answer as the model does."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from helpers.small_bert import assert_same, make_backbone_config, make_batch

# What their config.json said beside the backbone's own values, which transformers writes.
CONFIG = {
    "architectures": ["FastBertForSequenceClassification"],
    "dtype": "float32",
    "exit_layers": [1, 3],
    "head_activation": "tanh",
    "head_hidden_size": 4,
    "head_num_attention_heads": 2,
    "head_num_dense_layers": 1,
    "head_pooling": "mean",
    "id2label": {"0": "low", "1": "middle", "2": "high"},
    "label2id": {"low": 0, "middle": 1, "high": 2},
    "model_type": "fastbert",
    "transformers_version": "5.24.0",
}
# The tensors of a head, by the names that they had.
PARTS = {
    "attentive": ("projection", "query", "key", "value", "attention_output", "dense", "classifier"),
    "pooled": ("dense.0", "classifier"),
}


@torch.no_grad()
@pytest.mark.parametrize("head_type", PARTS)
def test_a_folder_of_before_loads(tmp_path, head_type):
    backbone = make_backbone_config(num_hidden_layers=3)
    named = {name: CONFIG[name] for name in CONFIG if name.startswith(("head_", "exit_"))}
    torch.manual_seed(0)
    model = FastBertForSequenceClassification(
        FastBertConfig(backbone, head_type=head_type, num_labels=3, **named)
    ).eval()
    weights = model.state_dict()
    of_heads = {
        f"heads.{head}.{part}.{kind}" for head in (0, 1) for part in PARTS[head_type] for kind in ("weight", "bias")
    }
    assert {name for name in weights if not name.startswith("backbone.")} == of_heads
    assert "backbone.encoder.layer.2.attention.self.query.weight" in weights

    config = CONFIG | {"head_type": head_type, "backbone_config": backbone.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    loaded, report = FastBertForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.id2label == {0: "low", 1: "middle", 2: "high"} and loaded.config.exit_layers == [1, 3]
    ids, mask = make_batch(4)
    assert_same(loaded(ids, mask, speed=0.9), model(ids, mask, speed=0.9))
