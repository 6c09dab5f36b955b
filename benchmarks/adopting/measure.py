"""What adoption is worth: times, labels and promises of a classifier on texts that nothing was chosen by."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

import fastbert_kernels
from adopting.engines import engines
from adopting.models import Task, Texts, tokenised
from comparing.measure import SETTLE_SECONDS
from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.calibration import Objective, calibrate, record_exits, simulate
from fastbert_hf.timing import Batch, inputs_of, ratio, time_interleaved

EAGER = "Transformers eager float32"
_CPU = torch.device("cpu")
_MOST_TIMED = 1000  # texts of a round; answers are counted on all


def batches_of(texts: Texts, folder: Path, task: Task, size: int) -> tuple[list[Batch], Tensor]:
    """Return the new texts in the order in which they came, `size` to a batch, and their labels [n]."""
    dataset = tokenised(texts.new, folder, task)
    padded = [
        dataset.collate([dataset[row] for row in rows.tolist()]) for rows in torch.arange(len(dataset)).split(size)
    ]
    labels = torch.cat([batch["labels"] for batch in padded])
    return [inputs_of(batch, _CPU) for batch in padded], labels


def measure(
    classifier: Path, adopted: Path, texts: Texts, task: Task, *, batch_size: int, rounds: int, max_disagreement: float
) -> dict[str, Any]:
    """Return the rows of a table, and what was promised.

    Args:
        classifier: folder of the plain classifier.
        adopted: folder of the adopted one, not calibrated.
        texts: calibration texts choose, new texts are timed and counted.
        task: for the longest text.
        batch_size: texts of a call.
        rounds: interleaved repeats.
        max_disagreement: share of other labels than full depth's that calibration may promise at most.
    """
    plain: Any = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    batches, labels = batches_of(texts, classifier, task, batch_size)
    calls: dict[str, Callable[[Batch], Tensor]] = {EAGER: lambda batch: plain(**batch).logits}
    notes: dict[str, dict[str, Any]] = {}
    for dtype in (torch.float32, "auto"):
        whole: Any = fastbert_kernels.patch(copy.deepcopy(plain), dtype=dtype)
        name = f"patched, full depth, {_taken(whole, dtype)}"
        calls[name] = lambda batch, model=whole: model(**batch).logits
        early: Any = FastBertForSequenceClassification.from_pretrained(adopted).eval()
        records = record_exits(fastbert_kernels.patch(early, dtype=dtype), tokenised(texts.calibration, adopted, task))
        setting = calibrate(records, Objective(max_disagreement=max_disagreement))
        rule = setting.rule
        name = f"adopted, {_taken(early, dtype)}"
        calls[name] = lambda batch, model=early, rule=rule: model(**batch, speed=rule).logits
        notes[name] = {
            "rule": dataclasses.asdict(rule),
            "calibration_texts": len(records),
            "flops_speedup": simulate(records, rule).flops_speedup,
        }
        with torch.inference_mode():
            own = torch.cat([early(**batch, speed=0.0).logits for batch in batches]).argmax(dim=-1)
        notes[name]["own_labels"] = own
    timed = batches[: -(-_MOST_TIMED // batch_size)]
    with engines(plain, batches) as (others, missing):
        calls = {EAGER: calls.pop(EAGER), **others, **calls}
        with torch.inference_mode():
            answers = {name: torch.cat([call(batch) for batch in batches]) for name, call in calls.items()}
        times = time_interleaved(
            {name: [lambda call=call, batch=batch: call(batch) for batch in timed] for name, call in calls.items()},
            _CPU,
            rounds,
            warmups=1,
            shuffle=True,
            settle=SETTLE_SECONDS,
        )
    want = answers[EAGER]
    rows = []
    for name, logits in answers.items():
        found = logits.argmax(dim=-1)
        noted = notes.get(name, {})
        own = noted.pop("own_labels", None)
        rows.append(
            {
                "contestant": name,
                "seconds": times[name].rounds,
                "texts_per_second": sum(len(batch["input_ids"]) for batch in timed) / times[name].median,
                "over_eager": ratio(times[EAGER], times[name]),
                "accuracy": float((found == labels).double().mean()),
                "other_labels_than_eager": int((found != want.argmax(dim=-1)).sum()),
                "largest_logit_difference": float((logits - want).abs().max()),
                **noted,
                **({} if own is None else {"other_labels_than_own_full_depth": int((found != own).sum())}),
            }
        )
    return {
        "texts": len(labels),
        "mean_tokens": _mean_tokens(batches),
        "batch": batch_size,
        "rows": rows,
        "missing": missing,
    }


def _taken(model: Any, dtype: Any) -> str:
    info = fastbert_kernels.patch_info(model) or {}
    return str(info["dtype"]).removeprefix("torch.") + (", by itself" if dtype == "auto" else "")


def _mean_tokens(batches: list[Batch]) -> float:
    lengths = torch.cat([batch["attention_mask"].sum(dim=1) for batch in batches])
    return float(lengths.double().mean())
