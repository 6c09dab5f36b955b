"""What a bag of words reaches on the data sets, in how much time: the baseline that any encoder has to beat.

    python benchmarks/bag_of_words.py --data FOLDER [--tasks sst2 mrpc]

FOLDER as of training.py. TF-IDF of words or characters and logistic regression (`fastbert_hf.analysis.bag_of_words`),
trained on the whole of train.tsv and measured on the whole of test.tsv, from text to class. Times are those of the
processor, so that what else runs does not matter.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from fastbert_hf.analysis import train_bag_of_words
from fastbert_hf.calibration.intervals import share_interval
from fastbert_hf.data import read_classification_file
from harness import RESULTS, markdown_table, save
from training import TASKS

ROUNDS = 3


def measure(folder: Path) -> dict[str, Any]:
    """Return what a bag of words reaches on the data set in `folder`."""
    train = read_classification_file(folder / "train.tsv")
    test = read_classification_file(folder / "test.tsv", train.label_names)
    begin = time.process_time()
    bag = train_bag_of_words(train)
    trained = time.process_time()
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        answers = bag.answers(test)
        rounds.append(time.process_time() - start)
    right = sum(answer == label for answer, label in zip(answers.predictions.tolist(), test.label_ids, strict=True))
    return {
        "task": folder.name,
        "unit": bag.unit,
        "train": len(train),
        "test": len(test),
        "accuracy": right / len(test),
        "accuracy_interval": share_interval(right, len(test), 0.95),
        "seconds_of_training": trained - begin,
        "ms_per_text": [1e3 * seconds / len(test) for seconds in rounds],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the page beside the JSON file."""
    lines = [
        {
            "task": row["task"],
            "counts": row["unit"],
            "trained on": f"{row['train']:,}",
            "accuracy": f"{row['accuracy']:.1%}",
            "95 % interval": f"{100 * row['accuracy_interval'][0]:.1f} to {row['accuracy_interval'][1]:.1%}",
            "ms per text": f"{statistics.median(row['ms_per_text']):.3f}",
            "training": f"{row['seconds_of_training']:.1f} s",
        }
        for row in rows
    ]
    return "\n".join(["# A bag of words: TF-IDF and logistic regression", "", markdown_table(lines)])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    options = parser.parse_args(argv)
    rows = [measure(options.data / task) for task in options.tasks]
    print(table(rows))
    save(options.out, "bag_of_words_cpu", {"tasks": rows}, table(rows))


if __name__ == "__main__":
    main()
