"""A model of nobody's family, and its description for `register_host`."""

from __future__ import annotations

import torch
from torch import nn

from fastbert_kernels.hosts import AttentiveHead, PooledHead

WIDTH, LABELS = 16, 3


class Block(nn.Module):
    """Not of the BERT family: gated, without residual around the attention, and with ALiBi-like distances."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.gate = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, hidden, mask):
        query, key, value = self.qkv(hidden).chunk(3, dim=-1)
        place = torch.arange(hidden.shape[1])
        distance = (place[:, None] - place).abs()
        scores = query @ key.transpose(1, 2) - 0.3 * distance.to(hidden.dtype)
        attended = scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1) @ value
        return self.norm(attended + self.gate(hidden).sigmoid() * hidden)


class Model(nn.Module):
    """Heads of all kinds, none behind the second layer; `every` computes all of them, without leaving anybody out."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(50, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(5))
        self.linear = nn.Linear(WIDTH, LABELS)
        self.pooler = nn.ModuleList([nn.Linear(WIDTH, 12), nn.Linear(12, LABELS)])
        names = ("projection", "query", "key", "value", "attention_output", "dense")
        self.attentive = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in names})
        self.attentive["classifier"] = nn.Linear(WIDTH, LABELS)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, (1 if "blocks" in name else 2) / parameter.shape[-1] ** 0.5)

    def heads(self):
        return [
            PooledHead([self.linear]),
            None,
            PooledHead(self.pooler, pooling="mean", activation="relu"),
            AttentiveHead(**self.attentive, num_attention_heads=4, mlp_activation="identity"),
            PooledHead([self.linear], pooling="max"),
        ]

    def attend(self, hidden):
        part = self.attentive
        z = part["projection"](hidden).tanh()
        query, key, value = (part[name](z).unflatten(1, (4, -1)).transpose(0, 1) for name in ("query", "key", "value"))
        attended = nn.functional.scaled_dot_product_attention(query[None], key[None], value[None])[0, :, 0].flatten()
        return part["classifier"](part["dense"](part["attention_output"](attended)))

    def every(self, ids):
        """Logits [5, N] of one text without padding, by the heads one by one; None behind the second layer."""
        hidden, logits = self.embedding(ids)[None], []
        heads = [
            lambda rows: self.linear(rows[0]),
            None,
            lambda rows: self.pooler[1](self.pooler[0](rows.mean(dim=0)).relu()),
            self.attend,
            lambda rows: self.linear(rows.amax(dim=0)),
        ]
        for block, head in zip(self.blocks, heads, strict=True):
            hidden = block(hidden, torch.ones(1, len(ids), dtype=torch.bool))
            logits.append(None if head is None else head(hidden[0]))
        return logits

    def forward(self, ids, speed=0.5):
        """One text after another, without padding."""
        return leave([self.every(row[row > 0]) for row in ids], speed)


def leave(texts, speed):
    """Logits [B, N], uncertainty [B] and exit layers [B] at `speed`, from the logits of every head, text by text."""
    answers = []
    for every in texts:
        for number, logits in enumerate(every, start=1):
            if logits is not None and (uncertainty_of(logits) < speed or number == len(every)):
                answers.append((logits, uncertainty_of(logits), number))
                break
    logits, uncertainty, layers = zip(*answers, strict=True)
    return torch.stack(logits), torch.stack(uncertainty), torch.tensor(layers)


def uncertainty_of(logits):
    p = logits.double().softmax(dim=-1)
    return torch.special.entr(p).sum(dim=-1) / torch.tensor(logits.shape[-1]).double().log()


DESCRIPTION = dict(
    layers=lambda model: model.blocks,
    heads=Model.heads,
    call_layer=lambda block, hidden, valid: block(hidden, valid),
    forward=lambda model, run, ids, speed=0.5: (
        lambda results: (results.logits, results.uncertainty, results.exit_layer)
    )(run(model.embedding(ids), ids > 0, speed)),
)


def make_ids(lengths, left=False):
    longest = max(lengths)
    valid = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return torch.randint(1, 50, valid.shape) * (valid.flip(1) if left else valid)


@torch.inference_mode()
def run(model, *arguments, **options):
    return model(*arguments, **options)
