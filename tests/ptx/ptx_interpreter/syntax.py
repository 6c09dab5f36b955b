"""The text of PTX, parsed: kernels, their declarations and their instructions."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cache

from ptx_interpreter.formats import FORMATS


class Refused(Exception):
    """PTX that the interpreter does not know."""


@dataclass(frozen=True)
class Name:
    """A register, a special register or the name of a variable."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """A number: its bits, of an integer or of a float of `float_bits`."""

    bits: int
    float_bits: int = 0


@dataclass(frozen=True)
class Address:
    base: Name
    offset: int


@dataclass(frozen=True)
class Vector:
    """{a, b, ..}"""

    parts: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """a|b: a result and a predicate beside it."""

    first: Operand
    second: Operand


Operand = Name | Immediate | Address | Vector | Pair


@dataclass(frozen=True)
class Instruction:
    text: str
    line: int
    guard: str | None  # a predicate register
    is_guard_negated: bool
    opcode: str  # with its modifiers
    operands: tuple[Operand, ...]


@dataclass
class Kernel:
    name: str
    parameters: dict[str, int]  # where each begins, in bytes
    parameter_sizes: list[int]
    registers: dict[str, str] = field(default_factory=dict)  # and their types
    shared: dict[str, int] = field(default_factory=dict)  # where each static variable begins
    shared_bytes: int = 0  # of the static variables
    dynamic_shared: dict[str, int] = field(default_factory=dict)  # names of what follows them, and its alignment
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # the index of the instruction that follows
    constants: dict[str, Immediate] = field(default_factory=dict)  # registers that are given a number, and nothing else


class Module:
    """A file of PTX. Kernels are parsed when they are asked for."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"//[^\n]*|/\*[^*]*\*/", "", text)
        self._text = re.sub(r"^[ \t]*\.(loc|file)\b[^\n]*", "", text, flags=re.M)
        self._lines = [match.start() for match in re.finditer("\n", self._text)]
        self._entries = {match[1]: match.end() for match in re.finditer(r"\.entry\s+([\w$]+)\s*\(", self._text)}
        pattern = r"\.extern\s+\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[\]\s*;"
        self._dynamic_shared = {match[2]: int(match[1]) for match in re.finditer(pattern, self._text)}
        self._kernels: dict[str, Kernel] = {}

    def names(self) -> list[str]:
        return list(self._entries)

    def kernel(self, name: str) -> Kernel:
        if name not in self._kernels:
            self._kernels[name] = self._parse(name, self._entries[name])
        return self._kernels[name]

    def _parse(self, name: str, begin: int) -> Kernel:
        end = self._text.index(")", begin)
        kernel = _declare_parameters(name, self._text[begin:end])
        kernel.dynamic_shared = self._dynamic_shared
        position = self._text.index("{", end) + 1
        depth = 1
        token = re.compile(r"\s*(?:([\w$]+):|([{}])|([^;]+);)")
        while depth:
            match = token.match(self._text, position)
            if match is None:
                raise Refused(f"{name} has no end")
            position = match.end()
            label, brace, statement = match.groups()
            if brace:
                depth += 1 if brace == "{" else -1
            elif label:
                kernel.labels[label] = len(kernel.instructions)
            elif not _declare(kernel, statement):
                line = 1 + bisect_right(self._lines, match.start(3))
                kernel.instructions.append(_parse_instruction(statement, line))
        kernel.constants = _find_constants(kernel)
        return kernel


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _declare_parameters(name: str, text: str) -> Kernel:
    pattern = (
        r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)(?:\s+\.ptr\s+\.global\s+\.align\s+\d+)?\s+([\w$]+)(?:\[(\d+)\])?"
    )
    kernel = Kernel(name, {}, [])
    end = 0
    for declaration in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(pattern, declaration)
        if match is None:
            raise Refused(declaration)
        element = FORMATS[match[2]].size
        begin = _aligned(end, int(match[1] or element))
        kernel.parameters[match[3]] = begin
        kernel.parameter_sizes.append(element * int(match[4] or 1))
        end = begin + kernel.parameter_sizes[-1]
    return kernel


def _declare(kernel: Kernel, statement: str) -> bool:
    """Take in the declaration; returns False for what is an instruction."""
    if not statement.startswith("."):
        return False
    if match := re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", statement, re.S):
        for item in match[2].split(","):
            many = re.fullmatch(r"(%?[\w$]+)<(\d+)>", item.strip())
            names = [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [item.strip()]
            kernel.registers.update(dict.fromkeys(names, match[1]))
    elif match := re.fullmatch(r"\.shared\s+\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", statement):
        begin = _aligned(kernel.shared_bytes, int(match[1]))
        kernel.shared[match[3]] = begin
        kernel.shared_bytes = begin + FORMATS[match[2]].size * int(match[4] or 1)
    elif not statement.startswith(".pragma"):
        raise Refused(statement)
    return True


def _parse_instruction(statement: str, line: int) -> Instruction:
    text = " ".join(statement.split())
    match = re.fullmatch(r"(?:@(!?)(%?[\w$]+) )?([a-z][\w.:]*)(.*)", text)
    if match is None:
        raise Refused(f"line {line}: {text}")
    operands = tuple(_parse_operand(part) for part in _split(match[4]))
    return Instruction(text, line, match[2], match[1] == "!", match[3], operands)


def _split(text: str) -> list[str]:
    """Split at the commas outside of braces and brackets."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", text) if part.strip()]


@cache
def _parse_operand(text: str) -> Operand:
    if text.startswith("{"):
        return Vector(tuple(_parse_operand(part) for part in _split(text[1:-1])))
    if text.startswith("["):
        match = re.fullmatch(r"\[\s*(%?[\w$.]+)\s*(?:\+\s*(-?\w+))?\s*\]", text)
        if match is None:
            raise Refused(text)
        return Address(Name(match[1]), int(match[2] or "0", 0))
    if "|" in text:
        first, second = text.split("|")
        return Pair(_parse_operand(first), _parse_operand(second))
    if match := re.fullmatch(r"0([fFdD])([0-9a-fA-F]+)", text):
        return Immediate(int(match[2], 16), 32 if match[1] in "fF" else 64)
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
        return Immediate(int(text.rstrip("U"), 0))
    if re.fullmatch(r"[%$\w][\w$.]*", text):
        return Name(text)
    raise Refused(text)


def _find_constants(kernel: Kernel) -> dict[str, Immediate]:
    written: dict[str, int] = {}
    constants = {}
    for instruction in kernel.instructions:
        if not instruction.operands:
            continue
        target = instruction.operands[0]
        parts = target.parts if isinstance(target, Vector) else (target,)
        if isinstance(target, Pair):
            parts = (target.first, target.second)
        for part in parts:
            if isinstance(part, Name):
                written[part.name] = written.get(part.name, 0) + 1
        if instruction.opcode.startswith("mov.") and instruction.guard is None:
            source = instruction.operands[1]
            if isinstance(target, Name) and isinstance(source, Immediate):
                constants[target.name] = source
    return {name: number for name, number in constants.items() if written[name] == 1}
