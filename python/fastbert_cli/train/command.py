"""The command `train`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastbert_cli import options
from fastbert_cli.errors import CommandError, reported
from fastbert_cli.options import DATA, MODEL, RUN, STEP_1, STEP_2, option

if TYPE_CHECKING:
    from fastbert_cli.output_folder import OutputFolder
    from fastbert_cli.run_config import TrainConfig


def train(
    context: typer.Context,
    train: Annotated[
        str | None,
        option("Labelled texts: .tsv, .csv, .jsonl, .parquet, a folder or a name of datasets.", panel=DATA),
    ] = None,
    dev: options.Dev = None,
    unlabelled: Annotated[
        list[str] | None,
        option("More texts for step 2, also .txt with one per line; may be repeated.", panel=DATA),
    ] = None,
    subset: options.Subset = None,
    train_split: Annotated[str | None, option("Part of the data set of --train, as train.", panel=DATA)] = None,
    dev_split: options.DevSplit = None,
    text_column: options.TextColumn = None,
    pair_column: options.PairColumn = None,
    label_column: options.LabelColumn = None,
    multi_label: Annotated[
        bool | None,
        option(
            "A text has any number of classes: a list, or a|b in tables.", "--multi-label/--single-label", panel=DATA
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        option("Folder or hub name of a pretrained encoder. Default: the packaged English MiniLM.", panel=MODEL),
    ] = None,
    head: Annotated[options.Head | None, option("Kind of exit head.", panel=MODEL, default="attentive")] = None,
    pooling: Annotated[
        options.Pooling | None, option("Of pooled heads, over the tokens.", panel=MODEL, default="first")
    ] = None,
    exit_layers: Annotated[
        str | None, option("Layers with an exit head, as 2,4,6; the last one included.", panel=MODEL, default="all")
    ] = None,
    max_length: options.MaxLength = None,
    epochs: Annotated[float | None, option("Passes over the labelled texts.", panel=STEP_1, default=3)] = None,
    learning_rate: Annotated[float | None, option("Highest learning rate.", panel=STEP_1, default=5e-5)] = None,
    batch_size: Annotated[
        int | None, option("Texts per step, of all devices together.", panel=STEP_1, default=32)
    ] = None,
    label_smoothing: Annotated[
        float | None, option("Share of a label that is spread over all classes.", panel=STEP_1, default=0.0)
    ] = None,
    best_by: Annotated[
        options.Score | None,
        option("Score on --dev that the best epoch has.", panel=STEP_1, default="accuracy"),
    ] = None,
    joint: Annotated[
        bool,
        option("Instead of both steps, train all exit heads on labels: the paper's ablation.", "--joint", panel=STEP_1),
    ] = False,
    with_distil: Annotated[
        bool | None,
        option("Run step 2, or stop before it.", "--distil/--no-distil", panel=STEP_2, default="distil"),
    ] = None,
    distil_epochs: options.DistilEpochs = None,
    distil_learning_rate: options.DistilLearningRate = None,
    distil_batch_size: options.DistilBatchSize = None,
    objective: options.ObjectiveOption = None,
    temperature: options.Temperature = None,
    targets: options.TargetsOption = None,
    hard_weight: options.HardWeight = None,
    cache: options.Cache = None,
    cache_limit_gb: options.CacheLimit = None,
    cache_dtype: options.CacheDtypeOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.", rich_help_panel=RUN)] = Path("fastbert-out"),
    seed: options.Seed = None,
    precision: options.PrecisionOption = None,
    resume: options.Resume = False,
    config: options.ConfigFile = None,
) -> None:
    """Train a FastBERT on labelled texts: fine-tune it, then distil its student classifiers.

    \b
    Writes into --out: model/ (for fastbert evaluate, predict and
    from_pretrained), results.json (scores on --dev at four Speeds),
    config.yaml (repeats the run), and fine_tune/ and distil/ with metrics per
    epoch, TensorBoard files and checkpoints.

    \b
    Ctrl-C keeps a checkpoint; the same --out with --resume goes on from it.
    More settings than these options are in config.yaml; see docs/training.md.

    \b
    Examples:
      fastbert train --train train.tsv --dev dev.tsv --out reviews
      fastbert train --train train.csv --dev dev.csv --unlabelled more.txt \\
          --backbone bert-base-uncased --epochs 4 --cache --out reviews-base
      fastbert train --config reviews/config.yaml --seed 7 --out reviews-7
    """
    output: OutputFolder[TrainConfig] | None = None
    with reported("train", lambda: "stopped before training began" if output is None else output.how_to_go_on()):
        from fastbert_cli.output_folder import OutputFolder
        from fastbert_cli.run_config import TrainConfig
        from fastbert_cli.train.run import run_train

        flags = options.given(context.params, options.TRAIN_KEYS) | _steps(joint, with_distil)
        if exit_layers is not None:
            flags["model.exit_layers"] = _layers(exit_layers)
        output = OutputFolder(("train",), out, TrainConfig, config, flags, resume)
        run_train(output)


def _steps(joint: bool, with_distil: bool | None) -> dict[str, Any]:
    if joint and with_distil is not None:
        raise CommandError("--joint takes the place of both steps; leave --distil and --no-distil away")
    if joint:
        return {"run.steps": "joint"}
    return {} if with_distil is None else {"run.steps": "both" if with_distil else "fine_tune"}


def _layers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise CommandError(f"--exit-layers {text}: name layers with commas between them, as 2,4,6") from None
