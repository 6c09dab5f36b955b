"""One block from its first instruction to the end of its last thread.

Threads that stand at the same instruction execute it together. There are two schedules:

    lockstep   those furthest behind go first, so that threads come together again after every branch
    warps      a warp chosen at random goes on for a random number of instructions
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

import numpy as np

from ptx_interpreter.checked_memory import Reporter
from ptx_interpreter.findings import Kind, Stopped
from ptx_interpreter.registers import Active
from ptx_interpreter.syntax import Instruction, Refused

MOST_STEPS = 3_000_000  # of a block
LONGEST_TURN = 300  # instructions of a warp under the schedule "warps"


class Control(Enum):
    PLAIN = auto()
    TOGETHER = auto()  # all lanes of a warp at once
    BARRIER = auto()  # of the block
    BRANCH = auto()
    END = auto()
    TRAP = auto()


def _nothing(active: Active) -> None:
    raise AssertionError("this step has nothing to execute")


@dataclass
class Step:
    """An instruction and how it is executed."""

    instruction: Instruction
    control: Control
    execute: Callable[[Active], None] = _nothing
    guard: Callable[[], np.ndarray] | None = None  # of all threads, whether they execute it
    target: int = -1  # of a branch


class Reporting(Reporter, Protocol):
    def stand_at(self, step: int) -> None: ...


class BlockRun:
    """One block from its first instruction to the end of its last thread."""

    def __init__(self, machine: Reporting, steps: list[Step], threads: int, random: np.random.Generator | None) -> None:
        self._machine, self._steps, self._random = machine, steps, random
        self._ready = {0: np.ones(threads, np.bool_)}  # by the instruction they come to next
        self._waiting: dict[int, np.ndarray] = {}  # for the other lanes of their warps
        self._arrived: dict[int, np.ndarray] = {}  # at a barrier of the block
        self._ended = np.zeros(threads, np.bool_)
        self._left = MOST_STEPS

    def run(self) -> None:
        while self._ready or self._waiting or self._arrived:
            if self._ready:
                self._run_some(*self._choose())
            else:
                self._release_barrier()

    def _choose(self) -> tuple[int, np.ndarray, float]:
        """Return where to go on, the threads, and for how many instructions."""
        if self._random is None:
            step = min(self._ready)
            return step, self._ready.pop(step), np.inf
        step = int(self._random.choice(list(self._ready)))
        mask = self._ready.pop(step)
        warp = self._random.choice(np.flatnonzero(mask)) // 32
        chosen = np.zeros_like(mask)
        chosen[32 * warp : 32 * warp + 32] = mask[32 * warp : 32 * warp + 32]
        _add(self._ready, step, mask & ~chosen)
        return step, chosen, int(self._random.integers(1, LONGEST_TURN))

    def _run_some(self, step: int, mask: np.ndarray, turn: float) -> None:
        """Let threads go on from `step` until they wait for others, have ended or it is the turn of others."""
        active: Active | None = Active(mask)
        others = self._lowest()
        while active is not None:
            self._count_step(step)
            current = self._steps[step]
            chosen = active if current.guard is None else active.where(current.guard())
            if current.control is Control.BRANCH and chosen is not None and chosen.count < active.count:
                _add(self._ready, current.target, chosen.mask)
                active = active.where(~chosen.mask)
                others = self._lowest()
                step += 1
            elif current.control is Control.BRANCH:
                step = step + 1 if chosen is None else current.target
            else:
                active = self._execute(step, current, active, chosen)
                step += 1
            turn -= 1
            if active is not None and (step >= others or turn <= 0 or step in self._ready):
                _add(self._ready, step, active.mask)
                return

    def _execute(self, number: int, step: Step, active: Active, chosen: Active | None) -> Active | None:
        """Execute the step for those `chosen` by its guard; returns who goes on to the next."""
        if step.control is Control.PLAIN:
            if chosen is not None:
                step.execute(chosen)
            return active
        if step.control is Control.TOGETHER:
            complete = self._wait_for_warps(number, active.mask)
            if complete is not None:
                step.execute(complete)
            return complete
        if step.control is Control.BARRIER:
            _add(self._arrived, number, active.mask)
            return None
        if chosen is None:
            return active
        if step.control is Control.END:
            self._ended |= chosen.mask
            return active.where(~chosen.mask)
        assert step.control is Control.TRAP
        self._machine.report(Kind.TRAP, f"thread {chosen.threads[0]}")
        raise Stopped

    def _count_step(self, step: int) -> None:
        if step == len(self._steps):
            raise Refused("a kernel that does not end with ret")
        self._machine.stand_at(step)
        self._left -= 1
        if self._left == 0:
            self._machine.report(Kind.ENDLESS, f"more than {MOST_STEPS} instructions")
            raise Stopped

    def _lowest(self) -> int:
        """Return where those wait for whom the ones that run now stop, under the schedule "lockstep"."""
        return min(self._ready, default=len(self._steps)) if self._random is None else len(self._steps)

    def _wait_for_warps(self, step: int, mask: np.ndarray) -> Active | None:
        """Return the threads of warps that are here with all their lanes, or None; the others wait."""
        if step in self._waiting:
            mask = mask | self._waiting.pop(step)
        here = mask.reshape(-1, 32)
        living = ~self._ended.reshape(-1, 32)
        present = here.any(axis=1)
        if (present & ~living.all(axis=1)).any():
            self._machine.report(Kind.EXITED_LANES, "an instruction of the whole warp without them")
            raise Stopped
        complete = here.all(axis=1)
        if not complete[present].all():
            rest = mask & ~np.repeat(complete, 32)
            _add(self._waiting, step, rest)
            mask = mask & ~rest
        return Active(mask) if mask.any() else None

    def _release_barrier(self) -> None:
        machine = self._machine
        if self._waiting:
            step = min(self._waiting)
            machine.stand_at(step)
            machine.report(Kind.DEADLOCK, f"{np.count_nonzero(self._waiting[step])} threads wait for other lanes")
            raise Stopped
        step = min(self._arrived)
        machine.stand_at(step)
        if len(self._arrived) > 1:
            lines = [self._steps[other].instruction.line for other in self._arrived]
            machine.report(Kind.DIVERGENT_BARRIER, f"threads of the block wait at the lines {lines}")
        if self._ended.any():
            machine.report(Kind.EXITED_LANES, f"a barrier without {np.count_nonzero(self._ended)} threads")
        machine.clock.pass_barrier()
        for step, mask in self._arrived.items():
            _add(self._ready, step + 1, mask)
        self._arrived = {}


def _add(table: dict[int, np.ndarray], step: int, mask: np.ndarray) -> None:
    if mask.any():
        table[step] = table[step] | mask if step in table else mask
