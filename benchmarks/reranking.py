#!/usr/bin/env python
"""How often a reranker whose documents leave early has the same top 10 as at full depth, and what that saves.

    python benchmarks/reranking.py [--run FOLDER] [--quick]

Docstring search: a query is the first sentence of a docstring, a document the rest of one, of the installed torch,
sympy, numpy and networkx and of the standard library; BM25 gives the candidates. A cross-encoder of the packaged
6-layer MiniLM with one output is fine-tuned with plain PyTorch on some of the queries (which of four documents is from
the docstring of the sentence?), adopted, and its students learn from pairs of query and candidate without labels.
Other queries calibrate the bounds (`ScoreBounds.from_scores`), and on the last ones the top 10 is compared with that of
full depth, and timed: the plain model in Transformers, patched full depth, and patched with documents that leave.

The folder --run keeps the docstrings, the models and the scores that calibrate, so that a stopped run goes on. Writes
reranking_cpu_FAMILY.json and .md (families.py).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from adopting.models import packaged_backbone
from documents.reranking import page
from families import result_name
from fastbert_hf.data import TextData
from fastbert_hf.files import write_atomically
from harness import parse_with_rounds, save
from ranking.measure import EAGER, Reranker, measure
from ranking.models import MAX_LENGTH, adopted, choices_of, fine_tuned
from ranking.search import Bm25, Pair, Search, read_pairs, searches


@dataclass(frozen=True)
class Sizes:
    """What is searched, and how many queries do what.

    Attributes:
        documents: to search among.
        candidates: of a query.
        top_k: documents of a top.
        training: queries that the reranker learns from.
        pairs: of query and candidate, that its students learn from; the queries are the same.
        calibration: queries that choose the bounds.
        test: queries that are compared.
        timed: of these.
        max_misses: shares of queries with another top that are promised at most.
    """

    documents: int = 6000
    candidates: int = 100
    top_k: int = 10
    training: int = 3200
    pairs: int = 5120
    calibration: int = 60
    test: int = 50
    timed: int = 5
    max_misses: tuple[float, ...] = (0.05, 0.2)


QUICK = Sizes(
    documents=120,
    candidates=12,
    top_k=3,
    training=8,
    pairs=32,
    calibration=6,
    test=4,
    timed=1,
    max_misses=(0.5,),
)


def prepare(run: Path, sizes: Sizes, seed: int) -> tuple[list[Pair], dict[str, float]]:
    """Return the docstrings, and the seconds that the steps of this run took so far.

    Raises:
        SystemExit: the folder has a run of other sizes.
    """
    run.mkdir(parents=True, exist_ok=True)
    file, wanted = run / "docstrings.json", json.loads(json.dumps({"seed": seed, **asdict(sizes)}))
    if not file.exists():
        begin = time.perf_counter()
        pairs = read_pairs(sizes.documents, seed)
        seconds = {"reading docstrings": time.perf_counter() - begin}
        write_atomically(file, json.dumps({"sizes": wanted, "pairs": [pair._asdict() for pair in pairs]}) + "\n")
        write_atomically(run / "seconds.json", json.dumps(seconds) + "\n")
    content = json.loads(file.read_text())
    if content["sizes"] != wanted:
        raise SystemExit(f"{run} has a run with {content['sizes']}; name another folder with --run")
    return [Pair(**pair) for pair in content["pairs"]], json.loads((run / "seconds.json").read_text())


def run_all(options: argparse.Namespace) -> dict[str, Any]:
    """Return what leaving early is worth; the models are made, or taken from the folder of the run."""
    run, sizes = options.run, options.sizes
    pairs, seconds = prepare(run, sizes, options.seed)
    bm25 = Bm25([pair.document for pair in pairs])
    middle = sizes.training + sizes.calibration

    def timed(step: str, folder: Path, make: Callable[[], Path]) -> Path:
        begin, there = time.perf_counter(), folder.exists()
        made = make()
        if not there:
            seconds[step] = time.perf_counter() - begin
            write_atomically(run / "seconds.json", json.dumps(seconds) + "\n")
            print(f"{step}: {seconds[step]:.0f} s", flush=True)
        return made

    known = range(sizes.training)
    classifier = timed(
        "fine-tuning",
        run / "classifier",
        lambda: fine_tuned(
            run / "classifier",
            options.backbone or packaged_backbone(),
            choices_of(pairs, bm25, known, sizes.candidates, options.seed),
            options.seed,
        ),
    )
    traffic = _traffic(searches(pairs, bm25, known, sizes.candidates), sizes.pairs, options.seed)
    model = timed("adopting", run / "adopted", lambda: adopted(run / "adopted", classifier, traffic))
    scores = run / "scores.safetensors"
    calibration = searches(pairs, bm25, range(sizes.training, middle), sizes.candidates)
    timed("calibrating", scores, lambda: _scored(scores, Reranker(model), calibration))
    kept = load_file(scores)
    return {
        "sizes": asdict(sizes),
        "max_length": MAX_LENGTH,
        "baseline": EAGER,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        # Not a benchmark: beside other work.
        "seconds": seconds,
        **measure(
            classifier,
            model,
            [kept[str(number)] for number in range(len(kept))],
            searches(pairs, bm25, range(middle, middle + sizes.test), sizes.candidates),
            top_k=sizes.top_k,
            max_misses=sizes.max_misses,
            timed=sizes.timed,
            rounds=options.rounds,
        ),
    }


def _traffic(known: Sequence[Search], most: int, seed: int) -> TextData:
    """Return pairs of query and candidate, drawn at random."""
    every = [(search.query, document) for search in known for document in search.documents]
    chosen = random.Random(seed).sample(every, min(most, len(every)))
    return TextData([query for query, _ in chosen], [document for _, document in chosen])


def _scored(file: Path, reranker: Reranker, known: Sequence[Search]) -> Path:
    scores = {str(number): reranker.scores(search) for number, search in enumerate(known)}
    part = file.with_suffix(".part")
    save_file(scores, part)
    return part.replace(file)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("reranking-out"), help="folder of the models")
    parser.add_argument("--backbone", help="folder of a pretrained model; the packaged 6-layer MiniLM by default")
    parser.add_argument("--seed", type=int, default=0, help="of the docstrings and the training")
    options = parse_with_rounds(parser, argv, rounds=3, quick="a few queries and one round; writes no result")
    options.sizes = QUICK if options.quick else Sizes()
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    transformers.utils.logging.set_verbosity_error()
    result = run_all(options)
    print(page(result), flush=True)
    if not options.quick:
        save(options.out, result_name("reranking"), result, page(result))


if __name__ == "__main__":
    main()
