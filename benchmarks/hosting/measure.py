"""What is measured of one host: the same texts through the unpatched and the patched model, with exits and without."""

from __future__ import annotations

import copy
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastbert_kernels
from fastbert_hf.flops import flops_speedup
from fastbert_hf.timing import Seconds, ratio, time_interleaved
from harness import MIXED_LENGTHS
from hosting.subjects import HOSTS, LABELS, LONGEST, SIZES, VOCABULARY, Answers, Size, Subject, entropy

BATCH = 32
TOLERANCE = 1e-3  # of logits and probabilities, which are of the order of 1
_LEAST_GAP = 1e-3  # between the uncertainties on the two sides of the Speed: 50 times what rounding does to them
_UNPATCHED, _PATCHED = "unpatched", "patched"
_FULL, _EXITS = "full depth", "with exits"


@dataclass(frozen=True)
class Record:
    """What the heads of the unpatched model say when nobody leaves.

    Attributes:
        outputs: [K, n, N]. K is L, or L + 1 with what answers those who are sure nowhere.
        uncertainty: [K, n].
    """

    outputs: Tensor
    uncertainty: Tensor

    def answering(self, speed: float) -> Tensor:
        """Numbers [n] of the outputs that answer, from 0."""
        sure = self.uncertainty < speed
        sure[-1] = True
        return sure.int().argmax(dim=0)


def make_texts(size: Size) -> list[list[int]]:
    """Token ids; the quantiles of the lengths are fixed, their order is drawn."""
    draw = torch.Generator().manual_seed(0)
    shares = ((torch.arange(size.texts) + 0.5) / size.texts)[torch.randperm(size.texts, generator=draw)]
    lengths = MIXED_LENGTHS.icdf(shares).long().clamp(3, LONGEST).tolist()
    return [torch.randint(1, VOCABULARY, (length,), generator=draw).tolist() for length in lengths]


def requests(subject: Subject, texts: list[list[int]], batch: int) -> list[Any]:
    return [subject.request(texts[begin : begin + batch]) for begin in range(0, len(texts), batch)]


@torch.inference_mode()
def record(subject: Subject, inputs: list[Any]) -> Record:
    """From the calls that the unpatched model is timed with, since an answer may depend on the padding."""
    heads = [*subject.heads, *([subject.undecided] if isinstance(subject.undecided, torch.nn.Module) else [])]
    said: list[list[Tensor]] = [[] for _ in heads]
    hooks = [
        head.register_forward_hook(lambda module, given, output, rows=rows: rows.append(output))
        for head, rows in zip(heads, said, strict=True)
    ]
    # The smallest positive number: heads are asked, and nobody is as sure as that.
    for request in inputs:
        subject.ask(subject.model, request, 1e-30)
    for hook in hooks:
        hook.remove()
    logits = torch.stack([torch.cat(rows) for rows in said])
    outputs = logits.softmax(dim=-1) if subject.probabilities else logits
    uncertainty = entropy(logits.softmax(dim=-1)) / torch.tensor(LABELS).log()
    if subject.undecided == "zeros":
        outputs = torch.cat([outputs, torch.zeros_like(outputs[:1])])
        uncertainty = torch.cat([uncertainty, torch.ones_like(uncertainty[:1])])
    return Record(outputs, uncertainty)


def choose_speed(records: list[Record], mean_layer: float, depth: int) -> float:
    """The Speed with a mean exit layer closest to `mean_layer` in the first record, among the quantiles of all
    uncertainties that keep clear of them."""
    values = torch.cat([each.uncertainty[:-1].flatten() for each in records]).double().unique()
    gaps = values.diff()
    between = ((values[1:] + values[:-1]) / 2)[gaps > min(_LEAST_GAP, gaps.max().item() / 2)].tolist()

    def distance(speed: float) -> float:
        layers = (records[0].answering(speed) + 1).clamp(max=depth)
        return abs(layers.double().mean().item() - mean_layer)

    return min(between, key=distance)


def check(answers: list[Answers], record: Record, speed: float, depth: int) -> dict[str, Any]:
    """Say whether labels and exit layers are those of the record. Where a model does not tell the layer, it is that
    whose recorded output is nearest to the answer."""
    expected = record.answering(speed)
    rows = torch.arange(len(expected))
    wanted_labels = record.outputs[expected, rows].argmax(dim=-1)
    if answers[0].outputs is not None:
        outputs = torch.cat([answer.outputs for answer in answers if answer.outputs is not None])
        distances = (record.outputs - outputs).abs().amax(dim=-1)
        layers, labels = distances.argmin(dim=0) + 1, outputs.argmax(dim=-1)
        error = distances[expected, rows].max().item()
    else:
        layers = torch.tensor([layer for answer in answers for layer in answer.layers or ()])
        labels = torch.tensor([label for answer in answers for label in answer.labels or ()])
        error = None
    wrong_layers, wrong_labels = int((layers != expected + 1).sum()), int((labels != wanted_labels).sum())
    return {
        "exit_layers": layers.clamp(max=depth).tolist(),
        "other_exit_layers": wrong_layers,
        "other_labels": wrong_labels,
        "largest_error": error,
        "agrees": wrong_layers == 0 and wrong_labels == 0 and (error is None or error <= TOLERANCE),
    }


@torch.inference_mode()
def measure(name: str, size_name: str, rounds: int) -> dict[str, Any]:
    """One host.

    Returns:
        Plain values: the Speed, and a row for each way to run.
    """
    size = SIZES[size_name]
    with ExitStack() as scope:
        folder = Path(scope.enter_context(tempfile.TemporaryDirectory()))
        subject = HOSTS[name].build(size, scope, folder)
        return {"host": name, "note": subject.note, **_measure(subject, size, rounds)}


def _measure(subject: Subject, size: Size, rounds: int) -> dict[str, Any]:
    texts = make_texts(size)
    patched = fastbert_kernels.patch(copy.deepcopy(subject.model))
    inputs = {batch: requests(subject, texts, batch) for batch in (1, BATCH)}
    records = {1: record(subject, inputs[1])}
    records[BATCH] = record(subject, inputs[BATCH]) if subject.batches else records[1]
    speed = choose_speed([records[1], records[BATCH]], size.layers / 3, size.layers)

    rows: dict[tuple[str, int, str], dict[str, Any]] = {}
    calls: dict[tuple[str, int, str], Any] = {}
    for who, batch in ((_UNPATCHED, 1), (_UNPATCHED, BATCH), (_PATCHED, 1), (_PATCHED, BATCH)):
        if who == _UNPATCHED and batch > 1 and not subject.batches:
            continue
        ask = subject.ask_patched if who == _PATCHED and batch > 1 and subject.ask_patched else subject.ask
        model = patched if who == _PATCHED else subject.model
        for how, value in ((_FULL, 0.0), (_EXITS, speed)):
            if who == _UNPATCHED and batch > 1 and how == _EXITS and not subject.batches_leave:
                continue
            call = _call(ask, model, inputs[batch], value)
            verdict = check(call(), records[batch], value, size.layers)
            calls[who, batch, how] = call
            rows[who, batch, how] = {
                "model": who,
                "batch": batch,
                "run": how,
                "mean_exit_layer": sum(verdict["exit_layers"]) / len(texts),
                "flops_speedup": flops_speedup(subject.shape, verdict["exit_layers"], [len(text) for text in texts])
                if how == _EXITS
                else None,
                **verdict,
            }
    times = time_interleaved(calls, torch.device("cpu"), rounds, warmups=1, shuffle=True, settle=0.02)
    for key, row in rows.items():
        row |= _figures(key, rows, times)
    return {"speed": speed, "rows": list(rows.values())}


def _call(ask: Any, model: Any, inputs: list[Any], speed: float) -> Any:
    return lambda: [ask(model, request, speed) for request in inputs]


def _figures(
    key: tuple[str, int, str],
    rows: dict[tuple[str, int, str], dict[str, Any]],
    times: dict[tuple[str, int, str], Seconds],
) -> dict[str, Any]:
    """Times of a row, and the ratios, where the answers agree: over the unpatched model in the same run, one text at a
    time and in batches, and of the adaptive run over the same model's full depth."""
    who, batch, how = key
    figures: dict[str, Any] = {"seconds": times[key].rounds}
    if not rows[key]["agrees"]:
        return figures
    if who == _PATCHED:
        for name, other in (("over_one_by_one", 1), ("over_batched", BATCH)):
            rival = (_UNPATCHED, other, how)
            if rival in rows and rows[rival]["agrees"]:
                figures[name] = ratio(times[rival], times[key])
    full = (who, batch, _FULL)
    if how == _EXITS and rows[full]["agrees"]:
        figures["speedup"] = ratio(times[full], times[key])
        if who == _PATCHED:  # most unpatched models ask all heads at full depth, too
            figures["realisation"] = figures["speedup"] / rows[key]["flops_speedup"]
    return figures
