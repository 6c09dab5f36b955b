"""Who imports whom: the packages know each other in one direction only, also inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def imports_of(folder: str) -> Iterator[tuple[str, str]]:
    """Yield file and module of every import below `folder`, wherever it stands in the file."""
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
                modules = [str(getattr(node.args[0], "value", ""))]
            else:
                continue
            for module in modules:
                yield file.relative_to(ROOT).as_posix(), module


def importers(folder: str, packages: set[str]) -> set[str]:
    return {file for file, module in imports_of(folder) if module.partition(".")[0] in packages}


def test_the_model_knows_neither_kernels_nor_command_line():
    assert (
        importers("python/fastbert_hf", {"fastbert_kernels", "fastbert_cli", "fastbert_serving", "fastbert_ray"})
        == set()
    )


def test_the_kernels_know_models_in_hosts_only():
    assert importers("fastbert_kernels", {"fastbert_cli", "fastbert_serving", "fastbert_ray"}) == set()
    assert {Path(file).parent.name for file in importers("fastbert_kernels", {"fastbert_hf"})} == {"hosts"}


def test_the_server_is_no_part_of_the_command_line():
    assert importers("python/fastbert_serving", {"fastbert_cli"}) == set()
    users = importers("python/fastbert_cli", {"fastbert_serving"})
    assert {Path(file).parent.name for file in users} == {"serve"}


def test_ray_stands_on_the_server_and_nothing_on_ray():
    assert importers("python/fastbert_ray", {"fastbert_cli"}) == set()
    for folder in ("python/fastbert_cli", "python/fastbert_serving"):
        assert importers(folder, {"fastbert_ray", "ray"}) == set()
    users = importers("python/fastbert_ray", {"fastbert_serving"})
    assert users == {"python/fastbert_ray/deployment.py"}


def test_benchmarks_import_neither_tests_nor_command_line():
    tests = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {path.name for path in (ROOT / "tests").iterdir()}
    own = {path.stem for path in (ROOT / "benchmarks").iterdir()}
    assert importers("benchmarks", (tests - own) | {"fastbert_cli"}) == set()


def test_the_walk_sees_what_stands_in_functions():
    assert importers("python/fastbert_cli", {"fastbert_kernels"}) >= {"python/fastbert_cli/info.py"}


def test_no_call_of_a_model_takes_the_lock_of_cached_property():
    """Before Python 3.12 all threads share it, and in a child that is forked while one has it nobody gives it back."""
    users = {
        file.relative_to(ROOT).as_posix()
        for folder in ("fastbert_kernels", "python/fastbert_hf")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "cached_property" for alias in node.names)
    }
    assert users == {"python/fastbert_hf/calibration/records.py"}
