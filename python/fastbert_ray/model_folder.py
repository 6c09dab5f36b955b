"""A saved model in a process of Ray: loaded, patched, and with as many threads as Ray gave it processors."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import fastbert_kernels
from fastbert_hf.modeling import FastBertForSequenceClassification

# Without "auto", which measures the machine at hand: another machine of the cluster might answer in another precision.
Dtype = Literal["weights", "fp32", "bf16", "int8"]
_DTYPES = {"weights": None, "fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def check_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the absolute path of the folder of a saved FastBERT.

    Raises:
        ValueError: another thing is there.
    """
    path = Path(os.path.abspath(folder))
    try:
        kind = json.loads((path / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no saved model; name the folder that fastbert train or adopt wrote") from error
    if kind != "fastbert":
        raise ValueError(f"{path}: a {kind}, no FastBERT; fastbert_hf.adoption.adopt makes one of a plain classifier")
    return path


def digest_of(folder: Path) -> str:
    """Return the SHA-256, in hexadecimal, of the names and bytes of all files in `folder`: weights, configuration,
    calibrated setting and tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        digest.update(f"{len(name)} {name} {path.stat().st_size} ".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def load(folder: Path) -> tuple[FastBertForSequenceClassification, PreTrainedTokenizerBase]:
    """Return the model, in eval mode and not patched, and its tokenizer; errors are those of Transformers."""
    return FastBertForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def load_patched(folder: Path, dtype: Dtype, threads: int) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return the model on the fast kernels and its tokenizer, for a process that has `threads` processors to itself.

    Raises:
        TypeError, ValueError: a model that `fastbert_kernels.patch` does not take.
    """
    torch.set_num_threads(threads)
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # of the tokenizers, which read it when they begin
    model, tokenizer = load(folder)
    return fastbert_kernels.patch(model, dtype=_DTYPES[dtype], warm_up="on demand"), tokenizer
