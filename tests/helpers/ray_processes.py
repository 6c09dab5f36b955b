"""Processes of a Ray cluster of the test's own, to be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Return when the condition holds; a busy machine may need minutes for what takes seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to this in time"
        time.sleep(0.02)


def kill_one(cluster, title: str) -> None:
    """Send SIGKILL to one worker process of the cluster whose title has `title`."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    found = [pid for pid, parent, name in _processes() if parent in raylets and title in name]
    assert found, f"no process {title} below {raylets}"
    os.kill(found[0], signal.SIGKILL)


def _processes() -> list[tuple[int, int, str]]:
    """Return number, parent and title of every process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        found.append((int(folder.name), parent, name))
    return found
