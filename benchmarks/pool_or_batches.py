"""Texts that are all there at once: a call for each batch, as `fastbert_hf.predict` makes them, or the pool?

    python benchmarks/pool_or_batches.py [--shapes MiniLM-L6 BERT-base] [--texts 512] [--rounds 7] [--quick]

Texts of mixed lengths, sorted by length, leave a patched model with random weights at planned layers (a third of its
depth on average). `batches` cuts them where `predict` does; `pool` lets the same batches into a pool, which holds them
all, and waits for every answer. Both take turns, and their answers are compared to the last bit before. Writes
pool_or_batches_cpu_FAMILY.json and .md (families.py).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the pool's thread computes in threads of its own

import torch
from torch import Tensor

import fastbert_kernels
from comparing.workload import SHAPES, Samples, make_random_model, planned_exits, random_samples, reference_answers
from families import result_name
from fastbert_hf.prediction import MAX_TOKENS_CPU
from fastbert_hf.timing import Seconds, ratio, time_interleaved
from fastbert_kernels.engine.pool import Answer
from harness import markdown_table, page_of_one_table, parse_with_rounds, save
from peers.contestant import TORCH_DTYPES

MEAN_DEPTH = 4.0  # of 12 layers
Packed = tuple[Tensor, Tensor, Tensor]  # input_ids [T], cu_seqlens [n + 1], Speeds [n]


def packed_batches(samples: Samples, speeds: Tensor, max_tokens: int) -> Iterator[Packed]:
    """Yield the texts in batches of at most so many tokens, the longest first, as `predict` does."""
    rows: list[int] = []
    for row in [*samples.lengths.argsort(descending=True, stable=True).tolist(), None]:
        of_batch = sum(len(samples.token_ids[one]) for one in rows)
        if rows and (row is None or of_batch + len(samples.token_ids[row]) > max_tokens):
            lengths = [len(samples.token_ids[one]) for one in rows]
            ids = [token for one in rows for token in samples.token_ids[one]]
            yield torch.tensor(ids), torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32), speeds[rows]
            rows = []
        if row is not None:
            rows.append(row)


def in_batches(model: Any, batches: Sequence[Packed]) -> list[Any]:
    """Return the output of a call for each batch."""
    return [model.forward_packed(ids, cu_seqlens, speed=speeds) for ids, cu_seqlens, speeds in batches]


def by_pool(pool: Any, batches: Sequence[Packed]) -> list[Answer]:
    """Return the answer of every text, all of which are in the pool at once."""
    futures = [pool.submit(ids, cu_seqlens, speed=speeds) for ids, cu_seqlens, speeds in batches]
    return [future.result() for batch in futures for future in batch]


def check_equal(outputs: Sequence[Any], answers: Sequence[Answer]) -> None:
    """Raise `RuntimeError` where both ways differ in a bit."""
    logits = torch.cat([output.logits for output in outputs])
    layers = torch.cat([output.exit_layer for output in outputs])
    if not torch.equal(logits, torch.stack([answer.logits for answer in answers])):
        raise RuntimeError("the pool and the batches differ in their logits")
    if layers.tolist() != [answer.exit_layer for answer in answers]:
        raise RuntimeError("the pool and the batches differ in where texts leave")


@torch.inference_mode()
def compare(model: Any, batches: Sequence[Packed], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round for all texts, by the name of the way."""
    texts = sum(len(speeds) for _, _, speeds in batches)
    tokens = sum(len(ids) for ids, _, _ in batches)
    with fastbert_kernels.pool(model, max_tokens=tokens, max_samples=texts) as pool:
        check_equal(in_batches(model, batches), by_pool(pool, batches))
        ways = {"batches": lambda: in_batches(model, batches), "pool": lambda: by_pool(pool, batches)}
        found = time_interleaved(ways, torch.device("cpu"), rounds, warmups=1, shuffle=True)
    return {name: seconds.rounds for name, seconds in found.items()}


def measure(shape: str, dtypes: Sequence[str], count: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield a row for every dtype."""
    for dtype in dtypes:
        model = make_random_model(shape)
        samples = random_samples(count, "mixed", model, seed=0)
        # Exits are planned for the uncertainties of the precision that they are run in.
        fastbert_kernels.patch(model, dtype=TORCH_DTYPES[dtype])
        uncertainty = reference_answers(model, samples, batch=16).uncertainty
        assert uncertainty is not None
        batches = list(packed_batches(samples, planned_exits(uncertainty, MEAN_DEPTH).speed, MAX_TOKENS_CPU))
        yield {"shape": shape, "dtype": dtype, "texts": count, "seconds": compare(model, batches, rounds)}


def table(result: dict[str, Any]) -> str:
    """Return a line for every shape and dtype, in texts per second."""
    rows = []
    for row in result["rows"]:
        batches, pool = (Seconds(row["seconds"][name]) for name in ("batches", "pool"))
        rows.append(
            {
                "model": row["shape"],
                "dtype": row["dtype"],
                "a call for each batch": f"{row['texts'] / batches.median:.0f}",
                "the pool": f"{row['texts'] / pool.median:.0f}",
                "pool over batches": f"{ratio(batches, pool):.2f}x",
            }
        )
    return markdown_table(rows)


def page(result: dict[str, Any]) -> str:
    about = (
        f"Texts per second, of {result['texts']} texts of mixed lengths that leave behind a third of the layers on "
        "average, random weights"
    )
    return page_of_one_table("Texts that are all there at once: batches or the pool", about, result, table(result))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["MiniLM-L6", "BERT-base"])
    parser.add_argument("--dtypes", nargs="+", choices=list(TORCH_DTYPES), default=["float32", "int8"])
    parser.add_argument("--texts", type=int, default=512)
    options = parse_with_rounds(parser, argv, rounds=7, quick="a small shape, few texts and one round; writes nothing")
    if options.quick:
        options.shapes, options.texts = ["tiny"], 64
    result: dict[str, Any] = {
        "texts": options.texts,
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "load": os.getloadavg(),
        "rows": [],
    }
    for shape in options.shapes:
        for row in measure(shape, options.dtypes, options.texts, options.rounds):
            result["rows"].append(row)
            if not options.quick:
                save(options.out, result_name("pool_or_batches"), result, page(result))
    print(page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
