"""A small FastBERT on BERT, and batches for it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertConfig

from fastbert_hf import FastBertConfig, FastBertForSequenceClassification, FastBertOutput

NUM_LAYERS = 4
# Speeds that leave nobody, somebody and everybody behind at the first layers of the random model below.
SPEEDS = [0.0, 0.85, 0.9, 0.95, 1.0]


def make_backbone_config(**changes: Any) -> BertConfig:
    fields: dict[str, Any] = dict(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        initializer_range=0.3,
    )
    return BertConfig(**(fields | changes))


def make_model(**settings: Any) -> FastBertForSequenceClassification:
    torch.manual_seed(0)
    config = FastBertConfig(make_backbone_config(), head_hidden_size=16, **({"num_labels": 3} | settings))
    return FastBertForSequenceClassification(config).eval()


def make_batch(batch_size: int, length: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and a right-padding mask; lengths run from `length` down to 1 and around."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (batch_size, length), generator=generator)
    lengths = length - torch.arange(batch_size) % length
    return ids, (torch.arange(length) < lengths[:, None]).long()


def assert_same(left: FastBertOutput, right: FastBertOutput) -> None:
    torch.testing.assert_close(left.logits, right.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(left.uncertainty, right.uncertainty, rtol=1e-5, atol=1e-5)
    assert torch.equal(left.exit_layer, right.exit_layer)
