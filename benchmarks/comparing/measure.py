"""One configuration: every contestant's answers checked, its memory and its times."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from comparing import workload
from comparing.cases import Case
from comparing.memory import with_peak
from comparing.workload import Exits, Samples
from fastbert_hf.flops import ModelShape, flops_speedup, full_depth_flops
from fastbert_hf.timing import Seconds, ratio, time_interleaved
from peers import BASELINE
from peers.contestant import Answer, Contestant, Entry, Request, Setup


@dataclass(frozen=True)
class Tolerance:
    """When outputs still count as those of Transformers eager float32.

    Attributes:
        logit_error: largest difference of a logit at the same exit, for logits that differ by up to 1 between samples,
            and in proportion where they differ by more.
        tie: a trained model's sample may leave elsewhere when an uncertainty lies closer to its Speed than this.
    """

    logit_error: float
    tie: float


TOLERANCES = {
    "float32": Tolerance(1e-3, 1e-4),
    "bfloat16": Tolerance(5e-2, 2e-2),
    "int8": Tolerance(1e-1, 5e-2),
    "PyPI fastbert float32": Tolerance(3e-2, 1e-2),  # it has another LayerNorm
}
FULL_DEPTH = "full depth"
SETTLE_SECONDS = 0.02  # before each timed call on a CPU

Key = tuple[str, str]  # contestant, run


@dataclass(frozen=True)
class Run:
    """One row: a contestant at full depth (`exits` None) or with exits."""

    entry: Entry
    contestant: Contestant
    exits: Exits | None

    @property
    def label(self) -> str:
        if self.exits is not None:
            return self.exits.label
        return FULL_DEPTH if self.contestant.layers is None else f"first {self.contestant.layers} layer(s)"

    @property
    def key(self) -> Key:
        return self.entry.name, self.label


def make_exits(case: Case, uncertainty: Tensor) -> list[Exits]:
    make = workload.exits_at_speed if case.kind == "texts" else workload.planned_exits
    return [make(uncertainty, depth) for depth in case.depths]


def answer_all(contestant: Contestant, requests: list[Request]) -> Answer:
    """The answers to all requests as one, on the CPU."""
    answers = [contestant.run(request) for request in requests]
    layers = [answer.exit_layer.cpu() for answer in answers if answer.exit_layer is not None]
    return Answer(torch.cat([answer.logits.cpu() for answer in answers]), torch.cat(layers) if layers else None)


def check(run: Run, answer: Answer, reference: Answer, scale: float) -> dict[str, Any]:
    """Say how far the answers are those of the reference: Transformers eager float32 with every exit head evaluated.

    `agrees` decides whether speed-ups are given: every sample leaves where it has to, and no logit at its exit differs
    by more than is tolerated. `scale`: of the classifiers, see `workload.CLASSIFIER_SCALE`.
    """
    assert reference.uncertainty is not None
    count, depth = reference.uncertainty.shape
    rows = torch.arange(count)
    if run.exits is None:
        expected, decided = torch.full((count,), run.contestant.layers or depth), torch.ones(count, dtype=torch.bool)
    else:
        tie = 0.0 if run.exits.planned else tolerance(run.entry).tie
        expected = run.exits.exit_layer
        decided = ((reference.uncertainty[:, :-1] - run.exits.speed[:, None]).abs() > tie).all(dim=1)
    executed = expected if answer.exit_layer is None else answer.exit_layer
    error = (answer.logits - reference.logits[rows, executed - 1]).abs().max().item() / scale
    spread = (reference.logits - reference.logits.mean(dim=0)).abs().max().item() / scale
    allowed = tolerance(run.entry).logit_error * max(1.0, spread)
    elsewhere = int((decided & (executed != expected)).sum())
    same_labels = (answer.logits.argmax(-1) == reference.logits[rows, expected - 1].argmax(-1)).double().mean().item()
    return {
        "logit_error": error,
        "allowed_logit_error": allowed,
        "other_exit_layers": elsewhere,
        "same_labels": same_labels,
        "agrees": elsewhere == 0 and error <= allowed,
        "exit_layers": executed.tolist(),
    }


def tolerance(entry: Entry) -> Tolerance:
    return TOLERANCES.get(entry.name) or TOLERANCES[entry.dtype]


def flops_gain(run: Run, shape: ModelShape, exit_layers: list[int], lengths: Tensor) -> float:
    """FLOPs speed-up over full depth, at the samples' own lengths."""
    if run.exits is not None:
        return flops_speedup(shape, exit_layers, lengths.numpy())
    executed = dataclasses.replace(shape, num_layers=run.contestant.layers or shape.num_layers)
    return int(full_depth_flops(shape, lengths).sum()) / int(full_depth_flops(executed, lengths).sum())


@torch.inference_mode()
def measure_case(
    case: Case,
    setup: Setup,
    contestants: dict[str, tuple[Entry, Contestant]],
    texts: Samples | None,
    choose_rounds: Callable[[float], int],
    show: Callable[[str], None],
) -> dict[str, Any]:
    """One configuration: answers and peak memory first, then the times, interleaved.

    Args:
        case: what is measured.
        setup: of the shape.
        contestants: by name.
        texts: of a trained model; None for random samples.
        choose_rounds: from the seconds that a round takes to the number of rounds.
        show: is told what is going on.

    Returns:
        Plain values for the JSON file.
    """
    device = setup.device
    samples = texts or workload.random_samples(case.samples, case.kind, setup.model, seed=case.batch)
    count = len(samples.token_ids)
    show("reference")
    reference = workload.reference_answers(setup.model, samples, case.batch)
    assert reference.uncertainty is not None
    exits = make_exits(case, reference.uncertainty)
    runs = [
        Run(entry, contestant, how)
        for entry, contestant in contestants.values()
        for how in [None] * contestant.full_depth + exits * contestant.adaptive
        if contestant.largest_batch is None or case.batch <= contestant.largest_batch
    ]

    calls: dict[Key, Callable[[], Any]] = {}
    rows: dict[Key, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    round_seconds = 0.0
    for run in runs:
        show(f"{run.entry.name}, {run.label}: answers")
        requests = list(samples.requests(case.batch, device, None if run.exits is None else run.exits.speed))
        try:
            answer, peak, duration = first_answer(run.contestant, requests, device)
        except Exception as error:  # out of memory, say
            failed[f"{run.entry.name}, {run.label}"] = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            continue
        round_seconds += duration
        calls[run.key] = _call(run.contestant, requests)
        verdict = check(run, answer, reference, 1.0 if texts else workload.CLASSIFIER_SCALE)
        if texts is None:
            verdict["same_labels"] = None  # a random model's labels say nothing
        shape = ModelShape.from_config(setup.model.config)
        rows[run.key] = {
            "contestant": run.entry.name,
            "run": run.label,
            "group": run.entry.group,
            "dtype": run.entry.dtype,
            "mean_exit_layer": sum(verdict["exit_layers"]) / count,
            "flops_speedup": flops_gain(run, shape, verdict["exit_layers"], samples.lengths),
            "peak_bytes": peak,
            **verdict,
        }

    rounds = choose_rounds(round_seconds)
    seconds = time_interleaved(
        calls,
        device,
        rounds,
        warmups=0,
        shuffle=True,
        settle=0.0 if device.type == "cuda" else SETTLE_SECONDS,
        progress=lambda step, done, total: show(f"{rounds} rounds: {done} of {total} runs"),
    )
    for run in runs:
        if run.key in rows:
            rows[run.key] |= figures(run, rows, seconds, count)
    return {
        **dataclasses.asdict(case),
        "samples": count,
        "lengths": samples.lengths.tolist(),
        "mean_length": samples.lengths.double().mean().item(),
        "padded_tokens": sum(request.input_ids.numel() for request in samples.requests(case.batch, device)),
        "rounds": rounds,
        "failed": failed,
        "rows": list(rows.values()),
    }


def first_answer(
    contestant: Contestant, requests: list[Request], device: torch.device
) -> tuple[Answer, int | None, float]:
    """The answers to all requests, and the peak memory (bytes) and the seconds that they took."""
    if device.type == "cuda":
        answer_all(contestant, requests)  # compiles, where the CPU's contestants have been warmed up
    contestant.release()
    begin = time.perf_counter()
    answer, peak = with_peak(lambda: answer_all(contestant, requests), device)
    return answer, peak, time.perf_counter() - begin


def _call(contestant: Contestant, requests: list[Request]) -> Callable[[], None]:
    def call() -> None:
        for request in requests:
            contestant.run(request)

    return call


def figures(run: Run, rows: dict[Key, Any], seconds: dict[Key, Seconds], samples: int) -> dict[str, Any]:
    """Times of a row, and what follows from them where the outputs agree."""
    own = seconds[run.key]
    p20, p50, p80 = own.quantiles
    figures: dict[str, Any] = {
        "seconds": own.rounds,
        "samples_per_second": {"p20": samples / p80, "p50": samples / p50, "p80": samples / p20},
    }
    row = rows[run.key]
    baseline = (BASELINE, FULL_DEPTH)
    if row["agrees"] and baseline in seconds:
        figures["speedup"] = ratio(seconds[baseline], own)
    own_full_depth = (run.contestant.own_full_depth or run.entry.name, FULL_DEPTH)
    if row["agrees"] and run.label != FULL_DEPTH and own_full_depth in seconds and rows[own_full_depth]["agrees"]:
        figures["realisation"] = ratio(seconds[own_full_depth], own) / row["flops_speedup"]
    return figures
