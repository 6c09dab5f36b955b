"""What the interpreter reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MOST_FINDINGS = 20


class Kind(Enum):
    UNINITIALISED = "uninitialised read"
    OUT_OF_BOUNDS = "out of bounds"
    MISALIGNED = "misaligned"
    WRITE_TO_INPUT = "write to an input"
    NOT_READ_ONLY = "read-only load of what the launch may write"
    RACE = "race"
    COPY_IN_FLIGHT = "copy in flight"
    COPY_NOT_AWAITED = "copy never waited for"
    DIVERGENT_BARRIER = "divergent barrier"
    EXITED_LANES = "lanes have exited"
    DEADLOCK = "deadlock"
    TRAP = "trap"
    ENDLESS = "endless"


@dataclass(frozen=True)
class Finding:
    kind: Kind
    line: int  # of the PTX
    instruction: str
    block: int
    detail: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.detail} (block {self.block}, line {self.line}: {self.instruction})"


class Stopped(Exception):
    """The launch cannot go on; a finding says why."""


class Findings:
    """The findings of one launch, one for each kind and line."""

    def __init__(self) -> None:
        self.list: list[Finding] = []
        self._seen: set[tuple[Kind, int]] = set()

    def add(self, finding: Finding) -> None:
        key = (finding.kind, finding.line)
        if key not in self._seen and len(self.list) < MOST_FINDINGS:
            self.list.append(finding)
        self._seen.add(key)
