"""Threads of a call on the CPU: how many the compiled kernels take, and those of PyTorch in a forked child."""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from fastbert_kernels.forks import in_forked_children

P = ParamSpec("P")
R = TypeVar("R")

_QUOTA_SECONDS = 1.0  # for so long a quota that was read is believed

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")

_quota: tuple[float, float] = (-math.inf, math.inf)  # (when it was read, its value)


def limits() -> tuple[int, int]:
    """Return (threads that may work on one call, threads that may work on all calls together).

    Asked at every native call, so that `torch.set_num_threads`, a new affinity mask and, within a second, a new quota
    count from the next call on. OMP_NUM_THREADS counts as the number that torch starts with.
    """
    count = processors()
    return min(_torch_threads(), count), count


def processors() -> int:
    """Return the number of processors that this thread may use.

    It is the smaller of the affinity mask and the CPU quota of the cgroup, rounded up.
    """
    global _quota
    now = time.monotonic()
    if now - _quota[0] > _QUOTA_SECONDS:
        _quota = (now, cpu_quota(_CGROUPS, _MEMBERSHIP))
    return min(_affinity(), max(math.ceil(_quota[1]), 1)) if _quota[1] < math.inf else _affinity()


class _Forks:
    """Whether this process is a forked child, in which PyTorch's OpenMP threads are dead."""

    def __init__(self) -> None:
        self.happened = False
        self.renew()
        in_forked_children(self._in_child)

    def renew(self) -> None:
        self.lock = threading.Lock()
        self.calls = 0  # inside `survives_fork`, on all threads
        self.torch_threads = 0  # before the first of them
        self.own = threading.local()  # .torch_threads, before that of this thread

    def _in_child(self) -> None:
        self.happened = True
        self.renew()


_forks = _Forks()


def survives_fork(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function whose PyTorch operations answer in a forked child, too.

    OpenMP's threads do not come along into a child, and an operation that wants to share its work with them there waits
    for ever. So in a child, PyTorch has one thread for as long as the function runs. The compiled kernels have threads
    of their own, which are started anew in a child, as many as `torch.get_num_threads()` allows there.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _forks.happened or hasattr(_forks.own, "torch_threads"):
            return function(*args, **kwargs)
        with _forks.lock:
            # The count is that of a thread, but one that never asked takes what another has set just now.
            before = _forks.torch_threads if _forks.calls > 0 else torch.get_num_threads()
            _forks.torch_threads = before
            _forks.calls += 1
            torch.set_num_threads(1)
        _forks.own.torch_threads = before
        try:
            return function(*args, **kwargs)
        finally:
            del _forks.own.torch_threads
            with _forks.lock:
                torch.set_num_threads(before)
                _forks.calls -= 1

    return wrapper


def _torch_threads() -> int:
    count: int = getattr(_forks.own, "torch_threads", 0)
    return count or torch.get_num_threads()


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(cgroups: Path, membership: Path) -> float:
    """Return the CPU seconds per second that the cgroups of this process may take; infinity without a quota.

    Args:
        cgroups: where the cgroup file systems are mounted, as a rule /sys/fs/cgroup.
        membership: the file that names the groups of the process, as a rule /proc/self/cgroup.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux, or no /proc
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            quotas += [_quota_v2(cgroups / folder) for folder in _and_parents(group)]
        elif "cpu" in controllers.split(","):
            quotas += [
                _quota_v1(cgroups / mount / folder)
                for mount in dict.fromkeys((controllers, "cpu"))
                for folder in _and_parents(group)
            ]
    return min(quotas)


def _and_parents(group: str) -> list[Path]:
    """A group, relative to the mount, and all above it, each of which may have a quota.

    In a container whose own group is mounted as the root, the named folder may not exist; the root does.
    """
    path = Path(group.lstrip("/"))
    return [path, *path.parents] if path.parts else [path]


def _quota_v2(folder: Path) -> float:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except OSError:
        return math.inf
    return math.inf if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except OSError:
        return math.inf
    return quota / period if quota > 0 else math.inf
