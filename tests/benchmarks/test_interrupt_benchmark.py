"""The benchmark of calls that a signal ends."""

from __future__ import annotations

import signal
import time

import pytest

import interrupt
from documents.interrupt import interrupted


@pytest.fixture
def own_handler():
    def handler(*_):
        raise AssertionError("a signal came when nobody waited for one")

    before = signal.signal(signal.SIGALRM, handler)
    yield handler
    signal.signal(signal.SIGALRM, before)


def test_the_time_behind_the_signal_counts(own_handler):
    seconds = interrupt.seconds_until_noticed(lambda: time.sleep(20), 0.05)
    assert 0 <= seconds < 10
    assert signal.getsignal(signal.SIGALRM) is own_handler


def test_what_notices_late_is_counted_whole(own_handler):
    def deaf():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(0.3)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        time.sleep(20)

    assert 0.2 < interrupt.seconds_until_noticed(deaf, 0.05) < 10


def test_a_call_that_was_over_is_no_measurement(own_handler):
    with pytest.raises(RuntimeError, match="before the signal"):
        interrupt.seconds_until_noticed(lambda: None, 0.2)
    time.sleep(0.3)  # no signal is left over
    assert signal.getsignal(signal.SIGALRM) is own_handler


def test_the_documents_show_the_longest():
    machine = {"processor": "AMD EPYC", "date": "2026-11-30T15:00:00+00:00"}
    rows = [{"dtype": "int8", "seconds": [0.01, 0.02, 0.03, 0.02, 0.4]}]
    result = {"machine": machine, "shape": "tiny", "texts": 64, "threads": 2, "load": (0.5, 1, 1), "rows": rows}
    text = interrupted({"amd_avx2": result})
    assert text.startswith("AMD EPYC, AVX2: tiny, 64 texts of 512 tokens, 2 threads")
    assert "| int8 | 20 (18 to 104) | 400 |" in text
    assert interrupted({}) == "Not measured yet."


@pytest.mark.parametrize("bad", ["0", "-1"])
def test_rounds_that_measure_nothing_are_refused(bad, capsys):
    with pytest.raises(SystemExit):
        interrupt.main(["--rounds", bad])
    assert "--rounds must be 1 or more" in capsys.readouterr().err
