"""What the engines of full depth are made from where the model is a classifier of Transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from peers.contestant import Setup


class PlainClassifier(nn.Module):
    """A classifier of Transformers, called as the engines call it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.backbone = model.base_model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids, attention_mask).logits


@dataclass(frozen=True)
class PlainSetup(Setup):
    """What contestants are made from, where the model is one of Transformers."""

    model: Any

    def classifier(self) -> nn.Module:
        return PlainClassifier(self.model).eval()
