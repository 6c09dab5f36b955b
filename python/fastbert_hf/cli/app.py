"""Commands and their options; what they do is in a module each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import fastbert_kernels
from fastbert_hf.cli import options
from fastbert_hf.cli.calibrate_command import calibrate
from fastbert_hf.cli.errors import reported
from fastbert_hf.cli.options import Dtype, Precision
from fastbert_hf.cli.training_commands import distill, train
from fastbert_kernels.backends import BACKENDS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="FastBERT: a BERT classifier that lets easy texts leave early, with the speed-up real on the clock.",
)

BackendOption = Annotated[
    str, typer.Option(help=f"Kernels: auto (the best for this machine), {', '.join(BACKENDS)}, or none (unpatched).")
]
DtypeOption = Annotated[Dtype, typer.Option(help="Precision of the encoder; auto: that of the saved weights.")]

app.command()(train)
app.command()(distill)
app.command()(calibrate)


@app.command()
def demo(
    train: Annotated[
        Path | None,
        typer.Option(help="Labelled texts to train on (.tsv or .csv, header: label, text). Default: docstrings."),
    ] = None,
    dev: Annotated[Path | None, typer.Option(help="Labelled texts to measure on, of the same form.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Folder or hub name of a pretrained BERT. Default: the packaged 6-layer MiniLM.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the model, the report, the figures and the chart.")] = Path(
        "demo-out"
    ),
    speed: Annotated[
        list[float] | None, typer.Option(help="Speed (threshold on the uncertainty) to measure at; may be repeated.")
    ] = None,
    epochs: Annotated[float, typer.Option(min=0.01, help="Epochs of step 1, fine-tuning.")] = 3,
    distil_epochs: Annotated[float, typer.Option(min=0.01, help="Epochs of step 2, self-distillation.")] = 3,
    max_length: Annotated[int, typer.Option(min=3, help="Texts are cut off at this many tokens.")] = 96,
    precision: Annotated[
        Precision, typer.Option(help="Of training; auto: bf16 where the processor computes in it.")
    ] = (Precision.auto),
    timed: Annotated[
        int, typer.Option(min=32, help="Texts that the timing runs over (a multiple of the batch of 32).")
    ] = 320,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved repeats of the timing; medians are reported.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the data, the fresh heads and the training.")] = 0,
) -> None:
    """Train, distil, patch and measure a FastBERT, from raw text, in about five minutes on two cores.

    Without files it classifies docstrings: which of five installed libraries was this one written for?

    \b
    Examples:
      fastbert demo
      fastbert demo --train mine-train.tsv --dev mine-dev.tsv --speed 0.2 --speed 0.6
    """
    with reported("demo", lambda: f"stopped; what was finished is in {out}", extra="demo"):
        from fastbert_hf.cli.demo import DemoSettings, run_demo

        settings = DemoSettings(
            train=train,
            dev=dev,
            backbone=backbone,
            out=out,
            speeds=tuple(sorted(set(speed or (0.1, 0.3, 0.5, 0.8)))),
            epochs=epochs,
            distil_epochs=distil_epochs,
            max_length=max_length,
            precision=precision.value,
            timed=timed,
            rounds=rounds,
            seed=seed,
        )
        run_demo(settings)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Folder of a saved FastBERT and its tokenizer.")],
    data: Annotated[
        str,
        typer.Option(
            help="Labelled texts: .tsv, .csv, .jsonl, .parquet, a folder or a name of datasets.",
            rich_help_panel=options.DATA,
        ),
    ],
    split: Annotated[str | None, options.option("Part of a data set, as test.", panel=options.DATA)] = None,
    subset: options.Subset = None,
    text_column: options.TextColumn = None,
    pair_column: options.PairColumn = None,
    label_column: options.LabelColumn = None,
    speed: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            max=1,
            help="Speed to score at, beside full depth and the calibrated setting, if there is one; may be repeated. "
            "Default: 0.1, 0.3, 0.5, 0.8.",
        ),
    ] = None,
    speedup: Annotated[
        list[float] | None,
        typer.Option(help="FLOPs speed-up to score at, of a calibrated model; may be repeated."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Texts are cut off at this many tokens. Default: where the model ends.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per batch, in the order of the data.")] = 32,
    timed: Annotated[
        bool, typer.Option("--time", help="Measure times too: all texts, three interleaved rounds, medians.")
    ] = False,
    backend: BackendOption = "auto",
    dtype: DtypeOption = Dtype.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON into, too.")] = None,
) -> None:
    """Score a saved FastBERT on labelled texts: full depth, its calibrated setting, and several Speeds.

    \b
    Prints for each: accuracy, macro F1, mean exit layer and FLOPs speed-up;
    with --time also the time per text, the speed-up over full depth on the
    clock, and realisation, which is that over the FLOPs speed-up. Writes
    nothing unless --out is given.

    \b
    Examples:
      fastbert evaluate reviews/model --data test.tsv
      fastbert evaluate reviews/model --data test.tsv --speed 0.2 --time
      fastbert evaluate reviews/model --data test.tsv --speedup 2 --speedup 4
      fastbert evaluate reviews/model --data glue --subset sst2 \\
          --split validation --dtype bf16 --json
    """
    with reported("evaluate", lambda: "stopped; nothing was written"):
        from fastbert_hf.cli.evaluate import EvaluateSettings, run_evaluate
        from fastbert_hf.cli.scores import SPEEDS

        settings = EvaluateSettings(
            model=model,
            data=data,
            split=split,
            subset=subset,
            text_column=text_column,
            pair_column=pair_column,
            label_column=label_column,
            speeds=tuple(sorted(set(speed or (() if speedup else SPEEDS)))),
            speedups=tuple(sorted(set(speedup or ()))),
            max_length=max_length,
            batch_size=batch_size,
            timed=timed,
            backend=backend,
            dtype=dtype.value,
            as_json=as_json,
            out=out,
        )
        run_evaluate(settings)


@app.command()
def analyze(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Folder of a saved FastBERT and its tokenizer.")],
    data: Annotated[
        str,
        typer.Option(
            help="Labelled texts: .tsv, .csv, .jsonl, .parquet, a folder or a name of datasets.",
            rich_help_panel=options.DATA,
        ),
    ],
    split: Annotated[str | None, options.option("Part of a data set, as test.", panel=options.DATA)] = None,
    subset: options.Subset = None,
    text_column: options.TextColumn = None,
    pair_column: options.PairColumn = None,
    label_column: options.LabelColumn = None,
    compare: Annotated[
        Path | None, typer.Option(help="Second model, drawn in the same charts of accuracy against speed-up.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the page, the charts and the figures; replaced as a whole.")
    ] = Path("analysis-out"),
    speed: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1, help="Speed to look at; may be repeated. Default: 0.1, 0.3, 0.5, 0.8."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Texts are cut off at this many tokens. Default: where the model ends.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per batch, in the order of the data.")] = 32,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="Measure times too.")] = True,
    timed_texts: Annotated[
        int, typer.Option(min=1, help="Texts to measure times on, spread evenly over the data.")
    ] = 640,
    texts: Annotated[
        bool, typer.Option("--texts/--no-texts", help="Show the easiest and the hardest texts; they may be private.")
    ] = True,
    backend: BackendOption = "auto",
) -> None:
    """Analyse what early exits do to a saved FastBERT, as one page with charts.

    \b
    For people: report.html, one file that needs no network, and its charts in
    figures/. For programs: analysis.json, with every number behind them.
    Shown are accuracy by uncertainty, uncertainty by layer, exit layers,
    accuracy against FLOPs and measured time (with models of the first layers
    only beside it), what later layers correct and spoil, and the easiest and
    the hardest texts.

    \b
    Examples:
      fastbert analyze reviews/model --data test.tsv
      fastbert analyze reviews/model --data test.tsv --compare plain/model \\
          --out reviews/analysis --no-texts
    """
    with reported("analyze", lambda: f"stopped; {out} was not written", extra="demo"):
        from fastbert_hf.cli.analyze import AnalyzeSettings, run_analyze
        from fastbert_hf.cli.scores import SPEEDS

        settings = AnalyzeSettings(
            model=model,
            compare=compare,
            data=data,
            split=split,
            subset=subset,
            text_column=text_column,
            pair_column=pair_column,
            label_column=label_column,
            speeds=tuple(sorted(set(speed or SPEEDS))),
            max_length=max_length,
            batch_size=batch_size,
            timed=timed,
            timed_texts=timed_texts,
            texts=texts,
            backend=backend,
            out=out,
        )
        run_analyze(settings)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Folder of a saved FastBERT and its tokenizer.")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="UTF-8 texts: .txt (one per line), .tsv or .csv (with a header), .jsonl (one object per line).",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write, .tsv or .jsonl. Default: a table on standard output.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="A text leaves at the first layer whose uncertainty is below it. Default: the setting of fastbert "
            "calibrate, or full depth where the model has none.",
        ),
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="Instead, the FLOPs speed-up wanted of a calibrated model, as 4.")
    ] = None,
    full_depth: Annotated[bool, typer.Option("--full-depth", help="Nobody leaves early.")] = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens per batch with padding. Default: 4096 on a CPU, 16384 on a GPU.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Texts are cut off at this many tokens. Default: where the model ends.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column (or JSON key) of the text. Default: text, or text_a and text_b.")
    ] = None,
    pair_column: Annotated[
        str | None, typer.Option(help="Column of the second text, for a model of text pairs.")
    ] = None,
    backend: BackendOption = "auto",
    dtype: DtypeOption = Dtype.auto,
    progress: Annotated[
        bool | None, typer.Option("--progress/--no-progress", help="Progress bar. Default: if stderr is a terminal.")
    ] = None,
) -> None:
    """Classify the texts of a file with a saved FastBERT, on the fast kernels.

    \b
    Writes one row per text, in the order of the file: label, its probability,
    the uncertainty at which the text left, and the exit layer. A multi-label
    model writes all labels of a text, and their probabilities, with | between.

    \b
    Few texts are in memory at a time, so the file may be of any size. With
    --out the result takes its name when it is complete: a run that is stopped
    leaves no half of a file.

    \b
    Speed trades accuracy for time: 0.1 is careful, 0.5 is fast, and what
    either costs depends on the texts. fastbert calibrate measures it on yours
    and sets what is used here without --speed; --speedup goes by it too. The
    last line on stderr says what was used.

    \b
    Examples:
      fastbert predict demo-out/model reviews.txt --speed 0.5
      fastbert predict demo-out/model reviews.csv --text-column body --out x.tsv
      fastbert predict demo-out/model nli.jsonl --text-column premise \\
          --pair-column hypothesis --speed 0.3 --dtype bf16 --out labels.jsonl
    """
    with reported("predict", lambda: "stopped" + ("" if out is None else f"; {out} was not written")):
        from fastbert_hf.cli.predict import PredictSettings, run_predict

        settings = PredictSettings(
            model=model,
            file=file,
            out=out,
            speed=speed,
            speedup=speedup,
            full_depth=full_depth,
            max_tokens=max_tokens,
            max_length=max_length,
            text_column=text_column,
            pair_column=pair_column,
            backend=backend,
            dtype=dtype.value,
            progress=progress,
        )
        run_predict(settings)


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="State dict in a file of torch.save.")],
    to: Annotated[Path, typer.Option(help="Folder to write.")],
    format: Annotated[
        str | None,
        typer.Option(help="fastbert, fastplm, script or bitvoyage. Default: what the names in the checkpoint say."),
    ] = None,
    vocab: Annotated[
        Path | None, typer.Option(help="Vocabulary, a word piece per line. Default: no tokenizer is written.")
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="JSON file that configures the original model; may be repeated. Not needed for known sizes."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Name of a class; once for each, in the order of their numbers.")
    ] = None,
) -> None:
    """Turn a checkpoint of another FastBERT into a folder for all commands here.

    \b
    Knows the packages fastbert and fastplm, their authors' script and
    BitVoyage/FastBERT. Says what was mapped and left out, and how far the
    answers differ from the original's; docs/converting.md has what a converted
    model expects of its inputs. A checkpoint that does not match in every name
    and size is refused.

    \b
    Examples:
      fastbert convert fastbert.bin --to reviews --vocab google_zh_vocab.txt
      fastbert convert Epoch_3.bin --to reviews --vocab vocab.txt \\
          --config bert_config.json --config fastbert_cls.json
    """
    with reported("convert", lambda: f"stopped; {to} was not written"):
        from fastbert_hf.cli.convert import ConvertSettings, run_convert

        run_convert(ConvertSettings(checkpoint, to, format, vocab, tuple(config or ()), tuple(label or ())))


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False) -> None:
    """Show what this installation has: versions, compiled kernels, backends, and why what is missing is missing."""
    information = fastbert_kernels.info()
    if as_json:
        typer.echo(json.dumps(information, indent=2))
        return
    backends = {f"backend {name}": state for name, state in information.pop("backends").items()}
    console = Console(soft_wrap=True, highlight=False)
    for name, value in (information | backends).items():
        console.print(f"{name.replace('_', ' '):<20}  {'-' if value is None else value}")
