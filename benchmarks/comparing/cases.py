"""Which configurations are measured, and how the time is shared among them."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

from comparing.workload import SHAPES

FEWEST_ROUNDS, MOST_ROUNDS = 3, 30
PAPER_DEPTHS = (2.8, 4.0, 5.8)
TEXTS = 128


@dataclass(frozen=True)
class Case:
    """A configuration: `kind` is full or mixed lengths, or texts; `depths` are mean depths of 12, or Speeds of a
    trained model."""

    shape: str
    batch: int
    kind: str
    depths: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.shape}, batch {self.batch}, {self.kind}"

    @property
    def samples(self) -> int:
        if self.kind == "texts":
            return max(TEXTS, self.batch)
        return self.batch if self.kind == "full" and self.batch > 1 else max(16, self.batch)


def make_cases(options: argparse.Namespace) -> list[Case]:
    """The default selection, or the product of what was asked for."""
    if options.quick:
        return [Case("tiny", 2, "mixed", (4.0,))]
    shapes = options.shapes or ["BERT-base", "MiniLM-L6", *(["model"] if options.model else [])]
    chosen = options.full or options.batches or options.lengths or options.depths
    gpu = options.device == "cuda"
    cases = []
    for shape in shapes:
        batches = options.batches or ((1, 8, 32, 128) if chosen or gpu else (1, 8, 32))
        if shape == "model":
            cases += [Case(shape, batch, "texts", tuple(options.speeds)) for batch in batches]
        elif chosen:
            depths = tuple(options.depths or (PAPER_DEPTHS if options.full else (4.0,)))
            kinds = options.lengths or ("mixed", "full")
            cases += [Case(shape, batch, kind, depths) for kind, batch in itertools.product(kinds, batches)]
        else:
            largest = batches[-1]
            cases += [Case(shape, batch, "mixed", (4.0,)) for batch in batches[:-1]]
            cases += [Case(shape, largest, "mixed", PAPER_DEPTHS), Case(shape, largest if gpu else 8, "full", (4.0,))]
    return cases


class Budget:
    """Shares the time that is left among the cases that are left, by their cost."""

    def __init__(self, minutes: float, rounds: int | None, costs: list[float]) -> None:
        self.end = time.perf_counter() + 60 * minutes
        self.rounds = rounds
        self.costs = costs

    def start_case(self) -> Callable[[float], int]:
        """From seconds per round to rounds, for the next case; the first pass over its contestants counts too."""
        begin = time.perf_counter()
        share = (self.end - begin) * self.costs[0] / sum(self.costs)
        self.costs = self.costs[1:]

        def choose(round_seconds: float) -> int:
            left = share - (time.perf_counter() - begin)
            return self.rounds or max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(left / max(round_seconds, 1e-6))))

        return choose


def cost(case: Case) -> float:
    """Seconds on two cores, very roughly: making the contestants, a first pass, and the fewest rounds."""
    sizes = SHAPES.get(case.shape, SHAPES["MiniLM-L6"])
    flops = 100 * case.samples * sizes["num_hidden_layers"] * 24 * sizes["hidden_size"] ** 2  # once, at full depth
    return 40 + (1 + FEWEST_ROUNDS) * flops / 150e9 * (8 + len(case.depths))
