"""In which precision a model runs: the caller's choice, with a word where it is slower here than float32, or for "auto"
the fastest whose answers agree."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from fastbert_kernels import backends
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.dtypes import (
    EncoderDtype,
    Fp8,
    MixedInt8,
    TanhGelu,
    with_bfloat16_products,
    with_tanh_gelu,
)
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.packed import Results
from fastbert_kernels.engine.rule import full_depth
from fastbert_kernels.hosts.base import Host
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.product_rates import (
    LIBRARY_MARGIN,
    MARGIN,
    VARIABLE,
    ProductRates,
    library_slowdown,
    product_rates,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
# For "auto", beside float32. Over two models together, no other product in bfloat16 left fewer other labels than
# the output product (docs/performance.md).
CANDIDATES: tuple[EncoderDtype, ...] = (torch.bfloat16, torch.int8, MixedInt8(("output",)))

# Answers agree where no uncertainty at full depth differs by more than this and all labels are the same, but for those
# whose two best classes lie within it: any rounding turns these.
TOLERANCE = 0.05

# Of the probe's texts, where the caller gives none: tokens of each.
PROBE_LENGTHS = (6, 10, 14, 20, 28, 40, 56, 80) * 4


@dataclass(frozen=True)
class Precision:
    """The precision of a patched model.

    Attributes:
        dtype: of the encoder; None is that of the model's weights.
        automatic: whether it was chosen for dtype="auto".
        rates: GFLOP/s of one core by precision, where they were measured, and "bfloat16_operand", what products in
            bfloat16 are multiplied in.
        reason: for the choice, in words; empty for the caller's own.
    """

    dtype: EncoderDtype | None
    automatic: bool = False
    rates: dict[str, float | str] | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """Return the dtype as people write it."""
        return "as the weights" if self.dtype is None else _name(self.dtype)

    @property
    def bfloat16_products(self) -> tuple[str, ...]:
        """Return the products that are in bfloat16 beside those in int8."""
        return self.dtype.bfloat16_products if isinstance(self.dtype, MixedInt8) else ()

    def __str__(self) -> str:
        return f"auto, which took {self.name} ({self.reason})" if self.automatic else self.name


@dataclass(frozen=True)
class Settled:
    """A precision, and the encoder that was made in it."""

    precision: Precision
    encoder: Derived[Encoder]

    @property
    def runs_in(self) -> str:
        """Return the precision as people write it, that of the weights by its name, too."""
        return self.encoder.get().precision


def settle(
    model: nn.Module,
    host: Host,
    dtype: torch.dtype | Literal["auto", "fp8"] | None,
    backend: str,
    probe: Sequence[Any] | None,
    bfloat16_products: Collection[str],
    tanh_gelu: bool = False,
) -> Settled:
    """Return the encoder of a model in the precision asked for, or for "auto" in the one chosen.

    Args:
        model: to be patched.
        host: of the model.
        dtype: as in `patch`.
        backend: as in `patch`.
        probe: as in `patch`.
        bfloat16_products: as in `patch`.
        tanh_gelu: as in `patch`.

    Raises:
        ValueError: dtype, probe or bfloat16_products are not what `patch` takes, "auto" in train mode where answers are
            to be compared, or as `Host.encoder`.
    """
    wanted: EncoderDtype | Literal["auto"] | None
    wanted = Fp8() if dtype == "fp8" else dtype  # FP8 is no literal to a type checker
    if bfloat16_products:
        wanted = with_bfloat16_products(dtype, bfloat16_products)
    if tanh_gelu:
        wanted = with_tanh_gelu(dtype)
    if wanted == "auto":
        settled = _fastest(model, host, backend, probe)
        _look_at_library(settled.encoder.get())
        return settled
    plain = wanted.dtype if isinstance(wanted, TanhGelu) else wanted
    if not isinstance(plain, MixedInt8 | Fp8) and plain not in (None, *DTYPES):
        raise ValueError(f"dtype must be None, 'auto', 'fp8' or one of {', '.join(map(str, DTYPES))}, not {dtype!r}")
    if probe is not None:
        raise ValueError("probe is what dtype='auto' compares answers on; leave it out with another dtype")
    encoder = host.encoder(model, wanted, backend)
    made = encoder.get()  # what is not available is refused now, not at the first call
    runs_in = wanted or made.dtype
    if isinstance(made, CompiledEncoder) and runs_in != torch.float32:
        rates = product_rates(*made.shape)
        rate = _rate(rates, runs_in, made.shape)
        if rate * MARGIN < rates.float32:
            _warn_of_slower(_name(runs_in), rate, rates.float32)
    _look_at_library(made)
    return Settled(Precision(wanted), encoder)


def _look_at_library(encoder: Encoder) -> None:
    """Warn where PyTorch's layers run on a CPU in a precision that is slower there than float32."""
    first = encoder.layers[0] if isinstance(encoder, LayerLoop) else None
    if not isinstance(first, TorchLayer) or first.weights.qkv_weight.device.type != "cpu":
        return
    if first.dtype not in (torch.bfloat16, torch.float16):  # who has float64 wants its accuracy
        return
    inner, width = first.weights.intermediate_weight.shape
    slowdown = library_slowdown(first.dtype, width, inner)
    if slowdown > LIBRARY_MARGIN:
        _warn_of_slow_library(_name(first.dtype), slowdown)


def _rate(rates: ProductRates, dtype: EncoderDtype, shape: tuple[int, int]) -> float:
    return rates.mixed(dtype.int8_share(*shape)) if isinstance(dtype, MixedInt8) else rates.of(_name(dtype))


def _fastest(model: nn.Module, host: Host, backend: str, probe: Sequence[Any] | None) -> Settled:
    device = next(model.parameters()).device
    resolved = backends.resolve(backend, device)
    if resolved != "cpu":
        reason = f"on {device.type} and backend {resolved!r} nothing is measured, and the model's own precision stays"
        return _kept(model, host, backend, reason)
    encoder = host.encoder(model, torch.float32, backend)
    exact = encoder.get()
    if not isinstance(exact, CompiledEncoder):
        return _kept(model, host, backend, "its layers are not those of the compiled kernels, so its precision stays")
    if model.training and not host.inference_only:
        raise ValueError("dtype='auto' compares answers, and a model in train mode has none: call model.eval() first")
    rates = product_rates(*exact.shape)
    candidates = {dtype: _rate(rates, dtype, exact.shape) for dtype in CANDIDATES}
    if rates.bfloat16_operand == "float32":  # whole layers are no faster then, though products may be
        del candidates[torch.bfloat16]
    faster = [dtype for dtype, rate in candidates.items() if rate > rates.float32 * MARGIN]
    faster.sort(key=lambda dtype: -candidates[dtype])
    refused = [f"{_name(dtype)} is not faster" for dtype in CANDIDATES if dtype not in faster]
    if faster and probe is None and host.probe is None:
        return _settled(torch.float32, encoder, rates, "this kind of model has no probe texts of its own: give probe=")
    if faster:
        inputs = _probe_of(model, host) if probe is None else probe
        want = _answers(model, host, exact, inputs)
    for dtype in faster:
        candidate = host.encoder(model, dtype, backend)
        agrees, finding = _agree(model, host, want, _answers(model, host, candidate.get(), inputs))
        if agrees:
            return _settled(dtype, candidate, rates, "; ".join([finding, *refused]))
        refused.append(f"{_name(dtype)} does not agree: {finding}")
    return _settled(torch.float32, encoder, rates, "; ".join(refused))


def _agree(model: nn.Module, host: Host, want: Results, got: Results) -> tuple[bool, str]:
    """Return whether answers agree with those in float32, and what was found, in words."""
    scores = [None if host.scores is None else host.scores(model, results.logits) for results in (want, got)]
    if scores[0] is None or scores[1] is None:
        return compare(want, got)
    largest = float((scores[0] - scores[1]).abs().max())  # NaN where any is
    return largest <= TOLERANCE, f"scores of {len(scores[0])} probe texts differ by up to {largest:.2g}"


def compare(want: Results, got: Results) -> tuple[bool, str]:
    """Return whether answers agree with those in float32, and what was found, in words.

    Args:
        want: of B samples at full depth, in float32.
        got: of the same samples.
    """
    first, second = want.logits.float().softmax(-1).topk(2).values.unbind(-1)
    others = int(((want.logits.argmax(-1) != got.logits.argmax(-1)) & (first - second > TOLERANCE)).sum())
    difference = (want.uncertainty.float() - got.uncertainty.float()).abs()
    largest = float(difference.max())  # NaN where any is
    finding = f"{others} of {len(difference)} probe labels differ, uncertainties by up to {largest:.2g}"
    return others == 0 and largest <= TOLERANCE, finding


def _settled(dtype: EncoderDtype, encoder: Derived[Encoder], rates: ProductRates, reason: str) -> Settled:
    return Settled(Precision(dtype, True, rates.as_dict(), f"GFLOP/s a core: {rates}; {reason}"), encoder)


def _kept(model: nn.Module, host: Host, backend: str, reason: str) -> Settled:
    encoder = host.encoder(model, None, backend)
    encoder.get()
    return Settled(Precision(None, True, None, reason), encoder)


@torch.no_grad()
def _answers(model: nn.Module, host: Host, encoder: Encoder, inputs: Sequence[Any]) -> Results:
    pack: Callable[..., Any] | None = host.pack
    if pack is None:
        raise ValueError("this model embeds its texts by itself, so none can be compared; name a dtype, not 'auto'")
    return encoder.run(pack(model, encoder, *inputs), full_depth(encoder.num_labels))


def _probe_of(model: nn.Module, host: Host) -> Sequence[Any]:
    assert host.probe is not None
    return host.probe(model, PROBE_LENGTHS, torch.Generator().manual_seed(0))


@cache
def _warn_of_slower(precision: str, rate: float, float32: float) -> None:
    warnings.warn(
        f"dtype=torch.{precision} is slower here than torch.float32: a core does {rate:.0f} GFLOP/s in its products, "
        f"and in float32 {float32:.0f}. Take dtype=torch.float32, or dtype='auto', which chooses ({VARIABLE} overrides "
        "what was measured)",
        RuntimeWarning,
        stacklevel=5,
    )


@cache
def _warn_of_slow_library(precision: str, slowdown: float) -> None:
    warnings.warn(
        f"dtype=torch.{precision} is slower here than torch.float32: PyTorch's own layers run, not compiled ones, "
        f"and a product takes {slowdown:.1f} times as long. Take dtype=torch.float32",
        RuntimeWarning,
        stacklevel=6,
    )


def _name(dtype: EncoderDtype) -> str:
    return str(dtype).removeprefix("torch.")
