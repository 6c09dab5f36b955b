"""FastBERT (Liu et al., ACL 2020) on Hugging Face Transformers.

Importing `FastBertForSequenceClassification` makes `AutoConfig` and `AutoModelForSequenceClassification` know the model
type `fastbert`, and so does `transformers.pipeline("text-classification")`, which runs every text as the model's
calibrated setting says, or through all layers where it has none; `predict` and `iter_predict` classify many texts with
a Speed. Training, calibration, data, FLOPs accounting and the model card live in the submodules `training`,
`calibration`, `data`, `flops` and `model_card`. Torch and Transformers are loaded with the first name that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastbert_hf.deferred import deferred_names

if TYPE_CHECKING:
    from fastbert_hf.adoption import adopt
    from fastbert_hf.audit import Audit
    from fastbert_hf.configuration import FastBertConfig
    from fastbert_hf.exits.rule import ExitRule
    from fastbert_hf.modeling import FastBertForSequenceClassification
    from fastbert_hf.outputs import FastBertOutput
    from fastbert_hf.prediction import Predictions, iter_predict, predict
    from fastbert_hf.ranking import Ranking, ScoreBounds, rank
else:  # not for type checkers, which would take any name for one that is there
    __getattr__, __dir__ = deferred_names(
        __name__,
        {
            "adoption": ("adopt",),
            "audit": ("Audit",),
            "configuration": ("FastBertConfig",),
            "exits.rule": ("ExitRule",),
            "modeling": ("FastBertForSequenceClassification",),
            "outputs": ("FastBertOutput",),
            "prediction": ("Predictions", "iter_predict", "predict"),
            "ranking": ("Ranking", "ScoreBounds", "rank"),
        },
    )

__all__ = [
    "Audit",
    "ExitRule",
    "FastBertConfig",
    "FastBertForSequenceClassification",
    "FastBertOutput",
    "Predictions",
    "Ranking",
    "ScoreBounds",
    "adopt",
    "iter_predict",
    "predict",
    "rank",
]
