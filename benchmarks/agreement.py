#!/usr/bin/env python
"""Agreement of bfloat16 and int8 with float32 on a trained model's own texts, and of int8 with some products left wide.

    python benchmarks/agreement.py reviews/model test.tsv [--out FOLDER]

Every exit head answers every text in each precision. Counted against float32: labels at full depth, and labels and exit
layers at some Speeds; differences of the uncertainties of all heads. Writes agreement_cpu.json and agreement_cpu.md.
"""

from __future__ import annotations

import copy
import unittest.mock
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

import fastbert_kernels
from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.calibration import ExitRecords, record_exits
from fastbert_hf.data import TokenisedDataset, read_classification_file
from fastbert_hf.exits.uncertainty import normalised_entropy
from fastbert_kernels.engine import compiled
from harness import common_options, save

SPEEDS = (0.1, 0.3, 0.5)
WITHOUT = tuple(f"int8 without {name}" for name in compiled.PRODUCTS)
PRECISIONS = ("bfloat16", "int8", *WITHOUT)


def records_in(precision: str, model: FastBertForSequenceClassification, dataset: TokenisedDataset) -> ExitRecords:
    """Return what all heads answer in a precision, on the compiled kernels."""
    name, _, wide = precision.partition(" without ")
    products = tuple(product for product in compiled.PRODUCTS if product != wide)
    pack = compiled._pack_layer
    with unittest.mock.patch.object(
        compiled, "_pack_layer", lambda weights, dtype, int8: pack(weights, dtype, products if int8 else ())
    ):
        patched = fastbert_kernels.patch(copy.deepcopy(model), backend="cpu", dtype=getattr(torch, name))
        return record_exits(patched, dataset, precision=precision)


def exits_of(uncertainty: torch.Tensor, speed: float) -> torch.Tensor:
    """Return the head, from 0, at which each sample leaves; `uncertainty` is [n, E]."""
    leaves = uncertainty < speed
    leaves[:, -1] = True
    return leaves.int().argmax(dim=1)


def compare(want: ExitRecords, got: ExitRecords) -> dict[str, Any]:
    """Return how far answers differ from those in float32."""
    before, now = normalised_entropy(want.logits), normalised_entropy(got.logits)
    differences = (before - now).abs()
    found: dict[str, Any] = {
        "other_labels": int((want.predictions[:, -1] != got.predictions[:, -1]).sum()),
        "accuracy": float(got.right[:, -1].mean()),
        "uncertainty_mean": float(differences.mean()),
        "uncertainty_largest": float(differences.max()),
        "uncertainty_largest_full_depth": float(differences[:, -1].max()),
        "speeds": [],
    }
    rows = torch.arange(len(want))
    for speed in SPEEDS:
        first, second = exits_of(before, speed), exits_of(now, speed)
        labels = want.predictions[rows, first] != got.predictions[rows, second]
        found["speeds"].append(
            {"speed": speed, "other_labels": int(labels.sum()), "other_exit_layers": int((first != second).sum())}
        )
    return found


def table_of(result: dict[str, Any]) -> str:
    """Return the Markdown table."""
    lines = [
        f"{result['texts']} texts; accuracy at full depth in float32 {result['float32_accuracy']:.2%}. Counted: texts "
        "with another label, and texts that leave at another layer, than in float32.",
        "",
        "| | accuracy | labels, full depth | "
        + " | ".join(f"labels, layers at Speed {speed:g}" for speed in SPEEDS)
        + " | uncertainty: mean, largest |",
        "| --- " * (4 + len(SPEEDS)) + "|",
    ]
    for name, found in result["precisions"].items():
        at = " | ".join(f"{one['other_labels']}, {one['other_exit_layers']}" for one in found["speeds"])
        lines.append(
            f"| {name} | {found['accuracy']:.2%} | {found['other_labels']} | {at} | {found['uncertainty_mean']:.4f}, "
            f"{found['uncertainty_largest']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = common_options(__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a trained FastBERT")
    parser.add_argument("data", help="its labelled texts")
    options = parser.parse_args()
    model = FastBertForSequenceClassification.from_pretrained(options.model).eval()
    model.calibrated_setting = None
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    data = read_classification_file(options.data, label_names=list(model.config.id2label.values()))
    dataset = TokenisedDataset(data, tokenizer, model.config.trained_max_length or 128)
    if options.quick:
        dataset = TokenisedDataset(data.rows(range(32)), tokenizer, 128)
    want = records_in("float32", model, dataset)
    result = {
        "texts": len(want),
        "layers": model.config.num_hidden_layers,
        "hidden_size": model.config.hidden_size,
        "float32_accuracy": float(want.right[:, -1].mean()),
        "precisions": {name: compare(want, records_in(name, model, dataset)) for name in PRECISIONS},
    }
    print(table_of(result))
    if not options.quick:
        save(options.out, "agreement_cpu", result, table_of(result))


if __name__ == "__main__":
    main()
