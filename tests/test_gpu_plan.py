"""The scripts for the first minutes on a GPU, as far as they can be rehearsed without one."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from helpers import programs

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
PLANS = ["gpu_first.sh", "gpu_second.sh"]


def run_script(name, *arguments):
    """Run a script in Python with PyTorch in memory."""
    file = str(SCRIPTS / name)
    lines = ["import runpy, sys", f"sys.path.insert(0, {str(SCRIPTS)!r})", f"sys.argv = {[file, *map(str, arguments)]}"]
    return programs.run("\n".join([*lines, f"runpy.run_path({file!r}, run_name='__main__')"]))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Rehearse some items in one process; the log of an item that hung before is there already."""
    log = tmp_path_factory.mktemp("smoke") / "smoke.jsonl"
    log.write_text('{"item": "cuda_head_c256", "begun": true}\n')
    items = ["machine", "triton_linear_bf16", "cuda_head_c256", "cuda_compact", "cuda_pooled", "fp8_2048"]
    options = ["--log", log, "--device", "cpu", "--repeats", "1"]
    return run_script("gpu_smoke.py", *items, *options), log


def entries(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_items_are_right_and_told_one_by_one(smoke):
    done, log = smoke
    assert done.returncode == 0, done.stdout + done.stderr
    ended = {entry["item"]: entry for entry in entries(log) if "begun" not in entry}
    assert list(ended) == [
        "machine",
        "triton_linear_bf16",
        "cuda_compact",
        "cuda_pooled",
        "fp8_2048",
    ]  # the one that hung is not
    assert all(entry["ok"] and entry["seconds"] >= 0 for entry in ended.values())
    assert ended["machine"]["machine"]["cores"] > 0 and ended["cuda_compact"]["us"] > 0


def test_an_item_that_fails_costs_itself_and_one_that_hangs_its_process(tmp_path):
    program = f"""
import sys, time
sys.path.insert(0, {str(SCRIPTS)!r})
import gpu_smoke
def fail(device):
    raise ValueError("no")
def hang(device):
    time.sleep(60)
gpu_smoke.ITEMS.clear()
gpu_smoke.ITEMS |= dict(fails=fail, works=lambda device: {{"ok": True}})
gpu_smoke.ITEMS |= dict(wrong=lambda device: {{"ok": False}}, hangs=hang)
sys.argv = ["gpu_smoke.py", "--device", "cpu", "--log", {str(tmp_path / "log")!r}, "--limit", "1", *gpu_smoke.ITEMS]
sys.exit(gpu_smoke.main())
"""
    done = programs.run(program)
    assert done.returncode == 1 and "Timeout" in done.stderr
    told = entries(tmp_path / "log")
    assert [(entry["item"], entry.get("ok")) for entry in told] == [
        *[("fails", None), ("fails", False), ("works", None), ("works", True), ("wrong", None), ("wrong", False)],
        ("hangs", None),
    ]
    assert told[1]["error"] == "ValueError: no"


@pytest.mark.parametrize("plan", PLANS)
def test_what_a_plan_starts_exists(plan):
    text = (SCRIPTS / plan).read_text() + (SCRIPTS / "gpu_steps.sh").read_text()
    files = re.findall(r"(?:benchmarks|tests|scripts)/[\w/]+(?:\.py|\.sh)?", text)
    assert files and all((ROOT / file).exists() for file in files)
    known = run_script("gpu_smoke.py", "--help").stdout.split("items:")[1].split()
    words = set(
        re.findall(r"\b(?:triton|cuda|graph|calls|layer|fp8|profile)_[a-z0-9_]+\b", (SCRIPTS / plan).read_text())
    )
    assert words and words <= {*known}


@pytest.mark.parametrize("plan", PLANS)
def test_without_a_gpu_a_plan_says_so(plan, tmp_path):
    done = subprocess.run(
        ["bash", str(SCRIPTS / plan), str(tmp_path)],
        env={"PATH": "/usr/bin:/bin", "PYTHON": "false"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2 and "nothing was tried" in (tmp_path / "summary.txt").read_text()
    assert (tmp_path / "all.tgz").exists()


def archive_of(folder, smoke_log, name="gpu-first"):
    work = folder / name
    work.mkdir()
    (work / "summary.txt").write_text("9 s: install: exit 0\n")
    (work / "smoke.jsonl").write_text(smoke_log)
    (work / "comparison_cuda.json").write_text("{}")
    with tarfile.open(folder / "all.tgz", "w:gz") as archive:
        archive.add(work, name)
    return folder / "all.tgz"


def test_the_report_has_predicted_beside_measured(tmp_path):
    lines = [
        {"item": "machine", "ok": True, "machine": {"cuda_device": "NVIDIA H200"}, "product_tflops": 598.0},
        {"item": "cuda_compact", "ok": True, "seconds": 2.0, "us": 11.0, "host_us": 90.0},
        {"item": "graph_chain", "begun": True},
    ]
    archive = archive_of(tmp_path, "".join(json.dumps(line) + "\n" for line in lines))
    done = run_script("gpu_report.py", archive, "--out", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "results" / "gpu_first_nvidia_h200.md").read_text()
    assert "| machine | product_tflops | 600 | 598 |  |" in page
    assert "| cuda_compact | us | 12 | 11 |  |" in page and re.search(r"\| host_us \| 35 \| 90 \| the op is", page)
    assert "| graph_chain | not right | - | the process ended before the item did |" in page
    assert "Not tried: triton_head_bf16" in page and "install: exit 0" in page
    result = json.loads((tmp_path / "results" / "gpu_first_nvidia_h200.json").read_text())
    assert result["items"]["cuda_compact"]["host_us"] == 90.0
    assert (tmp_path / "results" / "comparison_cuda.json").exists()


def test_the_report_of_what_is_no_archive(tmp_path):
    (tmp_path / "all.tgz").write_text("no")
    done = run_script("gpu_report.py", tmp_path / "all.tgz", "--out", tmp_path)
    assert done.returncode == 2 and "not an archive of gpu_first.sh" in done.stderr
