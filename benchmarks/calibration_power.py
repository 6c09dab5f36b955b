#!/usr/bin/env python
"""How fast a rule a calibration lets through, by the number of its texts: one Speed tested on all, or a search.

    fastbert calibrate MODEL --data FILE --max-drop 0.05 --records sst2.safetensors --dry-run
    python benchmarks/calibration_power.py sst2.safetensors mrpc.safetensors [--splits 200]

The input are exits recorded with labels, of texts that the model was not trained on. Each file is a population whose
truth is known: as many texts as a calibration has are drawn from it with replacement, so often as --splits says; each
way gets the same ones, and what its rule does is measured on the whole population. The number of texts is given as a
multiple of the fewest that can show the promise. A cell (records, promise, multiple, way) that the result file has is
not computed again, so that a stopped run goes on. Writes calibration_power.json and .md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastbert_hf.calibration import ExitRecords, ExitRule, Objective, certify, simulate, split_rows
from fastbert_hf.calibration.guarantee import allowed_losses, certify_one_speed, enough_samples
from fastbert_hf.calibration.guarantee import layered_rules as of_layers
from fastbert_hf.calibration.pareto import spoilt
from fastbert_hf.calibration.search import compare_criteria
from fastbert_hf.calibration.simulation import exit_heads
from harness import RESULTS, markdown_table, save

NAME = "calibration_power"
CONFIDENCE = 0.95
MULTIPLES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)


@dataclass(frozen=True)
class Promise:
    """What is promised: at most this part of the texts lost, of accuracy or of answers that are full depth's."""

    max_risk: float
    labelled: bool

    @property
    def name(self) -> str:
        return f"--{'max-drop' if self.labelled else 'max-disagreement'} {self.max_risk:g}"


PROMISES = {one.name: one for one in (Promise(0.02, True), Promise(0.01, True), Promise(0.02, False))}


def one_speed(records: ExitRecords, max_risk: float, seed: int) -> ExitRule:
    """Return the fastest Speed of the fixed grid for all heads: no text chooses."""
    return certify_one_speed(records, max_risk, CONFIDENCE).found.rule


def speed_per_layer(tested_share: float, *, allowed: bool) -> Callable[[ExitRecords, float, int], ExitRule]:
    """Return the way of a Speed per layer: a Pareto front of the texts that choose, tested in its order."""

    def way(records: ExitRecords, max_risk: float, seed: int) -> ExitRule:
        choosing, testing, best = _chosen(records, max_risk, tested_share, seed, allowed)
        return certify(testing, of_layers(choosing, best), max_risk, CONFIDENCE).found.rule

    return way


def chosen_heads(tested_share: float, *, allowed: bool) -> Callable[[ExitRecords, float, int], ExitRule]:
    """Return the way of one Speed for heads and a criterion that some texts choose; the fixed grid is tested."""

    def way(records: ExitRecords, max_risk: float, seed: int) -> ExitRule:
        _, testing, best = _chosen(records, max_risk, tested_share, seed, allowed)
        layers = best.layers or None
        return certify_one_speed(testing, max_risk, CONFIDENCE, best.criterion, best.parameter, layers).found.rule

    return way


def _chosen(
    records: ExitRecords, max_risk: float, tested_share: float, seed: int, allowed: bool
) -> tuple[ExitRecords, ExitRecords, ExitRule]:
    """Return texts that choose, those that test, and the best rule with one Speed on the first.

    Args:
        records: all texts.
        max_risk: of the promise.
        tested_share: part of them that tests.
        seed: of the split.
        allowed: choose for the losses that the test will let pass, not for those that are promised.
    """
    choosing, testing = (records.rows(rows) for rows in split_rows(len(records), tested_share, seed))
    aim = allowed_losses(len(testing), max_risk, CONFIDENCE) / len(testing) if allowed else max_risk
    return choosing, testing, compare_criteria(choosing, Objective(max_drop=aim))[0].rule


WAYS: dict[str, tuple[float, Callable[[ExitRecords, float, int], ExitRule]]] = {
    # Name: part of the texts that tests, and the way.
    "one Speed": (1.0, one_speed),
    "layers, 1/2": (0.5, speed_per_layer(0.5, allowed=False)),
    "layers, 2/3": (2 / 3, speed_per_layer(2 / 3, allowed=True)),
    "layers, 4/5": (0.8, speed_per_layer(0.8, allowed=True)),
    "heads, 2/3": (2 / 3, chosen_heads(2 / 3, allowed=True)),
    "heads, 4/5": (0.8, chosen_heads(0.8, allowed=True)),
}


def cell(
    population: ExitRecords, promise: Promise, size: int, way: Callable[..., ExitRule], splits: int
) -> dict[str, Any]:
    """Return what a way's rules do on the population, over so many drawings of `size` texts."""
    lost, rows = spoilt(population), np.arange(len(population))
    speedups, risks = [], []
    begin = time.process_time()
    for split in range(splits):
        drawn = torch.randint(len(population), (size,), generator=torch.Generator().manual_seed(split))
        rule = way(population.rows(drawn), promise.max_risk, split)
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


def run(
    files: Sequence[Path],
    promises: Sequence[str],
    multiples: Sequence[float],
    ways: Sequence[str],
    splits: int,
    cells: list[dict[str, Any]],
) -> Any:
    """Yield after every new cell, which is then among `cells`; the populations are those of the files."""
    for name in promises:
        promise = PROMISES[name]
        needed = enough_samples(promise.max_risk, CONFIDENCE)
        for multiple in multiples:
            for file in files:
                records = ExitRecords.load(file)
                population = records if promise.labelled else records.without_labels()
                size = round(multiple * needed)
                for way in ways:
                    share, chosen = WAYS[way]
                    place = {"records": file.stem, "promise": name, "multiple": multiple, "way": way}
                    found = [one for one in cells if place.items() <= one.items() and one["splits"] >= splits]
                    if found or int(share * size) < needed or 2 * size > len(population):
                        continue
                    cells.append(
                        place
                        | {"texts": size, "population": len(population)}
                        | cell(population, promise, size, chosen, splits)
                    )
                    yield


def table(result: dict[str, Any]) -> str:
    """Return the page beside the JSON file."""
    cells = result["cells"]
    ways = [way for way in WAYS if any(one["way"] == way for one in cells)]
    parts = [
        "# What a calibration lets through, by the number of its texts",
        "Mean FLOPs speed-up on the population, over drawings of so many texts; in parentheses the part of the allowed "
        f"loss that is used, on average. At {CONFIDENCE:.0%} confidence at most {1 - CONFIDENCE:.0%} of the promises "
        "may be broken. `one Speed`: a fixed grid for all heads, tested on all texts; `heads`: criterion and heads "
        "chosen by some of the texts, one Speed for them tested on the rest, whose part is given; `layers`: a Speed "
        "per layer, as a front of the texts that choose has it. By `python benchmarks/calibration_power.py`.",
    ]
    for promise in dict.fromkeys(one["promise"] for one in cells):
        parts.append(f"## {promise}")
        lines = []
        for records in dict.fromkeys(one["records"] for one in cells):
            at = [one for one in cells if (one["promise"], one["records"]) == (promise, records)]
            for multiple in sorted({one["multiple"] for one in at}):
                here = {one["way"]: one for one in at if one["multiple"] == multiple}
                first = next(iter(here.values()))
                line = {"exits": records, "texts": f"{first['texts']:,} ({multiple:g} times the fewest)"}
                for way in ways:
                    found = here.get(way)
                    line[way] = "-" if found is None else f"{found['mean_speedup']:.2f}x ({found['loss_used']:.0%})"
                lines.append(line)
        parts.append(markdown_table(lines))
    counts = []
    for way in ways:
        of_way = [one for one in cells if one["way"] == way]
        broken, all_of_them = sum(one["violations"] for one in of_way), sum(one["splits"] for one in of_way)
        worst = max(one["violations"] / one["splits"] for one in of_way)
        seconds = statistics.fmean(one["seconds_of_processor_per_calibration"] for one in of_way)
        counts.append(
            {
                "way": way,
                "promises": f"{all_of_them:,}",
                "broken": f"{broken} ({broken / all_of_them:.1%})",
                "worst cell": f"{worst:.1%}",
                "processor per calibration": f"{seconds:.2f} s",
            }
        )
    return "\n\n".join([*parts, "## Promises that are broken", markdown_table(counts)])


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path, help="files of recorded exits, with labels")
    parser.add_argument("--splits", type=int, default=200, help="drawings of each size")
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
    cells = result["cells"]
    for _ in run(options.records, options.promises, options.multiples, options.ways, options.splits, cells):
        last = cells[-1]
        print(
            f"{last['records']}, {last['promise']}, {last['texts']:,} texts, {last['way']}: "
            f"{last['mean_speedup']:.2f}x, {last['loss_used']:.0%} of the loss, {last['violations']} broken",
            flush=True,
        )
        save(options.out, NAME, result, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
