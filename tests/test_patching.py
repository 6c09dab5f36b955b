"""patch(model): the same answers as the unpatched model, and nothing of it left behind after unpatch."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
import re
import unittest.mock
from pathlib import Path

import pytest
import torch

import fastbert_kernels
from fastbert_hf.exits.rule import ExitRule
from fastbert_kernels import patching
from fastbert_kernels.engine.spans import Encoder
from fastbert_kernels.hosts import fastbert_hf
from helpers.models import padded_batch, spread_model
from helpers.patched import (
    assert_compiled_model_answers_alike,
    assert_same_answers,
    assert_same_answers_at,
    run,
)

MIXED = {
    0: [],
    1: [17],
    2: [1, 512],
    7: [3, 512, 1, 64, 65, 2, 200],
    32: [1, 2, 3, 128, 5, 64, 63, 65] * 4,
}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("size", MIXED)
def test_patched_equals_unpatched(backend, size):
    assert_same_answers_at((None, 0.0, 0.3, 0.5, 0.8, 1.0), spread_model(), padded_batch(MIXED[size]), backend)


@pytest.mark.parametrize("size", [1, 7, 32])
def test_a_speed_for_each_sample(size):
    unpatched, _, _ = assert_same_answers(spread_model(), padded_batch(MIXED[size]), torch.rand(size))
    if size == 32:
        assert (
            unpatched.exit_layer.unique().numel() >= 3
        )  # samples leave here and there, so the comparison means something


@pytest.mark.parametrize(("speed", "layer"), [(1.0, 1), (0.0, 4)])
def test_all_exit_at_the_first_layer_or_none_before_the_last(speed, layer):
    _, patched, _ = assert_same_answers(spread_model(), padded_batch(MIXED[7]), speed)
    assert patched.exit_layer.tolist() == [layer] * 7


@pytest.mark.parametrize(("dtype", "decided_share"), [(torch.bfloat16, 0.2), (torch.int8, 0.05)])
def test_low_precision_is_close(dtype, decided_share):
    _, patched, decided = assert_same_answers(spread_model(), padded_batch(MIXED[32]), 0.5, dtype=dtype)
    assert decided.float().mean() > decided_share  # far enough from Speed at every layer; with 4 layers that is not all
    assert patched.exit_layer.unique().numel() > 1


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.int8])
def test_low_precision_is_close_at_full_depth(dtype):
    assert_same_answers(spread_model(), padded_batch(MIXED[7]), None, dtype=dtype)


def test_torch_compile_gives_the_same_answers():
    assert_compiled_model_answers_alike(fastbert_kernels.patch(spread_model()), padded_batch(MIXED[7]))


@pytest.mark.parametrize("strict", [False, True])
def test_torch_export_says_why_it_cannot(strict):
    model, batch = fastbert_kernels.patch(spread_model()), padded_batch(MIXED[7])
    with torch.no_grad(), pytest.raises(Exception, match="the data decides which layers run"):
        torch.export.export(model, (), batch, strict=strict)


@pytest.mark.proof  # a thousand batches
def test_memory_does_not_grow_over_a_thousand_batches():
    """Of random shapes, as a server sees them; on Linux, where the process knows its own size."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc/self/status to read the resident size from")

    def resident():
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read_text())[1]) / 1024

    model, sizes = fastbert_kernels.patch(spread_model()), []
    for number in range(1000):
        batch = padded_batch(torch.randint(1, 129, (int(torch.randint(1, 17, ())),)).tolist())
        run(model, batch, speed=0.5)
        if number % 100 == 99:
            sizes.append(resident())
    # Later maxima against early ones: allocators keep what they have had, and no more may come.
    assert max(sizes[-3:]) < max(sizes[:5]) + 8, sizes


def test_a_warm_up_comes_with_the_patch_and_with_every_new_encoder(monkeypatch):
    """Not with a call, unless weights were changed: then its first is that of a new encoder."""
    warmed = []
    monkeypatch.setattr(Encoder, "warm_up", lambda encoder, shapes, *others: warmed.append((encoder, shapes)))
    model, batch = spread_model(), padded_batch([5, 9])
    fastbert_kernels.patch(model, warm_up=[(100, 4, 64)])
    assert [shapes for _, shapes in warmed] == [((100, 4, 64),)]
    for _ in range(2):
        run(model, batch, speed=0.5)
    assert len(warmed) == 1
    with torch.no_grad():
        next(model.heads[0].parameters()).mul_(0.5)
    for _ in range(2):
        run(model, batch, speed=0.5)
    assert len(warmed) == 2 and warmed[0][0] is not warmed[1][0]
    run(copy.deepcopy(model), batch, speed=0.5)
    assert len(warmed) == 3


def test_padding_segments_and_mask_form_do_not_matter():
    model = spread_model()
    batch = padded_batch([5, 9, 3])
    batch["token_type_ids"] = torch.randint(0, 2, batch["input_ids"].shape)
    assert_same_answers(model, batch, 0.5)
    fastbert_kernels.patch(model)
    want = run(model, batch, speed=0.5)
    left = {}
    for name, tensor in batch.items():
        rows = [torch.cat([row[n:], row[:n]]) for row, n in zip(tensor, (5, 9, 3), strict=True)]
        left[name] = torch.nn.functional.pad(torch.stack(rows), (4, 0))
    for other in (left, {**batch, "attention_mask": batch["attention_mask"].bool()}):
        got = run(model, other, speed=0.5)
        assert torch.equal(got.exit_layer, want.exit_layer)
        torch.testing.assert_close(got.logits, want.logits, rtol=0, atol=1e-4)
    no_padding = {name: tensor[1:2] for name, tensor in batch.items()}
    del no_padding["attention_mask"]
    torch.testing.assert_close(run(model, no_padding, speed=0.5).logits, want.logits[1:2], rtol=0, atol=1e-4)


def test_loss_and_all_exits():
    model, batch = spread_model(), padded_batch(MIXED[7])
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    want = run(model, batch, labels=labels, speed=0.5)
    every = run(model, batch, output_all_exits=True)
    fastbert_kernels.patch(model)
    torch.testing.assert_close(run(model, batch, labels=labels, speed=0.5).loss, want.loss, rtol=1e-4, atol=1e-4)
    for speed in (0.0, 0.5, torch.rand(7)):
        want = run(fastbert_kernels.unpatch(model), batch, speed=speed, output_all_exits=True)
        got = run(fastbert_kernels.patch(model), batch, speed=speed, output_all_exits=True)
        torch.testing.assert_close(got.all_logits, every.all_logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got.all_uncertainty, every.all_uncertainty, rtol=1e-4, atol=1e-4)
        assert torch.equal(got.exit_layer, want.exit_layer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_all_exits_are_those_of_the_precision_that_runs(dtype):
    """Calibration sees the uncertainties by which samples leave, not those of another precision."""
    model, batch = fastbert_kernels.patch(spread_model(), backend="cpu", dtype=dtype), padded_batch(MIXED[7])
    every = run(model, batch, output_all_exits=True)
    assert not torch.allclose(every.all_logits, run(spread_model(), batch, output_all_exits=True).all_logits, atol=1e-4)
    for layer, head in enumerate(model.config.exit_layers[:-1]):
        got = run(model, batch, speed=ExitRule(layers=(head,), speeds=(1.0,)))
        leaves = every.all_uncertainty[:, layer] < 1.0
        assert torch.equal(got.logits[leaves], every.all_logits[leaves, layer])
    assert torch.equal(run(model, batch).logits, every.all_logits[:, -1])


def test_all_exits_of_samples_that_are_not_finite():
    model, batch = spread_model(), padded_batch([3, 9, 4])
    with torch.no_grad():
        model.backbone.embeddings.word_embeddings.weight[int(batch["input_ids"][1, 0])] = math.nan
    fastbert_kernels.patch(model)
    with pytest.warns(RuntimeWarning, match="not finite"):
        every = run(model, batch, output_all_exits=True)
    assert every.all_logits[1].isnan().all() and every.exit_layer[1] == 4


def test_unpatch_restores_bit_for_bit():
    model, batch = spread_model(), padded_batch(MIXED[7])
    model.forward = model.forward  # an attribute of the instance, as hooks of other libraries leave it
    attributes, text = dict(model.__dict__), repr(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = run(model, batch, speed=0.5)

    assert fastbert_kernels.patch(model) is model and fastbert_kernels.is_patched(model)
    assert model.state_dict().keys() == state.keys()
    run(model, batch, speed=0.5)
    assert fastbert_kernels.unpatch(model) is model and not fastbert_kernels.is_patched(model)

    assert model.__dict__ == attributes and repr(model) == text
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    after = run(model, batch, speed=0.5)
    assert all(torch.equal(before[name], after[name]) for name in ("logits", "uncertainty", "exit_layer"))
    assert fastbert_kernels.unpatch(model) is model  # nothing to undo


def test_a_forward_given_after_patch_is_called_and_stays():
    model, batch = spread_model(), padded_batch(MIXED[7])
    own = run(model, batch).logits
    inner = fastbert_kernels.patch(model).forward
    fast = run(model, batch).logits
    model.forward = lambda *args, **kwargs: 2 * inner(*args, **kwargs).logits
    assert torch.equal(run(model, batch), 2 * fast)
    with pytest.raises(ValueError, match="has a forward of its own on the instance"):
        fastbert_kernels.patch(model)
    fastbert_kernels.unpatch(model)
    assert torch.equal(run(model, batch), 2 * own)
    del model.forward
    assert torch.equal(run(fastbert_kernels.patch(model), batch).logits, fast)


def test_a_second_model_is_untouched():
    first, second, batch = spread_model(0), spread_model(1), padded_batch(MIXED[7])
    attributes, before = dict(second.__dict__), run(second, batch, speed=0.5)
    fastbert_kernels.patch(first)
    run(first, batch, speed=0.5)
    assert second.__dict__ == attributes and type(first) is type(second)
    assert torch.equal(run(second, batch, speed=0.5).logits, before.logits)


def test_patching_twice_is_harmless():
    model, batch = spread_model(), padded_batch(MIXED[7])
    once = run(fastbert_kernels.patch(model), batch, speed=0.5)
    twice = run(fastbert_kernels.patch(model, backend="reference"), batch, speed=0.5)
    assert torch.equal(once.exit_layer, twice.exit_layer)
    assert "backend=reference" in repr(model) and repr(model).count("patched by") == 1
    fastbert_kernels.unpatch(model)
    assert not fastbert_kernels.is_patched(model) and "patched" not in repr(model)


def test_signature_and_documentation_stay():
    model = spread_model()
    signature, documentation = inspect.signature(model.forward), model.forward.__doc__
    fastbert_kernels.patch(model)
    assert inspect.signature(model.forward) == signature and model.forward.__doc__ == documentation


def test_train_mode_and_autograd_use_the_models_own_forward():
    model, batch = spread_model(), padded_batch(MIXED[7])
    want = model(**batch).logits
    fastbert_kernels.patch(model)
    with pytest.warns(RuntimeWarning, match="inference_mode"):
        got = model(**batch).logits
    assert got.requires_grad and torch.equal(got, want)
    model.train()
    with torch.no_grad():
        assert not torch.equal(model(**batch).logits, model(**batch).logits)  # dropout is on


def test_deepcopy_is_a_patched_model_of_its_own():
    model, batch = spread_model(), padded_batch(MIXED[7])
    want = run(fastbert_kernels.patch(model), batch, speed=0.5)
    other = copy.deepcopy(model)
    assert fastbert_kernels.is_patched(other)
    assert torch.equal(run(other, batch, speed=0.5).logits, want.logits)
    with torch.no_grad():
        other.heads[-1].classifier.weight.zero_()
    assert not torch.equal(run(other, batch).logits, run(model, batch).logits)
    assert torch.equal(run(model, batch, speed=0.5).logits, want.logits)


def test_pickling_says_what_to_do():
    with pytest.raises(TypeError, match="unpatch"):
        pickle.dumps(fastbert_kernels.patch(spread_model()))


def patch_with(model, **fields):
    """`patch` as of a host with more of the fields of `Host`."""
    with unittest.mock.patch.object(patching, "find_host", lambda _: dataclasses.replace(fastbert_hf.HOST, **fields)):
        return fastbert_kernels.patch(model)


def widest(model, encoder, scale, *, shift=0):
    """Return a width that goes by the number of labels, and the model."""
    return scale * encoder.num_labels + shift, model


def test_methods_of_a_host_come_and_go():
    model = spread_model()
    attributes = dict(model.__dict__)
    for _ in range(2):
        patch_with(model, methods={"widest": widest})
    assert model.widest(10, shift=1) == (31, model)
    assert str(inspect.signature(model.widest)) == "(scale, *, shift=0)" and model.widest.__doc__ == widest.__doc__
    other = copy.deepcopy(model)
    assert other.widest(1) == (3, other)
    assert fastbert_kernels.unpatch(model).__dict__ == attributes and not hasattr(model, "widest")
    assert other.widest(1) == (3, other)


def test_a_method_of_a_host_hides_nothing():
    model = spread_model()
    model.widest = 7
    with pytest.raises(ValueError, match="has an attribute 'widest' of its own.*rename it"):
        patch_with(model, methods={"widest": widest})
    assert model.widest == 7 and not fastbert_kernels.is_patched(model)


def test_after_a_training_method_hidden_changes_are_noticed():
    """Writes through `parameter.data` do not move the version counter."""
    model, batch = spread_model(), padded_batch(MIXED[7])
    documentation = model.get_input_embeddings.__doc__
    patch_with(model, training_methods=("get_input_embeddings",))
    stale = run(model, batch).logits
    model.heads[-1].value.weight.data.mul_(3)
    assert torch.equal(run(model, batch).logits, stale)
    assert model.get_input_embeddings() is type(model).get_input_embeddings(model)
    assert model.get_input_embeddings.__doc__ == documentation
    got, want = run(model, batch), run(fastbert_kernels.unpatch(copy.deepcopy(model)), batch)
    torch.testing.assert_close(got.logits, want.logits, rtol=0, atol=1e-4)
    assert not torch.allclose(got.logits, stale, atol=1e-2)
    assert "get_input_embeddings" not in fastbert_kernels.unpatch(model).__dict__


def test_a_nan_touches_one_sample_and_is_reported():
    model, batch = spread_model(), padded_batch([4, 6, 5])
    batch["input_ids"][batch["input_ids"] == 96] = 1
    before = run(fastbert_kernels.patch(model), batch, speed=0.5)
    with torch.no_grad():
        model.backbone.embeddings.word_embeddings.weight[96] = torch.nan
    batch["input_ids"][1, 2] = 96
    with pytest.warns(RuntimeWarning, match=r"\[1\]"):
        after = run(model, batch, speed=0.5)
    assert after.uncertainty[1].isnan() and after.exit_layer[1] == 4
    torch.testing.assert_close(after.logits[[0, 2]], before.logits[[0, 2]], rtol=0, atol=1e-5)
    assert torch.equal(after.exit_layer[[0, 2]], before.exit_layer[[0, 2]])
