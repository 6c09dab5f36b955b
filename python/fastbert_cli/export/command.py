"""The command `export`: its options and help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from fastbert_cli import options
from fastbert_cli.command import Command, Option
from fastbert_cli.errors import CommandError


@dataclass(frozen=True)
class Export(Command):
    """Write an adopted FastBERT as the plain classifier of Transformers that it is at full depth.

    \b
    The folder is one that AutoModelForSequenceClassification and pipeline
    load without this package. Student classifiers are left out.

    \b
    Example:
      fastbert export fast/model --to plain
    """

    extra: ClassVar[str] = "hf"
    model: options.SavedModel
    to: Annotated[Path, Option("Folder to write.")]

    def look(self) -> None:
        """Look for the model, and that nothing is in the way of the folder."""
        from fastbert_cli.inputs import look_at_model

        look_at_model(self.model)
        if self.to.exists():
            raise CommandError(f"{self.to}: exists; choose another name")

    def run(self) -> None:
        """Write the folder."""
        from transformers.utils import logging

        from fastbert_cli.errors import faults_explained
        from fastbert_cli.models import load_model
        from fastbert_hf.adoption import export_classifier
        from fastbert_hf.files import folder_written_atomically

        logging.disable_progress_bar()
        model, tokenizer = load_model(self.model)
        with faults_explained(str(self.model)):
            plain = export_classifier(model)
            with folder_written_atomically(self.to) as folder:
                plain.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
        print(f"written: {self.to}, a {type(plain).__name__}")

    def stopped(self) -> str:
        """Return that the folder is not there."""
        return f"stopped; {self.to} was not written"
