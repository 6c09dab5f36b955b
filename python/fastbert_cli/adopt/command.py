"""The command `adopt`: as `distill`, of a classifier that is no FastBERT yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastbert_cli.command import Option
from fastbert_cli.distill.command import Distill
from fastbert_cli.training import RUN

if TYPE_CHECKING:
    from fastbert_cli.inputs import Classes
    from fastbert_cli.models import Loaded


@dataclass(frozen=True)
class Adopt(Distill):
    """Make a FastBERT of a fine-tuned classifier of Transformers; texts without labels are enough.

    \b
    Embeddings, encoder layers, pooler and classifier stay as they are: at full
    depth the answers are those of the original. Student classifiers are added
    and learn to give the same answers earlier. Labels, tokenizer and kind of
    problem are carried over. A model with one output, a score, as rerankers
    have it, is taken too; its texts are pairs where it was trained on pairs.

    \b
    Writes into --out: model/, results.json (scores on --dev, if given),
    config.yaml (repeats the run) and distil/ with metrics per epoch,
    TensorBoard files and checkpoints. The classifier is not changed;
    fastbert export makes one of model/ again.

    \b
    Examples:
      fastbert adopt my-classifier --texts traffic.txt --out fast
      fastbert adopt owner/name --texts a.txt --texts b.csv --dev dev.tsv \\
          --distil-epochs 10 --cache --out fast
      fastbert adopt my-reranker --texts queries.tsv --text-column query \\
          --pair-column document --out fast
    """

    model: Annotated[
        Path, Option("Folder, or name on the hub, of a fine-tuned classifier and its tokenizer.", metavar="CLASSIFIER")
    ]
    out: Annotated[Path, Option("Folder of the run.", panel=RUN)] = Path("fastbert-adopted")

    def _look_at_model(self) -> Classes | None:
        from fastbert_cli.inputs import look_at_classifier

        return look_at_classifier(self.model)

    def _load_model(self) -> Loaded:
        from fastbert_cli.models import adopt_model

        return adopt_model(str(self.model))

    @property
    def _words(self) -> tuple[str, ...]:
        return ("adopt", str(self.model))
