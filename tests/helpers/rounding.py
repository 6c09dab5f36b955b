"""What a computation in plain PyTorch may err on any processor, not only on this one.

The error of one sum of products is chance: it depends on the order in which the processor's library adds. Where a test
allows a kernel twice the error of plain PyTorch on a handful of numbers, it allows twice that chance, which is nothing
if the library happens to hit the exact answer. So plain PyTorch is also run in Monte Carlo arithmetic (Parker 1997,
"Monte Carlo Arithmetic"; Denis, de Oliveira Castro and Petit 2016, "Verificarlo"): every operation is computed in a
wider type and then rounded at random, up or down, and every sum of products is off by up to u * sum |a_i| |b_i|, where
u is the unit roundoff of float32, in which sums are accumulated. For terms around zero that is the error of adding them
one after another, whatever their number (Higham and Mary 2020, "Sharper probabilistic backward error analysis for basic
linear algebra kernels with random data"); adding them in blocks errs less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

UNIT_ROUNDOFF = 2.0**-24  # of float32
NARROW = (torch.float32, torch.bfloat16, torch.float16)
aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default}  # the last two arguments
# Of absolute values, these give the sum of the absolute terms.
SUMS = {aten.mv.default, aten.addmv.default, aten.dot.default, aten.sum.default, aten.sum.dim_IntList, aten.mean.dim}
SUMS |= {aten.index_add.default, aten.scatter_reduce.two}
COPIES = {aten.clone.default, aten._unsafe_view.default, aten.index.Tensor, aten.index_select.default, aten.cat.default}
COPIES |= {aten.empty_like.default}

Result = TypeVar("Result")


def rivals(compute: Callable[[], Result], answers: int) -> list[Result]:
    """Results of `compute` in plain PyTorch: first as this processor has them, then as others might.

    Args:
        answers: how many numbers are compared. The fewer, the more results: the largest of many errors is no chance.
    """
    results = [compute()]
    for seed in range(min(8, 1 + 32 // max(answers, 1))):
        with MonteCarloArithmetic(seed):
            results.append(compute())
    return results


class MonteCarloArithmetic(TorchDispatchMode):
    """Operations on floating point tensors narrower than float64 err at random, by as much as they may."""

    def __init__(self, seed: int):
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation in PRODUCTS and args[-1].dtype in NARROW:
            return self._product(operation, args, kwargs)
        native = operation(*args, **kwargs)
        first = native[0] if isinstance(native, (tuple, list)) else native
        # Views and what is written in place are no arithmetic here.
        views = any(returned.alias_info is not None for returned in operation._schema.returns)
        if views or operation in COPIES or not isinstance(first, Tensor) or first.dtype not in NARROW:
            return native
        wide = torch.float64 if first.dtype == torch.float32 else torch.float32
        args, kwargs = _cast(args, wide), _cast(kwargs, wide)
        exact = operation(*args, **kwargs)
        if operation in SUMS and "amax" not in args:
            exact += self._error(operation(*_sizes(args), **_sizes(kwargs)))
        if first is native:
            return self._rounded(exact, native.dtype)
        return type(native)((self._rounded(exact[0], first.dtype), *native[1:]))

    def _product(self, operation, args, kwargs):
        """In float32, whose own error is small beside the one that is added: float64 would take most of the time.

        By Cauchy and Schwarz, sum |a_i| |b_i| is at most |a| |b|; with random terms it is two thirds of that.
        """
        dtype = args[-1].dtype
        *args, left, right = _cast(args, torch.float32)
        sizes = left.norm(dim=-1, keepdim=True) * right.norm(dim=-2, keepdim=True)
        exact = operation(*args, left, right, **kwargs) + self._error(sizes)
        return self._rounded(exact, dtype)

    def _error(self, sizes: Tensor) -> Tensor:
        return UNIT_ROUNDOFF * sizes * (2 * self._uniform(sizes) - 1)

    def _rounded(self, exact: Tensor, dtype: torch.dtype) -> Tensor:
        """A number of `dtype` beside `exact`, or that itself where it is one."""
        nearest = exact.to(dtype)
        if dtype == exact.dtype:
            return nearest
        moved = exact * (1 + torch.finfo(dtype).eps * (self._uniform(exact) - 0.5))
        return torch.where(nearest == exact, nearest, moved.to(dtype))

    def _uniform(self, like: Tensor) -> Tensor:
        if like.device not in self._generators:
            self._generators[like.device] = torch.Generator(like.device).manual_seed(self._seed)
        return torch.rand(like.shape, generator=self._generators[like.device], dtype=like.dtype, device=like.device)


def _cast(values: Any, dtype: torch.dtype) -> Any:
    return tree_map_only(Tensor, lambda x: x.to(dtype) if x.dtype in NARROW else x, values)


def _sizes(values: Any) -> Any:
    return tree_map_only(Tensor, lambda x: x.abs() if x.is_floating_point() else x, values)
