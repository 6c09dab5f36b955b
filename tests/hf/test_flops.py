from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fastbert_hf import FastBertConfig
from fastbert_hf.flops import (
    Convention,
    ModelShape,
    executed_flops,
    exit_flops,
    exit_head_flops,
    first_layers_flops,
    flops_speedup,
    full_depth_flops,
    head_flops,
    layer_flops,
    leaving_flops,
)

BERT_BASE = ModelShape(hidden_size=768, intermediate_size=3072, num_layers=12, head_hidden_size=128, num_labels=2)
TINY = ModelShape(hidden_size=8, intermediate_size=16, num_layers=3, head_hidden_size=4, num_labels=5)


def test_the_figure_of_the_paper() -> None:
    assert full_depth_flops(BERT_BASE, 128) == 21_785_247_744
    assert full_depth_flops(ModelShape.from_config(FastBertConfig()), 128) == 21_785_247_744


def test_shape_comes_from_the_configuration() -> None:
    config = FastBertConfig(
        {
            "model_type": "bert",
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
        },
        head_hidden_size=4,
        num_labels=5,
    )
    assert ModelShape.from_config(config) == TINY


def test_linear_layers_counted_by_hand() -> None:
    per_token = 8 * 8 * 4 + 8 * 16 * 2
    assert layer_flops(TINY, 7) == 2 * 7 * per_token
    assert head_flops(TINY, 7) == 2 * (7 * (8 * 4 + 4 * 4 * 4) + 4 * 4)


def test_attention_convention_adds_products_and_the_last_layer() -> None:
    n = 7
    assert layer_flops(TINY, n, "attention") - layer_flops(TINY, n) == 2 * (n * n * 8) * 2
    assert head_flops(TINY, n, "attention") - head_flops(TINY, n) == 2 * (n * n * 4) * 2 + 2 * 4 * 5


def test_exit_zero_costs_a_row_for_each_token_and_pair() -> None:
    shape = replace(TINY, exit_layers=(0, 1, 2, 3))
    bag = 2 * 5 * (7 + 6)
    assert exit_head_flops(shape, 0, 7) == exit_head_flops(shape, 0, 7, "attention") == bag
    layer, head = int(layer_flops(TINY, 7)), int(head_flops(TINY, 7))
    assert exit_flops(shape, [0, 2, 3], 7).tolist() == [bag, bag + 2 * (layer + head), bag + 3 * (layer + head)]
    assert leaving_flops(shape.asking([0, 2]), [7]).ravel().tolist() == [
        bag,
        bag + 2 * layer + head,
        bag + 3 * layer + 2 * head,
    ]
    assert full_depth_flops(shape, 7) == full_depth_flops(TINY, 7) == first_layers_flops(TINY, 3, 7)
    assert flops_speedup(shape, [0], 7) == (3 * layer + head) / bag
    with pytest.raises(ValueError, match=r"exit layers must lie in 1\.\.3"):
        exit_flops(TINY, [0], 7)


def test_executed_flops_sum_over_samples() -> None:
    expected = sum(k * int(layer_flops(TINY, n) + head_flops(TINY, n)) for k, n in [(1, 5), (3, 9), (2, 1)])
    assert executed_flops(TINY, [1, 3, 2], [5, 9, 1]) == expected
    assert executed_flops(TINY, torch.tensor([1, 3, 2]), np.array([5, 9, 1], dtype=np.int32)) == expected
    assert executed_flops(TINY, [], []) == 0


@pytest.mark.parametrize(
    ("dense_layers", "linear", "last"),
    [(0, 0, 8 * 5), (1, 8 * 4, 4 * 5), (2, 8 * 4 + 4 * 4, 4 * 5)],
)
def test_pooled_head_costs_a_sample_not_a_token(dense_layers: int, linear: int, last: int) -> None:
    shape = replace(TINY, head_type="pooled", head_num_dense_layers=dense_layers)
    assert head_flops(shape, [1, 7, 100]).tolist() == [2 * linear] * 3
    assert head_flops(shape, [1, 7, 100], "attention").tolist() == [2 * (linear + last)] * 3
    assert head_flops(shape, 7).shape == ()
    assert full_depth_flops(shape, 7) == 3 * layer_flops(TINY, 7) + 2 * linear


@pytest.mark.parametrize("head_type", ["attentive", "pooled"])
@pytest.mark.parametrize("convention", ["paper", "attention"])
def test_only_heads_that_exist_are_counted(head_type: str, convention: Convention) -> None:
    shape = replace(TINY, num_layers=6, exit_layers=(2, 3, 6), head_type=head_type)
    layer, head = (int(flops(shape, 9, convention)) for flops in (layer_flops, head_flops))
    for exit_layer, heads in [(2, 1), (3, 2), (6, 3)]:
        assert executed_flops(shape, [exit_layer], 9, convention) == exit_layer * layer + heads * head
    assert executed_flops(shape, [6, 2], [9, 9], convention) == 8 * layer + 4 * head
    assert full_depth_flops(shape, 9, convention) == 6 * layer + head
    assert flops_speedup(replace(shape, exit_layers=(6,)), [6], 9, convention) == 1.0
    with pytest.raises(ValueError, match=r"layers that have an exit head, \[2, 3, 6\]"):
        executed_flops(shape, [4], 9, convention)


def test_shape_of_other_heads_and_layers_comes_from_the_configuration() -> None:
    distilbert = {"model_type": "distilbert", "dim": 8, "hidden_dim": 16, "n_layers": 3, "n_heads": 2}
    config = FastBertConfig(
        distilbert, head_type="pooled", head_num_dense_layers=2, head_hidden_size=4, num_labels=5, exit_layers=[1, 3]
    )
    expected = replace(TINY, head_type="pooled", head_num_dense_layers=2, exit_layers=(1, 3))
    assert ModelShape.from_config(config) == expected


@pytest.mark.parametrize("convention", ["paper", "attention"])
def test_speedup(convention: str) -> None:
    # All at layer 1 of 12: nearly 12, less the heads. None before the last: just below 1, as the students cost too.
    first = flops_speedup(BERT_BASE, [1, 1], 128, convention)  # type: ignore[arg-type]
    last = flops_speedup(BERT_BASE, [12, 12], 128, convention)  # type: ignore[arg-type]
    assert 11.5 < first < 12
    assert 0.97 < last < 1
    assert flops_speedup(BERT_BASE, [1, 12], 128) == pytest.approx(
        2 * full_depth_flops(BERT_BASE, 128) / executed_flops(BERT_BASE, [1, 12], 128)
    )


def test_long_samples_weigh_more() -> None:
    assert flops_speedup(TINY, [1, 3], [100, 2]) > flops_speedup(TINY, [1, 3], [2, 100])


def test_many_samples_do_not_overflow() -> None:
    assert executed_flops(BERT_BASE, np.full(100_000, 12), 128) == 100_000 * executed_flops(BERT_BASE, [12], 128)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="paper, attention"):
        layer_flops(TINY, 7, "macs")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        layer_flops(TINY, [3, 0])
    with pytest.raises(ValueError, match="must be integers"):
        head_flops(TINY, 2.5)
    with pytest.raises(ValueError, match="1..3"):
        executed_flops(TINY, [4], [5])
    with pytest.raises(ValueError, match="1..3"):
        executed_flops(TINY, [0], [5])
    with pytest.raises(ValueError, match="lengths"):
        executed_flops(TINY, [1, 2], [5, 5, 5])
    with pytest.raises(ValueError, match="no samples"):
        flops_speedup(TINY, [], [])
