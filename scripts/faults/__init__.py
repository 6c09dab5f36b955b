"""The faults that scripts/mutation_check.py plants, a file for each of its suites."""

from faults import cpu, cuda, engine, ptx, reference, threads, tiles
from faults.fault import CheckError, Fault

FAULTS: dict[str, list[Fault]] = {
    suite.__name__.rpartition(".")[2]: suite.FAULTS for suite in (cuda, ptx, cpu, tiles, engine, threads, reference)
}

__all__ = ["FAULTS", "CheckError", "Fault"]
