#!/usr/bin/env python
"""First contact with a GPU, item by item: right? how long? A line of JSON for each, written at once.

    python scripts/gpu_smoke.py --log FILE ITEM...

An item that is in the log already is left out, so that the same command goes on where a process died: of a hang, which
ends it after `--limit` seconds, or of a CUDA error that outlives its call. `--device cpu` is a rehearsal without a GPU.

Exit status: 0 when every item was right, 1 when one was not, 3 when the process had to end early: start it again.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]  # for their helpers

from gpu_items import ITEMS, Item  # noqa: E402
from gpu_items.device import Device  # noqa: E402

WRONG, ENDED_EARLY = 1, 3


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog=f"items: {' '.join(ITEMS)}")
    parser.add_argument("items", nargs="+", choices=list(ITEMS), metavar="ITEM")
    parser.add_argument("--log", type=Path, required=True, help="file that gets a line for each")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--limit", type=float, default=40, help="seconds that an item may take")
    parser.add_argument("--small", action="store_true", help="shapes as small as a sanitizer wants them")
    parser.add_argument("--repeats", type=int, default=30, help="how often a call is timed")
    return parser.parse_args()


def tried(log: Path) -> set[str]:
    """Return the items that were begun, also those that ended their process."""
    return {json.loads(line)["item"] for line in log.read_text().splitlines()} if log.exists() else set()


def attempt(item: Item, device: Device) -> tuple[dict[str, Any], bool]:
    """Return what an item says, or how it failed, and whether the device still works."""
    try:
        result = item(device)
        device.wait()
        return result, True
    except Exception as error:
        trace = traceback.format_exc()[-1500:]
        result = {"ok": False, "error": f"{type(error).__name__}: {error}"[:500], "trace": trace}
    try:
        device.wait()
    except RuntimeError:
        return result, False
    return result, True


def main() -> int:
    options = parse_arguments()
    device = Device(options.device, options.small, options.repeats)

    def tell(name: str, **figures: Any) -> None:
        with options.log.open("a") as file:
            file.write(json.dumps({"item": name, **figures}) + "\n")

    status, known = 0, tried(options.log)
    for name in options.items:
        if name in known:
            continue
        tell(name, begun=True)
        faulthandler.dump_traceback_later(options.limit, exit=True)
        began = time.perf_counter()
        result, works = attempt(ITEMS[name], device)
        faulthandler.cancel_dump_traceback_later()
        tell(name, seconds=round(time.perf_counter() - began, 1), **result)
        print(f"{name}: {'right' if result['ok'] else 'NOT RIGHT'}", flush=True)
        status = status if result["ok"] else WRONG
        if not works:
            return ENDED_EARLY
    return status


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # a device that is broken may hang at exit
