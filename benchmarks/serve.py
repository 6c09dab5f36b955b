#!/usr/bin/env python
"""FastBERT as a service: `fastbert serve` against itself without refill and against full-depth engines behind the same
server.

    python benchmarks/serve.py [--data FOLDER] [--run FOLDER] [--task sst2] [--rounds 3] [--quick] [--simulate]

Clients come when they want (open loop), as a Poisson process and in bursts, on loopback, and their time runs from the
moment for which their request was planned. Measured are goodput (the highest load at which the 99th percentile keeps a
limit, by bisection), latencies at equal load and CPU seconds. Contestants are in serving/contestants.py: each is a
server in a process of its own, loaded beside the others and idle while they have their turn; the generator is a process
too, and has to share the cores with them.

Served are a trained 6-layer MiniLM, adopted and calibrated as by adopted_classifiers.py, whose --run folder is taken
where it is there, on the texts of --data; and 12 layers of 768 with random weights whose texts leave at planned layers.
Without --data both have planned layers, and texts of random words. --simulate serves nothing but the server alone, and
writes nothing: what the simulation predicts of a run. Writes serving_cpu_FAMILY.json and .md (families.py), or, where
nothing that was served is trained, serving_random_cpu_FAMILY.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait take the cores from whoever has its turn

import torch
import transformers

from adopting.models import TASKS, Texts
from families import result_name
from harness import RESULTS, save
from peers.contestant import NotAvailable
from serving.contestants import CONTESTANTS
from serving.hosting import Hosted
from serving.load import Generator
from serving.measure import Bench, at_equal_load, capacity, check_answers, generator_cost, search
from serving.names import NO_REFILL, ONNX, SHELL
from serving.prediction import predict_case
from serving.report import case_parts, page, prediction_table
from serving.rounds import goodputs
from serving.search import LIMITS, LOWEST, TRIES, grid
from serving.subjects import Facts, Subject, facts_of, planned, synthetic_texts, trained

DTYPES = {"int8": torch.int8, "float32": torch.float32, "bfloat16": torch.bfloat16}
ARRIVALS_OF = {"MiniLM-L6": ("Poisson", "bursty"), "BERT-base": ("Poisson",), "tiny": ("Poisson",)}
TEXTS_OF = {"MiniLM-L6": 600, "BERT-base": 200, "tiny": 40}
LOAD_SHARE = 0.8  # equal load: this share of the goodput within the wider limit of those who carry it


def subject_of(shape: str, options: argparse.Namespace, folder: Path) -> Subject:
    """Make what is served, in `folder`."""
    dtype = DTYPES[options.dtype]
    if options.data is None:
        return planned(folder, shape, synthetic_texts(TEXTS_OF[shape]), dtype)
    if shape == "MiniLM-L6":
        return trained(folder, options.data, options.run, options.task, dtype)
    return planned(folder, shape, Texts.read(options.data / options.task).new.texts[: TEXTS_OF[shape]], dtype)


@contextmanager
def running(names: Sequence[str], subject: Subject, dtype: Any) -> Iterator[tuple[dict[str, Hosted], dict[str, str]]]:
    """The servers of contestants, loaded one after another, until the block ends; and why others are not there."""
    servers: dict[str, Hosted] = {}
    missing: dict[str, str] = {}
    try:
        for name in names:
            server = Hosted(name, subject, dtype)
            try:
                server.wait_until_ready()
                servers[name] = server
            except NotAvailable as reason:
                missing[name] = str(reason)
        yield servers, missing
    finally:
        for server in servers.values():
            server.stop()


def measure_case(
    bench: Bench, kind: str, facts: Facts, checks: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Measure all contestants with one kind of arrivals."""
    searched = [name for name in bench.servers if name != SHELL]
    searches, equal = [], []
    rates = grid(1.1 * max(checks[name]["capacity"] for name in searched), options.lowest)
    for number in range(options.rounds):
        for name in random.Random(number).sample(searched, len(searched)):
            say(f"{kind}, round {number + 1} of {options.rounds}: goodput of {name}")
            searches.append({"round": number} | search(bench, name, kind, rates, number))
    carrying = [name for name in (NO_REFILL, ONNX) if name in searched] or [
        name for name in CONTESTANTS if name in searched
    ][:1]
    loads = sorted({equal_load(searches, name) for name in carrying})
    for number in range(options.rounds):
        for load in loads:
            for name in random.Random(number).sample(list(bench.servers), len(bench.servers)):
                say(f"{kind}, round {number + 1} of {options.rounds}: {name} at {load:g} requests/s")
                equal.append({"round": number, "rate": load} | at_equal_load(bench, name, kind, load, number))
    alone = [one["cpu_seconds_per_1000"] for one in equal if one["contestant"] == SHELL]
    shell = min(alone) / 1e3 / torch.get_num_threads()
    return {
        "subject": bench.subject.name,
        "arrivals": kind,
        "planned": bench.subject.speeds is not None,
        **summary(facts),
        "checks": checks,
        "searches": searches,
        "equal": equal,
        "generator": generator_cost(bench),
        "prediction": predict_case(facts.texts, facts.machine, shell, kind, loads),
    }


def equal_load(searches: Sequence[dict[str, Any]], contestant: str) -> float:
    """Return the load at which all are held against a contestant, requests per second.

    It carries it in the rounds in which it had a goodput; where it had none, its goodput is below the lowest load that
    was tried, and so is this.
    """
    rounds = goodputs(searches, contestant, max(LIMITS)).values()
    found = [one.low for one in rounds if one.low] or [one.high for one in rounds]
    return round(LOAD_SHARE * statistics.median(found), 1)


def summary(facts: Facts) -> dict[str, Any]:
    """Return what a reader should know of the texts."""
    return {
        "texts": len(facts.texts),
        "mean_tokens": sum(text.tokens for text in facts.texts) / len(facts.texts),
        "mean_exit_layer": sum(text.exit_layer for text in facts.texts) / len(facts.texts),
        "depth": facts.machine.depth,
    }


def file_name(options: argparse.Namespace) -> str:
    """Return the name of the result files; those of random weights alone do not take the place of a trained model's."""
    trained_too = options.data is not None and "MiniLM-L6" in options.shapes
    return result_name("serving" if trained_too else "serving_random")


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def simulate(shape: str, options: argparse.Namespace, generator: Generator) -> None:
    """Print what the simulation predicts of a run."""
    with tempfile.TemporaryDirectory() as folder:
        subject = subject_of(shape, options, Path(folder) / "model")
        facts = facts_of(subject, DTYPES[options.dtype])
        with running([SHELL], subject, DTYPES[options.dtype]) as (servers, _):
            bench = Bench(servers, subject, generator, options.seconds, options.fewest)
            capacity(bench, SHELL)
            before, connections = servers[SHELL].cpu_seconds(), 8
            bench.everything(SHELL, connections)
            shell = (servers[SHELL].cpu_seconds() - before) / len(subject.texts) / torch.get_num_threads()
    for kind in ARRIVALS_OF[shape]:
        case = {"prediction": predict_case(facts.texts, facts.machine, shell, kind, [])}
        print(
            f"## {subject.name}, {kind}: {summary(facts)}\n\n{case['prediction']['cost']}, {shell:.5f} s of the server"
        )
        print(f"\n{prediction_table(case)}\n", flush=True)
        for share in (0.5, 0.8):
            load = share * case["prediction"]["goodput"]["this machine"]["without refill"][f"{1e3 * max(LIMITS):g}"]
            if load:
                found = predict_case(facts.texts, facts.machine, shell, kind, [load])["latencies"][0]
                print(f"at {load:.0f}/s: {found}", flush=True)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data sets; without it, texts of random words")
    parser.add_argument("--run", type=Path, default=Path("adopted-out"), help="folder of the trained models")
    parser.add_argument("--task", choices=list(TASKS), default="sst2", help="of the trained model and the texts")
    parser.add_argument("--shapes", nargs="+", choices=["MiniLM-L6", "BERT-base"], default=["MiniLM-L6", "BERT-base"])
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--dtype", choices=list(DTYPES), default="int8", help="of our own contestants")
    parser.add_argument("--rounds", type=int, default=3, help="of everything")
    parser.add_argument("--seconds", type=float, default=2.5, help="of one load")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--quick", action="store_true", help="a tiny model and one short round; writes nothing")
    parser.add_argument("--simulate", action="store_true", help="only the prediction; writes nothing")
    options = parser.parse_args(argv)
    if options.rounds < 1 or not options.seconds > 0:
        parser.error("--rounds must be 1 or more, and --seconds above 0")
    if options.data is not None and not (options.data / options.task / "train.tsv").exists():
        parser.error(f"there is no {options.data / options.task}/train.tsv; choose another --data or --task")
    options.contestants = list(dict.fromkeys([*options.contestants, SHELL]))  # the simulation needs the server alone
    if options.contestants == [SHELL]:
        parser.error(f"there is nothing to measure of {SHELL}; name another one beside it with --contestants")
    options.fewest, options.lowest = 200, LOWEST
    if options.quick:
        options.data, options.shapes, options.rounds, options.seconds = None, ["tiny"], 1, 0.3
        options.fewest, options.lowest = 50, 50.0
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    generator = Generator()
    if options.simulate:
        for shape in options.shapes:
            simulate(shape, options, generator)
        generator.stop()
        return
    result: dict[str, Any] = {
        "rounds": options.rounds,
        "tries": TRIES,
        "seconds": options.seconds,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "http": "uvicorn with httptools on " + ("uvloop" if importlib.util.find_spec("uvloop") else "asyncio's loop"),
        "not_available": {},
        "cases": [],
    }
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            say(f"{shape}: making models")
            subject = subject_of(shape, options, Path(folder) / "model")
            facts = facts_of(subject, DTYPES[options.dtype])
            say(f"{shape}: starting servers")
            with running(options.contestants, subject, DTYPES[options.dtype]) as (servers, missing):
                result["not_available"] |= missing
                if servers.keys() <= {SHELL}:
                    reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
                    raise SystemExit(f"there is nobody to measure: {reasons}")
                bench = Bench(servers, subject, generator, options.seconds, options.fewest)
                checks = {name: check_answers(bench, name, facts) for name in servers}
                for kind in ARRIVALS_OF[shape]:
                    result["cases"].append(measure_case(bench, kind, facts, checks, options))
                    print("\n\n".join(case_parts(result["cases"][-1], missing)), flush=True)
                    if not options.quick:
                        save(options.out, file_name(options), result, page(result))
    generator.stop()


if __name__ == "__main__":
    main()
