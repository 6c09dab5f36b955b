"""Every model that can be patched, before and after: the same texts, interleaved, at full depth and with exits.

    python benchmarks/hosts.py [--rounds 10] [--hosts fastbert DeeBERT] [--quick]

Models of one size with random weights; hosting/subjects.py makes them. The Speed is the one that gives a mean exit
layer of about a third of the depth. Each host runs in a process of its own: `fastbert` and `fastplm` cannot share one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from families import result_name
from fastbert_hf.timing import Seconds
from harness import available, markdown_table, parse_with_rounds, save
from hosting.measure import BATCH, make_texts, measure
from hosting.subjects import HOSTS, SIZES, missing_package


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compares every model that can be patched with itself unpatched.")
    parser.add_argument("--hosts", nargs="+", choices=list(HOSTS), default=list(HOSTS))
    parser.add_argument("--size", choices=list(SIZES), default="MiniLM-L6")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # measure one host into this file
    return parse_with_rounds(parser, argv, rounds=10, quick="a tiny size and one round, to see that it runs")


def measure_apart(name: str, size: str, rounds: int) -> dict[str, Any]:
    """`measure` in another process; where that fails, the reason."""
    if (package := missing_package(name)) is not None:
        return {"host": name, "not_available": f"the package {package} is not installed"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "one.json"
        arguments = ["--hosts", name, "--size", size, "--rounds", str(rounds), "--one", str(file)]
        done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            return {"host": name, "not_available": lines[-1]}
        return json.loads(file.read_text())


def table(result: dict[str, Any]) -> str:
    """The page beside the JSON file."""
    lines, below = [], []
    for host in available(result["hosts"], "host", below):
        lines += [_cells(host["host"], row, result["texts"]) for row in host["rows"]]
        note = f"; {host['note']}" if host["note"] else ""
        below.append(f"- {host['host']}: Speed {host['speed']:.3f}{note}")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    parts = [
        "# Models before and after patching",
        f"{result['size']}, {result['texts']} texts of {result['mean_length']:.1f} tokens on average, "
        f"{result['rounds']} rounds, interleaved and shuffled; random weights. Ratios are medians of the ratios within "
        "a round. Over one by one, over batched: over the unpatched model in the same run (full depth, or with exits), "
        f"one text at a time and in batches of {BATCH}. Speed-up: over the same model's own full depth, at which most "
        "unpatched models ask all heads, too. FLOPs speed-up: that of the exits, at the texts' own lengths. "
        "Realisation: speed-up divided by FLOPs speed-up. Labels and exit layers are compared with what the unpatched "
        "model's heads say when nobody leaves; where they differ, no ratio is given. "
        f"{result['threads']} threads; {versions}.",
    ]
    if lines:
        parts.append(markdown_table(lines))
    return "\n\n".join([*parts, "\n".join(below)])


def _cells(host: str, row: dict[str, Any], texts: int) -> dict[str, str]:
    p20, p50, p80 = (1e3 * seconds for seconds in Seconds(row["seconds"]).quantiles)

    def factor(name: str) -> str:
        return f"{row[name]:.2f}x" if row.get(name) is not None else "-"

    return {
        "host": host,
        "model": row["model"],
        "batch": str(row["batch"]),
        "run": row["run"],
        "mean exit layer": f"{row['mean_exit_layer']:.2f}",
        "ms for all texts, p20 / p50 / p80": f"{p20:.1f} / {p50:.1f} / {p80:.1f}",
        "over one by one": factor("over_one_by_one"),
        "over batched": factor("over_batched"),
        "speed-up": factor("speedup"),
        "FLOPs speed-up": factor("flops_speedup") if row["agrees"] else "-",
        "realisation": f"{row['realisation']:.2f}" if "realisation" in row else "-",
        "labels and exit layers": "agree"
        if row["agrees"]
        else f"{row['other_labels']} and {row['other_exit_layers']} of {texts} differ",
    }


def _versions() -> dict[str, str | None]:
    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {name: version(name) for name in ("fastbert", "fastplm", "transformers")}


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    if options.quick:
        options.size = "tiny"
    if options.one is not None:
        options.one.write_text(json.dumps(measure(options.hosts[0], options.size, options.rounds)))
        return 0
    lengths = [len(text) for text in make_texts(SIZES[options.size])]
    result: dict[str, Any] = {
        "size": options.size,
        "texts": len(lengths),
        "lengths": lengths,
        "mean_length": sum(lengths) / len(lengths),
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "versions": _versions(),
        "hosts": [],
    }
    for name in options.hosts:
        print(f"{name} ...", file=sys.stderr, flush=True)
        result["hosts"].append(measure_apart(name, options.size, options.rounds))
    print(table(result))
    if not options.quick:
        save(options.out, result_name("hosts"), result, table(result))
    return 0 if all("rows" in host for host in result["hosts"]) else 1


if __name__ == "__main__":
    sys.exit(main())
