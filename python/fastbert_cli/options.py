"""Options that several commands have: each declared once, alone or in groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastbert_cli.command import Option
from fastbert_cli.errors import CommandError

DATA = "Data"
SPEEDS = (0.1, 0.3, 0.5, 0.8)  # that commands look at when none is given
UNPATCHED = "none"  # in place of a backend
# A test compares these with those of the kernels.
BACKENDS = ("auto", "cuda", "triton", "cpu", "reference", UNPATCHED)
PRODUCTS = ("qkv", "attention_output", "intermediate", "output")

Stride = int | Literal["trained"] | None  # as `fastbert_hf.passages` has it


def stride_of(text: str) -> Stride:
    """Return what the value of --stride says."""
    if text == "none":
        return None
    if not text.isdecimal():
        raise CommandError(f"--stride {text}: give the number of tokens that passages share, as 32, or none")
    return int(text)


SavedModel = Annotated[Path, Option("Folder of a saved FastBERT and its tokenizer.", metavar="MODEL_DIR")]
Subset = Annotated[str | None, Option("Configuration of a data set, as sst2 of glue.", panel=DATA)]
TextColumn = Annotated[
    str | None, Option("Column of the text. Default: text, text_a and text_b, or GLUE's names.", panel=DATA)
]
PairColumn = Annotated[str | None, Option("Column of the second text, for pairs; with --text-column.", panel=DATA)]
LabelColumn = Annotated[
    str | None, Option("Column of the label. Default: label, or labels with several per text.", panel=DATA)
]
CutOff = Annotated[int | None, Option("Texts are cut off at this many tokens. Default: as in training.", min=1)]
Passages = Annotated[
    Stride,
    Option(
        "Read longer texts in passages that share this many tokens, instead of cutting them off (none); the answer is "
        "the mean of their probabilities. Default: as in training.",
        parse=stride_of,
    ),
]
BatchSize = Annotated[int, Option("Texts per batch, in the order of the data.", min=1)]
Backend = Annotated[
    str,
    Option(f"Kernels: auto (the best for this machine), {', '.join(BACKENDS[1:-1])}, or {UNPATCHED} (unpatched)."),
]
Dtype = Literal["weights", "auto", "fp32", "bf16", "fp16", "int8", "fp8"]
Bf16Product = Annotated[
    tuple[str, ...],
    Option(
        f"Product that --dtype int8 leaves in bf16: {', '.join(PRODUCTS[:-1])} or {PRODUCTS[-1]}, the best first try. "
        "May be repeated."
    ),
]
AsJson = Annotated[bool, Option("Print JSON, for programs.", "--json")]


@dataclass(frozen=True)
class LabelledTexts:
    """Where labelled texts are: a file, a folder or a data set, and which columns of it."""

    data: Annotated[
        str, Option("Labelled texts: .tsv, .csv, .jsonl, .parquet, a folder or a name of datasets.", panel=DATA)
    ]
    split: Annotated[str | None, Option("Part of a data set, as test.", panel=DATA)] = None
    subset: Subset = None
    text_column: TextColumn = None
    pair_column: PairColumn = None
    label_column: LabelColumn = None


@dataclass(frozen=True)
class Patching:
    """How a model runs."""

    backend: Backend = "auto"
    dtype: Annotated[
        Dtype,
        Option(
            "Precision of the encoder; weights: that of the saved ones; auto: the fastest on this processor whose "
            "answers agree with those in fp32."
        ),
    ] = "weights"
    bf16_product: Bf16Product = ()
