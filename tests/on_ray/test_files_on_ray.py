"""Jobs on files of which a worker or the driver is killed: every row has one answer, that of `predict`, bit for bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading

import pytest

from helpers.cli import text_of
from helpers.ray_processes import kill_one, wait_until

pytestmark = [pytest.mark.proof, pytest.mark.long]

ROWS = 3000
JOB = {"keep": ["id"], "speed": 0.5, "piece_bytes": 2000}  # some seventy pieces

DRIVER = """
import json, sys
import ray
from fastbert_ray.files import predict_files
address, inputs, output, model, job = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
predict_files(inputs, output, model, workers=1, **json.loads(job))
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs") / "texts.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": text_of(n)}) + "\n" for n in range(ROWS)))
    return path


@pytest.fixture(scope="module")
def expected(saved_model):
    import fastbert_kernels
    from fastbert_hf import predict
    from fastbert_ray.model_folder import load

    model, tokenizer = load(saved_model)
    return predict(fastbert_kernels.patch(model), tokenizer, [text_of(n) for n in range(ROWS)], speed=0.5)


def parts(output):
    return sorted(output.glob("part-*.jsonl")) if output.exists() else []


def assert_all_there(output, expected):
    rows = [json.loads(line) for part in parts(output) for line in part.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(ROWS))
    assert [row["label"] for row in rows] == expected.label_names
    assert [row["probability"] for row in rows] == expected.probabilities.amax(-1).tolist()
    assert [row["uncertainty"] for row in rows] == expected.uncertainty.tolist()
    assert [row["exit_layer"] for row in rows] == expected.exit_layer.tolist()
    assert len(set(expected.exit_layer.tolist())) > 1  # or it would say nothing
    assert (output / "_SUCCESS").exists()
    assert sorted(p.name for p in output.iterdir() if not p.name.startswith("part-")) == ["_SUCCESS", "_fastbert.json"]


def test_a_worker_is_killed_in_the_middle_and_no_row_is_lost_or_doubled(
    cluster, saved_model, inputs, expected, tmp_path
):
    from fastbert_ray.files import predict_files

    output, written_at_kill = tmp_path / "out", []

    def kill() -> None:
        wait_until(lambda: parts(output))
        kill_one(cluster, "MapWorker")
        written_at_kill.append(len(parts(output)))

    killer = threading.Thread(target=kill)
    killer.start()
    done = predict_files(inputs, output, saved_model, **JOB)
    killer.join()
    assert written_at_kill and written_at_kill[0] < done.pieces
    assert (done.rows, done.pieces_before) == (ROWS, 0)
    assert_all_there(output, expected)


def test_the_driver_is_killed_and_the_next_call_goes_on(cluster, saved_model, inputs, expected, tmp_path):
    from fastbert_ray.files import predict_files
    from fastbert_ray.record import OtherJobError

    output = tmp_path / "out"
    arguments = [cluster.address, str(inputs), str(output), str(saved_model), json.dumps(JOB)]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *arguments])
    try:
        wait_until(lambda: parts(output) or driver.poll() is not None)
    finally:
        driver.kill()
    assert driver.wait() == -signal.SIGKILL
    assert not (output / "_SUCCESS").exists()

    with pytest.raises(OtherJobError, match="differs in speed"):
        predict_files(inputs, output, saved_model, **JOB | {"speed": 0.4})
    done = predict_files(inputs, output, saved_model, workers=1, **JOB)
    assert done.pieces_before > 0 and done.pieces > 0 and done.rows < ROWS
    assert_all_there(output, expected)
