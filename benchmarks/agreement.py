#!/usr/bin/env python
"""Agreement with float32 of trained models on their own texts, in bfloat16, int8 and int8 with a product in bfloat16.

    python benchmarks/agreement.py --on "MiniLM, SST-2" reviews/model dev.tsv \\
        --on "MiniLM, docstrings" demo-out/model docstrings

The texts `docstrings` are those that the demo tests on. Every exit head answers every text in each precision. Counted
against float32: labels at full depth, and labels and exit layers at some Speeds; differences of the uncertainties of
all heads. Writes agreement_cpu_FAMILY.json and .md (families.py).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

import fastbert_kernels
from families import result_name
from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.calibration import ExitRecords, record_exits
from fastbert_hf.data import TokenisedDataset, read_classification_file, select_texts
from fastbert_hf.docstrings import build_docstring_dataset
from fastbert_hf.exits.uncertainty import normalised_entropy
from fastbert_kernels.engine.dtypes import PRODUCTS
from harness import common_options, markdown_table, save

SPEEDS = (0.1, 0.3, 0.5)
DOCSTRINGS = "docstrings"
# Name -> what `patch` is told.
PRECISIONS: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"dtype": torch.int8},
    **{f"int8 with {name} in bfloat16": {"dtype": torch.int8, "bfloat16_products": (name,)} for name in PRODUCTS},
}


def records_in(model: FastBertForSequenceClassification, dataset: TokenisedDataset, **precision: Any) -> ExitRecords:
    """Return what all heads answer on the compiled kernels, in a precision as `patch` takes it."""
    return record_exits(fastbert_kernels.patch(copy.deepcopy(model), backend="cpu", **precision), dataset)


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


def agreement_on(name: str, folder: Path, texts: str, quick: bool) -> dict[str, Any]:
    """Return what the precisions of a trained model change on some texts.

    Args:
        name: of the model and its texts, for people.
        folder: of the model.
        texts: labelled, a file or `docstrings`.
        quick: look at 32 texts only.
    """
    model = FastBertForSequenceClassification.from_pretrained(folder).eval()
    model.calibrated_setting = None
    if texts == DOCSTRINGS:
        data = build_docstring_dataset(seed=0).test
    else:
        data = read_classification_file(texts, label_names=list(model.config.id2label.values()))
    if quick:
        data = select_texts(data, range(len(data))[:32])
    dataset = TokenisedDataset(data, AutoTokenizer.from_pretrained(folder), model.config.trained_max_length or 128)
    want = records_in(model, dataset, dtype=torch.float32)
    return {
        "name": name,
        "texts": len(want),
        "layers": model.config.num_hidden_layers,
        "hidden_size": model.config.hidden_size,
        "float32_accuracy": float(want.right[:, -1].mean()),
        "precisions": {
            words: compare(want, records_in(model, dataset, **precision)) for words, precision in PRECISIONS.items()
        },
    }


def table_of(result: dict[str, Any]) -> str:
    """Return the Markdown page."""
    sections = [
        "Counted: texts with another label, and texts that leave at another layer, than in float32; differences of the "
        "uncertainties of all heads."
    ]
    for model in result["models"]:
        rows = []
        for words, found in model["precisions"].items():
            speeds = {
                f"labels, layers at Speed {one['speed']:g}": f"{one['other_labels']}, {one['other_exit_layers']}"
                for one in found["speeds"]
            }
            rows.append(
                {
                    "": words,
                    "accuracy": f"{found['accuracy']:.2%}",
                    "labels, full depth": str(found["other_labels"]),
                    **speeds,
                    "uncertainties: mean difference": f"{found['uncertainty_mean']:.4f}",
                    "largest": f"{found['uncertainty_largest']:.3f}",
                }
            )
        sections.append(
            f"## {model['name']}\n\n{model['texts']} texts, {model['layers']} layers of {model['hidden_size']}; "
            f"accuracy at full depth in float32 {model['float32_accuracy']:.2%}.\n\n{markdown_table(rows)}"
        )
    return "\n\n".join(sections)


def main() -> None:
    parser = common_options(__doc__.splitlines()[0])
    parser.add_argument(
        "--on",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "MODEL_DIR", "TEXTS"),
        help=f"a trained FastBERT and labelled texts of its kind, a file or {DOCSTRINGS}; may be repeated",
    )
    options = parser.parse_args()
    models = [agreement_on(name, Path(folder), texts, options.quick) for name, folder, texts in options.on]
    result = {"models": models}
    print(table_of(result))
    if not options.quick:
        save(options.out, result_name("agreement"), result, table_of(result))


if __name__ == "__main__":
    main()
