"""What the benchmarks of adopted classifiers have in common as commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from adopting.models import TASKS
from families import result_name
from harness import RESULTS, parse_with_rounds, save


def parse_arguments(
    description: str | None, argv: Sequence[str] | None, tasks: Sequence[str] = tuple(TASKS)
) -> argparse.Namespace:
    """Return the options; `tasks` are the default, in this order.

    Raises:
        SystemExit: an argument is wrong, or the data of a task is not there.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--run", type=Path, default=Path("adopted-out"), help="folder of the models")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(tasks))
    parser.add_argument("--backbone", help="folder of a pretrained model; the packaged 6-layer MiniLM by default")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repeats; medians are reported")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--quick", action="store_true", help="little of everything and one round; writes nothing")
    options = parse_with_rounds(parser, argv)
    missing = [str(options.data / name) for name in options.tasks if not (options.data / name / "train.tsv").exists()]
    if missing:
        parser.error(f"there is no {', '.join(missing)}; choose another --data, or tasks that are there with --tasks")
    return options


def run_tasks(
    name: str,
    options: argparse.Namespace,
    settings: dict[str, Any],
    run_task: Callable[[str, argparse.Namespace], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
) -> None:
    """Run every task, and show and save (unless `options.quick`) the result after each.

    Args:
        name: of the result files, to which the family of processors is added.
        options: of `parse_arguments`.
        settings: the beginning of the result.
        run_task: gives the result of a task.
        table: gives the page of a result.
    """
    transformers.utils.logging.set_verbosity_error()
    result = settings | {"rounds": options.rounds, "threads": torch.get_num_threads(), "tasks": []}
    for task in options.tasks:
        result["tasks"].append(run_task(task, options))
        print(table(result), flush=True)
        if not options.quick:
            save(options.out, result_name(name), result, table(result))
