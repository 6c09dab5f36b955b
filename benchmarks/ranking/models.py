"""The reranker, fine-tuned as its owner would have done, and adopted without labels."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
    set_seed,
)

from fastbert_hf import adopt
from fastbert_hf.data import TextData
from fastbert_hf.files import folder_written_atomically
from fastbert_hf.training import DistillationSettings, distill
from ranking.search import Bm25, Pair

MAX_LENGTH = 64
NEGATIVES = 3  # for each query, among its candidates
_QUERIES, _RATE = 8, 1e-4  # of a step
_SHOWN = 20  # steps between two lines


@dataclass(frozen=True)
class Choice:
    """A query, and documents of which the first is that of its own docstring."""

    query: str
    documents: list[str]


def choices_of(pairs: Sequence[Pair], bm25: Bm25, numbers: range, candidates: int, seed: int) -> list[Choice]:
    """Return what the reranker learns from, in random order: each query with negatives out of its candidates."""
    draw, choices = random.Random(seed), []
    for number in numbers:
        others = [other for other in bm25.best(pairs[number].query, candidates) if other != number]
        if len(others) >= NEGATIVES:
            chosen = [number, *draw.sample(others, NEGATIVES)]
            choices.append(Choice(pairs[number].query, [pairs[one].document for one in chosen]))
    draw.shuffle(choices)
    return choices


def fine_tuned(folder: Path, backbone: str, choices: Sequence[Choice], seed: int) -> Path:
    """Return the folder of a cross-encoder: a plain classifier of Transformers with one output, made now or before.

    It learns which of a query's documents is its own: cross entropy over their scores.
    """
    if folder.exists():
        return folder
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1).train()
    batches = [choices[begin : begin + _QUERIES] for begin in range(0, len(choices), _QUERIES)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    schedule = get_linear_schedule_with_warmup(optimizer, len(batches) // 10, len(batches))
    begin, right, seen = time.perf_counter(), 0, 0
    for step, batch in enumerate(batches, 1):
        queries = [choice.query for choice in batch for _ in choice.documents]
        documents = [document for choice in batch for document in choice.documents]
        inputs = tokenizer(
            queries, documents, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        scores = model(**inputs).logits.view(len(batch), 1 + NEGATIVES)
        loss = cross_entropy(scores, torch.zeros(len(batch), dtype=torch.long))
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        right, seen = right + int((scores.argmax(dim=1) == 0).sum()), seen + len(batch)
        if step % _SHOWN == 0 or step == len(batches):
            seconds = time.perf_counter() - begin
            print(f"fine-tuning: step {step} of {len(batches)}, {right / seen:.0%} right, {seconds:.0f} s", flush=True)
            right, seen = 0, 0
    model.eval()
    with folder_written_atomically(folder) as written:
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)
    return folder


def adopted(folder: Path, classifier: Path, texts: TextData) -> Path:
    """Return the folder of the adopted cross-encoder, made now or before.

    Args:
        folder: to be made.
        classifier: folder of what is adopted.
        texts: pairs that the students learn from, without labels.
    """
    if folder.exists():
        return folder
    model, tokenizer = adopt(classifier), AutoTokenizer.from_pretrained(classifier)
    distill(model, tokenizer, texts, DistillationSettings(max_length=MAX_LENGTH, cache_dir=folder.parent / "cache"))
    with folder_written_atomically(folder) as written:
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)
    return folder
