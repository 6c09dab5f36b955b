"""Options that several commands share, and the configuration keys that the options of training set.

An option whose value is `None` was not given; the configuration has its default, which the help names.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from fastbert_kernels.backends import BACKENDS

DATA = "Data"
MODEL = "Model"
STEP_1 = "Step 1: backbone and teacher classifier"
STEP_2 = "Step 2: student classifiers"
RUN = "Run"


class Precision(str, Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Dtype(str, Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"


class Head(str, Enum):
    attentive = "attentive"
    pooled = "pooled"


class Pooling(str, Enum):
    first = "first"
    mean = "mean"
    max = "max"


class Objective(str, Enum):
    kl = "kl"
    reverse_kl = "reverse_kl"
    ce = "ce"


class Targets(str, Enum):
    soft = "soft"
    hard = "hard"
    mixed = "mixed"


class Score(str, Enum):
    accuracy = "accuracy"
    macro_f1 = "macro_f1"


class CacheDtype(str, Enum):
    bfloat16 = "bfloat16"
    float32 = "float32"


def option(help: str, *names: str, panel: str | None = None, default: str | float | None = None) -> Any:
    """A `typer.Option` of which the help says what is taken when it is not given.

    Args:
        help: what the option does.
        *names: of the option, if not that of the parameter.
        panel: of the help.
        default: to name in the help; `None`: nothing is.
    """
    if default is not None:
        help += f" Default: {format(default, 'g') if isinstance(default, float) else default}."
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False)


SavedModel = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Folder of a saved FastBERT and its tokenizer.")]
LabelledData = Annotated[
    str, option("Labelled texts: .tsv, .csv, .jsonl, .parquet, a folder or a name of datasets.", panel=DATA)
]
TestSplit = Annotated[str | None, option("Part of a data set, as test.", panel=DATA)]
CutOff = Annotated[
    int | None, typer.Option(min=1, help="Texts are cut off at this many tokens. Default: where the model ends.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts per batch, in the order of the data.")]
Backend = Annotated[
    str, typer.Option(help=f"Kernels: auto (the best for this machine), {', '.join(BACKENDS)}, or none (unpatched).")
]
DtypeOption = Annotated[Dtype, typer.Option(help="Precision of the encoder; auto: that of the saved weights.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

Subset = Annotated[str | None, option("Configuration of a data set, as sst2 of glue.", panel=DATA)]
TextColumn = Annotated[
    str | None, option("Column of the text. Default: text, text_a and text_b, or GLUE's names.", panel=DATA)
]
PairColumn = Annotated[str | None, option("Column of the second text, for pairs; with --text-column.", panel=DATA)]
LabelColumn = Annotated[
    str | None, option("Column of the label. Default: label, or labels with several per text.", panel=DATA)
]
Dev = Annotated[
    str | None,
    option("Labelled texts to score on after every epoch; the best epoch's weights are kept.", panel=DATA),
]
DevSplit = Annotated[str | None, option("Part of the data set of --dev, as validation.", panel=DATA)]
MaxLength = Annotated[int | None, option("Texts are cut off at this many tokens.", panel=MODEL, default=128)]

DistilEpochs = Annotated[float | None, option("Passes over the texts.", panel=STEP_2, default=5)]
DistilLearningRate = Annotated[float | None, option("Highest learning rate.", panel=STEP_2, default=0.001)]
DistilBatchSize = Annotated[int | None, option("Texts per step, of all devices together.", panel=STEP_2, default=32)]
ObjectiveOption = Annotated[
    Objective | None,
    option(
        "What a student minimises: KL(teacher || student), KL(student || teacher), or the cross-entropy under the "
        "teacher.",
        panel=STEP_2,
        default="kl",
    ),
]
Temperature = Annotated[
    float | None, option("Above 1, students also learn how the teacher ranks wrong classes.", panel=STEP_2, default=1.0)
]
TargetsOption = Annotated[
    Targets | None,
    option("Learn from the teacher (soft), from labels (hard) or from both (mixed).", panel=STEP_2, default="soft"),
]
HardWeight = Annotated[float | None, option("Share of the labels in mixed targets.", panel=STEP_2, default=0.5)]
Cache = Annotated[
    bool | None,
    option(
        "Keep what the frozen backbone computes on disk, so that later epochs cost no backbone pass.",
        "--cache/--no-cache",
        panel=STEP_2,
        default="no-cache",
    ),
]
CacheLimit = Annotated[
    float | None, option("Refuse a cache larger than this many GB.", "--cache-limit-gb", panel=STEP_2, default=20.0)
]
CacheDtypeOption = Annotated[
    CacheDtype | None, option("Precision in the cache; float32 takes twice the disk.", panel=STEP_2, default="bfloat16")
]

Seed = Annotated[int | None, option("Of fresh heads, shuffling and dropout.", panel=RUN, default=42)]
PrecisionOption = Annotated[
    Precision | None,
    option("Of training; auto: bf16 where the processor or GPU computes in it.", panel=RUN, default="auto"),
]
Resume = Annotated[
    bool,
    option("Go on with the run in --out, with the configuration it has.", "--resume", panel=RUN),
]
ConfigFile = Annotated[
    Path | None,
    option("YAML file of settings, as the config.yaml of another run; options given here win.", "--config", panel=RUN),
]

_STEP_2_KEYS = {
    "distil_epochs": "distil.epochs",
    "distil_learning_rate": "distil.learning_rate",
    "distil_batch_size": "distil.batch_size",
    "objective": "distil.objective",
    "temperature": "distil.temperature",
    "targets": "distil.targets",
    "hard_weight": "distil.hard_weight",
    "cache": "distil.cache",
    "cache_limit_gb": "distil.cache_limit_gb",
    "cache_dtype": "distil.cache_dtype",
    "seed": "run.seed",
    "precision": "run.precision",
    "max_length": "model.max_length",
    "dev": "data.dev",
    "subset": "data.subset",
    "dev_split": "data.dev_split",
    "text_column": "data.text_column",
    "pair_column": "data.pair_column",
    "label_column": "data.label_column",
}
DISTILL_KEYS = {**_STEP_2_KEYS, "texts": "data.texts"}
TRAIN_KEYS = {
    **_STEP_2_KEYS,
    "train": "data.train",
    "unlabelled": "data.unlabelled",
    "train_split": "data.train_split",
    "multi_label": "data.multi_label",
    "backbone": "model.backbone",
    "head": "model.head_type",
    "pooling": "model.head_pooling",
    "epochs": "fine_tune.epochs",
    "learning_rate": "fine_tune.learning_rate",
    "batch_size": "fine_tune.batch_size",
    "label_smoothing": "fine_tune.label_smoothing",
    "best_by": "fine_tune.best_by",
}


def given(parameters: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """The options that were given, as values by their configuration key.

    Args:
        parameters: values by the name of the option; `None` or an empty list: not given.
        keys: configuration key by the name of the option.
    """
    values = {keys[name]: value for name, value in parameters.items() if name in keys}
    return {
        key: value.value if isinstance(value, Enum) else list(value) if isinstance(value, tuple | list) else value
        for key, value in values.items()
        if value is not None and value != () and value != []
    }
