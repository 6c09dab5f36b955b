"""Host models: one file per implementation that can be patched, and how a model finds its file."""

from __future__ import annotations

from torch import nn

from fastbert_kernels.engine.rule import Rule
from fastbert_kernels.hosts import (
    bitvoyage,
    deebert,
    fastbert_hf,
    pypi_fastbert,
    pypi_fastplm,
    script_model,
    transformers_classifiers,
)
from fastbert_kernels.hosts.base import Host
from fastbert_kernels.hosts.heads import AttentiveHead, PooledHead
from fastbert_kernels.hosts.registered import REGISTERED, register_host, unregister_host

__all__ = ["HOSTS", "AttentiveHead", "Host", "PooledHead", "Rule", "find_host", "register_host", "unregister_host"]

HOSTS: tuple[Host, ...] = (
    fastbert_hf.HOST,
    pypi_fastbert.HOST,
    pypi_fastbert.PAIR_HOST,
    pypi_fastplm.HOST,
    pypi_fastplm.PAIR_HOST,
    script_model.HOST,
    bitvoyage.HOST,
    deebert.HOST,
    transformers_classifiers.HOST,
)

_WRAPPED = {"module", "_orig_mod"}  # where DataParallel and torch.compile have the model


def _refuse_absent_weights(model: nn.Module, kind: str) -> None:
    """Raise ValueError for a model that does not hold its weights, or whose forward is not its own."""
    if any("_hf_hook" in module.__dict__ for module in model.modules()):
        raise ValueError(
            f"this {kind} is offloaded or spread by accelerate, which brings its weights as they are needed; load it "
            "whole on one device (without device_map or offload), or "
            "accelerate.hooks.remove_hook_from_module(model, recurse=True) where it fits"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(f"this {kind} is on the meta device, without weights; load them first")
    if "_original_forward" in model.__dict__:
        raise ValueError(
            f"this {kind} was prepared by accelerate, whose forward computes in mixed precision; patch "
            "accelerator.unwrap_model(model, keep_fp32_wrapper=False), with dtype= for another precision"
        )


def find_host(model: nn.Module) -> Host:
    """The host of `model`, registered ones first; TypeError that says what can be patched when there is none."""
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    if kind.startswith("torch.") and (inner := _WRAPPED & model._modules.keys()):
        raise TypeError(f"{kind} is PyTorch's wrapper of a model; patch the model in it, model.{inner.pop()}")
    hosts = (*REGISTERED, *HOSTS)
    for host in hosts:
        if host.matches(model):
            _refuse_absent_weights(model, kind)
            return host
    for name, part in model.named_modules():
        if any(host.matches(part) for host in HOSTS):
            raise TypeError(f"{kind} is around a model; patch the model in it, model.get_submodule({name!r})")
    if kind.startswith("transformers.") and kind.endswith("ForSequenceClassification"):
        raise TypeError(
            f"{kind} has layers or embeddings of another kind than the models that can be patched; known: "
            f"{', '.join(host.name for host in hosts)}. fastbert_kernels.register_host describes another model with "
            "exit heads (docs/hosts.md)"
        )
    raise TypeError(
        f"{kind} is not a model that can be patched; known: {', '.join(host.name for host in hosts)}. "
        "fastbert_kernels.register_host makes another model with exit heads known (docs/hosts.md). A model that has no "
        "exit heads yet gets them from fastbert_hf.FastBertForSequenceClassification.from_backbone(FOLDER, "
        "num_labels=N), or from `fastbert train --backbone FOLDER`; distillation trains them"
    )
