"""What the simulation says of a subject: with and without refill, at the loads that are measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fastbert_kernels.engine.layer_cost import STEP_SECONDS
from serving.arrivals import moments, text_order
from serving.search import LIMITS, goodput, grid, percentile
from serving.simulation import Machine, Simulation, Text, flat, with_refill, without_refill

SERVERS: dict[str, Simulation] = {"with refill": with_refill, "without refill": without_refill}
ROOM = 16  # texts that cost what one does, on a machine as wide as that
_FEWEST, _MOST, _SECONDS = 1500, 8000, 3.0  # requests of a load, and how long it lasts between these


def machines(texts: Sequence[Text], machine: Machine, shell: float) -> dict[str, Machine]:
    """Return the machine that was measured, and two others that say what its goodput hangs on.

    Args:
        texts: of the clients.
        machine: without the server around the model.
        shell: seconds that this takes for a text.
    """
    tokens = round(sum(text.tokens for text in texts) / len(texts))
    return {
        "this machine": dataclasses.replace(machine, shell=shell),
        "the model alone": machine,
        f"the model alone, {ROOM} texts at the cost of one": dataclasses.replace(
            machine, cost=flat(machine.cost, tokens, ROOM)
        ),
    }


def latencies(server: str, texts: Sequence[Text], machine: Machine, kind: str, rate: float, seed: int) -> list[float]:
    """Return the simulated latencies of requests that come at a load, in seconds."""
    count = min(max(_FEWEST, round(rate * _SECONDS)), _MOST)
    order = text_order(seed, count, len(texts))
    return SERVERS[server](moments(kind, rate, count, seed), [texts[place] for place in order], machine)


def simulated_goodput(
    server: str, texts: Sequence[Text], machine: Machine, kind: str, seed: int = 0
) -> dict[str, float]:
    """Return the simulated goodput within each limit; 0 where it is below a fiftieth of what full steps would give."""
    most = highest(texts, machine)
    rates, found = grid(1.3 * most, most / 50), {}
    tried: dict[float, list[float]] = {}

    def late_share(rate: float, limit: float) -> float:
        if rate not in tried:
            tried[rate] = latencies(server, texts, machine, kind, rate, seed)
        return sum(latency > limit for latency in tried[rate]) / len(tried[rate])

    for limit in sorted(LIMITS, reverse=True):
        found[limit] = goodput(rates, lambda rate, limit=limit: late_share(rate, limit))
        rates = [rate for rate in rates if rate <= found[limit]]
    return {f"{1e3 * limit:g}": found[limit] for limit in LIMITS}


def highest(texts: Sequence[Text], machine: Machine) -> float:
    """Return the texts per second if every step were full."""
    full = machine.cost.full
    layer_tokens = sum(text.tokens * text.exit_layer for text in texts) / len(texts)
    return 1 / (layer_tokens * machine.cost(full) / full + machine.shell)


def predict_case(
    texts: Sequence[Text], machine: Machine, shell: float, kind: str, loads: Sequence[float]
) -> dict[str, Any]:
    """Return the simulated goodput on each machine, and latencies on the one at hand.

    Args:
        texts: of the clients.
        machine: that was measured.
        shell: seconds that the server around the model takes for a text.
        kind: of the arrivals.
        loads: at which latencies are wanted, requests per second.
    """
    known = machines(texts, machine, shell)
    return {
        "shell_seconds": shell,
        "cost": {
            "tokens": machine.cost.tokens,
            "seconds": machine.cost.seconds,
            "step_seconds": STEP_SECONDS,  # of each of them, once a step
            "full": machine.cost.full,
        },
        "goodput": {
            name: {server: simulated_goodput(server, texts, own, kind) for server in SERVERS}
            for name, own in known.items()
        },
        "latencies": [
            {
                "rate": load,
                **{
                    server: {
                        f"p{percent}": percentile(found, percent)
                        for found in [latencies(server, texts, known["this machine"], kind, load, 0)]
                        for percent in (50, 95, 99)
                    }
                    for server in SERVERS
                },
            }
            for load in loads
        ],
    }
