"""The command `convert`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastbert_cli.errors import reported


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
        from fastbert_cli.convert.run import ConvertSettings, run_convert

        run_convert(ConvertSettings(checkpoint, to, format, vocab, tuple(config or ()), tuple(label or ())))
