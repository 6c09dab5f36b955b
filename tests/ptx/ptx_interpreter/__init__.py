"""An interpreter of PTX, the code that nvcc and Triton compile kernels to, for machines without a GPU.

It runs a launch block by block, all threads of a block in numpy, and reports what a GPU would not tell: reads of memory
that nobody wrote, accesses outside of buffers, data races, copies used before they arrive, divergent barriers. It knows
the instructions that the kernels of this project need for sm_80, and refuses all others.

What it cannot see: what ptxas makes of the PTX, registers that nobody wrote (they hold garbage), races between accesses
of one thread that the memory model lets change places, and time. Arithmetic is that of IEEE 754; approximate
instructions are exact, except tanh.approx, which keeps the 11 bits that it promises. A fused multiply-add is rounded
through float64.
"""

from ptx_interpreter.findings import Finding, Kind
from ptx_interpreter.global_memory import GlobalMemory
from ptx_interpreter.machine import Machine
from ptx_interpreter.syntax import Module, Refused

__all__ = ["Finding", "GlobalMemory", "Kind", "Machine", "Module", "Refused"]
