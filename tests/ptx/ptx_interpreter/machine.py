"""A kernel ready to run, and the launch that runs: blocks one after the other, each as `block_run` does it."""

from __future__ import annotations

import numpy as np

from ptx_interpreter.block_run import BlockRun, Control, Step
from ptx_interpreter.findings import Finding, Findings, Kind, Stopped
from ptx_interpreter.global_memory import GlobalMemory
from ptx_interpreter.instructions import build
from ptx_interpreter.races import Clock
from ptx_interpreter.registers import Registers
from ptx_interpreter.shared_memory import SharedMemory
from ptx_interpreter.syntax import Immediate, Instruction, Kernel, Name, Refused

TOGETHER = ("shfl.", "redux.", "mma.", "ldmatrix.", "bar.warp.")  # opcodes for which the lanes of a warp wait
CONTROLS = {
    **{"bar.sync": Control.BARRIER, "bra": Control.BRANCH, "bra.uni": Control.BRANCH},
    **{"ret": Control.END, "exit": Control.END, "trap": Control.TRAP},
}


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
        random = None if seed is None else np.random.default_rng(seed)
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
                    BlockRun(self, self._steps, self._threads, random).run()
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
        control = _control_of(instruction)
        step = Step(instruction, control)
        if control is Control.BRANCH:
            (label,) = instruction.operands
            assert isinstance(label, Name)
            step.target = self._kernel.labels[label.name]
        if control in (Control.PLAIN, Control.TOGETHER):
            step.execute = build(self, instruction)
        if instruction.guard is not None:
            predicate = self.registers.predicate(instruction.guard)
            step.guard = (lambda: ~predicate) if instruction.is_guard_negated else (lambda: predicate)
        return step


def _control_of(instruction: Instruction) -> Control:
    opcode = instruction.opcode
    control = CONTROLS.get(opcode, Control.TOGETHER if opcode.startswith(TOGETHER) else Control.PLAIN)
    is_known = control is not Control.BARRIER or instruction.operands == (Immediate(0),)
    if not is_known or (control in (Control.BARRIER, Control.TOGETHER) and instruction.guard is not None):
        raise Refused(f"line {instruction.line}: {instruction.text}")
    return control
