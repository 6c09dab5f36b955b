#!/usr/bin/env python
"""What a step of training takes beside other work: threads that spin while they wait, and threads that sleep.

    python benchmarks/training_pace.py [--steps 6] [--rounds 2]

`fastbert train` sets OMP_WAIT_POLICY=PASSIVE unless the environment says otherwise. Here the packaged 6-layer MiniLM is
trained for a few steps (32 texts of 32 tokens) in processes of their own, with the variable and without it, alone and
beside as many busy processes as there are cores, in turns. Writes training_pace_cpu_FAMILY.json and .md (families.py).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from families import result_name
from harness import RESULTS, markdown_table, save

BATCH, TOKENS = 32, 32
POLICIES = {"left to PyTorch": None, "PASSIVE": "PASSIVE"}
WARM_UP = 2  # steps that are not counted


def steps_here(steps: int) -> list[float]:
    """Return the seconds of so many steps of training in this process."""
    import torch
    from transformers import BertConfig

    from adopting.models import packaged_backbone
    from fastbert_hf import FastBertForSequenceClassification

    torch.manual_seed(0)
    model = FastBertForSequenceClassification.from_backbone(packaged_backbone(), num_labels=2).train()
    assert isinstance(model.backbone.config, BertConfig)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.randint(1000, 20_000, (BATCH, TOKENS))
    labels = torch.randint(2, (BATCH,))
    seconds = []
    for _ in range(steps + WARM_UP):
        begin = time.perf_counter()
        logits = model(ids, torch.ones_like(ids))["logits"]
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begin)
    return seconds[WARM_UP:]


def steps_elsewhere(policy: str | None, steps: int) -> list[float]:
    """Return the same of a process whose threads wait as `policy` says."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if policy is None else {"OMP_WAIT_POLICY": policy}
    words = [sys.executable, __file__, "--here", str(steps)]
    output = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds: list[float] = json.loads(output.splitlines()[-1])
    return seconds


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many processors busy in the block."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def table(result: dict[str, Any]) -> str:
    """Return the page beside the JSON file."""
    lines = []
    for place, rows in result["seconds"].items():
        for policy, seconds in rows.items():
            lines.append(
                {
                    "": place,
                    "OMP_WAIT_POLICY": policy,
                    "seconds per step": f"{statistics.median(seconds):.2f}",
                    "slowest": f"{max(seconds):.2f}",
                }
            )
    return "\n\n".join(
        [
            "# A step of training beside other work",
            f"6-layer MiniLM, {BATCH} texts of {TOKENS} tokens, all cores; median of {result['steps']} steps in each "
            f"of {result['rounds']} rounds, in turns. Load of the machine before the run {result['load'][0]:.1f}. By "
            "`python benchmarks/training_pace.py`.",
            markdown_table(lines),
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="of each process")
    parser.add_argument("--rounds", type=int, default=2, help="of each case, in turns")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--here", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.here is not None:
        print(json.dumps(steps_here(options.here)))
        return
    cores = len(os.sched_getaffinity(0))
    places = {"alone": 0, f"beside {cores} busy processes": cores}
    result: dict[str, Any] = {
        "steps": options.steps,
        "rounds": options.rounds,
        "load": os.getloadavg(),
        "seconds": {place: {policy: [] for policy in POLICIES} for place in places},
    }
    for _ in range(options.rounds):
        for place, processes in places.items():
            for name, policy in POLICIES.items():
                with busy(processes):
                    result["seconds"][place][name] += steps_elsewhere(policy, options.steps)
    print(table(result))
    save(options.out, result_name("training_pace"), result, table(result))


if __name__ == "__main__":
    main()
