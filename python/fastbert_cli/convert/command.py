"""The command `convert`: its options and help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastbert_cli.command import Command, Option
from fastbert_cli.errors import CommandError


@dataclass(frozen=True)
class Convert(Command):
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

    checkpoint: Annotated[Path, Option("State dict in a file of torch.save.", metavar="CHECKPOINT")]
    to: Annotated[Path, Option("Folder to write.")]
    format: Annotated[
        str | None, Option("fastbert, fastplm, script or bitvoyage. Default: what the names in the checkpoint say.")
    ] = None
    vocab: Annotated[Path | None, Option("Vocabulary, a word piece per line. Default: no tokenizer is written.")] = None
    config: Annotated[
        tuple[Path, ...],
        Option("JSON file that configures the original model; may be repeated. Not needed for known sizes."),
    ] = ()
    label: Annotated[tuple[str, ...], Option("Name of a class; once for each, in the order of their numbers.")] = ()

    def look(self) -> None:
        """Look for the files, and that nothing is in the way of the folder."""
        for file in (self.checkpoint, *self.config, *(() if self.vocab is None else (self.vocab,))):
            if not file.is_file():
                reason = "a folder" if file.is_dir() else "no such file"
                raise CommandError(f"{file}: cannot be read ({reason}); check the path")
        if self.to.exists():
            raise CommandError(f"{self.to}: exists; choose another name")

    def run(self) -> None:
        """Convert the checkpoint."""
        from fastbert_cli.convert.run import run_convert

        run_convert(self)

    def stopped(self) -> str:
        """Return that the folder is not there."""
        return f"stopped; {self.to} was not written"
