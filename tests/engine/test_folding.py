"""The folded head is the unfolded head: exact algebra, so equal to rounding in float64."""

from __future__ import annotations

import pytest
import torch

from fastbert_hf.exits.uncertainty import normalised_entropy
from fastbert_hf.heads import AttentiveHead
from fastbert_kernels import reference
from helpers.models import folded_head
from helpers.op_inputs import cu_seqlens_of


@pytest.mark.parametrize(
    ("hidden_size", "narrow", "heads", "labels"), [(768, 128, 2, 2), (48, 64, 1, 7), (64, 96, 3, 3), (40, 64, 8, 300)]
)
def test_folded_equals_unfolded_in_float64(hidden_size, narrow, heads, labels):
    lengths = [1, 2, 7, 64, 129]
    head = AttentiveHead(hidden_size, narrow, heads, labels).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    packed = torch.randn(sum(lengths), hidden_size, dtype=torch.float64)
    padded = torch.nn.utils.rnn.pad_sequence(packed.split(lengths), batch_first=True)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]

    folded = folded_head(head, torch.float64)
    with torch.no_grad():
        logits, uncertainty, _, _ = reference.attentive_head(
            packed, cu_seqlens_of(lengths), torch.ones(5), folded.tensors
        )
        want = head(padded, mask)
    assert (logits - want).abs().max() < 1e-12
    assert (uncertainty - normalised_entropy(want)).abs().max() < 1e-6  # the model reports float32


def test_folding_leaves_the_head_alone():
    head = AttentiveHead(48, 64, 2, 3)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    folded_head(head, torch.bfloat16)
    assert before.keys() == head.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())
