"""Launches by the CUDA driver, with a stand-in of it under its own name: found when the process has loaded it, and
given each parameter where the driver looks for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What the driver of CUDA's manual does with a launch: it reads as many bytes of each parameter as the kernel has.
DRIVER = r"""
#include <cstdint>
#include <cstring>
extern "C" {
uint64_t seen[12];
int cuCtxGetCurrent(void** context) { *context = reinterpret_cast<void*>(0xc0); return 0; }
int cuGetErrorName(int status, const char** name) { *name = "CUDA_ERROR_FOR_TESTS"; return status == 7 ? 0 : 1; }
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** parameters, void** extra) {
  if (extra != nullptr || gy != 1 || gz != 1 || by != 1 || bz != 1) return 7;
  int32_t rows; float epsilon;
  seen[0] = reinterpret_cast<uint64_t>(function); seen[1] = gx; seen[2] = bx; seen[3] = shared;
  seen[4] = reinterpret_cast<uint64_t>(stream);
  std::memcpy(&seen[5], parameters[0], 8);
  std::memcpy(&rows, parameters[1], 4);
  std::memcpy(&epsilon, parameters[2], 4);
  std::memcpy(&seen[8], parameters[3], 8);
  seen[6] = static_cast<uint64_t>(rows); seen[7] = static_cast<uint64_t>(epsilon * 1024);
  return 0;
}
}
"""
GLUE = r"""
#include "cuda_driver.h"
namespace driver = fastbert::cuda_driver;
extern "C" {
void* context() { return driver::current_context(); }
int launch(uint64_t address, uint64_t rows, uint64_t epsilon) {
  const driver::Parameter parameters[] = {{address}, {rows}, {epsilon}, {0}};
  return driver::launch({reinterpret_cast<void*>(0xf0), 64, 48}, 11, reinterpret_cast<void*>(0x57), parameters, 4);
}
bool says(int status, const char* words) { return driver::error_in_words(status) == words; }
}
"""
# In a process of its own, since the stand-in would stay loaded.
CHECKS = r"""
import ctypes, struct, sys
glue = ctypes.CDLL(sys.argv[1])
glue.context.restype = ctypes.c_void_p
glue.launch.argtypes = [ctypes.c_uint64] * 3
assert glue.context() is None and glue.says(7, b"unknown")
driver = ctypes.CDLL(sys.argv[2])
assert glue.context() == 0xC0
epsilon = struct.unpack("<I", struct.pack("<f", 0.5))[0]
assert glue.launch(0x7F0123456780, 12345, epsilon) == 0
seen = (ctypes.c_uint64 * 12).in_dll(driver, "seen")
assert list(seen[:9]) == [0xF0, 11, 64, 48, 0x57, 0x7F0123456780, 12345, 512, 0], list(seen)
assert glue.says(7, b"CUDA_ERROR_FOR_TESTS") and glue.says(8, b"unknown")
"""


@pytest.mark.skipif(shutil.which("g++") is None or sys.platform != "linux", reason="needs g++ on Linux")
def test_launch_by_a_driver_that_was_loaded(tmp_path):
    def build(source: str, name: str, *options: str) -> Path:
        (tmp_path / f"{name}.cpp").write_text(source)
        command = [
            "g++",
            "-std=c++17",
            "-shared",
            "-fPIC",
            f"-I{ROOT / 'csrc'}",
            str(tmp_path / f"{name}.cpp"),
            *options,
        ]
        subprocess.run([*command, "-o", str(tmp_path / name)], check=True)
        return tmp_path / name

    driver = build(DRIVER, "libcuda.so.1", "-Wl,-soname,libcuda.so.1")
    glue = build(GLUE, "glue.so", str(ROOT / "csrc/cuda/driver.cpp"), "-ldl")
    run = subprocess.run([sys.executable, "-c", CHECKS, str(glue), str(driver)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
