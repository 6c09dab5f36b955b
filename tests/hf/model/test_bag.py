"""Exit zero: the hashed bag against its formula, and a model that has one."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from fastbert_hf import ExitRule, FastBertForSequenceClassification
from fastbert_hf.bag import HashedBag
from helpers.models import padded_batch, spread_model, with_exit_zero

LENGTHS = [7, 1, 30, 2, 12, 5, 9, 21, 3, 17]


def bucket_of(token: int, following: int, buckets: int) -> int:
    """The hash in Python's own integers."""
    mixed = (token * 0x9E3779B1 + following * 0x85EBCA77) % 2**32
    mixed = (mixed ^ mixed >> 15) * 0x2C1B3C6D % 2**32
    mixed = (mixed ^ mixed >> 12) * 0x297A2D39 % 2**32
    return (mixed ^ mixed >> 15) % buckets


def test_logits_are_those_of_the_formula() -> None:
    bag = HashedBag(64, 3).double()
    torch.nn.init.normal_(bag.table)
    torch.nn.init.normal_(bag.bias)
    ids, mask = padded_batch([5, 1, 9], vocabulary=2**17).values()
    ids, mask = torch.cat([ids, ids.flip(1)]), torch.cat([mask, mask.flip(1)])  # padding on either side
    logits = bag(ids, mask)
    for row, valid, got in zip(ids, mask.bool(), logits, strict=True):
        words = row[valid].tolist()
        grams = [(word, 0) for word in words] + [(a, b + 1) for a, b in itertools.pairwise(words)]
        total = sum(bag.table[bucket_of(*gram, 64)] for gram in grams)
        torch.testing.assert_close(got, total / math.sqrt(2 * len(words) - 1) + bag.bias)
    assert torch.equal(bag(ids[2:3, :9]), logits[2:3]) and torch.equal(bag(ids[:0], mask[:0]), logits[:0])


def test_all_buckets_are_used_alike() -> None:
    bag = HashedBag(1024, 2)
    ids = torch.arange(50_000).view(1, -1)
    with torch.no_grad():
        bag.table[:512, 0] = 1
        share = bag(ids)[0, 0] / math.sqrt(2 * 50_000 - 1)
    assert abs(share - 0.5) < 0.01


@pytest.mark.parametrize(
    "speed",
    [0.5, [0.5, 0.4, 0.0, 0.6], ExitRule((0, 2), (0.7, 0.3)), ExitRule((0, 1, 3), criterion="patience", parameter=2)],
)
@torch.no_grad()
def test_adaptive_inference_selects_from_all_exits(speed: object) -> None:
    model, batch = with_exit_zero(spread_model()), padded_batch(LENGTHS)
    every = model(**batch, speed=speed, output_all_exits=True)
    assert every.all_logits.shape == (len(LENGTHS), 5, 3)
    assert torch.equal(every.all_logits[:, 0], model.exit_zero(batch["input_ids"], batch["attention_mask"]))
    output = model(**batch, speed=speed)
    assert torch.equal(output.exit_layer, every.exit_layer)
    torch.testing.assert_close(output.logits, every.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.uncertainty, every.uncertainty, rtol=1e-5, atol=1e-5)
    if not isinstance(speed, ExitRule) or speed.parameter == 0:
        leaves = every.all_uncertainty[:, 0] < (speed.speeds[0] if isinstance(speed, ExitRule) else 0.5)
        assert torch.equal(output.exit_layer == 0, leaves) and 0 < leaves.sum() < len(LENGTHS)


@torch.no_grad()
def test_where_it_is_not_asked_nothing_changes() -> None:
    plain, model, batch = spread_model(), with_exit_zero(spread_model()), padded_batch(LENGTHS)
    for asked in ((None, None), (ExitRule((1, 3), (0.5, 0.6)),) * 2, ([0.0, 0.5, 0.4, 0.6], [0.5, 0.4, 0.6])):
        for name, value in model(**batch, speed=asked[0]).items():
            assert torch.equal(value, plain(**batch, speed=asked[1])[name])


@torch.no_grad()
def test_everybody_leaves_and_no_layer_runs() -> None:
    model, batch = with_exit_zero(spread_model()), padded_batch(LENGTHS)
    model.layers[0].register_forward_hook(lambda *_: pytest.fail("a layer ran"))
    output = model(**batch, speed=ExitRule((0,), (1.0,)))
    assert output.exit_layer.tolist() == [0] * len(LENGTHS)
    fresh = HashedBag(16, 3)(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(fresh, torch.zeros_like(output.logits))


def test_saved_and_loaded(tmp_path: Path) -> None:
    model, batch = with_exit_zero(spread_model()), padded_batch(LENGTHS)
    model.save_pretrained(tmp_path)
    loaded = FastBertForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.exit_layers == [0, 1, 2, 3, 4] and loaded.config.first_exit == 0
    with torch.no_grad():
        assert torch.equal(loaded(**batch, speed=0.5).logits, model(**batch, speed=0.5).logits)


def test_refusals() -> None:
    model = with_exit_zero(spread_model())
    embedded = {"inputs_embeds": torch.randn(2, 5, 32)}
    for asked in ({"speed": 0.5}, {"output_all_exits": True}):
        with pytest.raises(ValueError, match="exit zero reads token ids and inputs_embeds has none"):
            model(**embedded, **asked)
    assert model(**embedded, speed=ExitRule((1,), (0.5,))).logits.shape == (2, 3)
    for change, message in (
        ({"exit_zero_buckets": 100}, "must be a power of 2"),
        ({"problem_type": "regression", "num_labels": 1}, "exit zero is for models with classes"),
        ({"exit_layers": [0, 1]}, "end with the last"),
    ):
        with pytest.raises(ValueError, match=message):
            type(model.config)(**{"backbone_config": model.config.backbone_config, "exit_layers": [0, 4]} | change)
