"""How many threads the compiled kernels take."""

from __future__ import annotations

import math
import os

import pytest
import torch

import fastbert_kernels
from fastbert_kernels import threads
from helpers import programs


@pytest.fixture
def cgroups(tmp_path):
    """cgroups(membership, files): the quota of a process with these memberships, where these files exist."""

    def quota(membership, files):
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return threads.cpu_quota(tmp_path / "fs", tmp_path / "membership")

    return quota


@pytest.mark.parametrize(
    ("membership", "files", "want"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {}, math.inf),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3.0),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "300000 100000\n"}, 0.5),
        ("0::/not/mounted\n", {"cpu.max": "200000 50000\n"}, 4.0),
        (
            "4:memory:/x\n3:cpu,cpuacct:/docker/c\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        (
            "2:cpuset:/\n1:cpu:/box\n0::/box\n",
            {
                "cpu/box/cpu.cfs_quota_us": "100000",
                "cpu/box/cpu.cfs_period_us": "100000",
                "cpu/cpu.cfs_quota_us": "90000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            0.9,
        ),
    ],
)
def test_quota_of_a_container(cgroups, membership, files, want):
    assert cgroups(membership, files) == want


def test_no_cgroups_no_quota(tmp_path):
    assert threads.cpu_quota(tmp_path, tmp_path / "none") == math.inf


@pytest.mark.parametrize(("quota", "want"), [(0.2, 1), (1.0, 1), (1.2, 2), (3.0, 3), (7.5, 5), (math.inf, 5)])
def test_processors_are_the_smaller_of_mask_and_quota(monkeypatch, quota, want):
    monkeypatch.setattr(threads, "_affinity", lambda: 5)
    monkeypatch.setattr(threads, "cpu_quota", lambda *_: quota)
    monkeypatch.setattr(threads, "_quota", (-math.inf, math.inf))
    assert threads.processors() == want
    assert threads.limits() == (min(want, torch.get_num_threads()), want)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_affinity_and_torch_count_from_the_next_call_on():
    programs.succeed("""
import os, torch
from fastbert_kernels import info
torch.set_num_threads(64)
mask = os.sched_getaffinity(0)
assert info()["threads"] <= len(mask) and info()["processors"] <= len(mask)
os.sched_setaffinity(0, {min(mask)})
assert (info()["threads"], info()["processors"]) == (1, 1)
os.sched_setaffinity(0, mask)
torch.set_num_threads(1)
assert info()["threads"] == 1
""")


def test_info_shows_what_a_call_takes():
    info = fastbert_kernels.info()
    assert (info["threads"], info["processors"]) == threads.limits()
