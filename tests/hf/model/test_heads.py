from __future__ import annotations

import math

import pytest
import torch

from fastbert_hf.heads import ACTIVATIONS, POOLINGS, AttentiveHead, PooledHead


def full_self_attention(head: AttentiveHead, hidden: torch.Tensor) -> torch.Tensor:
    """The head of the paper written out for one sample [n, H] without padding: every token attends to every token."""
    z = torch.tanh(head.projection(hidden))  # [n, C]
    width = z.shape[1] // head.num_attention_heads
    context = []
    for i in range(head.num_attention_heads):
        part = slice(i * width, (i + 1) * width)
        query, key, value = (layer(z)[:, part] for layer in (head.query, head.key, head.value))
        context.append(torch.softmax(query @ key.T / math.sqrt(width), dim=-1) @ value)
    mixed = head.attention_output(torch.cat(context, dim=1))
    return head.classifier(torch.tanh(head.dense(mixed[0])))


def make_head(num_labels: int = 3) -> AttentiveHead:
    torch.manual_seed(0)
    return AttentiveHead(24, 16, 2, num_labels).double()


@pytest.mark.parametrize("length", [1, 2, 5, 63])
def test_head_is_the_papers_head(length: int) -> None:
    head = make_head()
    hidden = torch.randn(2, length, 24, dtype=torch.float64)
    expected = torch.stack([full_self_attention(head, row) for row in hidden])
    torch.testing.assert_close(head(hidden), expected, rtol=0, atol=1e-12)


def test_head_without_activations_is_linear_for_one_token() -> None:
    """Attention over one token has the weight 1, so everything left is a product of matrices."""
    head = AttentiveHead(24, 16, 2, 3, activation="identity").double()
    zero, one, other = torch.zeros(1, 1, 24).double(), *torch.randn(2, 1, 1, 24).double()
    torch.testing.assert_close(head(one) + head(other) - head(zero), head(one + other), rtol=0, atol=1e-12)
    assert (make_head()(one) + make_head()(other) - make_head()(zero) - make_head()(one + other)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="unknown activation 'relu'; choose one of tanh, identity"):
        AttentiveHead(24, 16, 2, 3, activation="relu")


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padding_of_any_amount_and_content_does_not_matter(side: str) -> None:
    head = make_head()
    sample = torch.randn(5, 24, dtype=torch.float64)
    left, right = {"left": (4, 0), "right": (0, 4), "both": (1, 7)}[side]
    garbage = torch.full((left + 5 + right, 24), 1e3, dtype=torch.float64)
    garbage[left : left + 5] = sample
    mask = torch.zeros(left + 5 + right, dtype=torch.int64)
    mask[left : left + 5] = 1
    for form in (mask, mask.bool(), mask.float()):
        torch.testing.assert_close(
            head(garbage[None], form[None])[0], full_self_attention(head, sample), rtol=0, atol=1e-12
        )


def test_parameter_count_of_bert_base_head() -> None:
    head = AttentiveHead(768, 128, 2, 7)
    assert sum(p.numel() for p in head.parameters()) == 180_992 + 129 * 7


def test_width_must_be_divisible_by_heads() -> None:
    with pytest.raises(ValueError, match="divisible"):
        AttentiveHead(24, 16, 3, 2)


def pooled_by_hand(head: PooledHead, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of one sample without padding, token by token; `tokens` [n, H]."""
    if head.pooling == "first":
        features = tokens[0]
    elif head.pooling == "mean":
        features = torch.stack([tokens[:, channel].sum() / len(tokens) for channel in range(tokens.shape[1])])
    else:
        features = torch.stack([max(tokens[:, channel]) for channel in range(tokens.shape[1])])
    by_hand = {
        "tanh": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
        "relu": lambda x: x * (x > 0),
        "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    }
    for layer in head.dense:
        features = by_hand[head.activation](layer.weight @ features + layer.bias)
    return head.classifier.weight @ features + head.classifier.bias


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("num_dense_layers", [0, 1, 2])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 3), (4, 0), (2, 5)])
def test_pooled_head_sees_valid_tokens_only(
    pooling: str, num_dense_layers: int, activation: str, left: int, right: int
) -> None:
    head = PooledHead(24, 16, 3, pooling=pooling, num_dense_layers=num_dense_layers, activation=activation).double()
    samples = [torch.randn(length, 24, dtype=torch.float64) for length in (1, 5, 7)]
    width = left + 7 + right
    hidden = torch.full((3, width, 24), 1e3, dtype=torch.float64)  # would win a maximum and shift a mean
    hidden[:, ::2] = math.nan  # what padding holds is nobody's business
    mask = torch.zeros(3, width, dtype=torch.int64)
    for row, sample in enumerate(samples):
        hidden[row, left : left + len(sample)] = sample
        mask[row, left : left + len(sample)] = 1
    expected = torch.stack([pooled_by_hand(head, sample) for sample in samples])
    for form in (mask, mask.bool(), mask.double()):
        torch.testing.assert_close(head(hidden, form), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(head(samples[2][None])[0], expected[2], rtol=0, atol=1e-12)


def test_mean_of_a_long_row_in_bfloat16_is_that_of_float32() -> None:
    head = PooledHead(24, 16, 3, pooling="mean", num_dense_layers=0)
    hidden = (torch.randn(1, 1000, 24) + 1).bfloat16()
    mask = torch.ones(1, 1000)
    expected = head(hidden.float(), mask)
    torch.testing.assert_close(head.bfloat16()(hidden, mask).float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("num_dense_layers", "widths"), [(0, []), (1, [(24, 16)]), (2, [(24, 16), (16, 16)])])
def test_shape_of_the_pooled_head(num_dense_layers: int, widths: list[tuple[int, int]]) -> None:
    head = PooledHead(24, 16, 3, num_dense_layers=num_dense_layers)
    assert [(layer.in_features, layer.out_features) for layer in head.dense] == widths
    assert (head.classifier.in_features, head.classifier.out_features) == (16 if widths else 24, 3)


def test_pooled_head_of_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="unknown pooling 'last'; choose one of first, mean, max"):
        PooledHead(24, 16, 3, pooling="last")
    with pytest.raises(ValueError, match="unknown activation 'silu'; choose one of tanh, relu, gelu"):
        PooledHead(24, 16, 3, activation="silu")
