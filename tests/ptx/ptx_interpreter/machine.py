"""A kernel ready to run, and the launch that runs: blocks one after the other, the threads of a block interleaved.

Threads that stand at the same instruction execute it together. There are two schedules:

    lockstep   those furthest behind go first, so that threads come together again after every branch
    warps      a warp chosen at random goes on for a random number of instructions
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx_interpreter.findings import Finding, Findings, Kind, Stopped
from ptx_interpreter.global_memory import GlobalMemory
from ptx_interpreter.instructions import build
from ptx_interpreter.races import Clock
from ptx_interpreter.registers import Active, Registers
from ptx_interpreter.shared_memory import SharedMemory
from ptx_interpreter.syntax import Instruction, Kernel, Name, Refused

MOST_STEPS = 3_000_000  # of a block
LONGEST_TURN = 300  # instructions of a warp under the schedule "warps"
TOGETHER = ("shfl.", "redux.", "mma.", "ldmatrix.", "bar.warp.")  # opcodes for which the lanes of a warp wait
BARRIERS = ("bar.sync", "barrier.sync")
ENDS = ("ret", "exit")


class Step:
    """An instruction and how it is executed."""

    __slots__ = ("execute", "guard", "instruction", "is_together", "kind", "target")

    def __init__(self, instruction: Instruction, kind: str) -> None:
        self.instruction, self.kind = instruction, kind
        self.guard: Callable[[], np.ndarray] | None = None
        self.execute: Callable[[Active], None] | None = None
        self.target = -1  # of a branch


class Machine:
    def __init__(self, kernel: Kernel, threads: int, *, copies_may_round: bool = False) -> None:
        """Make the kernel ready for blocks of `threads`.

        Args:
            copies_may_round: Triton keeps copies of a value in several threads, which may all write it to one place;
                when some of them got it by a fused multiply-add of other terms, they differ in the last places.
        """
        if threads % 32 != 0:
            raise Refused("a warp that is not full")
        self._kernel, self._threads = kernel, threads
        self.copies_may_round = copies_may_round
        begin = kernel.shared_bytes
        for alignment in kernel.dynamic_shared.values():
            begin = -(-begin // alignment) * alignment
        self._static_shared = begin
        variables = kernel.parameters | kernel.shared | dict.fromkeys(kernel.dynamic_shared, begin)
        self.registers = Registers(kernel, threads, variables)
        self.clock = Clock(threads)
        self.memory = GlobalMemory()
        self.shared = SharedMemory(0, threads)
        self.parameters = np.zeros(0, np.uint8)
        self._findings = Findings()
        self._block = 0
        self._step = -1
        self._random = np.random.default_rng(0)
        self._steps = [self._make_step(instruction) for instruction in kernel.instructions]

    def run(
        self,
        memory: GlobalMemory,
        parameters: bytes,
        grid: tuple[int, ...],
        dynamic_shared: int = 0,
        seed: int | None = None,
    ) -> list[Finding]:
        """Run a launch and return what there is to say against it.

        Args:
            memory: what the addresses in the parameters belong to.
            parameters: as they lie in the parameter space of the kernel.
            grid: blocks along x, y, z; those left out are 1.
            dynamic_shared: bytes of shared memory beside what the kernel declares.
            seed: of the schedule "warps"; None is "lockstep".
        """
        self.memory, self._findings = memory, Findings()
        self.parameters = np.frombuffer(parameters, np.uint8)
        self._random = np.random.default_rng(seed)
        self.clock.begin_launch()
        x, y, z = (*grid, 1, 1)[:3]
        self.registers.grid |= {"%nctaid.x": x, "%nctaid.y": y, "%nctaid.z": z}
        with np.errstate(all="ignore"):
            for block in range(x * y * z):
                self.registers.grid |= {"%ctaid.x": block % x, "%ctaid.y": block // x % y, "%ctaid.z": block // (x * y)}
                self.registers.reset()
                self.clock.begin_block()
                self.shared = SharedMemory(self._static_shared + dynamic_shared, self._threads)
                self._block = block
                try:
                    _BlockRun(self, self._steps, self._threads, None if seed is None else self._random).run()
                    self.shared.check_end(self)
                except Stopped:
                    break
        return self._findings.list

    def report(self, kind: Kind, detail: str) -> None:
        instruction = self._steps[self._step].instruction
        self._findings.add(Finding(kind, instruction.line, instruction.text, self._block, detail))

    def stand_at(self, step: int) -> None:
        """Say which instruction reports are about."""
        self._step = step

    def _make_step(self, instruction: Instruction) -> Step:
        opcode = instruction.opcode
        if opcode in BARRIERS:
            if len(instruction.operands) != 1 or instruction.guard is not None:
                raise Refused(f"line {instruction.line}: {instruction.text}")
            return Step(instruction, "barrier")
        if opcode.startswith(TOGETHER):
            if instruction.guard is not None:
                raise Refused(f"line {instruction.line}: {instruction.text}")
            step = Step(instruction, "together")
        elif opcode in ("bra", "bra.uni"):
            step = Step(instruction, "branch")
            (label,) = instruction.operands
            assert isinstance(label, Name)
            step.target = self._kernel.labels[label.name]
        elif opcode in ENDS:
            step = Step(instruction, "end")
        elif opcode == "trap":
            step = Step(instruction, "trap")
        else:
            step = Step(instruction, "plain")
        if step.kind in ("plain", "together"):
            step.execute = build(self, instruction)
        if instruction.guard is not None:
            predicate = self.registers.predicate(instruction.guard)
            step.guard = (lambda: ~predicate) if instruction.is_guard_negated else (lambda: predicate)
        return step


class _BlockRun:
    """One block from its first instruction to the end of its last thread."""

    def __init__(self, machine: Machine, steps: list[Step], threads: int, random: np.random.Generator | None) -> None:
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
        steps, machine = self._steps, self._machine
        active = Active(mask)
        others = self._lowest()
        while True:
            if step == len(steps):
                raise Refused("a kernel that does not end with ret")
            current = steps[step]
            machine.stand_at(step)
            self._left -= 1
            if self._left == 0:
                machine.report(Kind.ENDLESS, f"more than {MOST_STEPS} instructions")
                raise Stopped
            chosen: Active | None = active
            if current.guard is not None:
                chosen = active.where(current.guard())
            if current.kind == "plain":
                if chosen is not None:
                    current.execute(chosen)
                step += 1
            elif current.kind == "together":
                complete = self._wait_for_warps(step, active.mask)
                if complete is None:
                    return
                active = complete
                current.execute(active)
                step += 1
            elif current.kind == "barrier":
                _add(self._arrived, step, active.mask)
                return
            elif current.kind == "trap":
                if chosen is not None:
                    machine.report(Kind.TRAP, f"thread {chosen.threads[0]}")
                    raise Stopped
                step += 1
            elif current.kind == "branch":
                if chosen is None:
                    step += 1
                elif chosen.count == active.count:
                    step = current.target
                else:
                    _add(self._ready, current.target, chosen.mask)
                    active = Active(active.mask & ~chosen.mask)
                    others = self._lowest()
                    step += 1
            else:  # end
                if chosen is not None:
                    self._ended |= chosen.mask
                    if chosen.count == active.count:
                        return
                    active = Active(active.mask & ~chosen.mask)
                step += 1
            turn -= 1
            if step >= others or turn <= 0 or step in self._ready:
                _add(self._ready, step, active.mask)
                return

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
