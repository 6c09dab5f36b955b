"""The command `compare`: its options and help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastbert_cli import options
from fastbert_cli.command import Command, Option
from fastbert_cli.errors import CommandError

Setting = float | Literal["full", "calibrated"] | None  # a Speed; `None`: the calibrated one, or full depth


def setting_of(text: str) -> Setting:
    """Return what the value of --at says."""
    if text == "full":
        return "full"
    if text == "calibrated":
        return "calibrated"
    try:
        speed = float(text)
    except ValueError:
        speed = -1.0
    if not 0 <= speed <= 1:
        raise CommandError(f"{text} is no setting; give a Speed from 0 to 1, full (depth) or calibrated")
    return speed


_AT = (
    "Setting of {}: a Speed, full (depth) or calibrated. Default: the setting of fastbert calibrate, or full depth "
    "where the model has none."
)


@dataclass(frozen=True)
class Compare(Command):
    """Compare two saved FastBERTs, or two settings of one, on the same labelled texts.

    \b
    Prints for both: accuracy, macro F1, mean exit layer and FLOPs speed-up over
    A at full depth, so that models of other sizes can be compared; and what
    the second has more or less, with an interval of the difference.
    Both answer the same texts, so the interval is narrower than those of the
    two scores would make believe.

    \b
    Examples:
      fastbert compare old/model new/model --data test.tsv
      fastbert compare my/model my/model --at-a full --at-b 0.5 --data test.tsv
    """

    first: Annotated[Path, Option("Folder of a saved FastBERT and its tokenizer.", metavar="A")]
    second: Annotated[Path, Option("Another, or the same.", metavar="B")]
    texts: options.LabelledTexts
    at_a: Annotated[Setting, Option(_AT.format("A"), parse=setting_of)] = None
    at_b: Annotated[Setting, Option(_AT.format("B"), parse=setting_of)] = None
    max_length: options.CutOff = None
    batch_size: options.BatchSize = 32
    confidence: Annotated[float, Option("Of the intervals.", min=0.5, max=0.9999)] = 0.95
    as_json: options.AsJson = False

    def look(self) -> None:
        """Look at the folders of the models and the labelled texts."""
        from fastbert_cli import inputs

        inputs.look_at_labelled(self.first, self.texts)
        inputs.look_at_model(self.second)

    def run(self) -> None:
        """Print the scores and their differences."""
        from fastbert_cli.compare.run import run_compare

        run_compare(self)
