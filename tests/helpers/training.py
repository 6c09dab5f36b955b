"""A tiny model, tokenizer and data set that the tests of training share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from fastbert_hf.data import ClassificationData
from fastbert_hf.training import DISTILLATION, FINE_TUNING

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "the", "film", "was", "very"]
_QUICK: dict[str, Any] = dict(epochs=2, learning_rate=2e-3, batch_size=8, max_length=16)
QUICK = replace(FINE_TUNING, **_QUICK)
QUICK_DISTILLATION = replace(DISTILLATION, **_QUICK)

State = dict[str, torch.Tensor]


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def make_data(size: int = 60) -> ClassificationData:
    """Sentences of several lengths whose class is one word of theirs; 60 is no multiple of the batch size 8."""
    texts = [f"{'very ' * (i % 5)}the film was {'good' if i % 2 else 'bad'} {'very ' * (i % 3)}" for i in range(size)]
    return ClassificationData(texts, None, [i % 2 for i in range(size)], ["bad", "good"])


def make_multi_label_data(size: int = 60) -> ClassificationData:
    """Sentences that may be about both classes, one or none."""
    words = [[word for bit, word in enumerate(("bad", "good")) if i >> bit & 1] for i in range(size)]
    texts = [f"the film was {' '.join(chosen)} {'very ' * (i % 3)}" for i, chosen in enumerate(words)]
    classes = [[bit for bit in range(2) if i >> bit & 1] for i in range(size)]
    return ClassificationData(texts, None, classes, ["bad", "good"], multi_label=True)


def make_model(
    num_layers: int = 3, dropout: float = 0.1, num_labels: int = 2, **options: Any
) -> FastBertForSequenceClassification:
    """A model with the same weights every time; `options` are of its configuration."""
    torch.manual_seed(0)
    backbone = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return FastBertForSequenceClassification(
        FastBertConfig(backbone, num_labels=num_labels, head_hidden_size=16, **options)
    )


def snapshot(module: torch.nn.Module) -> State:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: State, module: torch.nn.Module) -> set[str]:
    """Names of the parameters that differ from `before`."""
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
