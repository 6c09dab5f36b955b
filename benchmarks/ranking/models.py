"""The reranker, fine-tuned as its owner would have done, and adopted without labels."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits
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
NEGATIVES = 3  # for each query, among its best candidates
_HARD = 20  # candidates of which they are drawn
_BATCH, _RATE = 32, 1e-4
_SHOWN = 10  # steps between two lines


def triples_of(pairs: Sequence[Pair], bm25: Bm25, numbers: range, seed: int) -> list[tuple[str, str, float]]:
    """Return (query, document, 1 where both are of one docstring, else 0), in random order."""
    draw, triples = random.Random(seed), []
    for number in numbers:
        triples.append((pairs[number].query, pairs[number].document, 1.0))
        others = [other for other in bm25.best(pairs[number].query, _HARD) if other != number]
        chosen = draw.sample(others, min(NEGATIVES, len(others)))
        triples += [(pairs[number].query, pairs[other].document, 0.0) for other in chosen]
    draw.shuffle(triples)
    return triples


def fine_tuned(folder: Path, backbone: str, triples: Sequence[tuple[str, str, float]], seed: int) -> Path:
    """Return the folder of a cross-encoder: a plain classifier of Transformers with one output, made now or before."""
    if folder.exists():
        return folder
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1).train()
    batches = [triples[begin : begin + _BATCH] for begin in range(0, len(triples), _BATCH)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    schedule = get_linear_schedule_with_warmup(optimizer, len(batches) // 10, len(batches))
    begin = time.perf_counter()
    for step, batch in enumerate(batches, 1):
        queries, documents, labels = (list(column) for column in zip(*batch, strict=True))
        inputs = tokenizer(
            queries, documents, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        loss = binary_cross_entropy_with_logits(model(**inputs).logits[:, 0], torch.tensor(labels))
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % _SHOWN == 0 or step == len(batches):
            seconds = time.perf_counter() - begin
            print(f"fine-tuning: step {step} of {len(batches)}, loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
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
