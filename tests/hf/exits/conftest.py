"""A model whose heads predict every class, with uncertainties all over [0, 1]."""

from __future__ import annotations

import pytest
import torch

from fastbert_hf import FastBertForSequenceClassification
from helpers.training import make_model

EXIT_LAYERS = [1, 3, 4, 5]


@pytest.fixture(scope="module")
def model() -> FastBertForSequenceClassification:
    torch.manual_seed(1)
    model = make_model(num_layers=5, num_labels=4, exit_layers=EXIT_LAYERS, id2label=dict(enumerate("0123"))).eval()
    for parameter in model.backbone.parameters():
        parameter.data *= 3 if parameter.dim() == 2 else 1
    # Every class is predicted, with uncertainties all over [0, 1].
    probe = torch.randint(4, 10, (64, 9), generator=torch.Generator().manual_seed(0))
    for head in model.heads:
        head.classifier.weight.data = 3 * torch.randn_like(head.classifier.weight)
    means = model(probe, output_all_exits=True).all_logits.mean(dim=0)
    for head, mean in zip(model.heads, means, strict=True):
        head.classifier.bias.data -= mean
    return model


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 10, (64, 9), generator=generator)
    lengths = torch.randint(1, 10, (64,), generator=generator)
    return {"input_ids": ids, "attention_mask": (torch.arange(9) < lengths[:, None]).long()}
