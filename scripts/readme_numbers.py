"""Writes the table of README.md from benchmarks/results/demo_cpu.json (a copy of demo-out/results.json).

python scripts/readme_numbers.py            rewrites README.md
python scripts/readme_numbers.py --check    exits with 1 when README.md is not what the result file says
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "demo_cpu.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- numbers: scripts/readme_numbers.py -->", "<!-- end of numbers -->"


def render(results: dict[str, Any]) -> str:
    """The paragraph and table between the two markers."""
    machine, data, timed = results["machine"], results["data"], results["timed_texts"]
    names = list(results["rows"][0]["variants"])
    lines = [
        f"Measured by `make demo` on {machine['threads']} cores of an {machine['processor']} "
        f"({machine['date'][:10]}, torch {machine['versions']['torch']}, transformers "
        f"{machine['versions']['transformers']}): a 6-layer MiniLM on {data['test']} docstrings of "
        f"{len(data['classes'])} libraries ({data['mean_tokens']:.0f} tokens on average), batches of "
        f"{results['batch_size']} in input order. "
        "Milliseconds per text, and in brackets the speed-up over the unpatched model at full depth:",
        "",
        "| Speed | accuracy | mean exit layer | FLOPs speed-up | " + " | ".join(names) + " |",
        "| --- | ---: | ---: | ---: | " + " | ".join("---:" for _ in names) + " |",
    ]
    for row in results["rows"]:
        speed = "full depth" if row["speed"] is None else f"{row['speed']:g}"
        accuracy = f"{row['variants']['unpatched']['accuracy']:.1%}"
        cells = [
            speed,
            accuracy,
            f"{row['mean_exit_layer']:.2f} of {results['layers']}",
            f"{row['flops_speedup']:.2f}x",
        ]
        for name in names:
            variant = row["variants"][name]
            milliseconds = 1e3 * statistics.median(variant["seconds"]) / timed
            cells.append(f"{milliseconds:.2f} ({variant['speedup']:.1f}x)")
        lines.append("| " + " | ".join(cells) + " |")
    gains = []
    for name in names[1:]:
        ratios = [
            statistics.median(row["variants"]["unpatched"]["seconds"])
            / statistics.median(row["variants"][name]["seconds"])
            for row in results["rows"]
        ]
        gains.append(f"{min(ratios):.1f}x to {max(ratios):.1f}x ({name})")
    lines += ["", f"At the same Speed, over the unpatched model: {' and '.join(gains)}."]
    agreement = results["agreement"]
    shares = " and ".join(f"{agreement[name]['labels']:.1%} ({name})" for name in names if name in agreement)
    lines += [
        f"Labels equal to the unpatched model's, on 128 of these texts at each Speed: {shares}. On other texts and "
        "models some may differ; `fastbert evaluate --agreement` counts them on yours. Raw figures: "
        "`benchmarks/results/demo_cpu.json`."
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes README.md's table from the committed result file.")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 when README.md is out of date"
    )
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    wanted = f"{before}{BEGIN}\n{render(json.loads(RESULT.read_text()))}\n{END}{after}"
    if check and wanted != text:
        print("README.md is not what benchmarks/results/demo_cpu.json says: run python scripts/readme_numbers.py")
        return 1
    if not check:
        README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
