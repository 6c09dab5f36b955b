#!/usr/bin/env python
"""What to put before the first layer: a bag of hashed words, or the attentive head of FastBERT on the embeddings?

    python benchmarks/exit_zero_candidates.py --data FOLDER [--run FOLDER] [--tasks sst2] [--backbone e5-small]
                                              [--quick]

FOLDER, --run and --backbone as of adopted_classifiers.py, whose models are taken where they are there and made where
they are not. Both candidates are distilled from the teacher's answers to the same texts: the bag as
`fastbert_hf.training.distill_exit_zero` does it, the attentive head, which reads what the embeddings give, by the
gradient, in as many epochs and at the learning rate of the other students. Nobody chooses anything by the new texts,
on which both are measured: how often they are right and give the answer of full depth, of all texts and of the surest
half; and how long a text takes in the native kernels, from token ids on, in batches of 32. Writes
exit_zero_candidates_cpu_FAMILY.json and .md (families.py), beside the rows of other tasks and backbones.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, get_linear_schedule_with_warmup

import fastbert_kernels
from adopting import commands
from adopting.models import tokenised
from fastbert_hf import ExitRule, FastBertForSequenceClassification
from fastbert_hf.data import TokenisedDataset, join_texts
from fastbert_hf.heads import AttentiveHead
from fastbert_hf.timing import ratio, time_interleaved
from fastbert_hf.training import DISTILLATION, distill_exit_zero
from fastbert_kernels import ops
from fastbert_kernels.engine.folding import fold_attentive_head
from fastbert_kernels.hosts import fastbert_hf as host
from harness import markdown_table
from run_folders import model_in_words
from zero.subject import Subject

BATCH = 32
WIDTH, HEADS = 128, 2  # of the attentive head, as in the paper
FULL_DEPTH, BAG, ATTENTIVE = "full depth", "bag of hashed words", "attentive head on the embeddings"


def run_task(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what both candidates are worth for one task; its models are made, or taken from the folder of the run."""
    subject = Subject.of(name, options)
    source, texts, task = subject.source, subject.texts, subject.task
    model: Any = FastBertForSequenceClassification.from_pretrained(source).eval()
    lessons, new = (tokenised(part, source, task) for part in (join_texts(texts.traffic), texts.new))
    begin = time.perf_counter()
    head = distilled_head(model, lessons)
    seconds = {ATTENTIVE: time.perf_counter() - begin}
    begin = time.perf_counter()
    distill_exit_zero(model, AutoTokenizer.from_pretrained(source), join_texts(texts.traffic))
    seconds[BAG] = time.perf_counter() - begin
    labels, teacher = torch.tensor(texts.new.label_ids), torch.cat(list(answers(model, new)))
    found = {}
    with torch.inference_mode():
        found[BAG] = torch.cat([model.exit_zero(**_tokens(batch)) for batch in batches(new)])
        found[ATTENTIVE] = torch.cat([head(*embedded(model, batch)) for batch in batches(new)])
    fastbert_kernels.patch(model)
    return {
        **subject.facts(),
        "load": options.load,
        "learned_from": len(lessons),
        "texts": len(new),
        "full_depth": float((teacher.argmax(dim=-1) == labels).double().mean()),
        "candidates": {
            candidate: {"seconds_to_fit": seconds[candidate], **worth(logits, labels, teacher)}
            for candidate, logits in found.items()
        },
        "times": times(model, head, new, options.rounds),
    }


def batches(dataset: TokenisedDataset) -> Iterator[dict[str, Tensor]]:
    """Yield padded batches of 32 texts, in order, without labels."""
    for begin in range(0, len(dataset), BATCH):
        batch = dataset.collate([dataset[row] for row in range(begin, min(begin + BATCH, len(dataset)))])
        yield {name: tensor for name, tensor in batch.items() if name != "labels"}


@torch.inference_mode()
def answers(model: Any, dataset: TokenisedDataset) -> Iterator[Tensor]:
    """Yield the logits of full depth of every batch."""
    for batch in batches(dataset):
        yield model(**batch, speed=0.0).logits


def _tokens(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def embedded(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return what the embeddings make of a batch, [B, L, H], and its mask [B, L]."""
    given = {name: tensor for name, tensor in batch.items() if name != "attention_mask"}
    return model.backbone.embeddings(**given), batch["attention_mask"]


def distilled_head(model: Any, dataset: TokenisedDataset) -> AttentiveHead:
    """Return an attentive head on the embeddings that learned from the teacher as the other students do."""
    torch.manual_seed(0)
    head = AttentiveHead(model.config.hidden_size, WIDTH, HEADS, model.num_labels)
    lessons = [*zip(batches(dataset), answers(model, dataset), strict=True)]
    steps = round(DISTILLATION.epochs * len(lessons))
    optimiser = torch.optim.AdamW(head.parameters(), lr=DISTILLATION.learning_rate)
    schedule = get_linear_schedule_with_warmup(optimiser, steps // 10, steps)
    draw = torch.Generator().manual_seed(0)
    order: list[int] = []
    for _ in range(steps):
        order = order or torch.randperm(len(lessons), generator=draw).tolist()
        batch, teacher = lessons[order.pop()]
        student = head(*embedded(model, batch)).log_softmax(dim=-1)
        functional.kl_div(student, teacher.log_softmax(dim=-1), reduction="batchmean", log_target=True).backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    return head


def worth(logits: Tensor, labels: Tensor, teacher: Tensor) -> dict[str, float]:
    """Return how often answers [n, N] are right and those of full depth, of all texts and of the surest half."""
    predicted, surest = logits.argmax(dim=-1), logits.softmax(dim=-1).amax(dim=-1).argsort(descending=True)
    right, same = (predicted == labels).double(), (predicted == teacher.argmax(dim=-1)).double()
    half = surest[: len(surest) // 2]
    return {
        "accuracy": float(right.mean()),
        "agreement": float(same.mean()),
        "accuracy_of_the_surest_half": float(right[half].mean()),
        "agreement_of_the_surest_half": float(same[half].mean()),
    }


def in_kernels(model: Any, head: AttentiveHead) -> Callable[[dict[str, Tensor]], Tensor]:
    """Return what answers a batch with the logits of an attentive head on the embeddings, in the native kernel."""
    parameters = [getattr(part, name).detach() for part, name in host.head_parameters(head)]
    folded = fold_attentive_head(*parameters, num_attention_heads=HEADS, dtype=torch.float32)

    def answer(batch: dict[str, Tensor]) -> Tensor:
        states, mask = embedded(model, batch)
        valid = mask != 0
        ends = torch.cat([torch.zeros(1, dtype=torch.int32), valid.sum(dim=1).cumsum(0, dtype=torch.int32)])
        return ops.attentive_head(states[valid], ends, torch.ones(len(mask)), folded.tensors)[0]

    return answer


def times(model: Any, head: AttentiveHead, dataset: TokenisedDataset, rounds: int) -> dict[str, Any]:
    """Return the seconds of all texts in the native kernels, by candidate, and those of full depth."""
    ways: dict[str, Callable[[dict[str, Tensor]], Any]] = {
        FULL_DEPTH: lambda batch: model(**batch, speed=0.0),
        BAG: lambda batch: model(**batch, speed=ExitRule((0,), (1.0,))),
        ATTENTIVE: in_kernels(model, head),
    }
    padded = list(batches(dataset))
    calls = {name: [lambda batch=batch, way=way: way(batch) for batch in padded] for name, way in ways.items()}
    taken = time_interleaved(calls, torch.device("cpu"), rounds, warmups=1, shuffle=True)
    return {
        name: {
            "seconds": found.rounds,
            "microseconds_per_text": 1e6 * found.median / len(dataset),
            "over_full_depth": ratio(taken[FULL_DEPTH], found),
        }
        for name, found in taken.items()
    }


def table(result: dict[str, Any]) -> str:
    """Return the page beside the JSON file."""
    parts = [
        "# Candidates for layer 0",
        "Both learned from the teacher's answers to the same texts and are measured on others. Surest: by the largest "
        f"probability. Times: batches of {BATCH} texts, from token ids on, float32, native kernels, the bag by a call "
        "of the model, the head by its kernel alone, which is to the head's advantage; "
        f"{result['rounds']} rounds, interleaved and shuffled; {result['threads']} threads.",
    ]
    for case in result["tasks"]:
        rows = []
        for name, found in case["candidates"].items():
            time_of = case["times"][name]
            rows.append(
                {
                    "": name,
                    "right": f"{found['accuracy']:.1%}",
                    "as full depth": f"{found['agreement']:.1%}",
                    "right, surest half": f"{found['accuracy_of_the_surest_half']:.1%}",
                    "as full depth, surest half": f"{found['agreement_of_the_surest_half']:.1%}",
                    "us per text": f"{time_of['microseconds_per_text']:.0f}",
                    "over full depth": f"{time_of['over_full_depth']:.0f}x",
                    "seconds to fit": f"{found['seconds_to_fit']:.0f}",
                }
            )
        parts += [
            f"## {case['task']}, {model_in_words(case)}: {case['texts']} texts, learned from {case['learned_from']}",
            f"Full depth is right on {case['full_depth']:.1%}; load of the machine before the run "
            f"{case['load'][0]:.1f}.",
            markdown_table(rows),
        ]
    return "\n\n".join(parts)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    options = commands.parse_arguments(__doc__, argv, tasks=("ag_news", "sst2", "mrpc"))
    options.load = os.getloadavg()
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    commands.run_tasks("exit_zero_candidates", options, {}, run_task, table)


if __name__ == "__main__":
    main()
