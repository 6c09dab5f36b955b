"""The command `calibrate`: its options and help."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fastbert_cli import options
from fastbert_cli.errors import reported
from fastbert_cli.options import DATA, Dtype, option
from fastbert_kernels.backends import BACKENDS

WISH = "Wish: exactly one"
CHOICE = "Choice"
CLOCK = "With --latency-ms"


class Criterion(str, Enum):
    auto = "auto"
    entropy = "entropy"
    confidence = "confidence"
    top_k_entropy = "top_k_entropy"
    patience = "patience"


def calibrate(
    model: options.SavedModel,
    data: Annotated[
        str,
        option(
            "Labelled texts that the model was not trained on: .tsv, .csv, .jsonl, .parquet, a folder or a name of "
            "datasets.",
            panel=DATA,
        ),
    ],
    max_drop: Annotated[
        float | None, option("Accuracy that may be lost, guaranteed; 0.01 is one point.", panel=WISH)
    ] = None,
    min_speedup: Annotated[float | None, option("FLOPs speed-up to reach, as 4.", panel=WISH)] = None,
    latency_ms: Annotated[
        float | None, option("Mean milliseconds per text on this machine, measured.", panel=WISH)
    ] = None,
    split: Annotated[str | None, option("Part of a data set, as validation.", panel=DATA)] = None,
    subset: options.Subset = None,
    text_column: options.TextColumn = None,
    pair_column: options.PairColumn = None,
    label_column: options.LabelColumn = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1, help="Texts are cut off at this many tokens. Default: where the model ends.", rich_help_panel=DATA
        ),
    ] = None,
    records: Annotated[
        Path | None,
        option("File for what the heads answered: read if it is there, so that the model need not run.", panel=DATA),
    ] = None,
    criterion: Annotated[
        Criterion, typer.Option(help="When a text leaves; auto: compare all.", rich_help_panel=CHOICE)
    ] = Criterion.auto,
    one_speed: Annotated[
        bool,
        option("One Speed (or patience) for all layers, entropy unless --criterion is given.", panel=CHOICE),
    ] = False,
    confidence: Annotated[
        float, typer.Option(help="Of the guarantee and the intervals.", rich_help_panel=CHOICE)
    ] = 0.95,
    seed: Annotated[
        int, typer.Option(help="Of the split into texts that choose and texts that test.", rich_help_panel=CHOICE)
    ] = 0,
    temperature_scaling: Annotated[
        bool,
        option(
            "Scale the heads' probabilities first, and save the model anew with the temperatures in its weights.",
            "--temperature-scaling",
            panel=CHOICE,
        ),
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Texts per call. Default: 1.", rich_help_panel=CLOCK)
    ] = None,
    backend: Annotated[
        str | None,
        option(f"Kernels: auto, {', '.join(BACKENDS)}, or none (unpatched).", panel=CLOCK, default="auto"),
    ] = None,
    dtype: Annotated[Dtype | None, option("Precision of the encoder.", panel=CLOCK, default="auto")] = None,
    as_json: options.AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing into MODEL_DIR.")] = False,
) -> None:
    """Choose when texts may leave a saved FastBERT, from labelled texts.

    \b
    Runs the model once over --data, chooses among criteria, student
    classifiers and a Speed for each, and saves the best for your wish into
    MODEL_DIR (fastbert_calibration.json). From then on it is what
    fastbert predict, evaluate and the model itself do unless told otherwise.

    \b
    With --max-drop the loss is guaranteed at --confidence, for new texts of
    the same kind. That holds only if the model was NOT trained on --data, nor
    its epochs chosen by it: no program can see that. docs/calibration.md has
    the exact words.

    \b
    Examples:
      fastbert calibrate reviews/model --data dev.tsv --max-drop 0.01
      fastbert calibrate reviews/model --data dev.tsv --min-speedup 4 --dry-run
      fastbert calibrate reviews/model --data dev.tsv --latency-ms 5
    """
    with reported("calibrate", lambda: "stopped; the model is as it was"):
        from fastbert_cli.calibrate.run import CalibrateSettings, run_calibrate

        settings = CalibrateSettings(
            model=model,
            data=data,
            max_drop=max_drop,
            min_speedup=min_speedup,
            latency_ms=latency_ms,
            split=split,
            subset=subset,
            text_column=text_column,
            pair_column=pair_column,
            label_column=label_column,
            max_length=max_length,
            records=records,
            criterion=criterion.value,
            one_speed=one_speed,
            confidence=confidence,
            seed=seed,
            temperature_scaling=temperature_scaling,
            batch_size=batch_size,
            backend=backend,
            dtype=None if dtype is None else dtype.value,
            as_json=as_json,
            dry_run=dry_run,
        )
        run_calibrate(settings)
