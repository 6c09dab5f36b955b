"""Encoder layers for a GPU as torch.compile sees them on a machine without one: tensors have no values, under
FakeTensorMode, where a device need not exist."""

from __future__ import annotations

import dataclasses

import torch


def on_cuda(value):
    """Return a tensor, or a dataclass with tensors, on the GPU and without values."""
    if isinstance(value, torch.Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="cuda")
    moved = {
        field.name: on_cuda(part)
        for field in dataclasses.fields(value)
        if isinstance(part := getattr(value, field.name), torch.Tensor)
    }
    return dataclasses.replace(value, **moved)


def compiled_graphs(layer, width, monkeypatch, dynamic=None):
    """Call a compiled layer with bfloat16 rows, 7, 5 and 6 in turn; return the targets of every graph that is made."""
    from torch.utils import _triton

    monkeypatch.setattr(_triton, "has_triton", lambda: True)  # without a GPU Dynamo takes kernels for plain Python
    graphs = []

    def keep(module, inputs):
        graphs.append([str(node.target) for node in module.graph.nodes])
        return module.forward

    bounds = torch.empty(3, dtype=torch.int32, device="cuda")
    torch._dynamo.reset()
    compiled = torch.compile(layer.__call__, fullgraph=True, backend=keep, dynamic=dynamic)
    for tokens in (7, 5, 6):
        hidden = torch.empty(tokens, width, dtype=torch.bfloat16, device="cuda")
        out = compiled(hidden, bounds, 5)
        assert out.shape == hidden.shape and out.dtype == hidden.dtype and out.is_cuda
    return graphs
