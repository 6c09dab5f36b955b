#!/usr/bin/env python
"""The walk of docs/training.md on a set of many classes, with defaults alone: from files to served answers.

    python benchmarks/walk.py [--classes 60] [--texts 2400] [--run FOLDER]

Writes train.tsv, dev.tsv, own.tsv and test.tsv of docstrings, whose classes are the modules that they were written for
(module_docstrings.py), and runs the commands as a user types them, without an option that tunes anything: `train`,
`calibrate`, `evaluate`, `predict`, `serve` with one request. A bag of words learns from the same train.tsv. A run that
was stopped goes on in its folder. Writes walk_cpu.json and .md; the exit status is 1 where full depth is not better
than the bag of words on test.tsv.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from documents.training import walk_page
from fastbert_hf.analysis import train_bag_of_words
from fastbert_hf.calibration.intervals import share_interval
from fastbert_hf.data import ClassificationData, read_classification_file
from harness import RESULTS, save
from module_docstrings import ModuleDocstrings, build_module_docstrings

NAME = "walk_cpu"
MAX_DROP = 0.02
COMMAND = (sys.executable, "-c", "from fastbert_cli import main; main()")


def write_files(folder: Path, data: ModuleDocstrings, classes: int, texts: int) -> None:
    """Write the four files: of the modules with the most texts, so many, and of their texts for training, so many."""
    counts = [data.train.label_ids.count(label) for label in range(len(data.train.label_names))]
    largest = sorted(range(len(counts)), key=lambda label: counts[label], reverse=True)[:classes]

    def rows_of(part: ClassificationData) -> list[str]:
        pairs = zip(part.label_ids, part.texts, strict=True)
        return [f"{part.label_names[label]}\t{' '.join(text.split())}" for label, text in pairs if label in largest]

    train, dev, test = (rows_of(part) for part in (data.train, data.dev, data.test))
    random.Random(0).shuffle(train)
    chosen, more = train[:texts], train[texts:]
    half = len(dev) // 2
    # What is left of the training part is as new to the model as the rest, and a calibration wants many texts.
    files = {"train": chosen, "dev": dev[:half], "own": dev[half:] + more, "test": test}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n", encoding="utf-8")


def command(*words: str | Path) -> tuple[str, float]:
    """Run a command of fastbert, show it and what it says, and return its output and the seconds it took.

    Raises:
        SystemExit: it fails.
    """
    print(f"$ fastbert {' '.join(map(str, words))}", flush=True)
    begin = time.perf_counter()
    result = subprocess.run([*COMMAND, *map(str, words)], stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"fastbert {words[0]} ended with status {result.returncode}")
    if "--json" not in words:
        print(result.stdout, flush=True)
    return result.stdout, time.perf_counter() - begin


def served(model: Path, texts: Sequence[str]) -> list[Any]:
    """Return what a server of the model answers to one request."""
    print(f"$ fastbert serve {model} --port 0", flush=True)
    words = [*COMMAND, "serve", str(model), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            said = (line.split()[-1] for line in server.stderr if line.startswith("fastbert serve: http"))
            if (address := next(said, None)) is None:
                raise SystemExit("fastbert serve did not begin to listen; run it by hand to see why")
            body = json.dumps({"inputs": [[text] for text in texts]}).encode()
            request = urllib.request.Request(f"{address}/predict", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                found: list[Any] = json.load(answer)
        finally:
            server.terminate()
    return found


def walk(folder: Path) -> dict[str, Any]:
    """Run the commands in a folder with the four files, and return what came of them."""
    run, model = folder / "run", folder / "run" / "model"
    files = {name: folder / f"{name}.tsv" for name in ("train", "dev", "own", "test")}
    seconds: dict[str, float] = {}
    if not model.exists():
        begun = ["--resume"] if (run / "config.yaml").exists() else ["--train", files["train"], "--dev", files["dev"]]
        _, seconds["train"] = command("train", *begun, "--out", run)
    _, seconds["calibrate"] = command("calibrate", model, "--data", files["own"], "--max-drop", str(MAX_DROP))
    out, seconds["evaluate"] = command("evaluate", model, "--data", files["test"], "--time", "--json")
    rows = json.loads(out)["rows"]
    test = read_classification_file(files["test"])
    _, seconds["predict"] = command("predict", model, files["test"], "--out", folder / "labels.tsv")
    answers = served(model, test.texts[:4])
    labels = [line.split("\t")[0] for line in (folder / "labels.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    return {
        "seconds": seconds,
        "rows": rows,
        "training": json.loads((run / "results.json").read_text(encoding="utf-8")),
        "calibration": json.loads((model / "fastbert_calibration.json").read_text(encoding="utf-8")) | {"curve": None},
        "served_as_predicted": [one[0]["label"] for one in answers] == labels[:4],
    }


def bag_of_words(folder: Path) -> dict[str, Any]:
    """Return what a bag of words reaches on the same files."""
    train = read_classification_file(folder / "train.tsv")
    test = read_classification_file(folder / "test.tsv", train.label_names)
    begin = time.perf_counter()
    bag = train_bag_of_words(train)
    seconds = time.perf_counter() - begin
    right = int((bag.predict(test) == test.label_ids).sum())
    return {
        "accuracy": right / len(test),
        "interval": share_interval(right, len(test), 0.95),
        "train": len(train),
        "test": len(test),
        "classes": len(train.label_names),
        "seconds": seconds,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=60, help="modules, those with the most docstrings")
    parser.add_argument("--texts", type=int, default=2400, help="to train on")
    parser.add_argument("--run", type=Path, default=Path("walk-out"), help="folder of files and model")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    options = parser.parse_args(argv)
    if not (options.run / "test.tsv").exists():
        write_files(options.run, build_module_docstrings(), options.classes, options.texts)
    result = {"bag_of_words": bag_of_words(options.run)}
    print(f"bag of words: {result['bag_of_words']['accuracy']:.1%}", flush=True)
    result["walk"] = walk(options.run)
    print(walk_page(result))
    save(options.out, NAME, result, walk_page(result))
    return 0 if result["walk"]["rows"][0]["accuracy"] > result["bag_of_words"]["accuracy"] else 1


if __name__ == "__main__":
    sys.exit(main())
