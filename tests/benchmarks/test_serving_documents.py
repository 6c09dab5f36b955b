"""What the documents say of a server: the soak, and several processes."""

from __future__ import annotations

from documents.serving import of_processes, soaked
from soaking.clients import IN_FLIGHT

MACHINE = {"processor": "AMD EPYC", "date": "2026-11-30T15:00:00+00:00"}


def test_a_soak_is_told_of_as_it_ended():
    counts = {
        "asked": 1000,
        "answered": 990,
        "told by a broken connection": 7,
        "told by 503": 3,
        "nonsense: 422": 3,
        "a wrong key: 401": 4,
    }
    soak = {
        "machine": MACHINE,
        "held": True,
        "faults": [],
        "minutes": 30.0,
        "model": "4 layers of 64",
        "clients": 16,
        "load_average": 2.1,
        "rounds": [{"answered_per_second": 80.2}, {"answered_per_second": 70.7}],
        "requests": counts,
        "memory_mib_early": 500.2,
        "memory_mib_late": 501.4,
        "seconds_from_kill_to_ready": 4.31,
    }
    told = soaked({"amd_avx2": soak})
    assert "- held: 30 minutes, 4 layers of 64, 16 clients, 71 to 80 answers a second" in told
    assert "- of 1,000 requests 990 were answered, all rightly; 3 were told to come again, and 7 by their" in told
    assert "- 7 bad requests" in told and "not looked at yet" in told and "fault" not in told
    assert "memory 500 MiB in the second fifth of the time, 501 MiB" in told and "4.3 seconds" in told
    flight = counts | {IN_FLIGHT: 9}
    assert "- 9 were in flight at SIGTERM, and none of" in soaked({"amd_avx2": soak | {"requests": flight}})
    failed = soaked({"amd_avx2": soak | {"held": False, "faults": ["a wrong answer"], "requests": flight}})
    assert "- did not hold:" in failed and "- fault: a wrong answer" in failed
    assert "rightly" not in failed and "none of" not in failed


def test_processes_are_told_of_with_what_was_measured():
    turns = {
        "one process": [{"requests_per_second": 10.0, "cpu_seconds_per_1000": 5.0}],
        "2 processes": [{"requests_per_second": 12.0, "cpu_seconds_per_1000": 6.0}],
    }
    about = {
        "model": "4 layers of 64",
        "clients": 16,
        "rounds": 1,
        "seconds": 4.0,
        "weights_mib": 9,
        "load_average": 3.6,
    }
    result = {"machine": MACHINE, "turns": turns, **about, "memory_mib": {"one process": 100, "2 processes": 200}}
    told = of_processes({"amd_avx2": result})
    assert "4 layers of 64, 16 clients with 1 to 4 texts a request; medians of 1 turns of 4 s" in told
    assert "| 2 processes | 12.0 (12.0 to 12.0) | 1.20x | 6.0 (6.0 to 6.0) | 200 MiB |" in told
