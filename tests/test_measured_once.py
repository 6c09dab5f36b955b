"""What is measured once: by one thread, for each key, and in a forked child too."""

from __future__ import annotations

import os
import threading

import pytest

from fastbert_kernels.measured_once import MeasuredOnce


def test_one_thread_measures_and_the_others_wait():
    kept, measured, found = MeasuredOnce(), [], []
    begun, may_end = threading.Event(), threading.Event()

    def measure():
        measured.append(threading.get_ident())
        begun.set()
        assert may_end.wait(60)
        return 7.0

    threads = [threading.Thread(target=lambda: found.append(kept.get("a", measure))) for _ in range(4)]
    threads[0].start()
    assert begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    may_end.set()
    for thread in threads:
        thread.join()
    assert found == [7.0] * 4 and len(measured) == 1
    assert kept.get("b", lambda: 8.0) == 8.0 and kept.get("a", lambda: 9.0) == 7.0


def test_a_measurement_that_fails_is_tried_again():
    kept = MeasuredOnce()
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 / 0)
    assert kept.get("a", lambda: 7.0) == 7.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_forked_in_the_middle_of_a_measurement_measures():
    kept = MeasuredOnce()
    kept.get("known", lambda: 7.0)

    def measured_by_a_child():
        child = os.fork()
        if child == 0:
            found = []
            thread = threading.Thread(target=lambda: found.append(kept.get("new", lambda: 8.0)), daemon=True)
            thread.start()
            thread.join(60)
            os._exit(0 if found == [8.0] and kept.get("known", lambda: 9.0) == 7.0 else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert kept.get("asked", measured_by_a_child) == 0
