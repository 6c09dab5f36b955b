#!/usr/bin/env python
"""How fast a rule a calibration lets through, by the number of its texts: one Speed tested on all, or a search.

    fastbert calibrate MODEL --data FILE --max-drop 0.05 --records sst2.safetensors --dry-run
    python benchmarks/calibration_power.py sst2.safetensors mrpc.safetensors [--splits 40]

The input are exits recorded with labels, of texts that the model was not trained on. Each file is a population whose
truth is known: as many texts as a calibration has are drawn from it without replacement, so often as --splits says;
each way gets the same ones, and what its rule does is measured on the whole population. The number of texts is given as
a multiple of the fewest that can show the promise. A cell (records, promise, multiple, way) that the result file has is
not computed again, so that a stopped run goes on. Writes calibration_power.json and .md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from documents.calibration import page
from fastbert_hf.calibration import Certificate, ExitRecords, certify_one_speed, certify_searched, simulate
from fastbert_hf.calibration.guarantee import enough_samples
from fastbert_hf.calibration.pareto import spoilt
from fastbert_hf.calibration.simulation import exit_heads
from harness import RESULTS, save

NAME = "calibration_power"
CONFIDENCE = 0.95
MULTIPLES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)

Way = Callable[[ExitRecords, float, int], Certificate]


@dataclass(frozen=True)
class Promise:
    """What is promised: at most this part of the texts lost, of accuracy or of answers that are full depth's."""

    max_risk: float
    labelled: bool

    @property
    def name(self) -> str:
        return f"--{'max-drop' if self.labelled else 'max-disagreement'} {self.max_risk:g}"


PROMISES = {one.name: one for one in (Promise(0.02, True), Promise(0.01, True), Promise(0.02, False))}


def one_speed(records: ExitRecords, max_risk: float, seed: int) -> Certificate:
    """Return the fastest Speed of the fixed grid for all heads: no text chooses."""
    return certify_one_speed(records, max_risk, CONFIDENCE)


def searched(tested_share: float, records: ExitRecords, max_risk: float, seed: int) -> Certificate:
    """Return the fastest rule of a search, of which this part of the texts tests."""
    return certify_searched(records, max_risk, CONFIDENCE, tested_share=tested_share, seed=seed)


WAYS: dict[str, tuple[float, Way]] = {  # name: part of the texts that tests, and the way
    "one Speed": (1.0, one_speed),
    "search, 1/2 test": (0.5, partial(searched, 0.5)),
    "search, 2/3 test": (2 / 3, partial(searched, 2 / 3)),
    "search, 4/5 test": (0.8, partial(searched, 0.8)),
}


def cell(population: ExitRecords, promise: Promise, size: int, way: Way, splits: int) -> dict[str, Any]:
    """Return what a way's rules do on the population, over so many drawings of `size` texts."""
    lost, rows = spoilt(population), np.arange(len(population))
    speedups, risks = [], []
    begin = time.process_time()
    for split in range(splits):
        drawn = torch.randperm(len(population), generator=torch.Generator().manual_seed(split))[:size]
        rule = way(population.rows(drawn), promise.max_risk, split).found.rule
        speedups.append(simulate(population, rule).flops_speedup)
        risks.append(float(lost[rows, exit_heads(population, rule)].mean()))
    return {
        "splits": splits,
        "speedups": [round(one, 4) for one in speedups],
        "mean_speedup": statistics.fmean(speedups),
        "violations": sum(risk > promise.max_risk for risk in risks),
        "loss_used": statistics.fmean(risks) / promise.max_risk,
        "seconds_of_processor_per_calibration": (time.process_time() - begin) / splits,
    }


def run(options: argparse.Namespace, cells: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every new cell, once it is among `cells`; the populations are those of the files."""
    for name in options.promises:
        promise = PROMISES[name]
        needed = enough_samples(promise.max_risk, CONFIDENCE)
        for file in options.records:
            records = ExitRecords.load(file)
            population = records if promise.labelled else records.without_labels()
            for multiple in options.multiples:
                size = round(multiple * needed)
                for way in options.ways:
                    share, chosen = WAYS[way]
                    place = {"records": file.stem, "promise": name, "multiple": multiple, "way": way}
                    found = [one for one in cells if place.items() <= one.items() and one["splits"] >= options.splits]
                    if found or int(share * size) < needed or 2 * size > len(population):
                        continue
                    sizes = {"texts": size, "population": len(population)}
                    cells.append(place | sizes | cell(population, promise, size, chosen, options.splits))
                    yield cells[-1]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path, help="files of recorded exits, with labels")
    parser.add_argument("--splits", type=int, default=40, help="drawings of each size")
    parser.add_argument("--promises", nargs="+", choices=list(PROMISES), default=list(PROMISES))
    parser.add_argument("--multiples", nargs="+", type=float, default=MULTIPLES, help="of the fewest texts")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    options = parser.parse_args(argv)
    missing = [str(file) for file in options.records if not file.is_file()]
    if missing:
        parser.error(f"there is no {', '.join(missing)}; record exits with fastbert calibrate --records")
    if options.splits < 1:
        parser.error("--splits must be 1 or more")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    kept = options.out / f"{NAME}.json"
    result: dict[str, Any] = {"confidence": CONFIDENCE, "cells": []}
    if kept.exists():
        result["cells"] = json.loads(kept.read_text(encoding="utf-8"))["cells"]
    torch.set_num_threads(1)  # the tensors are small
    for last in run(options, result["cells"]):
        print(
            f"{last['records']}, {last['promise']}, {last['texts']:,} texts, {last['way']}: "
            f"{last['mean_speedup']:.2f}x, {last['loss_used']:.0%} of the loss, {last['violations']} broken, "
            f"{last['seconds_of_processor_per_calibration']:.2f} s each",
            flush=True,
        )
        save(options.out, NAME, result, page(result))
    print(page(result))


if __name__ == "__main__":
    main()
