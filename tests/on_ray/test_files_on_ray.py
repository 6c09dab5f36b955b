"""A job on files of which a worker is killed: every row has one answer, that of `predict`, bit for bit."""

from __future__ import annotations

import json
import threading

import pytest

from helpers.cli import text_of
from helpers.ray_processes import kill_one, wait_until

pytestmark = [pytest.mark.proof, pytest.mark.long]

ROWS = 3000
JOB = {"keep": ["id"], "speed": 0.5, "piece_bytes": 2000}  # some seventy pieces


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
