"""A hook on any module that a patch stands in for: refused at `patch`, and heeded when it comes later."""

from __future__ import annotations

import pytest
import torch

import fastbert_kernels


def assert_hooks_are_heeded(make, call, *paths):
    """
    Args:
        make: () -> a model, always the same.
        call: model -> its answers, a tensor or something that can be compared.
        paths: of modules, on each of which a hook is tried by itself.
    """
    for path in paths:
        model = make()
        _hook(model, path)
        want = call(model)
        with pytest.raises(ValueError, match="cannot be patched: .* has a forward hook"):
            fastbert_kernels.patch(model)
        patched = fastbert_kernels.patch(make())
        call(patched)
        _hook(patched, path)
        with pytest.warns(RuntimeWarning, match="own forward answers from now on.* has a forward hook"):
            got = call(patched)
        if isinstance(want, torch.Tensor):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        else:
            assert got == want


def _hook(model, path):
    model.get_submodule(path).register_forward_hook(_double)


def _double(module, args, output):
    return tuple(2 * part for part in output) if isinstance(output, tuple) else 2 * output
