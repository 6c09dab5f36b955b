"""The command `distill`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastbert_cli import options
from fastbert_cli.errors import reported
from fastbert_cli.options import DATA, RUN, option

if TYPE_CHECKING:
    from fastbert_cli.output_folder import OutputFolder
    from fastbert_cli.run_config import DistilConfig


def distill(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Folder of a saved FastBERT and its tokenizer.")],
    texts: Annotated[
        list[str] | None,
        option(
            "Texts: .txt (one per line), .tsv, .csv, .jsonl or .parquet; may be repeated. Labels are ignored, except "
            "with --targets hard or mixed.",
            panel=DATA,
        ),
    ] = None,
    dev: options.Dev = None,
    subset: options.Subset = None,
    dev_split: options.DevSplit = None,
    text_column: options.TextColumn = None,
    pair_column: options.PairColumn = None,
    label_column: options.LabelColumn = None,
    max_length: options.MaxLength = None,
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
    out: Annotated[Path, typer.Option(help="Folder of the run.", rich_help_panel=RUN)] = Path("fastbert-distilled"),
    seed: options.Seed = None,
    precision: options.PrecisionOption = None,
    resume: options.Resume = False,
    config: options.ConfigFile = None,
) -> None:
    """Distil the student classifiers of a saved FastBERT again; texts without labels are enough.

    \b
    Backbone and teacher classifier stay as they are, so the answers at full
    depth do too; the students learn to give the same answers earlier.

    \b
    Writes into --out: model/, results.json (scores on --dev, if given),
    config.yaml (repeats the run) and distil/ with metrics per epoch,
    TensorBoard files and checkpoints. MODEL_DIR is not changed.

    \b
    Examples:
      fastbert distill reviews/model --texts more.txt --out reviews-more
      fastbert distill reviews/model --texts a.txt --texts b.csv --dev dev.tsv \\
          --distil-epochs 10 --cache --out reviews-more
      fastbert distill reviews/model --texts train.tsv --targets mixed \\
          --hard-weight 0.3 --out reviews-mixed
    """
    output: OutputFolder[DistilConfig] | None = None
    with reported("distill", lambda: "stopped before training began" if output is None else output.how_to_go_on()):
        from fastbert_cli.distill.run import run_distill
        from fastbert_cli.output_folder import OutputFolder
        from fastbert_cli.run_config import DistilConfig

        flags = options.given(context.params, options.DISTILL_KEYS) | {"model.folder": str(model)}
        output = OutputFolder(("distill", str(model)), out, DistilConfig, config, flags, resume)
        run_distill(output)
