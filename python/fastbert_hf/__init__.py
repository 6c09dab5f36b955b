"""FastBERT (Liu et al., ACL 2020) on Hugging Face Transformers.

Importing this package makes `AutoConfig` and `AutoModelForSequenceClassification` know the model type
`fastbert`, and so does `transformers.pipeline("text-classification")`, which runs every text as the model's calibrated
setting says, or through all layers where it has none; `predict` and `iter_predict` classify many texts with a Speed.
Training, calibration, data, FLOPs accounting and the model card live in the submodules `training`, `calibration`,
`data`, `flops` and `model_card`.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForSequenceClassification

from fastbert_hf.configuration import FastBertConfig
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.outputs import FastBertOutput
from fastbert_hf.prediction import Predictions, iter_predict, predict

AutoConfig.register(FastBertConfig.model_type, FastBertConfig, exist_ok=True)
AutoModelForSequenceClassification.register(FastBertConfig, FastBertForSequenceClassification, exist_ok=True)

__all__ = [
    "ExitRule",
    "FastBertConfig",
    "FastBertForSequenceClassification",
    "FastBertOutput",
    "Predictions",
    "iter_predict",
    "predict",
]
