"""Inputs and float64 references for the tests of both heads on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from cpu_library import Decision, HeadOutputs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.rounding import rivals

FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16
DTYPES = [FLOAT32, BFLOAT16, FLOAT16]
LENGTHS = [0, 1, 5, 63, 64, 65, 100, 129, 300, 512]
SHORT_LENGTHS = [7, 0, 33, 1, 130]
# What float32 arithmetic may cost whatever the dtype of the inputs, relative to the largest value.
FLOOR = 2e-6
# What the tanh of the hardware may cost besides, which the kernels take for bfloat16.
FLOOR_OF_APPROXIMATED_TANH = 1e-3


class EveryShape:
    """Tests of an attentive head on batches and heads of every shape; `check` takes the library, lengths, the dtype,
    the hidden size, the narrow size, heads and labels, and compares the answers."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("narrow", [64, 128, 256])
    @pytest.mark.parametrize(("hidden_size", "heads", "labels"), [(64, 2, 3), (136, 3, 5)])
    def test_every_length(self, library, dtype, narrow, hidden_size, heads, labels):
        self.check(library, LENGTHS, dtype, hidden_size, narrow, heads, labels)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        ("hidden_size", "narrow", "heads", "labels"),
        [
            *((8, 128, 1, 2), (384, 64, 7, 100), (384, 64, 8, 100), (768, 128, 2, 2), (768, 64, 5, 5)),
            *((768, 256, 5, 5), (1024, 64, 4, 1031), (1024, 256, 8, 1024), (1024, 256, 8, 1031), (2056, 128, 4, 3)),
        ],
    )
    def test_every_size(self, library, dtype, hidden_size, narrow, heads, labels):
        self.check(library, [65, 0, 5, 130], dtype, hidden_size, narrow, heads, labels)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(
        lengths=st.lists(st.integers(0, 150), min_size=1, max_size=5),
        hidden_size=st.integers(1, 20).map(lambda n: 8 * n),
        narrow=st.sampled_from([64, 128, 256]),
        heads=st.integers(1, 8),
        labels=st.integers(2, 40),
        dtype=st.sampled_from(DTYPES),
        folded=st.booleans(),
        seed=st.integers(0, 9),
    )
    def test_any_batch(self, built_library, lengths, hidden_size, narrow, heads, labels, dtype, folded, seed):
        built_library.configure(seed=seed)
        fold = dtype if folded else FLOAT32
        self.check(built_library, lengths, dtype, hidden_size, narrow, heads, labels, fold=fold)


def prefix_sums(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()], dtype=torch.int32)


def random_decision(batch: int, seed: int = 0) -> Decision:
    return Decision(torch.rand(batch, generator=torch.Generator().manual_seed(seed + 1000)))


def entropy(logits: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(torch.softmax(logits, -1)).sum(-1) / math.log(logits.shape[1])


def binary_entropy(logits: torch.Tensor) -> torch.Tensor:
    p, rest = logits.sigmoid(), (-logits).sigmoid()
    return (torch.special.entr(p) + torch.special.entr(rest)).mean(-1) / math.log(2)


# From logits [B, N] in descending order and the criterion's parameter, [B].
UNCERTAINTIES = {
    "entropy": lambda logits, _: entropy(logits),
    "top_k_entropy": lambda logits, k: entropy(logits[:, :k]),
    "confidence": lambda logits, _: 1 - torch.softmax(logits, -1)[:, 0],
    "margin": lambda logits, _: 1 + torch.softmax(logits, -1)[:, :2].diff(dim=1)[:, 0],
    "binary_entropy": lambda logits, _: binary_entropy(logits),
    "patience": lambda logits, _: entropy(logits),
}


def uncertainty_reference(logits: torch.Tensor, decision: Decision) -> torch.Tensor:
    """The uncertainty [B] of logits [B, N], in their dtype."""
    valid = ~(logits.isnan() | (logits == math.inf)).any(1) & ~(logits == -math.inf).all(1)
    uncertainty = UNCERTAINTIES[decision.criterion](logits.sort(dim=1, descending=True).values, decision.parameter)
    return torch.where(valid, uncertainty, math.nan)


def history_reference(logits: torch.Tensor, decision: Decision) -> torch.Tensor:
    """csrc/decision.h: the history [B, 2] that logits [B, N] leave."""
    valid = ~(logits.isnan() | (logits == math.inf)).any(1) & ~(logits == -math.inf).all(1)
    history = torch.zeros(len(logits), 2, dtype=torch.int32)
    for sample in range(len(logits)):
        prediction = logits[sample].argmax().item() if valid[sample] else -1
        same = decision.history is not None and decision.history[sample, 0].item() == prediction
        streak = 1 + (decision.history[sample, 1].item() if same else 0)
        history[sample] = torch.tensor([prediction, streak if valid[sample] else 0])
    return history


def error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest absolute error; NaN where NaN is due counts as right."""
    assert torch.equal(actual.isnan(), exact.isnan())
    same = actual.double() == exact  # infinities too
    return (actual.double() - exact).masked_fill(same, 0).nan_to_num(0).abs().max().item() if actual.numel() else 0.0


def check_outputs(
    outputs: HeadOutputs,
    logits_in: Callable[[torch.dtype], torch.Tensor],
    dtype: torch.dtype,
    decision: Decision,
    floor: float = FLOOR,
) -> None:
    """The error of the logits is at most twice that of plain PyTorch in `dtype`, and that of the uncertainty, as a
    function of these logits, too; the rest follows from both exactly.

    Args:
        logits_in: computes the logits [B, N] in plain PyTorch in a dtype.
        floor: an error that is allowed beside, relative to the largest logit.
    """
    exact = logits_in(torch.float64)
    largest = exact.nan_to_num(0).abs().max().item() if exact.numel() else 0.0
    theirs = max(error(logits, exact) for logits in rivals(lambda: logits_in(dtype), exact.numel()))
    assert error(outputs.logits, exact) <= 2 * theirs + floor * max(1.0, largest)
    uncertainty = uncertainty_reference(outputs.logits.double(), decision)
    plain = rivals(lambda: uncertainty_reference(outputs.logits, decision), uncertainty.numel())
    theirs = max(error(rival, uncertainty) for rival in plain)
    assert error(outputs.uncertainty, uncertainty) <= 2 * theirs + FLOOR
    assert torch.equal(outputs.history, history_reference(outputs.logits, decision))
    if decision.criterion == "patience":
        assert torch.equal(outputs.keep.bool(), outputs.history[:, 1] < decision.parameter)
    else:
        assert torch.equal(outputs.keep.bool(), ~(outputs.uncertainty < decision.speed))


def assert_equal(actual: HeadOutputs, wanted: HeadOutputs, samples: list[int] | None = None) -> None:
    for one, other in zip(actual, wanted, strict=True):
        chosen = slice(None) if samples is None else samples
        torch.testing.assert_close(one[chosen], other[chosen], rtol=0, atol=0, equal_nan=True)


def head_inputs(
    lengths: list[int], dtype: torch.dtype, hidden_size: int, narrow: int, heads: int, labels: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Every weight is representable in `dtype`, so the comparison in that dtype starts from the same numbers."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(dtype)

    weights = {
        "projection_weight": normal(narrow, hidden_size, scale=hidden_size**-0.5),
        "projection_bias": normal(narrow, scale=0.2).float(),
        "query": normal(heads, narrow, narrow, scale=2 / narrow).float(),
        "query_bias": normal(heads, narrow, scale=0.1).float(),
        "value": normal(heads * narrow, narrow, scale=3 * (heads * narrow) ** -0.5).float(),
        "value_bias": normal(narrow, scale=0.2).float(),
        "output_weight": normal(labels, narrow, scale=2 * narrow**-0.5).float(),
        "output_bias": normal(labels, scale=0.2).float(),
    }
    return normal(sum(lengths), hidden_size), prefix_sums(lengths), weights


def head_reference(
    hidden: torch.Tensor,
    cu_seqlens: torch.Tensor,
    weights: dict[str, torch.Tensor],
    dtype: torch.dtype,
    activations: tuple[str, str] = ("tanh", "tanh"),
) -> torch.Tensor:
    """The attentive head in plain PyTorch, every operation in `dtype`: logits [B, N]."""
    narrow, mlp = (torch.tanh if name == "tanh" else torch.clone for name in activations)
    w = {name: tensor.to(dtype) for name, tensor in weights.items()}
    logits = []
    for begin, end in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
        if end == begin:
            logits.append(torch.full_like(w["output_bias"], math.nan))
            continue
        x = hidden[begin:end].to(dtype)
        z = narrow(torch.nn.functional.linear(x, w["projection_weight"], w["projection_bias"]))  # [n, C]
        u = torch.matmul(z[0], w["query"]) + w["query_bias"]  # [h, C]
        context = torch.softmax(u @ z.T, dim=-1) @ z  # [h, C]
        t = mlp(context.flatten() @ w["value"] + w["value_bias"])
        logits.append(torch.nn.functional.linear(t, w["output_weight"], w["output_bias"]))
    return torch.stack(logits) if logits else torch.empty(0, len(w["output_bias"]), dtype=dtype)
