"""What the benchmarks share: the machine's floors and result files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fastbert_hf.files import write_atomically
from fastbert_hf.machine import describe_machine
from fastbert_hf.timing import time_interleaved

RESULTS = Path(__file__).resolve().parent / "results"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MIXED_LENGTHS = torch.distributions.LogNormal(3.6, 0.65)  # tokens of short texts


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read plus bytes written per second by a copy far larger than the caches."""
    size = (1 << 30) if device.type == "cuda" else (256 << 20)
    source = torch.randint(-100, 100, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * size / time_interleaved({"copy": lambda: target.copy_(source)}, device, 10)["copy"].median


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of a large matrix product of an encoder's shape (random values: zeros run faster)."""
    rows, width, out = (8192, 8192, 8192) if device.type == "cuda" else (4096, 768, 3072)
    a, b = torch.randn(rows, width, device=device).to(dtype), torch.randn(width, out, device=device).to(dtype)
    return 2 * rows * width * out / time_interleaved({"matmul": lambda: a @ b}, device, 15)["matmul"].median


def sample_lengths(batch: int, kind: str, longest: int = 128) -> list[int]:
    """`full`: all `longest`. `mixed`: log-normal with mean about 45, as short texts have."""
    if kind == "full":
        return [longest] * batch
    return MIXED_LENGTHS.sample((batch,)).long().clamp(3, longest).tolist()


def arguments(description: str) -> argparse.Namespace:
    parser = common_options(description)
    parser.add_argument("--rounds", type=int, default=30, help="interleaved repeats; medians are reported")
    return parser.parse_args()


def common_options(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--quick", action="store_true", help="one small case, to see that it runs; writes nothing")
    return parser


def parse_with_rounds(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, rounds: int, quick: str
) -> argparse.Namespace:
    """Return the options of a benchmark in rounds, which has --rounds, --out and --quick beside those of `parser`.

    A quick run has one round.

    Args:
        parser: with the options that are the benchmark's own.
        argv: words of the command line; None for those of the process.
        rounds: the default.
        quick: what a quick run does, for the help.

    Raises:
        SystemExit: an argument is wrong, or there are fewer rounds than one.
    """
    parser.add_argument("--rounds", type=int, default=rounds, help="interleaved repeats; medians are reported")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--quick", action="store_true", help=quick)
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if options.quick:
        options.rounds = 1
    return options


def save(out: Path, name: str, result: dict[str, Any], table: str) -> None:
    """Write `name`.json (with the machine) and `name`.md, each as a whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    write_atomically(out / f"{name}.json", json.dumps({"machine": machine, **result}, indent=2) + "\n")
    device = machine["cuda_device"] or machine["processor"]
    note = f"{device}, {machine['threads']} threads, torch {machine['versions']['torch']}, {machine['date']}"
    write_atomically(out / f"{name}.md", f"{table}\n\n{note}\n")


class CaseResults:
    """The cases of a benchmark, printed as they come and saved after each, so that what is stopped keeps those it has.

    Args:
        title: first line of the Markdown file.
        facts: entries of the JSON file beside the cases.
        folder: for the files; None writes nothing.
        name: of the files.
    """

    def __init__(self, title: str, facts: dict[str, Any], folder: Path | None, name: str) -> None:
        self.parts, self.result, self.folder, self.name = [title], facts | {"cases": []}, folder, name

    def add(self, heading: str, case: dict[str, Any]) -> None:
        """Add a case, whose floor is `floor_seconds` and whose `rows` are for the table alone."""
        floor = f"floor {1e6 * case['floor_seconds']:.0f} us"
        self.parts.append(f"## {heading}, {floor}\n\n{markdown_table(case.pop('rows'))}")
        print(f"\n{self.parts[-1]}", flush=True)
        self.result["cases"].append(case)
        if self.folder is not None:
            save(self.folder, self.name, self.result, "\n\n".join(self.parts))


def load_before(result: dict[str, Any]) -> str:
    """Return a sentence, without its full stop, about the `load` of the machine in front of a run."""
    loads = ", ".join(f"{load:.1f}" for load in result["load"])
    return f"Load of the machine over 1, 5 and 15 minutes before the run: {loads}"


def page_of_one_table(title: str, about: str, result: dict[str, Any], table: str) -> str:
    """Return the page of a benchmark in rounds whose contestants take turns.

    Args:
        title: of the page.
        about: what the table says, a sentence without its full stop.
        result: with `threads`, `rounds` and `load`.
        table: of `markdown_table`.
    """
    how = f"{result['threads']} threads, medians of {result['rounds']} rounds, in turns. {load_before(result)}"
    return f"# {title}\n\n{about}; {how}.\n\n{table}"


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Rows with the same keys as a Markdown table."""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row[name] for name in header) + " |" for row in rows)])


def available(entries: Sequence[dict[str, Any]], kind: str, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the entries that were measured; of each other one `notes` gets a line. `kind` is the field of the name."""
    for entry in entries:
        if "not_available" in entry:
            notes.append(f"- {entry[kind]}: not available: {entry['not_available']}")
        else:
            yield entry
