"""A model of the structure that `hosts.bitvoyage` knows: BERT layers with LayerNorms of their
own kind, and behind each layer a head that attends to padding too."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY, DEPTH, LABELS = 60, 4, 3


@dataclass(frozen=True)
class Sizes:
    vocabulary: int = VOCABULARY
    positions: int = 64
    width: int = 32
    heads: int = 4
    intermediate: int = 64
    narrow: int = 16  # of the heads
    depth: int = DEPTH
    labels: int = LABELS


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta, 1e-12)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.num_attention_heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, hidden, mask=None):
        query, key, value = (
            linear(hidden).unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        scores = scores if mask is None else scores + mask
        return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)


class Residual(nn.Module):
    def __init__(self, inner, width):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inner, width), Norm(width)

    def forward(self, x, residual):
        return self.LayerNorm(self.dense(x) + residual)


class Layer(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        attention, output = Attention(sizes.width, sizes.heads), Residual(sizes.width, sizes.width)
        self.attention = nn.ModuleDict({"self": attention, "output": output})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(sizes.width, sizes.intermediate)})
        self.output = Residual(sizes.intermediate, sizes.width)

    def forward(self, hidden, mask):
        attended = self.attention["output"](self.attention["self"](hidden, mask), hidden)
        return self.output(F.gelu(self.intermediate["dense"](attended)), attended)


class BranchHead(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.dense_narrow = nn.Linear(sizes.width, sizes.narrow)
        self.selfAttention = Attention(sizes.narrow, 8)
        self.dense_prelogits = nn.Linear(sizes.narrow, sizes.narrow)
        self.dense_logits = nn.Linear(sizes.narrow, sizes.labels)

    def forward(self, hidden):
        return self.dense_logits(self.dense_prelogits(self.selfAttention(self.dense_narrow(hidden))[:, 0]))


class Embeddings(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.word_embeddings = nn.Embedding(sizes.vocabulary, sizes.width)
        self.position_embeddings = nn.Embedding(sizes.positions, sizes.width)
        self.token_type_embeddings = nn.Embedding(2, sizes.width)
        self.LayerNorm = Norm(sizes.width)

    def forward(self, ids, segments):
        positions = self.position_embeddings.weight[: ids.shape[1]]
        return self.LayerNorm(self.word_embeddings(ids) + positions + self.token_type_embeddings(segments))


class Graph(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.depth))
        self.layer_classifier = BranchHead(sizes)
        names = [f"branch_classifier_{number}" for number in range(sizes.depth - 1)]
        self.layer_classifiers = nn.ModuleDict({name: BranchHead(sizes) for name in names})
        self.layer_classifiers["final_classifier"] = self.layer_classifier

    def uncertainties(self, hidden, mask):
        """Logits [L, B, N] of all heads and their uncertainties [L, B], nobody leaving."""
        logits = []
        for layer, head in zip(self.layers, self.layer_classifiers.values(), strict=True):
            hidden = layer(hidden, mask)
            logits.append(head(hidden))
        every = torch.stack(logits)
        return every, torch.special.entr(every.softmax(dim=-1)).sum(dim=-1) / math.log(every.shape[-1])


class BranchyBert(nn.Module):
    def __init__(self, seed=0, sizes=Sizes()):
        super().__init__()
        torch.manual_seed(seed)
        self.embeddings, self.graph = Embeddings(sizes), Graph(sizes)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, (3 if "dense_logits" in name else 1) / parameter.shape[-1] ** 0.5)

    def every(self, input_ids, attention_mask, token_type_ids=None):
        mask = (1 - attention_mask[:, None, None].to(self.graph.layer_classifier.dense_logits.weight.dtype)) * -10000.0
        segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        return self.graph.uncertainties(self.embeddings(input_ids, segments), mask)

    def forward(
        self,
        input_ids,
        token_type_ids=None,
        attention_mask=None,
        inference=False,
        inference_speed=0.5,
        labels=None,
        training_stage=0,
    ):
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if inference:
            return self.infer(input_ids, attention_mask, token_type_ids, inference_speed)
        logits, _ = self.every(input_ids, attention_mask, token_type_ids)
        return F.cross_entropy(logits[-1], labels), logits[-1]

    def infer(self, input_ids, attention_mask, token_type_ids, inference_speed):
        logits, uncertainty = self.every(input_ids, attention_mask, token_type_ids)
        sure = uncertainty < inference_speed  # [L, B]
        first = sure.int().argmax(dim=0)  # the first layer that is sure; 0 where none is
        samples = torch.arange(len(first))
        probabilities = logits.softmax(dim=-1)[first, samples] * sure.any(dim=0)[:, None]
        uncertainties = (uncertainty[first, samples] * sure.any(dim=0))[:, None].expand_as(probabilities)
        ran = int(first.max()) if sure.any(dim=0).all() else len(uncertainty) - 1
        return probabilities, ran, uncertainties
