"""A model and a tokenizer that do next to nothing, for tests of what runs around them."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from fastbert_hf.exits.resolution import resolve_speed


class StubModel:
    """Answers the first token id of every text as its uncertainty; no layers."""

    training = False
    device = torch.device("cpu")
    config = SimpleNamespace(
        num_labels=2,
        max_position_embeddings=512,
        trained_max_length=None,
        trained_stride=None,
        id2label={0: "no", 1: "yes"},
        multi_label=False,
        problem_type=None,
    )

    def get_input_embeddings(self):
        return SimpleNamespace(num_embeddings=10**9)

    def resolve_speed(self, speed, speedup, batch_size):
        return resolve_speed(speed, batch_size=batch_size, device="cpu", exit_layers=[1, 2])

    def __call__(self, input_ids, attention_mask, speed, speedup):
        size = len(input_ids)
        return SimpleNamespace(
            logits=torch.zeros(size, 2),
            uncertainty=input_ids[:, 0].float(),
            exit_layer=torch.ones(size, dtype=torch.int64),
        )


class StubTokenizer:
    """A text is its number; it becomes that token id."""

    model_max_length = 512
    pad_token_id = 0

    def __deepcopy__(self, memo):
        return self

    def __call__(self, texts, pairs, **options):
        return {"input_ids": [[int(text), *(7,) * (int(text) % 3)] for text in texts]}
