"""Builds the compiled module fastbert_kernels._C with CMake; everything else about the package is in pyproject.toml.

Environment variables:
  FASTBERT_CUDA        AUTO (default: CUDA kernels when nvcc is found), ON (fail without nvcc) or OFF
  FASTBERT_CUDA_ARCHS  CMake's list of CUDA architectures, separated by ";" (default: see CMakeLists.txt)
  MAX_JOBS             parallel compiler processes
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def find_nvcc() -> str | None:
    """nvcc from CUDACXX, PATH, CUDA_HOME / CUDA_PATH or the toolkit's default folder."""
    if os.environ.get("CUDACXX"):
        return os.environ["CUDACXX"]
    on_path = shutil.which("nvcc")
    if on_path:
        return on_path
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home and (nvcc := Path(home) / "bin" / "nvcc").is_file():
            return str(nvcc)
    return None


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        output.mkdir(parents=True, exist_ok=True)
        build = Path(self.build_temp).resolve() / "cmake"
        # A cache left by another interpreter or by pip's throw-away build environment names tools that are gone.
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir(parents=True)

        cuda = os.environ.get("FASTBERT_CUDA", "AUTO").upper()
        configure = [
            "cmake",
            f"-S{ROOT}",
            f"-B{build}",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
            f"-DFASTBERT_CUDA={cuda}",
        ]
        if shutil.which("ninja"):
            configure.append("-GNinja")
        nvcc = find_nvcc() if cuda != "OFF" else None
        if nvcc:
            configure.append(f"-DCMAKE_CUDA_COMPILER={nvcc}")
        if os.environ.get("FASTBERT_CUDA_ARCHS"):
            configure.append(f"-DCMAKE_CUDA_ARCHITECTURES={os.environ['FASTBERT_CUDA_ARCHS']}")
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--parallel", jobs], check=True)


setup(ext_modules=[Extension("fastbert_kernels._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
