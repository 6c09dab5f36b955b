"""`fastbert.FastBERT` and its pair version `FastBERT_S2`, of the paper's authors (`fastbert` 0.2.2 on PyPI).

Every text is segment 1. `hosts/uer_models.py` has the rest.
"""

from __future__ import annotations

from typing import Any

from fastbert_kernels.engine.dtypes import EncoderDtype
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.hosts.parameters import Parameters
from fastbert_kernels.hosts.uer_layers import LAYER_NORM, check_kinds
from fastbert_kernels.hosts.uer_models import (
    attentive_head_parameters,
    attentive_head_weights,
    check_first_token,
    check_methods,
    derived_encoder,
    entropy_decision,
    is_a,
    text_and_pair_hosts,
)

_MODULE = "fastbert.fastbert"


def encoder(model: Any, dtype: EncoderDtype | None, backend: str) -> Derived[Encoder]:
    check_methods(
        model,
        _MODULE,
        forward="FastBERT_S2" if is_a(model, _MODULE, "FastBERT_S2") else "FastBERT",
        _fast_infer="FastBERT",
    )
    if model.labels_num < 2:
        raise ValueError("a model with one label has nothing to decide and cannot be patched")
    check_kinds(model.kernel.encoder, {"": "encoders.bert_encoder.BertEncoder"}, "the encoder")
    check_kinds(
        model.kernel.embedding, {"": "layers.embeddings.BertEmbedding", "layer_norm": LAYER_NORM}, "the embedding"
    )
    layers, heads = list(model.kernel.encoder.transformer), list(model.classifiers)
    return derived_encoder(
        model, model.kernel.embedding, layers, heads, _head_parameters, attentive_head_weights, dtype, backend
    )


def _head_parameters(head: Any) -> Parameters:
    if (type(head).__module__, type(head).__qualname__) != (_MODULE, "BertMiniClassifier"):
        raise ValueError(
            f"exit heads of the kind {type(head).__name__} cannot be patched, only BertMiniClassifier; the unpatched "
            "model serves them"
        )
    check_first_token(head)
    return attentive_head_parameters(head)


HOST, PAIR_HOST = text_and_pair_hosts(("fastbert.FastBERT", "fastbert.FastBERT_S2"), _MODULE, encoder, entropy_decision)
