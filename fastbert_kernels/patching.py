"""`patch(model)` and `unpatch(model)`: the fast path in and out of one model instance."""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Collection, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from fastbert_kernels import backends
from fastbert_kernels.hosts import find_host
from fastbert_kernels.hosts.base import Host
from fastbert_kernels.patched_calls import (
    ON_DEMAND,
    PATCH,
    Patch,
    WarmUp,
    extra_repr,
    make_forward,
    make_method,
    make_training_method,
)
from fastbert_kernels.precision import settle
from fastbert_kernels.threads import survives_fork

Model = TypeVar("Model", bound=nn.Module)


@survives_fork
def patch(
    model: Model,
    *,
    backend: str = "auto",
    dtype: torch.dtype | Literal["auto", "fp8"] | None = None,
    probe: Sequence[Any] | None = None,
    bfloat16_products: Collection[str] = (),
    tanh_gelu: bool = False,
    warm_up: Collection[tuple[int, int, int]] | Literal["on demand"] = (),
) -> Model:
    """Make this one model run on the packed engine, with fused exit heads and compaction.

    The model keeps its parameters, `state_dict()` and call signature, and shows the patch in its `repr`. Later changes
    of its weights are noticed. The fast path serves calls in eval mode with autograd off (`torch.inference_mode()`);
    otherwise the model's own forward answers, unless that is inference in every mode. Some implementations, which take
    one text at a time, get a method for batches, too (`Host.methods`). Patching again replaces the earlier patch.

    Args:
        model: a FastBERT of a known implementation, or a plain classifier of Transformers, which runs to full depth
            (`fastbert_kernels.hosts.HOSTS`).
        backend: "auto" takes the best that the device has; a name of `fastbert_kernels.backends.BACKENDS` insists on
            it.
        dtype: precision of the encoder: float32, bfloat16, float16 or (on a CPU) int8, whose Linear layers multiply
            rounded weights with rows that are rounded as they come; None keeps that of the model's weights. "auto"
            takes the fastest on this processor whose answers to probe texts agree with those in float32: the same
            labels but for texts whose two best classes are within 0.05, and uncertainties at full depth within 0.05.
            It is chosen once, now, and `patch_info` and the `repr` say why; on a GPU it is None. Where a dtype is
            measured to be slower here than float32, a RuntimeWarning says so. "fp8", on GPUs from compute capability
            9.0 on, multiplies in float8_e4m3fn with a scale for each row, and keeps bfloat16 between the products; what
            that does to answers is for you to measure (`fastbert evaluate --agreement`).
        probe: texts for "auto" in place of random ones, as `Host.pack` of the model's host takes them; of a
            `fastbert_hf` model (input_ids [T], cu_seqlens [B + 1]), as `forward_packed`.
        bfloat16_products: products of every layer that dtype=torch.int8 leaves in bfloat16, for answers closer to those
            in float32: some of "qkv", "attention_output", "intermediate" and "output", the best first try. "auto" tries
            int8 without and with ("output",).
        tanh_gelu: whether GELU by tanh takes the place of the one by the error function, at most 4.8e-4 from it, on a
            GPU, where it is a part of the product: a pass over the widest rows less. What that does to answers is for
            you to measure (`fastbert evaluate --agreement`). A model whose own GELU is by tanh has it without this.
        warm_up: (tokens, samples, longest sample) of batches for which a GPU's CUDA graphs are recorded now, in front
            of traffic: for one Speed for all layers, for full depth, and for the calibrated setting where the model
            has one. A batch runs in the smallest that holds it; no call records any, and what has none is launched
            kernel by kernel, as all batches are without `warm_up`. "on demand": a call records the graphs of its size
            and rule when the first of these comes, which takes seconds. For padded texts count the padding, too: up to
            8 texts with up to 512 tokens together are answered in one launch then. On a CPU nothing is recorded.

    Returns:
        The same object.

    Raises:
        TypeError: not a model that can be patched.
        ValueError: unknown backend, dtype, product or `warm_up`, or one that this device, model or backend does not
            have; "auto" for a model in train mode; or a model of a known implementation that the kernels do not serve
            (with layers or heads of its own, or with an attribute where a method is to be added). The message says why
            and what to do.
        RuntimeError: the named backend is not available.
    """
    host = find_host(model)
    backends.resolve(backend, next(model.parameters()).device)
    _check_forward(model)
    _check_methods(model, host)
    wanted_graphs = _check_warm_up(warm_up)
    settled = settle(model, host, dtype, backend, probe, bfloat16_products, tanh_gelu)
    chosen_in = None if host.calibrated_in is None else host.calibrated_in(model)
    if chosen_in not in (None, settled.runs_in):
        warnings.warn(
            f"this model's calibrated setting was chosen on answers in {chosen_in}, and it runs in {settled.runs_in} "
            "from now on, where some texts may leave elsewhere: calibrate on what runs (fastbert calibrate --dtype), "
            "or give a Speed",
            RuntimeWarning,
            stacklevel=3,
        )

    unpatch(model)
    encoder = settled.encoder.get()
    state = Patch(
        host,
        settled.encoder,
        backend,
        settled.precision,
        wanted_graphs,
        encoder.attention,
        forward=type(model).forward,
        functions={
            "forward": make_forward(model),
            "extra_repr": extra_repr,
            **{name: make_method(function, host.own_ways.get(name)) for name, function in host.methods.items()},
            **{name: make_training_method(model, name) for name in host.training_methods},
        },
    )
    state.warmed(model, encoder)
    state.previous = {name: model.__dict__[name] for name in state.functions if name in model.__dict__}
    model.__dict__[PATCH] = state
    model.__dict__.update({name: types.MethodType(function, model) for name, function in state.functions.items()})
    return model


def unpatch(model: Model) -> Model:
    """Restore the model as it was before `patch`, but for methods that it was given since; do nothing to a model
    that is not patched. Returns the same object."""
    state: Patch | None = model.__dict__.get(PATCH)
    if state is not None:
        for name in filter(functools.partial(state.added, model), state.functions):
            del model.__dict__[name]
            model.__dict__.update({name: state.previous[name]} if name in state.previous else {})
        del model.__dict__[PATCH]
    return model


def is_patched(model: nn.Module) -> bool:
    """Return whether `patch` is in force on this instance."""
    return PATCH in model.__dict__


def patch_of(model: nn.Module) -> Patch:
    """Return what a patched model carries.

    Raises:
        ValueError: it is not patched.
    """
    state: Patch | None = model.__dict__.get(PATCH)
    if state is None:
        raise ValueError(f"this {type(model).__name__} is not patched; call fastbert_kernels.patch(model) first")
    return state


def patch_info(model: nn.Module) -> dict[str, Any] | None:
    """Return how a model is patched, as plain values that print and serialise; None for one that is not patched.

    Returns:
        A dict with the keys backend and warm_up (as asked for), attention (on a GPU: batch -> way to compute it ->
        microseconds that were measured, or the way that FASTBERT_ATTENTION names; None where there is no choice), dtype
        (such as "int8"; None is that of the weights), bfloat16_products (those beside int8 ones), precision (both in
        words, as calibrated settings name it), automatic (whether it was chosen for dtype="auto"), rates (precision ->
        GFLOP/s of a core in the products of a layer, and "bfloat16_operand" -> what those in bfloat16 are multiplied
        in; None where nothing was measured for a choice) and reason (for the choice; empty for the caller's own).
    """
    state: Patch | None = model.__dict__.get(PATCH)
    if state is None:
        return None
    chosen = state.precision
    return {
        "backend": state.backend,
        "warm_up": state.warm_up,
        "attention": state.attention,
        "dtype": None if chosen.dtype is None else "int8" if chosen.bfloat16_products else chosen.name,
        "bfloat16_products": chosen.bfloat16_products,
        "precision": None if chosen.dtype is None else chosen.name,
        "automatic": chosen.automatic,
        "rates": chosen.rates,
        "reason": chosen.reason,
    }


def _check_warm_up(warm_up: Collection[tuple[int, int, int]] | str) -> WarmUp:
    if warm_up == ON_DEMAND:
        return ON_DEMAND
    shapes = () if isinstance(warm_up, str) else tuple(warm_up)
    if isinstance(warm_up, str) or not all(len(shape) == 3 and min(shape) >= 1 for shape in shapes):
        raise ValueError(
            f"warm_up must be triples (tokens, samples, longest sample) of numbers from 1, or {ON_DEMAND!r}, not "
            f"{warm_up!r}"
        )
    return shapes


def _check_forward(model: nn.Module) -> None:
    """Raise ValueError where somebody gave this instance another forward than its class has."""
    state: Patch | None = model.__dict__.get(PATCH)
    ours = state is not None and state.added(model, "forward")
    own = (state.previous if state is not None and ours else model.__dict__).get("forward")
    if own is not None and getattr(own, "__func__", None) is not type(model).forward:
        raise ValueError(
            f"this {type(model).__name__} has a forward of its own on the instance, which a patched model would pass "
            "over; take it back (del model.forward), or describe the model with register_host"
        )


def _check_methods(model: nn.Module, host: Host) -> None:
    state = model.__dict__.get(PATCH)
    added = () if state is None else state.host.methods
    for name in host.methods:
        if name not in added and hasattr(model, name):
            raise ValueError(
                f"this {type(model).__name__} has an attribute {name!r} of its own, where patch would add a method of "
                "that name; rename it (in the class, if it comes from there)"
            )
