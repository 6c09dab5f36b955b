"""A model of the structure that `hosts.script_model` knows, on the UER parts that the package
`fastbert` brings along: a batch of ids comes in, and the Speed is an attribute."""

from __future__ import annotations

import importlib
import math
from types import SimpleNamespace

import torch
from torch import nn

from doubles.pypi import spread_weights

VOCABULARY, DEPTH, LABELS = 60, 4, 3


class MiniClassifier(nn.Module):
    def __init__(self, attention, width, narrow, labels):
        super().__init__()
        self.pooling = "first"
        self.output_layer_0 = nn.Linear(width, narrow)
        self.self_atten = attention(narrow, 2, 0.1)
        self.output_layer_1 = nn.Linear(narrow, narrow)
        self.output_layer_2 = nn.Linear(narrow, labels)

    def forward(self, hidden, mask):
        narrow = self.output_layer_0(hidden).tanh()
        attended = self.self_atten(narrow, narrow, narrow, mask)
        return self.output_layer_2(self.output_layer_1(attended[:, 0]).tanh())


class ScriptClassifier(nn.Module):
    """Made while `doubles.pypi.imported("fastbert")` is in force."""

    def __init__(self, seed=0, *, width=32, heads=4, depth=DEPTH, vocabulary=VOCABULARY, labels=LABELS, narrow=16):
        super().__init__()
        sizes = SimpleNamespace(
            emb_size=width,
            hidden_size=width,
            feedforward_size=4 * width,
            heads_num=heads,
            layers_num=depth,
            dropout=0.1,
        )
        embeddings = importlib.import_module("uer.layers.embeddings")
        encoders = importlib.import_module("uer.encoders.bert_encoder")
        attention = importlib.import_module("uer.layers.multi_headed_attn").MultiHeadedAttention
        self.embedding = embeddings.BertEmbedding(sizes, vocabulary)
        self.encoder = encoders.BertEncoder(sizes)
        self.classifiers = nn.ModuleList(MiniClassifier(attention, width, narrow, labels) for _ in range(depth))
        self.labels_num, self.threshold = labels, 0.5
        spread_weights(self, seed)

    def every(self, src, mask):
        """Logits [L, B, N] behind all layers, nobody leaving."""
        hidden, blocked, logits = *self.prepare(src, mask), []
        for layer, classifier in zip(self.encoder.transformer, self.classifiers, strict=True):
            hidden = layer(hidden, blocked)
            logits.append(classifier(hidden, blocked))
        return torch.stack(logits)

    def prepare(self, src, mask):
        hidden = self.embedding(src, mask)
        return hidden, (mask <= 0)[:, None, None].to(hidden.dtype) * -10000.0

    def leaving(self, logits):
        """Layers [B], from 1, at which samples leave."""
        early = ~(uncertainty_of(logits) > self.threshold)
        early[-1] = True
        return early.int().argmax(dim=0) + 1

    def forward(self, src, label, mask, fast=True):
        if self.training:
            logits = self.every(src, mask)[-1]
            return nn.functional.cross_entropy(logits, label), logits
        if not fast:
            return None, self.every(src, mask)[-1]
        hidden, blocked = self.prepare(src, mask)
        answers, left = hidden.new_empty(len(src), self.labels_num), torch.arange(len(src))
        for layer, classifier in zip(self.encoder.transformer, self.classifiers, strict=True):
            hidden = layer(hidden, blocked)
            answers[left] = logits = classifier(hidden, blocked)
            stays = uncertainty_of(logits) > self.threshold
            hidden, blocked, left = hidden[stays], blocked[stays], left[stays]
            if len(left) == 0:
                break
        return None, answers


def uncertainty_of(logits):
    """[..., B], by the function of PyTorch, which keeps probabilities off 0 and 1."""
    entropy = torch.distributions.Categorical(probs=logits.softmax(dim=-1)).entropy()
    return entropy / math.log(logits.shape[-1])
