"""What result files say of the machine."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from fastbert_hf.machine import describe_machine

SMI = """#!/bin/sh
case "$*" in
  *"--id=GPU-12ab-34"*"driver_version,clocks.sm,clocks.max.sm,clocks.mem"*) echo "580.65, 1755, 1980, 2619" ;;
  *) exit 6 ;;
esac
"""


@pytest.fixture
def gpu(monkeypatch):
    properties = SimpleNamespace(major=9, minor=0, multi_processor_count=132, total_memory=140 << 30, uuid="12ab-34")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return properties


def put_smi(folder, monkeypatch, text):
    file = folder / "nvidia-smi"
    file.write_text(text)
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_gpu_with_driver_and_clocks(gpu, monkeypatch, tmp_path):
    put_smi(tmp_path, monkeypatch, SMI)
    machine = describe_machine()
    assert json.loads(json.dumps(machine)) == machine and machine["cuda_device"] == "NVIDIA H200"
    cuda = machine["cuda"]
    assert (cuda["capability"], cuda["multiprocessors"], cuda["memory_gib"]) == ("9.0", 132, 140.0)
    assert (cuda["driver"], cuda["clock_mhz"], cuda["highest_clock_mhz"]) == ("580.65", 1755, 1980)


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 9\n", "#!/bin/sh\necho what\n"])
def test_a_tool_that_does_not_say(gpu, monkeypatch, tmp_path, text):
    put_smi(tmp_path, monkeypatch, text)
    assert "driver" not in describe_machine()["cuda"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device")
def test_no_gpu():
    machine = describe_machine()
    assert machine["cuda"] is machine["cuda_device"] is None and machine["cores"] > 0
