"""Faults of the engine's threads, which tests/threads runs under sanitizers."""

from faults.fault import Fault

POOL = "test_pool.py"
FAULTS = [
    Fault(
        "a wake-up is lost",
        "csrc/cpu/threads.cpp",
        "if (wanted > spinning_.load() && sleeping_.load() > 0) wake(wanted);",
        "(void)wanted;",
        POOL,
    ),
    Fault(
        "two threads take one piece",
        "csrc/cpu/threads.cpp",
        "(piece = next.fetch_add(1, std::memory_order_relaxed)) < count;",
        "(piece = next.load(), next.store(piece + 1), piece) < count;",
        POOL,
    ),
    Fault(
        "a piece is skipped when a helper comes",
        "csrc/cpu/threads.cpp",
        "    bool worked = false;\n    if (call.admit()) {",
        "    bool worked = false;\n    region.next.fetch_add(1);\n    if (call.admit()) {",
        POOL,
    ),
    Fault("a region ends before its helpers do", "csrc/cpu/threads.cpp", "    wait_for_helpers(region);\n", "", POOL),
    Fault("a child of a fork starts no threads", "csrc/cpu/threads.cpp", "    new (made) Pool;\n", "", POOL),
]
