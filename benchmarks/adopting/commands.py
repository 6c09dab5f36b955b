"""What the benchmarks of adopted classifiers have in common as commands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from adopting.backbones import Backbone
from adopting.models import TASKS
from families import result_name
from harness import parse_with_rounds, save
from pretrained import ENCODERS
from run_folders import SMALL


def parse_arguments(
    description: str | None, argv: Sequence[str] | None, tasks: Sequence[str] = tuple(TASKS)
) -> argparse.Namespace:
    """Return the options; `tasks` are the default, in this order, and `backbone` is a `Backbone`.

    Raises:
        SystemExit: an argument is wrong, or the data of a task is not there.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--run", type=Path, default=Path("adopted-out"), help="folder of the models")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(tasks))
    parser.add_argument(
        "--backbone",
        default=SMALL,
        help=f"{SMALL} (the packaged 6-layer MiniLM, default), {', '.join(ENCODERS)} or the folder of a model",
    )
    options = parse_with_rounds(
        parser, argv, rounds=5, quick="little of everything and one round; writes only to --run/quick"
    )
    missing = [str(options.data / name) for name in options.tasks if not (options.data / name / "train.tsv").exists()]
    if missing:
        parser.error(f"there is no {', '.join(missing)}; choose another --data, or tasks that are there with --tasks")
    options.backbone = Backbone.find(options.backbone)
    if options.quick:
        options.run = options.run / "quick"
    return options


def run_tasks(
    name: str,
    options: argparse.Namespace,
    settings: dict[str, Any],
    run_task: Callable[[str, argparse.Namespace], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
) -> None:
    """Run every task, and show and save (unless `options.quick`) the result after each, beside those of other tasks and
    backbones that the file has.

    Args:
        name: of the result files, to which the family of processors is added.
        options: of `parse_arguments`.
        settings: the beginning of the result, the same for all of its tasks.
        run_task: gives the result of a task, with `task` and `backbone`.
        table: gives the page of a result.

    Raises:
        SystemExit: the file has results of other settings.
    """
    transformers.utils.logging.set_verbosity_error()
    settings = settings | {"rounds": options.rounds, "threads": torch.get_num_threads()}
    file = options.out / f"{result_name(name)}.json"
    result = settings | {"tasks": [] if options.quick else _before(file, settings)}
    for task in options.tasks:
        case = run_task(task, options)
        places = [_key(old) for old in result["tasks"]]
        place = places.index(_key(case)) if _key(case) in places else len(places)
        result["tasks"][place : place + 1] = [case]
        print(table(result), flush=True)
        if not options.quick:
            save(options.out, file.stem, result, table(result))


def _before(file: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tasks that a result file has, with its date and load where they have none of their own."""
    if not file.exists():
        return []
    before = json.loads(file.read_text(encoding="utf-8"))
    different = [f"{name}: {before[name]} there, {own} now" for name, own in settings.items() if before[name] != own]
    if different:
        raise SystemExit(
            f"{file} is of other settings ({'; '.join(different)}); choose the same, move it away or choose another "
            "--out"
        )
    of_file = {"date": before["machine"]["date"], **({"load": before["load"]} if "load" in before else {})}
    return [of_file | task for task in before["tasks"]]


def _key(case: dict[str, Any]) -> tuple[str, str]:
    return case["task"], case.get("backbone", SMALL)  # older files have one backbone
