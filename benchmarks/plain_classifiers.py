"""A plain Transformers classifier at full depth: `patch(model)` against eager Transformers, torch.compile, ONNX Runtime
and OpenVINO, on the same inputs in the same run.

    python benchmarks/plain_classifiers.py [--rounds 5] [--shapes MiniLM-L6] [--batches 32] [--only ours] [--quick]

`BertForSequenceClassification` with random weights, texts of mixed lengths. The engines are those of peers/.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

import fastbert_kernels
from comparing.measure import SETTLE_SECONDS, answer_all, tolerance
from comparing.report import against_fastest, peer_versions
from comparing.workload import LONGEST, SHAPES, Samples
from comparison import build_contestants
from families import result_name
from fastbert_hf.timing import ratio, time_interleaved
from harness import MIXED_LENGTHS, markdown_table, parse_with_rounds, save
from peers import BASELINE, onnx_runtime, openvino_runtime, torch_compile, transformers_eager
from peers.contestant import OURS, TORCH_DTYPES, Answer, Contestant, Entry, NotAvailable, Request, Setup
from peers.plain import PlainSetup

AUTO = "ours patched, dtype auto"
_TEXTS = 32


def _patched(name: str, dtype: str) -> Entry:
    def build(setup: Setup) -> Contestant:
        model: Any = copy.deepcopy(setup.model)
        try:
            fastbert_kernels.patch(model, dtype="auto" if dtype == "auto" else TORCH_DTYPES[dtype])
        except (ValueError, RuntimeError) as error:
            raise NotAvailable(str(error)) from error

        def run(request: Request) -> Answer:
            return Answer(model(request.input_ids, request.attention_mask).logits)

        return Contestant(run, note=str((fastbert_kernels.patch_info(model) or {})["dtype"]))

    # What "auto" may take is held to what the least precise of them may err.
    return Entry(name, OURS, "int8" if dtype == "auto" else dtype, build)


ENTRIES = (
    *transformers_eager.ENTRIES,
    *torch_compile.ENTRIES,
    *onnx_runtime.ENTRIES,
    *openvino_runtime.ENTRIES,
    *(_patched(f"ours patched {dtype}", dtype) for dtype in TORCH_DTYPES),
    _patched(AUTO, "auto"),
)


def make_model(shape: str) -> BertForSequenceClassification:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SHAPES[shape], num_labels=2)).eval()
    with torch.no_grad():  # logits of the order of 1
        model.classifier.weight.normal_(0, model.config.hidden_size**-0.5)
    return model


def make_samples(count: int, vocabulary: int) -> Samples:
    """Random texts; the quantiles of their lengths are fixed, their order is drawn."""
    draw = torch.Generator().manual_seed(0)
    shares = ((torch.arange(count) + 0.5) / count)[torch.randperm(count, generator=draw)]
    lengths = MIXED_LENGTHS.icdf(shares).long().clamp(3, LONGEST).tolist()
    return Samples([torch.randint(1, vocabulary, (length,), generator=draw).tolist() for length in lengths])


@torch.inference_mode()
def measure(
    contestants: dict[str, tuple[Entry, Contestant]], samples: Samples, batch: int, rounds: int
) -> list[dict[str, Any]]:
    """Return a row for every contestant: its answers checked against the baseline's, and its times.

    Args:
        contestants: by name; the baseline is one of them.
        samples: all of them are answered in every round.
        batch: texts of a call.
        rounds: interleaved repeats.
    """
    cpu = torch.device("cpu")
    requests = list(samples.requests(batch, cpu))
    answers = {name: answer_all(contestant, requests).logits for name, (_, contestant) in contestants.items()}
    want = answers[BASELINE]
    spread = max(1.0, float((want - want.mean(dim=0)).abs().max()))
    calls = {
        name: [lambda request=request, run=contestant.run: run(request) for request in requests]
        for name, (_, contestant) in contestants.items()
    }
    seconds = time_interleaved(calls, cpu, rounds, warmups=1, shuffle=True, settle=SETTLE_SECONDS)
    rows = []
    for name, (entry, contestant) in contestants.items():
        error = float((answers[name] - want).abs().max())
        agrees = error <= tolerance(entry).logit_error * spread
        p20, p50, p80 = seconds[name].quantiles
        count = len(samples.token_ids)
        rows.append(
            {
                "contestant": name,
                "group": entry.group,
                "dtype": entry.dtype,
                "note": contestant.note,
                "seconds": seconds[name].rounds,
                "samples_per_second": {"p20": count / p80, "p50": count / p50, "p80": count / p20},
                "logit_error": error,
                "agrees": agrees,
                "run": "full depth",
                **({"speedup": ratio(seconds[BASELINE], seconds[name])} if agrees else {}),
            }
        )
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Return the page beside the JSON file."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    parts = [
        "# Plain classifiers at full depth",
        f"`BertForSequenceClassification` with random weights, {result['rounds']} round(s), interleaved and shuffled, "
        "all contestants on the same padded batches; speed-ups are medians of the ratios within a round, over "
        f"{BASELINE}. {result['threads']} threads, load of the machine before the run {result['load'][0]:.1f}; "
        f"{versions}.",
    ]
    for case in result["configurations"]:
        lines = [
            {
                "contestant": row["contestant"],
                "texts/s (p20 to p80)": "{p50:.4g} ({p20:.4g} to {p80:.4g})".format(**row["samples_per_second"]),
                "over eager float32": f"{row['speedup']:.2f}x" if row["agrees"] else "outputs disagree",
                "largest logit error": f"{row['logit_error']:.1e}",
            }
            for row in case["rows"]
        ]
        title = f"## {case['shape']}, batch {case['batch']}: {case['texts']} texts of {case['mean_length']:.1f} tokens"
        parts += [title, markdown_table(lines), "\n".join(f"- {line}" for line in against_fastest(case))]
    parts += [f"- {name}: not available: {reason}" for name, reason in result["not_available"].items()]
    return "\n\n".join(parts)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compares a patched plain classifier with other engines.")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["BERT-base", "MiniLM-L6"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="contestants with this in their name")
    options = parse_with_rounds(parser, argv, rounds=5, quick="a tiny model and one round; writes nothing")
    if options.quick:
        options.shapes, options.batches = ["tiny"], [4]
    return options


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_arguments(argv)
    cpu = torch.device("cpu")
    result: dict[str, Any] = {
        "baseline": BASELINE,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "versions": peer_versions(),
        "not_available": {},
        "configurations": [],
    }
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            model = make_model(shape)
            setup = PlainSetup(model, cpu, torch.get_num_threads(), Path(folder))
            contestants, record = build_contestants(ENTRIES, setup, options.only, _say)
            reasons = {name: entry["not_available"] for name, entry in record.items() if "not_available" in entry}
            result["not_available"] |= reasons
            samples = make_samples(8 if options.quick else _TEXTS, model.config.vocab_size)
            for batch in options.batches:
                _say(f"{shape}, batch {batch}")
                result["configurations"].append(
                    {
                        "shape": shape,
                        "batch": batch,
                        "texts": len(samples.token_ids),
                        "lengths": samples.lengths.tolist(),
                        "mean_length": samples.lengths.double().mean().item(),
                        "rows": measure(contestants, samples, batch, options.rounds),
                    }
                )
            torch.compiler.reset()  # compiled graphs hold weights too, and the next shape needs the memory
    print(markdown(result))
    if not options.quick:
        save(options.out, result_name("plain_classifiers"), result, markdown(result))
    ours = [row for case in result["configurations"] for row in case["rows"] if row["group"] == OURS]
    return int(any(not row["agrees"] for row in ours))


if __name__ == "__main__":
    sys.exit(main())
