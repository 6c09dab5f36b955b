#!/usr/bin/env python
"""Plants deliberate faults in the kernels, one at a time, and checks that some test notices each.

Works in a temporary copy of the sources. A fault is an exact piece of text and what takes its place; when the text is
no longer there exactly once, the script stops, since a fault that is not planted proves nothing. Six suites: the CUDA
kernels run on the CPU by tests/cuda_on_cpu (needs g++ and the headers of the CUDA toolkit), the C++ kernels for CPUs
and the reference in PyTorch by tests/ops, those with tile registers by tests/tile_model, the loops over layers by
tests/engine, and the engine's threads by tests/threads (needs g++). Each suite must pass before its faults are planted.

Exit status: 0 when every fault was caught, 1 when one survived, 2 when the check itself could not run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ["CMakeLists.txt", "README.md", "pyproject.toml", "setup.py", "csrc", "fastbert_kernels", "python", "tests"]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header"]
TEST_SECONDS = 120  # a test run that takes longer hangs, which is a way to be caught


class CheckError(Exception):
    """The check could not be made."""


@dataclass(frozen=True)
class Fault:
    suite: str
    name: str
    file: str
    old: str
    new: str
    tests: str  # files below the suite's folder

    def planted_in(self, text: str) -> str:
        if text.count(self.old) != 1:
            raise CheckError(
                f"{self.file} has the text of the fault {self.name!r} {text.count(self.old)} times, not once: "
                f"{self.old!r}"
            )
        return text.replace(self.old, self.new)


ATTENTIVE, LINEAR, POOLED = "test_cuda_attentive_head.py", "test_cuda_linear_head.py", "test_cuda_pooled_head.py"
RULES = "test_rules.py test_graph_rules.py"
DECISION, COMPACT, DEPTH = "test_cuda_decision.py", "test_cuda_compact.py", "test_cuda_depth_graph.py"
POOL = "test_pool.py"
FAULTS = [
    Fault(
        "cuda",
        "token mask: one token too many",
        "csrc/cuda/attentive_head_attention.cuh",
        "if (token < count) {",
        "if (token <= count) {",
        ATTENTIVE,
    ),
    Fault(
        "cuda",
        "token mask: one token too few (linear)",
        "csrc/cuda/attentive_head_linear.cuh",
        "const float value = lane < count ?",
        "const float value = lane < count - 1 ?",
        LINEAR,
    ),
    Fault(
        "cuda",
        "missing barrier: scores",
        "csrc/cuda/attentive_head.cu",
        "    __syncthreads();\n    if (warp < num_heads) update_softmax",
        "    if (warp < num_heads) update_softmax",
        ATTENTIVE,
    ),
    Fault(
        "cuda",
        "missing barrier: stage is filled while read",
        "csrc/cuda/attentive_head_stream.cuh",
        "    __syncthreads();  // the chunk is there",
        "    // the chunk is there",
        ATTENTIVE,
    ),
    Fault(
        "cuda",
        "missing barrier: tile (linear)",
        "csrc/cuda/attentive_head_linear.cuh",
        "    __syncthreads();  // the tile is there",
        "    // the tile is there",
        LINEAR,
    ),
    Fault(
        "cuda",
        "missing barrier: layers (pooled)",
        "csrc/cuda/pooled_exit_head.cu",
        "    __syncthreads();\n    const int size =",
        "    const int size =",
        POOLED,
    ),
    Fault(
        "cuda",
        "copies are used before they arrive",
        "csrc/cuda/attentive_head_stream.cuh",
        "wait_for_all_but(arguments_.stages - 2)",
        "wait_for_all_but(arguments_.stages - 1)",
        ATTENTIVE,
    ),
    Fault(
        "cuda",
        "online softmax: contexts not rescaled",
        "csrc/cuda/attentive_head_attention.cuh",
        "fmaf(*target, scratch.rescale[head], sum[c])",
        "*target + sum[c]",
        ATTENTIVE,
    ),
    Fault(
        "cuda",
        "rows of a 16-bit fold counted as float32",
        "csrc/cuda/attentive_head_stream.cuh",
        "copy_fold<T, C>(stage, matrix, chunk_ * FOLD_ROWS<T, C>)",
        "copy_fold<T, C>(stage, matrix, chunk_ * FOLD_ROWS<float, C>)",
        ATTENTIVE,
    ),
    Fault(
        "cuda",
        "32-bit addressing",
        "csrc/cuda/attentive_head.cu",
        "const int64_t first_row = arguments.cu_seqlens[sample];",
        "const int first_row = arguments.cu_seqlens[sample];",
        ATTENTIVE,
    ),
    Fault(
        "cuda",
        "entropy normaliser: log(N + 1)",
        "csrc/cuda/decision.cuh",
        "logf(static_cast<float>(classes))",
        "logf(static_cast<float>(classes + 1))",
        DECISION,
    ),
    Fault(
        "cuda",
        "top k: equal logits counted once",
        "csrc/cuda/decision.cuh",
        "static_cast<float>(k - above)",
        "1.0f",
        DECISION,
    ),
    Fault(
        "cuda",
        "prediction: the last of equals",
        "csrc/cuda/decision.cuh",
        "if (!(logits[label] > maximum)) continue;",
        "if (!(logits[label] >= maximum)) continue;",
        DECISION,
    ),
    Fault(
        "cuda",
        "streak goes on after another prediction",
        "csrc/cuda/decision.cuh",
        "decision.history[2 * sample] == prediction",
        "decision.history[2 * sample] >= 0",
        DECISION,
    ),
    Fault(
        "cuda",
        "Speed is not strict",
        "csrc/cuda/decision.cuh",
        "!(uncertainty < decision.speed[sample])",
        "!(uncertainty <= decision.speed[sample])",
        DECISION,
    ),
    Fault(
        "cuda",
        "maximum passes over a NaN",
        "csrc/cuda/pooled_exit_head.cu",
        "return b > a || b != b ? b : a;",
        "return b > a ? b : a;",
        POOLED,
    ),
    Fault(
        "cuda",
        "scan: off by one",
        "csrc/cuda/compact.cu",
        "if (i < warp) scan.before",
        "if (i <= warp) scan.before",
        COMPACT,
    ),
    Fault(
        "cuda",
        "order: survivors from the back",
        "csrc/cuda/compact.cu",
        "const int rank = survivors_of(before + scan.before);",
        "const int rank = sums[SURVIVORS] - 1 - survivors_of(before + scan.before);",
        COMPACT,
    ),
    Fault(
        "cuda",
        "history is left behind",
        "csrc/cuda/compact.cu",
        "= batch.history[2 * static_cast<int64_t>(sample)];",
        "= batch.history[2 * static_cast<int64_t>(rank)];",
        COMPACT,
    ),
    Fault(
        "cuda",
        "a condition that is true from the start",
        "csrc/cuda/depth_graph.cu",
        "&next, graph, 0, cudaGraphCondAssignDefault",
        "&next, graph, 1, cudaGraphCondAssignDefault",
        DEPTH,
    ),
    Fault(
        "cuda",
        "stages in no order",
        "csrc/cuda/depth_graph.cu",
        "last_ == nullptr ? 0 : 1",
        "0",
        DEPTH,
    ),
    Fault(
        "cpu",
        "scan: off by one",
        "csrc/cpu/compact.cpp",
        "out.cu_seqlens[++survivors] = tokens;",
        "out.cu_seqlens[survivors++] = tokens;",
        "test_compact.py",
    ),
    Fault(
        "cpu",
        "order: state of the sample before",
        "csrc/cpu/compact.cpp",
        "out.sample_index[survivors] = batch.sample_index[b];",
        "out.sample_index[survivors] = batch.sample_index[b > 0 ? b - 1 : 0];",
        "test_compact.py",
    ),
    Fault(
        "cpu",
        "Speed is not strict",
        "csrc/cpu/decision.cpp",
        "uncertainty < decision.speed[b]",
        "uncertainty <= decision.speed[b]",
        "test_attentive_head.py test_decision.py",
    ),
    Fault(
        "cpu",
        "top k: one class too many",
        "csrc/cpu/decision.cpp",
        "set.normalised_entropy(largest.data(), k)",
        "set.normalised_entropy(largest.data(), k + 1)",
        "test_decision.py",
    ),
    Fault(
        "cpu",
        "attention: scores are not scaled",
        "csrc/cpu/isa/attention.cpp",
        "const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(d));",
        "const float scale = 1.0f;",
        "test_encoder_layer.py",
    ),
    Fault(
        "cpu",
        "int8: the rows' shift is forgotten",
        "csrc/cpu/isa/product.cpp",
        "integers[c] - shift * column_sum[c]",
        "integers[c]",
        "test_encoder_layer.py",
    ),
    Fault(
        "cpu",
        "product: columns past a panel's end",
        "csrc/cpu/isa/product.cpp",
        "if (outputs - column >= kPanelWidth) {",
        "if (outputs - column >= 1) {",
        "test_encoder_layer.py",
    ),
    Fault(
        "cpu",
        "unbiased LayerNorm: divided by H",
        "csrc/cpu/isa/rows.cpp",
        "static_cast<double>(count - 1)",
        "static_cast<double>(count)",
        "test_layer_norm.py",
    ),
    Fault(
        "cpu",
        "chunks: the sample between two is left out",
        "csrc/cpu/encoder_layer.cpp",
        "    begin = end;",
        "    begin = end + 1;",
        "test_encoder_layer.py",
    ),
    Fault(
        "tiles",
        "attention: what is left of a step stays",
        "csrc/cpu/isa/bfloat16_format.h",
        "out[j] = 0;",
        "out[j] = out[0];",
        "test_tile_attention.py",
    ),
    Fault(
        "tiles",
        "configuration: a row too few",
        "csrc/cpu/isa/tile_operand.h",
        "const int64_t first = rows < kRowsOfTile ? rows : kRowsOfTile,",
        "const int64_t first = rows < kRowsOfTile ? rows : kRowsOfTile - 1,",
        "test_tile_products.py",
    ),
    Fault(
        "tiles",
        "configuration: that of the tile before",
        "csrc/cpu/isa/tile_operand.h",
        "if (rows != configured_) {",
        "if (configured_ == 0) {",
        "test_tile_products.py",
    ),
    Fault(
        "tiles",
        "sums are not zeroed",
        "csrc/cpu/isa/tile_operand.h",
        "    _tile_zero(1);\n",
        "",
        "test_tile_products.py",
    ),
    Fault(
        "tiles",
        "operands in the wrong order",
        "csrc/cpu/isa/tile_operand.h",
        "_tile_dpbusd(0, 4, 6);",
        "_tile_dpbusd(0, 6, 4);",
        "test_tile_products.py",
    ),
    Fault(
        "engine",
        "a layer's Speed raises a sample's",
        "csrc/cpu/encoder.cpp",
        "return std::min(speed, limit);",
        "return std::max(speed, limit);",
        RULES,
    ),
    Fault(
        "engine",
        "a head that is not asked counts in a streak",
        "csrc/cpu/encoder.cpp",
        "if (!input_.asked[layer - 1]) return false;",
        "",
        RULES,
    ),
    Fault(
        "engine",
        "the batch forgets the samples' own Speed",
        "fastbert_kernels/engine/loop.py",
        "    logits, uncertainty, history, keep = _ask(head, batch, speed, rule, backend)",
        "    logits, uncertainty, history, keep = _ask(head, batch, speed, rule, backend)\n    batch.speed = speed",
        RULES,
    ),
    Fault(
        "engine",
        "patience: Speed 0 binds a sample to stay",
        "fastbert_kernels/engine/loop.py",
        "return 0 if rule.criterion is Criterion.PATIENCE else int((~(speed > 0)).sum())",
        "return int((~(speed > 0)).sum())",
        RULES,
    ),
    Fault(
        "engine",
        "graphs keep the first Speeds of the layers",
        "fastbert_kernels/engine/graphs.py",
        "if speeds != self._filled:",
        "if self._filled is None:",
        RULES,
    ),
    Fault(
        "engine",
        "a span forgets the streaks before it",
        "csrc/cpu/encoder.cpp",
        "if (has_history_) std::copy_n(input.history, 2 * batch_, now_.history.begin());",
        "",
        "test_spans.py",
    ),
    Fault(
        "threads",
        "a wake-up is lost",
        "csrc/cpu/threads.cpp",
        "if (wanted > spinning_.load() && sleeping_.load() > 0) wake(wanted);",
        "(void)wanted;",
        POOL,
    ),
    Fault(
        "threads",
        "two threads take one piece",
        "csrc/cpu/threads.cpp",
        "(piece = next.fetch_add(1, std::memory_order_relaxed)) < count;",
        "(piece = next.load(), next.store(piece + 1), piece) < count;",
        POOL,
    ),
    Fault(
        "threads",
        "a piece is skipped when a helper comes",
        "csrc/cpu/threads.cpp",
        "    bool worked = false;\n    if (call.admit()) {",
        "    bool worked = false;\n    region.next.fetch_add(1);\n    if (call.admit()) {",
        POOL,
    ),
    Fault(
        "threads",
        "a region ends before its helpers do",
        "csrc/cpu/threads.cpp",
        "    wait_for_helpers(region);\n",
        "",
        POOL,
    ),
    Fault(
        "threads",
        "a child of a fork starts no threads",
        "csrc/cpu/threads.cpp",
        "    new (made) Pool;\n",
        "",
        POOL,
    ),
    Fault(
        "reference",
        "entropy normaliser: log(N + 1)",
        "fastbert_kernels/reference.py",
        "math.log(logits.shape[-1])",
        "math.log(logits.shape[-1] + 1)",
        "test_decision.py test_attentive_head.py",
    ),
    Fault(
        "reference",
        "Speed is not strict",
        "fastbert_kernels/reference.py",
        "else (uncertainty < speed)",
        "else (uncertainty <= speed)",
        "test_attentive_head.py test_decision.py",
    ),
]
FOLDERS = {
    "cuda": "tests/cuda_on_cpu",
    "cpu": "tests/ops",
    "tiles": "tests/tile_model",
    "engine": "tests/engine",
    "threads": "tests/threads",
    "reference": "tests/ops",
}


def run(command: list[str], copy: Path, seconds: float) -> tuple[bool, str]:
    """Whether the command succeeded within the time, and the end of what it printed."""
    # Paths of the copy first: an installed package must not stand in for the copy.
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False, "took too long"
    return done.returncode == 0, (done.stdout + done.stderr).strip()[-2000:]


def build_cpu(copy: Path) -> None:
    """Compiles the module; raises CheckError when that fails, which must not pass for a fault caught."""
    folder = copy / "build/cmake"
    if not folder.exists():
        command = ["cmake", f"-S{copy}", f"-B{folder}", f"-DPython_EXECUTABLE={sys.executable}", "-DFASTBERT_CUDA=OFF"]
        command += [f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={copy / 'fastbert_kernels'}"]
        configured, output = run([*command, *(["-GNinja"] if shutil.which("ninja") else [])], copy, 120)
        if not configured:
            raise CheckError(f"cmake failed:\n{output}")
    built, output = run(["cmake", "--build", str(folder), "-j2"], copy, 300)
    if not built:
        raise CheckError(f"the C++ kernels do not compile:\n{output}")


def build_tiles(copy: Path) -> None:
    """Compiles the kernels with modelled tiles, as their tests do; raises CheckError when that fails."""
    command = [sys.executable, "-c", "import tile_kernels; tile_kernels.build('tile_kernels')"]
    built, output = run(command, copy / FOLDERS["tiles"], 300)
    if not built:
        raise CheckError(f"the kernels with modelled tiles do not compile:\n{output}")


def test(suite: str, files: str, copy: Path) -> tuple[bool, str]:
    """Whether the tests pass, and what they print; compiles what they test."""
    libraries = copy / "build/cuda_on_cpu"
    before = len(list(libraries.glob("*.so")))
    if suite in ("cpu", "engine"):
        build_cpu(copy)
    if suite == "tiles":
        build_tiles(copy)
    passed, output = run([*PYTEST, *(str(Path(FOLDERS[suite]) / name) for name in files.split())], copy, TEST_SECONDS)
    # These tests compile by themselves, a library for each state of the sources.
    if suite == "cuda" and len(list(libraries.glob("*.so"))) == before:
        raise CheckError(f"the CUDA kernels were not compiled for the CPU:\n{output}")
    return passed, output


def check_suite(suite: str, faults: list[Fault], copy: Path) -> int:
    """Prints a line for each fault and returns how many survived."""
    files = " ".join(sorted({name for fault in faults for name in fault.tests.split()}))
    passed, output = test(suite, files, copy)
    if not passed:
        raise CheckError(f"the suite {suite!r} fails without any fault:\n{output}")
    survived = 0
    for fault in faults:
        began = time.monotonic()
        path = copy / fault.file
        original = path.read_text()
        path.write_text(fault.planted_in(original))
        try:
            passed, output = test(suite, fault.tests, copy)
        finally:
            path.write_text(original)
        survived += passed
        failed = re.search(r"^(?:FAILED|ERROR) \S+::(\w+)", output, re.MULTILINE)
        verdict = "SURVIVED" if passed else f"caught by {failed.group(1) if failed else 'a crash or a hang'}"
        print(f"{suite:9}  {fault.name:43}  {time.monotonic() - began:4.0f} s  {verdict}", flush=True)
    return survived


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n")[-1])
    parser.add_argument("--suite", action="append", choices=list(FOLDERS), help="only this suite (may be repeated)")
    parser.add_argument("--only", default="", help="only faults whose name contains this text")
    parser.add_argument("--list", action="store_true", help="print the faults, check their texts, and stop")
    arguments = parser.parse_args()
    suites = arguments.suite or list(FOLDERS)
    faults = [fault for fault in FAULTS if fault.suite in suites and arguments.only in fault.name]
    if not faults:
        parser.error("no fault fits")
    try:
        for fault in faults:
            fault.planted_in((ROOT / fault.file).read_text())
            if arguments.list:
                print(f"{fault.suite:9}  {fault.name:43}  {fault.file}")
        if arguments.list:
            return 0
        began = time.monotonic()
        survived = 0
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder)
            for name in COPIED:
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
                else:
                    shutil.copy(ROOT / name, copy / name)
            for suite in suites:
                if suite == "reference":
                    build_cpu(copy)  # the tests compare with the C++ kernels as they should be
                own = [fault for fault in faults if fault.suite == suite]
                survived += check_suite(suite, own, copy) if own else 0
    except CheckError as error:
        print(f"mutation_check: {error}", file=sys.stderr)
        return 2
    print(f"{len(faults) - survived} of {len(faults)} faults caught, {time.monotonic() - began:.0f} s")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
