"""Host models: one file per FastBERT implementation that can be patched, and how a model finds its file."""

from __future__ import annotations

from torch import nn

from fastbert_kernels.hosts import fastbert_hf, pypi_fastbert
from fastbert_kernels.hosts.base import Host

HOSTS: tuple[Host, ...] = (fastbert_hf.HOST, pypi_fastbert.HOST, pypi_fastbert.PAIR_HOST)


def find_host(model: nn.Module) -> Host:
    """The host of `model`; TypeError that says what can be patched when there is none."""
    for host in HOSTS:
        if host.matches(model):
            return host
    raise TypeError(
        f"{type(model).__module__}.{type(model).__qualname__} is not a FastBERT model that can be patched; known: "
        f"{', '.join(host.name for host in HOSTS)}. A plain BERT classifier has no exit heads yet: "
        "fastbert_hf.FastBertForSequenceClassification.from_backbone(...) puts them on, and distillation trains them"
    )
