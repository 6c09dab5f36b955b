"""A deliberate fault: where, what stands there, what takes its place, and who notices."""

from __future__ import annotations

from dataclasses import dataclass


class CheckError(Exception):
    """The check could not be made."""


@dataclass(frozen=True)
class Fault:
    name: str
    file: str
    old: str
    new: str
    tests: str  # files below the suite's folder

    def planted_in(self, text: str) -> str:
        if text.count(self.old) != 1:
            raise CheckError(
                f"{self.file} has the text of the fault {self.name!r} {text.count(self.old)} times, not once: "
                f"{self.old!r}"
            )
        return text.replace(self.old, self.new)
