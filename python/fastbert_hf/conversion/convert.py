"""From a checkpoint of another FastBERT implementation to a folder that `from_pretrained` loads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastbert_hf.conversion import bitvoyage, uer
from fastbert_hf.conversion.checkpoint import ConversionError, listed, read_settings, read_state_dict
from fastbert_hf.conversion.comparison import Comparison, compare
from fastbert_hf.conversion.original import Original
from fastbert_hf.conversion.tokenizer import make_tokenizer
from fastbert_hf.files import folder_written_atomically
from fastbert_hf.modeling import FastBertForSequenceClassification

FORMATS = {
    "fastbert": "the package fastbert (0.2.2)",
    "fastplm": "the package fastplm (1.0.0), BERT and RoBERTa kernels",
    "script": "the authors' script run_fastbert.py (github.com/autoliuweijie/FastBERT)",
    "bitvoyage": "github.com/BitVoyage/FastBERT",
}
REPORT_FILE = "conversion.json"


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        format: a name of `FORMATS`.
        detected: whether the names of the checkpoint decided it.
        mapped: name in the checkpoint -> name in the converted model.
        left_out: name in the checkpoint -> why the converted model does not have it.
        notes: what was decided, and what it means for inputs.
        tokenizer: whether one was made.
        comparison: how far the answers differ.
    """

    format: str
    detected: bool
    mapped: Mapping[str, str]
    left_out: Mapping[str, str]
    notes: Sequence[str]
    tokenizer: bool
    comparison: Comparison


def convert_checkpoint(
    checkpoint: Path,
    folder: Path,
    *,
    format: str | None = None,
    vocabulary: Path | None = None,
    settings: Sequence[Path] = (),
    label_names: Sequence[str] | None = None,
) -> ConversionReport:
    """Convert a checkpoint, compare the converted model with the original's arithmetic, and write it.

    Args:
        checkpoint: state dict that `torch.save` wrote.
        folder: to write; gets config.json, model.safetensors, the report as conversion.json, and the tokenizer.
        format: a name of `FORMATS`; `None`: the names in the checkpoint decide.
        vocabulary: file with a word piece per line; `None`: no tokenizer is written.
        settings: JSON files that configure the original model.
        label_names: of the classes in the order of their ids.

    Raises:
        ConversionError: the checkpoint is of another kind, incomplete, contradicts itself, or holds a model that
            `fastbert_hf` cannot represent; the folder exists. Nothing is written then.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConversionError(f"{folder}: exists; choose another name")
    if format is not None and format not in FORMATS:
        raise ConversionError(f"unknown format {format!r}; choose one of {', '.join(FORMATS)}")
    state = read_state_dict(checkpoint)
    chosen = detect_format(state) if format is None else format
    original = _read(state, read_settings(settings), chosen, label_names)
    notes = list(original.notes)
    if chosen == "fastbert" and format is None:
        notes.append(
            "the names are those of fastbert and of fastplm, which differ in how pairs become tokens; for a checkpoint "
            "of fastplm say --format fastplm"
        )
    if vocabulary is None:
        tokenizer = None
        notes.append("no tokenizer was written, since no vocabulary was given (--vocab)")
    else:
        config = original.config.backbone_config
        tokenizer = make_tokenizer(
            vocabulary, config.vocab_size, original.special_tokens, config.max_position_embeddings
        )
    model = _make_model(original, chosen, notes)
    report = ConversionReport(
        format=chosen,
        detected=format is None,
        mapped=original.mapped,
        left_out=original.left_out,
        notes=notes,
        tokenizer=tokenizer is not None,
        comparison=compare(model, original),
    )
    with folder_written_atomically(folder) as temporary:
        model.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        content = json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=False) + "\n"
        (temporary / REPORT_FILE).write_text(content, encoding="utf-8")
    return report


def detect_format(names: Mapping[str, Any]) -> str:
    """The format whose names these are.

    Raises:
        ConversionError: none.
    """
    if any(name.startswith("kernel.") for name in names):
        return "fastbert"
    if any(name.startswith("graph.") for name in names):
        return "bitvoyage"
    if any(name.startswith("encoder.transformer.") for name in names):
        return "script"
    raise ConversionError(
        f"names such as {listed(sorted(names)[:3])} are of no format known here ({', '.join(FORMATS)}); a plain "
        "encoder without exit heads is loaded with FastBertForSequenceClassification.from_backbone"
    )


def _read(
    state: Mapping[str, torch.Tensor], settings: Mapping[str, Any], format: str, label_names: Sequence[str] | None
) -> Original:
    labels = {} if label_names is None else {"id2label": dict(enumerate(label_names))}
    try:
        if format == "bitvoyage":
            return bitvoyage.read(state, settings, labels)
        return uer.read(state, settings, format, labels)
    except ConversionError:
        raise
    except ValueError as error:  # of the configuration
        raise ConversionError(str(error)) from error


def _make_model(original: Original, format: str, notes: Sequence[str]) -> FastBertForSequenceClassification:
    """In float32 and eval mode."""
    original.config.converted_from = {"format": format, "notes": list(notes)}
    model = FastBertForSequenceClassification(original.config)
    model.load_state_dict({name: value.float() for name, value in original.parameters.items()})
    return model.eval()
