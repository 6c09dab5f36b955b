"""Files cut into pieces: each row in one of them, whatever their size, and what cannot be used is refused."""

from __future__ import annotations

import json

import pyarrow
import pytest
from pyarrow import parquet

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fastbert-kernels[ray]'")

from fastbert_ray.answering import Job, Worker
from fastbert_ray.files import predict_files
from fastbert_ray.model_folder import check_folder, digest_of, load_patched
from fastbert_ray.pieces import Columns, files_of, plan, read
from fastbert_ray.record import OtherJobError, begin_or_go_on

COLUMNS = Columns("text", None, ("id",))
LINES = [
    b'\xef\xbb\xbf{"text": "first", "id": 0}\n',
    b'{"text": "caf\xc3\xa9 \xe2\x80\xa8 still the line", "id": 1}\r\n',
    b"\n",
    b'{"id": 2, "text": ""}\n',
    b'{"id": 3, "text": null, "more": [1]}\n',
    b'{"id": 4, "text": "the last has no line break"}',
]


@pytest.mark.parametrize("piece_bytes", [1, 2, 7, 34, 35, 36, 1000])
def test_every_line_is_in_one_piece(tmp_path, piece_bytes):
    (tmp_path / "a.jsonl").write_bytes(b"".join(LINES))
    (tmp_path / "b.jsonl").write_bytes(b"")
    pieces = plan(files_of([tmp_path]), COLUMNS, piece_bytes)
    rows = [read(piece, COLUMNS) for piece in pieces]
    assert [kept["id"] for part in rows for kept in part.kept] == [0, 1, 2, 3, 4]
    texts = [text for part in rows for text in part.texts]
    assert texts == ["first", "café \u2028 still the line", None, None, "the last has no line break"]


@pytest.mark.parametrize("piece_bytes", [1, 200, 10**6])
def test_every_row_of_parquet_is_in_one_piece_with_its_type(tmp_path, piece_bytes):
    ids = pyarrow.array(range(10), pyarrow.int16())
    table = pyarrow.table({"text": [f"text {n}" if n != 4 else " " for n in range(10)], "id": ids, "other": ids})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    parquet.write_table(table.slice(0, 0), tmp_path / "b.parquet")
    rows = [read(piece, COLUMNS) for piece in plan(files_of([tmp_path]), COLUMNS, piece_bytes)]
    assert pyarrow.concat_tables([part.kept for part in rows]) == table.select(["id"])
    assert [text for part in rows for text in part.texts].index(None) == 4


def test_what_cannot_be_used_is_refused_with_its_place(tmp_path):
    path = tmp_path / "a.jsonl"
    for bad, message in [
        (b"{", "line 3: .*not JSON"),
        (b'{"id": 1}', "line 3: .*no key text"),
        (b'{"id": 1, "text": 5}', "line 3: .*text is no string"),
        (b'{"id": 1, "id": 2, "text": "x"}', "line 3: .*twice"),
        (b'{"id": 1, "text": "\xff"}', "line 3: .*utf-8"),
    ]:
        path.write_bytes(LINES[1] * 2 + bad + b"\n" + LINES[1])
        with pytest.raises(ValueError, match=message):
            for piece in plan(files_of([path]), COLUMNS, 30):
                read(piece, COLUMNS)

    parquet.write_table(pyarrow.table({"text": [1], "id": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="both"):
        files_of([path, tmp_path / "b.parquet"])
    with pytest.raises(ValueError, match="twice"):
        files_of([path, tmp_path / "." / "a.jsonl"])
    with pytest.raises(ValueError, match="column text is int64"):
        plan(files_of([tmp_path / "b.parquet"]), COLUMNS, 30)
    with pytest.raises(ValueError, match="cannot be read"):
        plan(files_of([tmp_path / "none.jsonl"]), COLUMNS, 30)
    with pytest.raises(ValueError, match="0 columns pair"):
        plan(files_of([tmp_path / "b.parquet"]), Columns("id", "pair", ()), 30)


def test_a_file_that_was_changed_is_not_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES[1])
    (piece,) = plan([path], COLUMNS, 1000)
    path.write_bytes(LINES[1] * 2)
    with pytest.raises(ValueError, match="was changed"):
        read(piece, COLUMNS)


def test_a_worker_answers_parquet_and_writes_the_same_file_again(saved_model, tmp_path):
    from fastbert_hf import predict

    texts = ["a good film", "", "very bad", "the book is fine"]
    parquet.write_table(pyarrow.table({"text": texts, "id": ["a", "b", "c", "d"]}), tmp_path / "in.parquet")
    pieces = tuple(plan([tmp_path / "in.parquet"], COLUMNS, 10**6))
    job = Job(saved_model, digest_of(saved_model), "weights", 1, 0.5, None, None, COLUMNS, tmp_path, pieces)
    worker = Worker(job)
    assert worker({"piece": [0]}) == {"piece": [0], "rows": [4]}
    before = job.part(pieces[0]).read_bytes()
    worker({"piece": [0]})
    assert job.part(pieces[0]).read_bytes() == before

    answers = predict(*load_patched(saved_model, "weights", 1), [text for text in texts if text], speed=0.5)
    rows = parquet.read_table(job.part(pieces[0])).to_pylist()
    assert [row["id"] for row in rows] == ["a", "b", "c", "d"]
    assert rows[1] == {"id": "b", "label": None, "probability": None, "uncertainty": None, "exit_layer": None}
    del rows[1]
    assert [row["label"] for row in rows] == answers.label_names
    assert [row["probability"] for row in rows] == answers.probabilities.amax(-1).tolist()
    assert [row["uncertainty"] for row in rows] == answers.uncertainty.tolist()
    assert [row["exit_layer"] for row in rows] == answers.exit_layer.tolist()


def test_a_worker_with_another_model_in_the_folder_does_not_answer(saved_model, tmp_path):
    with pytest.raises(ValueError, match="another model on this machine"):
        Worker(Job(saved_model, "0" * 64, "weights", 1, None, None, None, COLUMNS, tmp_path, ()))


def test_the_answers_of_another_job_are_left_alone(tmp_path):
    begin_or_go_on(tmp_path, {"speed": 0.5, "keep": ("id",)})
    begin_or_go_on(tmp_path, {"speed": 0.5, "keep": ("id",)})
    with pytest.raises(OtherJobError, match="differs in keep, speed "):
        begin_or_go_on(tmp_path, {"speed": 0.4, "keep": ()})
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").touch()
    with pytest.raises(OtherJobError, match=r"holds mine\.txt"):
        begin_or_go_on(tmp_path / "new", {})


def test_settings_are_refused_before_anything_is_written(saved_model, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES[1])
    for settings, message in [
        ({"speed": 2.0}, "speed"),
        ({"speedup": 2.0}, "calibrated"),
        ({"max_length": 1}, "max_length"),
        ({"keep": ["label"]}, "two of that name"),
        ({"num_cpus": 0}, "num_cpus must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            predict_files(tmp_path / "a.jsonl", tmp_path / "out", saved_model, **settings)
    with pytest.raises(ValueError, match="no saved model"):
        predict_files(tmp_path / "a.jsonl", tmp_path / "out", tmp_path)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="a bert, no FastBERT"):
        check_folder(tmp_path / "plain")
    assert not (tmp_path / "out").exists()
