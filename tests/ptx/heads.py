"""What the tests of both exit heads share: the decision in the launchers' structures, and what the outputs must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from compiled import Launch, Launcher, number_of
from ptx_interpreter import GlobalMemory
from torch import Tensor

from cuda_on_cpu.cpu_library import DecisionFields, DecisionOutputs
from fastbert_kernels import reference
from fastbert_kernels.criteria import Criterion
from helpers.rounding import rivals

FLOOR = 2e-6  # what float32 arithmetic may cost, relative to the largest value
FLOOR_OF_APPROXIMATED_TANH = 1e-3  # what the tanh of the hardware may cost besides, which is taken for bfloat16
OUTPUTS = ("logits", "uncertainty", "new history", "keep")


@dataclass(frozen=True)
class Decision:
    speed: Tensor
    criterion: str = "entropy"
    parameter: int = 0
    history: Tensor | None = None

    def place(self, memory: GlobalMemory) -> DecisionFields:
        history = None if self.history is None else memory.place("history", self.history)
        criterion = number_of("Criterion", self.criterion)
        return DecisionFields(criterion, self.parameter, memory.place("speed", self.speed), history)

    def of(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return reference.decide(logits, self.speed, self.history, self.criterion, self.parameter)


def history_of(criterion: str, batch: int, labels: int) -> Tensor:
    """A history [B, 2] as the head before may have left it."""
    if criterion == Criterion.STABILITY:
        return torch.stack([torch.randn(batch).view(torch.int32), (torch.arange(batch) % 2).int()], dim=1)
    return torch.randint(-1, labels, (batch, 2), dtype=torch.int32)


def place_outputs(memory: GlobalMemory, batch: int, labels: int) -> DecisionOutputs:
    shapes, dtypes = (
        [(batch, labels), (batch,), (batch, 2), (batch,)],
        [torch.float32, torch.float32, torch.int32, torch.uint8],
    )
    addresses = [memory.allocate(*output) for output in zip(OUTPUTS, shapes, dtypes, strict=True)]
    return DecisionOutputs(*addresses)


def run_head(launcher: Launcher, memory: GlobalMemory, launch: Launch, seed: int | None = None) -> list[Tensor]:
    """Return the outputs; nothing may speak against the launch, and nothing of them may be unwritten."""
    assert launcher.run(memory, launch, seed) == []
    assert [memory.unwritten(name) for name in OUTPUTS] == [0, 0, 0, 0]
    return [memory.tensor(name) for name in OUTPUTS]


def check_head(
    outputs: list[Tensor],
    logits_in: Callable[[torch.dtype], Tensor],
    dtype: torch.dtype,
    decision: Decision,
    floor: float = FLOOR,
) -> None:
    """The error of the logits is at most twice that of plain PyTorch in `dtype`, and that of the uncertainty, as a
    function of these logits, too; the rest follows from both exactly."""
    logits, uncertainty, history, keep = outputs
    exact = logits_in(torch.float64)
    theirs = max(_error(plain, exact) for plain in rivals(lambda: logits_in(dtype), exact.numel()))
    assert _error(logits, exact) <= 2 * theirs + floor * max(1.0, exact.nan_to_num(0).abs().max().item())
    exact_uncertainty, _, _ = decision.of(logits.double())
    plain = rivals(lambda: decision.of(logits)[0], exact_uncertainty.numel())
    theirs = max(_error(uncertainty, exact_uncertainty) for uncertainty in plain)
    assert _error(uncertainty, exact_uncertainty) <= 2 * theirs + FLOOR
    _, expected_history, _ = decision.of(logits)
    assert torch.equal(history, expected_history)
    leaves = history[:, 1] >= decision.parameter if decision.criterion == "patience" else uncertainty < decision.speed
    assert torch.equal(keep.bool(), ~leaves)


def check_bad_bounds(run: Callable[[Tensor], list[Tensor]]) -> None:
    """Bounds that leave the rows, of samples of 3, 5, 4 and 2 tokens: such a sample is answered as one without tokens,
    the others as if nothing had been."""
    good_bounds = [0, 3, 8, 12, 14]
    good = run(torch.tensor(good_bounds, dtype=torch.int32))
    for bounds, bad in (([-1, 3, 8, 12, 15], [0, 3]), ([0, 3, -(1 << 31), 12, 14], [1, 2])):
        logits, uncertainty, history, keep = run(torch.tensor(bounds, dtype=torch.int32))
        assert logits[bad].isnan().all() and uncertainty[bad].isnan().all() and keep[bad].all()
        assert history[bad].tolist() == [[-1, 0]] * len(bad)
        same = [sample for sample in range(4) if bounds[sample : sample + 2] == good_bounds[sample : sample + 2]]
        assert same and torch.equal(logits[same], good[0][same])


def _error(actual: Tensor, exact: Tensor) -> float:
    """Return the largest error; NaN where NaN is due counts as right."""
    assert torch.equal(actual.isnan(), exact.isnan())
    return (actual.double() - exact).nan_to_num(0).abs().max().item()
