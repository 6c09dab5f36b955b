"""Classifiers of Transformers without early exits, and what they answer."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForSequenceClassification,
)

from fastbert_hf.backbones import layers_of
from helpers.families import LONGEST, PADDING_ID, VOCABULARY, make_backbone_config
from helpers.patched import only_the_fast_path

LENGTHS = [1, 7, LONGEST, 13]


def make_model(family="bert", num_labels=2, problem_type=None, **changes):
    torch.manual_seed(0)
    changes = {"type_vocab_size": 2} | changes if family in ("bert", "electra-base") else changes
    config = make_backbone_config(family, num_labels=num_labels, problem_type=problem_type, **changes)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(1.0 if "norm.weight" in name.lower() else 0.0, 0.1)
    return model


def make_batch(lengths=LENGTHS):
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(PADDING_ID + 1, VOCABULARY, mask.shape).where(mask == 1, PADDING_ID)
    return {"input_ids": ids, "attention_mask": mask}


@torch.inference_mode()
def run(model, batch, **options):
    return model(**batch, **options)


def run_fast(model, batch, **options):
    with only_the_fast_path(model, layers_of(model.base_model)):
        return run(model, batch, **options)


def assert_close(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * max(1.0, float(want.abs().max())))
