"""The command `calibrate`: its options and help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fastbert_cli import options
from fastbert_cli.command import Command, Option
from fastbert_cli.errors import CommandError
from fastbert_cli.options import DATA

if TYPE_CHECKING:
    from fastbert_cli.inputs import Classes

TARGET = "Target: exactly one"
CHOICE = "Choice"
RUNNING = "What answers the texts"
CLOCK = "With --latency-ms"
_DISAGREEMENT = 0.01  # where --max-score-change alone is given


@dataclass(frozen=True)
class CalibrationTexts(options.LabelledTexts):
    """Texts that the model does not know, with labels unless the target takes none."""

    data: Annotated[
        str,
        Option(
            "Labelled texts that the model was not trained on: .tsv, .csv, .jsonl, .parquet, a folder or a name of "
            "datasets. Without labels, as .txt too, for all targets but --max-drop and --max-f1-drop.",
            panel=DATA,
        ),
    ]
    split: Annotated[str | None, Option("Part of a data set, as validation.", panel=DATA)] = None


@dataclass(frozen=True)
class Calibrate(Command):
    """Choose when texts may leave a saved FastBERT, from texts like those to come.

    \b
    Runs the model once over --data, chooses when texts may leave, and saves
    the best for your target into MODEL_DIR (fastbert_calibration.json). From
    then on it is what fastbert predict, evaluate and the model itself do
    unless told otherwise.

    \b
    With a guarantee, the number of texts decides how. Fewer than 6 times those
    that it takes at least: one Speed for all layers (entropy) is tested on all
    of them. More: a fifth of them chooses criterion, student classifiers and a
    Speed for each, and the others test that. --one-speed, --no-one-speed and
    --criterion auto say it otherwise.

    \b
    --max-disagreement needs no labels: at most so many new texts get another
    label than full depth would give. With it, --max-drop and --max-f1-drop
    the loss is guaranteed at --confidence, for new texts of the same kind.
    That takes a file of its own: texts that the model was not trained or
    distilled on and that did not choose its epochs (dev) or fit temperatures
    in it. The model's folder knows these texts by number, and where --data
    has them the guarantee is refused. docs/calibration.md has the exact words.

    \b
    A model with one output, a score, has no labels: --max-score-change says
    how far a score may be from full depth's, and --max-disagreement how many
    may be further away.

    \b
    Examples:
      fastbert calibrate reviews/model --data own.tsv --max-drop 0.01
      fastbert calibrate fast/model --data own.txt --max-disagreement 0.01
      fastbert calibrate reranker/model --data pairs.tsv --max-score-change 0.1
      fastbert calibrate reviews/model --data own.tsv --min-speedup 4 --dry-run
      fastbert calibrate reviews/model --data own.tsv --latency-ms 5
    """

    model: options.SavedModel
    texts: CalibrationTexts
    max_drop: Annotated[
        float | None, Option("Accuracy that may be lost, guaranteed; 0.01 is one point.", panel=TARGET)
    ] = None
    max_disagreement: Annotated[
        float | None,
        Option(
            "Share of texts that may get another label than at full depth, guaranteed; 0.01 is 1 %. Reads no labels.",
            panel=TARGET,
        ),
    ] = None
    max_f1_drop: Annotated[
        float | None,
        Option(
            "By which F1 of any class may fall, and so macro F1, guaranteed; 0.02 is two points. Takes one Speed.",
            panel=TARGET,
        ),
    ] = None
    max_score_change: Annotated[
        float | None,
        Option(
            "Of a model with one output: how far a score may be from full depth's, and still be the same answer. With "
            f"--max-disagreement (default: {_DISAGREEMENT:g}), --min-speedup or --latency-ms.",
            panel=TARGET,
        ),
    ] = None
    min_speedup: Annotated[float | None, Option("FLOPs speed-up to reach, as 4.", panel=TARGET)] = None
    latency_ms: Annotated[
        float | None, Option("Mean milliseconds per text on this machine, measured.", panel=TARGET)
    ] = None
    leave_out_seen: Annotated[
        bool,
        Option(
            "Leave texts of the training out, however many of --data they are, and calibrate on the rest.", panel=DATA
        ),
    ] = False
    max_length: Annotated[
        int | None, Option("Texts are cut off at this many tokens. Default: as in training.", panel=DATA, min=1)
    ] = None
    stride: Annotated[
        options.Stride,
        Option(
            "none: calibrate a model that was trained on passages (--stride) for texts that are cut off.",
            panel=DATA,
            parse=options.stride_of,
        ),
    ] = "trained"
    records: Annotated[
        Path | None,
        Option("File for what the heads answered: read if it is there, so that the model need not run.", panel=DATA),
    ] = None
    criterion: Annotated[
        str | None,
        Option(
            "When a text leaves: entropy, confidence, patience or another of docs/calibration.md (a wrong name lists "
            "those for the model); auto: compare all, which takes a search. Default: auto in a search, the entropy "
            "with one Speed.",
            panel=CHOICE,
        ),
    ] = None
    one_speed: Annotated[
        bool | None,
        Option(
            "One Speed (or patience) for all layers, tested on all texts, in place of a search, which spends a fifth "
            "of them on choosing. Default: one Speed where a guarantee is asked for on fewer than 6 times the texts "
            "that it takes at least.",
            "--one-speed/--no-one-speed",
            panel=CHOICE,
        ),
    ] = None
    confidence: Annotated[float, Option("Of the guarantee and the intervals.", panel=CHOICE)] = 0.95
    seed: Annotated[
        int | None,
        Option(
            "Of the split into texts that choose and texts that test, or of the draw of texts to time. Default: 0.",
            panel=CHOICE,
        ),
    ] = None
    temperature_scaling: Annotated[
        bool,
        Option(
            "Scale the heads' probabilities first, and save the model anew with the temperatures in its weights.",
            panel=CHOICE,
        ),
    ] = False
    batch_size: Annotated[int | None, Option("Texts per call. Default: 1.", panel=CLOCK, min=1)] = None
    backend: Annotated[
        str | None,
        Option(
            f"Kernels, one of {', '.join(options.BACKENDS)}. Default: auto with --latency-ms or --dtype, else none.",
            panel=RUNNING,
        ),
    ] = None
    dtype: Annotated[
        options.Dtype | None,
        Option(
            "Precision of the encoder that runs later, on whose own uncertainties the setting is then chosen. Default: "
            "that of the weights.",
            panel=RUNNING,
        ),
    ] = None
    bf16_product: options.Bf16Product = ()
    as_json: options.AsJson = False
    dry_run: Annotated[bool, Option("Write nothing into MODEL_DIR.")] = False

    @property
    def search(self) -> Literal["one_speed", "searched"]:
        """What the library calls it."""
        return "one_speed" if self.one_speed else "searched"

    @property
    def all_test(self) -> str | None:
        """The option because of which no texts are drawn, to choose or to be timed; `None`: some are."""
        if self.temperature_scaling or self.latency_ms is not None:
            return None
        given = {
            "--min-speedup": self.min_speedup is not None,
            "--max-f1-drop": self.max_f1_drop is not None,
            "--one-speed": self.one_speed,
        }
        return next((option for option, there in given.items() if there), None)

    @property
    def criteria(self) -> str:
        """What the library calls the criterion: one, or all of them."""
        return self.criterion or "auto"

    @property
    def split_seed(self) -> int:
        """The seed, given or not."""
        return self.seed or 0

    @property
    def patching(self) -> options.Patching:
        """How the model runs when it is timed, and when it is recorded in a precision of its own."""
        return options.Patching(self.backend or "auto", self.dtype or "weights", self.bf16_product)

    @property
    def target(self) -> str:
        """The option that says what is wanted.

        Raises:
            CommandError: none of them is given, or several.
        """
        targets = {
            "--max-drop": self.max_drop,
            "--max-disagreement": self.max_disagreement,
            "--max-f1-drop": self.max_f1_drop,
            "--min-speedup": self.min_speedup,
            "--latency-ms": self.latency_ms,
        }
        given = [name for name, value in targets.items() if value is not None]
        if not given and self.max_score_change is not None:
            return "--max-disagreement"
        if len(given) != 1:
            what = "no target" if not given else " and ".join(given) + " at once"
            raise CommandError(f"{what}; give exactly one of {', '.join(targets)}")
        return given[0]

    @property
    def allowed_disagreement(self) -> float | None:
        """Share of texts that may get another answer; `None` for another target."""
        given = self.max_disagreement is not None or self.target != "--max-disagreement"
        return self.max_disagreement if given else _DISAGREEMENT

    def reads_labels(self, one_label: bool) -> bool:
        """Return True if the target is about labels: accuracy, of models that give a text one of several.

        Args:
            one_label: the model is one of these.
        """
        from fastbert_hf.data.files import PLAIN

        if self.target in ("--max-drop", "--max-f1-drop"):
            return True
        plain = Path(self.texts.data).suffix.lower() in PLAIN
        return one_label and not plain and self.target != "--max-disagreement"

    def look(self) -> None:
        """Look at the options, the model's folder and the texts."""
        from fastbert_cli import inputs
        from fastbert_hf.data.files import PLAIN

        assert self.target  # which raises unless there is exactly one
        if self.max_f1_drop is not None and self.one_speed is False:
            raise CommandError(
                "--max-f1-drop takes one Speed for all layers: each class has few texts, and none of them are spent on "
                "choosing; leave --no-one-speed out"
            )
        inputs.check_patching(self.patching)
        inputs.check_file_to_write("--records", self.records)
        classes = inputs.look_at_model(self.model)
        self._check_kind(classes)
        if not self.reads_labels(classes is None or not (classes.multi_label or classes.gives_scores)):
            for option, given in (
                ("--temperature-scaling", self.temperature_scaling),
                ("--label-column", self.texts.label_column is not None),
            ):
                if given:
                    raise CommandError(
                        f"{option} is about labels, and of this model or file none are read; leave it out"
                    )
            inputs.look_at_texts(self.model, self.texts)
        elif Path(self.texts.data).suffix.lower() in PLAIN:
            raise CommandError(
                f"--data {self.texts.data}: has no labels, which {self.target} needs; add them, or use "
                "--max-disagreement, which needs none"
            )
        else:
            inputs.look_at_labelled(self.model, self.texts)

    def _check_kind(self, classes: Classes | None) -> None:
        if classes is None:
            return
        if not classes.gives_scores:
            if self.max_score_change is not None:
                raise CommandError(
                    f"{self.model}: has {len(classes.names)} classes, and --max-score-change is for models with one "
                    "output, a score; leave it out"
                )
        elif self.max_score_change is None:
            raise CommandError(
                f"{self.model}: has one output, a score, and no label that could differ from full depth's; say how far "
                "a score may be from it: --max-score-change 0.1"
                + (f", in place of {self.target}" if self.max_drop or self.max_f1_drop else "")
            )

    def run(self) -> None:
        """Calibrate the model."""
        from fastbert_cli.calibrate.run import run_calibrate

        run_calibrate(self)

    def stopped(self) -> str:
        """Return that nothing changed."""
        return "stopped; the model is as it was"
