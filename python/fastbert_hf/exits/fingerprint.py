"""A short name for the weights that a calibration holds for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig

# What a configuration says of training, generation, tasks of others and the length of texts, none of which is part of
# an answer. All other fields are taken to be, also those that a backbone of another kind brings.
_OTHER_FIELDS = {
    "add_cross_attention",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "trained_max_length",
    "trained_stride",
    "use_cache",
}
_OTHER_PARTS = ("classifier_", "dropout", "initializer_", "summary_")


def model_fingerprint(model: Any) -> str:
    """Return the SHA-256, in hexadecimal, of a FastBERT model: of what its configuration says about answers (exit
    layers, kind of heads, activations, epsilons, attention heads, ...) and of all parameters and buffers, with names,
    dtypes, shapes and bytes.

    The same on every device and whether the model is patched or not; another after a training step or in another dtype.
    Names of classes may change.
    """
    config = model.config
    fields = _answering(config) | {"problem_type": config.problem_type, "backbone": _answering(config.backbone_config)}
    return _fingerprint_of(model.state_dict(), json.dumps(fields, sort_keys=True, default=str))


def is_of(fingerprint: str, model: Any) -> bool:
    """Return whether a `model_fingerprint` is of this model; of a file of before, which took nothing but exit layers,
    parameters and buffers, whether those are."""
    if fingerprint == model_fingerprint(model):
        return True
    return fingerprint == _fingerprint_of(model.state_dict(), repr(list(model.config.exit_layers)))


def full_depth_fingerprint(model: Any) -> str:
    """Return the same of what full depth runs alone: the backbone and the teacher classifier."""
    parts = ("backbone.", f"heads.{len(model.heads) - 1}.")
    return _fingerprint_of({name: value for name, value in model.state_dict().items() if name.startswith(parts)})


def _answering(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the fields of a configuration that answers may depend on: of its own class, without `_OTHER_FIELDS`."""
    of_all_models = PreTrainedConfig().to_dict()
    return {
        name: value
        for name, value in config.to_dict().items()
        if name not in of_all_models
        and name not in _OTHER_FIELDS
        and name not in config.sub_configs
        and not any(part in name for part in _OTHER_PARTS)
    }


def _fingerprint_of(tensors: Mapping[str, torch.Tensor], more: str = "") -> str:
    digest = hashlib.sha256(more.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
