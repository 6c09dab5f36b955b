"""FastBERT against everything that a user would pick instead: same inputs, same machine, same run, interleaved.

    python benchmarks/comparison.py [--device cpu|cuda] [--minutes 18] [--full] [--model demo-out/model]

Peers are in peers/, one file per family; the parts of this program are in comparing/. After every configuration the
results so far are written, so that Ctrl-C keeps them. `--only` takes parts of contestants' names, `--quick` runs a tiny
model.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

import peers
from comparing import report, workload
from comparing.cases import FEWEST_ROUNDS, TEXTS, Budget, Case, cost, make_cases
from comparing.chart import draw
from comparing.display import PlainDisplay, open_display
from comparing.measure import TOLERANCES, measure_case
from comparing.memory import WHAT_IS_MEASURED
from comparing.workload import Samples
from families import result_name
from fastbert_hf import FastBertForSequenceClassification
from harness import common_options, save
from peers.contestant import OURS, Contestant, Entry, NotAvailable, Setup


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common_options("Compares FastBERT with its peers.")
    parser.add_argument("--minutes", type=float, help="about how long it takes (default 18, with --full 120)")
    parser.add_argument("--full", action="store_true", help="all batch sizes, lengths and depths")
    parser.add_argument("--rounds", type=int, help="interleaved repeats of every configuration, whatever that takes")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="contestants with this in their name")
    parser.add_argument("--shapes", nargs="+", choices=["BERT-base", "MiniLM-L6", "tiny", "model"])
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--lengths", nargs="+", choices=["full", "mixed"])
    parser.add_argument("--depths", nargs="+", type=float, help="mean exit layers, of 12")
    parser.add_argument("--model", type=Path, help="folder of a trained FastBERT, compared too (as shape `model`)")
    parser.add_argument("--texts", type=Path, help="texts for it, .tsv or .csv (default: the demo's test docstrings)")
    parser.add_argument("--speeds", nargs="+", type=float, default=[0.1, 0.5], help="for it")
    options = parser.parse_args(argv)
    if options.shapes and "model" in options.shapes and options.model is None:
        parser.error("--shapes model needs --model FOLDER")
    return options


def load_model(shape: str, options: argparse.Namespace) -> tuple[FastBertForSequenceClassification, Samples | None]:
    """The model in float32, and for a trained one its texts."""
    if shape != "model":
        return workload.make_random_model(shape), None
    from transformers import AutoTokenizer

    from fastbert_hf.data import TokenisedDataset, read_classification_file
    from fastbert_hf.docstrings import build_docstring_dataset

    model = FastBertForSequenceClassification.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    data = read_classification_file(options.texts) if options.texts else build_docstring_dataset().test
    dataset = TokenisedDataset(data, tokenizer, workload.LONGEST)
    return model, workload.text_samples(dataset, TEXTS)


def build_contestants(
    entries: Iterable[Entry], setup: Setup, only: list[str], show: Callable[[str], None]
) -> tuple[dict[str, tuple[Entry, Contestant]], dict[str, dict[str, Any]]]:
    """The contestants that can take part, and for the record how long each took to make, or why it is not there."""
    contestants: dict[str, tuple[Entry, Contestant]] = {}
    record: dict[str, dict[str, Any]] = {}
    for entry in entries:
        wanted = entry.name == peers.BASELINE or not only or any(text.lower() in entry.name.lower() for text in only)
        if setup.device.type not in entry.devices or not wanted:
            continue
        show(f"making {entry.name}")
        begin = time.perf_counter()
        try:
            contestant = entry.build(setup)
            warm_up(contestant, setup.device)
        except Exception as error:  # a peer that fails must not take the others with it
            reason = str(error) if isinstance(error, NotAvailable) else f"{type(error).__name__}: {error}"
            record[entry.name] = {"not_available": reason.strip().splitlines()[0]}
            continue
        contestants[entry.name] = entry, contestant
        record[entry.name] = {
            "group": entry.group,
            "dtype": entry.dtype,
            "build_seconds": time.perf_counter() - begin,
            "note": contestant.note,
        }
    return contestants, record


@torch.inference_mode()
def warm_up(contestant: Contestant, device: torch.device) -> None:
    """First calls, where engines compile and derive weights. On a GPU `measure_case` does it, shape by shape."""
    if device.type == "cuda":
        return
    samples = Samples([list(range(1, 1 + length)) for length in (12, 7, 9)])
    for batch in (2, 1):
        if contestant.largest_batch is not None and batch > contestant.largest_batch:
            continue
        speeds = [None] * contestant.full_depth + [torch.full((3,), 0.5)] * contestant.adaptive
        for request in itertools.chain.from_iterable(samples.requests(batch, device, speed) for speed in speeds):
            contestant.run(request)


def measure_shape(
    shape: str, cases: Iterable[Case], options: argparse.Namespace, budget: Budget, display: PlainDisplay
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Make the contestants once and yield, for each of the shape's configurations, which contestants there are and
    what was measured."""
    device = torch.device(options.device)
    display.start(shape)
    with tempfile.TemporaryDirectory() as folder:
        model, texts = load_model(shape, options)
        setup = Setup(model.to(device), device, torch.get_num_threads(), Path(folder))
        contestants, record = build_contestants(peers.ENTRIES, setup, options.only, display.doing)
        for case in cases:
            display.start(str(case))
            yield record, measure_case(case, setup, contestants, texts, budget.start_case(), display.doing)
        contestants.clear()
        torch.compiler.reset()  # compiled graphs hold weights too, and the next shape needs the memory
        gc.collect()


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    cases = make_cases(options)
    minutes = options.minutes or (120 if options.full else 18)
    rounds = options.rounds or (FEWEST_ROUNDS if options.quick else None)
    name = result_name("comparison", options.device)
    result: dict[str, Any] = {
        "partial": True,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "baseline": peers.BASELINE,
        "tolerances": {name: dataclasses.asdict(tolerance) for name, tolerance in TOLERANCES.items()},
        "peak_memory": WHAT_IS_MEASURED,
        "versions": report.peer_versions(),
        "planned_configurations": [str(case) for case in cases],
        "contestants": {},
        "configurations": [],
    }
    configurations = result["configurations"]
    begin = time.perf_counter()
    with open_display(len(cases)) as display:
        try:
            budget = Budget(minutes, rounds, [cost(case) for case in cases])
            for shape, group in itertools.groupby(cases, key=lambda case: case.shape):
                for record, configuration in measure_shape(shape, group, options, budget, display):
                    configurations.append(configuration)
                    result["contestants"][shape] = record
                    result["partial"] = len(configurations) < len(cases)
                    result["seconds_in_all"] = time.perf_counter() - begin
                    if not options.quick:
                        save(options.out, name, result, report.markdown(result))
                    display.finish(configuration)
        except KeyboardInterrupt:
            display.say(f"stopped after {len(configurations)} of {len(cases)} configurations, which are kept")
            return 130
        if not options.quick:
            display.say(f"written: {options.out}/{name}.json and .md")
            try:
                draw(result, options.out / f"{name}.png")
                display.say(f"written: {options.out}/{name}.png")
            except ImportError as error:
                display.say(f"no chart: {error}")
        for line in report.missing(result):
            display.say(line)
    ours = [row for case in configurations for row in case["rows"] if row["group"] == OURS]
    return int(any(not row["agrees"] for row in ours))


if __name__ == "__main__":
    sys.exit(main())
