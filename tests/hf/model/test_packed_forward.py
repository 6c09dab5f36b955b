"""`forward_packed`, which patch adds: the answers of a call with padded texts, bit for bit, with nothing padded."""

from __future__ import annotations

import copy
import types

import pytest
import torch

import fastbert_kernels
from fastbert_hf import predict
from fastbert_kernels.engine.rule import Rule
from fastbert_kernels.hosts import find_host
from helpers.criteria import exit_rules
from helpers.families import FAMILIES, HEADS, WITH_SEGMENTS, random_model
from helpers.launch_count import LaunchCount
from helpers.models import padded_batch, spread_model
from helpers.stubs import StubTokenizer

SUBSET = [2, 4]
LENGTHS = [3, 130, 1, 64, 65, 2, 20]
SPEEDS = {
    "full depth": None,
    "one": 0.5,
    "per sample": torch.linspace(0, 1, len(LENGTHS)),
    "per layer": [0.3],
    **exit_rules((2,), 0.4),
}


def packed_batch(batch):
    """The same texts without padding."""
    valid = batch["attention_mask"] != 0
    packed = {name: ids[valid] for name, ids in batch.items() if name != "attention_mask"}
    return packed | {"cu_seqlens": torch.cat((torch.zeros(1).long(), valid.sum(1).cumsum(0)))}


def assert_packed_as_padded(model, batch, speed):
    with torch.inference_mode():
        want = model(**batch, speed=speed)
        got = model.forward_packed(**packed_batch(batch), speed=speed)
    assert type(got) is type(want) and got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == want[name].dtype
        assert torch.equal(got[name], want[name])
    return got


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_kind_of_speed(family, backend):
    model = fastbert_kernels.patch(random_model(family, exit_layers=SUBSET), backend=backend)
    layers = set()
    for speed in SPEEDS.values():
        layers.update(assert_packed_as_padded(model, padded_batch(LENGTHS), speed).exit_layer.tolist())
    assert layers == set(SUBSET)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_every_kind_of_head_and_precision(head, dtype):
    model = fastbert_kernels.patch(random_model("bert", exit_layers=SUBSET, **HEADS[head]), dtype=dtype)
    for speed in (None, 0.5, SPEEDS["per sample"]):
        assert_packed_as_padded(model, padded_batch(LENGTHS), speed)


@pytest.mark.parametrize("lengths", [[1], [512], [512, 1], [1] * 9, [2, 300, 512]], ids=str)
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_extreme_lengths_and_one_text(lengths, dtype):
    model = fastbert_kernels.patch(spread_model(), dtype=dtype)
    for speed in (None, 0.5):
        assert_packed_as_padded(model, padded_batch(lengths), speed)


@pytest.mark.parametrize("family", FAMILIES)
def test_segments(family):
    model, batch = fastbert_kernels.patch(random_model(family)), padded_batch(LENGTHS)
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    without = assert_packed_as_padded(model, batch, 0.5)
    batch["token_type_ids"][:, 1:] = 1
    if family in WITH_SEGMENTS:
        assert not torch.equal(assert_packed_as_padded(model, batch, 0.5).logits, without.logits)
    else:
        with pytest.raises(ValueError, match="token_type_ids must be 0: this backbone does not tell segments apart"):
            model.forward_packed(**packed_batch(batch))


def test_int32_inputs_and_autograd():
    """It answers with autograd on too, and its answers can be used there."""
    model, batch = fastbert_kernels.patch(spread_model()), packed_batch(padded_batch(LENGTHS))
    want = model.forward_packed(**batch, speed=0.5)
    got = model.forward_packed(**{name: tensor.int() for name, tensor in batch.items()}, speed=0.5)
    assert torch.equal(got.logits, want.logits)
    assert not got.logits.requires_grad and not got.logits.is_inference()


def test_no_texts():
    model = fastbert_kernels.patch(spread_model())
    got = model.forward_packed(torch.zeros(0).long(), torch.zeros(1).long(), speed=0.5)
    with torch.inference_mode():
        want = model(torch.zeros(0, 4).long(), speed=0.5)
    assert got.logits.shape == want.logits.shape == (0, 3) and got.exit_layer.dtype == torch.int64


def test_the_speedup_of_a_calibrated_model_is_asked_for():
    model = fastbert_kernels.patch(spread_model())
    with pytest.raises(ValueError, match="speedup needs a calibrated model"):
        model.forward_packed(torch.ones(3).long(), torch.tensor([0, 3]), speedup=2.0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cu_seqlens": [0, 3, 7]}, TypeError, "cu_seqlens must be an int64 or int32 tensor, not list"),
        ({"cu_seqlens": torch.tensor([0.0, 7.0])}, TypeError, "not torch.float32"),
        ({"cu_seqlens": torch.tensor([[0, 7]])}, ValueError, "cu_seqlens must have one dimension"),
        ({"cu_seqlens": torch.zeros(0).long()}, ValueError, "must ascend from 0 to the number of tokens, 7"),
        ({"cu_seqlens": torch.tensor([0])}, ValueError, "must ascend from 0"),
        ({"cu_seqlens": torch.tensor([1, 7])}, ValueError, "must ascend from 0"),
        ({"cu_seqlens": torch.tensor([0, 6])}, ValueError, "must ascend from 0"),
        ({"cu_seqlens": torch.tensor([0, 8])}, ValueError, "must ascend from 0"),
        ({"cu_seqlens": torch.tensor([0, 5, 3, 7])}, ValueError, "must ascend from 0"),
        ({"cu_seqlens": torch.tensor([0, 3, 3, 7])}, ValueError, "at least one token a text"),
        ({"cu_seqlens": torch.tensor([0, 7]).to("meta")}, ValueError, "must be in host memory, not on meta"),
        ({"input_ids": torch.ones(7)}, TypeError, "input_ids must be an int64 or int32 tensor, not torch.float32"),
        ({"input_ids": torch.ones(1, 7).long()}, ValueError, "input_ids must have one dimension"),
        (
            {"input_ids": torch.full((7,), 97)},
            ValueError,
            "input_ids has the token id 97 in row 0, but the model",
        ),
        ({"token_type_ids": torch.zeros(6).long()}, ValueError, r"token_type_ids must be as input_ids, \[7\]"),
        ({"token_type_ids": torch.full((7,), 2)}, ValueError, "token_type_ids has 2 in row 0, but the model tells 2"),
        ({"speed": 1.5}, ValueError, r"speed must lie in \[0, 1\]"),
        ({"speed": torch.rand(3)}, ValueError, r"must have shape \[2\]"),
    ],
)
def test_bad_input(changes, error, message):
    model = fastbert_kernels.patch(spread_model())
    arguments = {"input_ids": torch.arange(7), "cu_seqlens": torch.tensor([0, 3, 7])}
    assert len(model.forward_packed(**arguments).logits) == 2
    with pytest.raises(error, match=message):
        model.forward_packed(**(arguments | changes))


def test_a_text_longer_than_the_positions():
    model = fastbert_kernels.patch(spread_model())
    with pytest.raises(ValueError, match="text 1 has 513 tokens, which exceeds the backbone's 512 positions"):
        model.forward_packed(torch.ones(515).long(), torch.tensor([0, 2, 515]))


def test_train_mode_is_refused():
    model = fastbert_kernels.patch(spread_model()).train()
    with pytest.raises(RuntimeError, match=r"eval mode only; call model.eval\(\) first"):
        model.forward_packed(torch.ones(3).long(), torch.tensor([0, 3]))


def test_a_nan_is_reported():
    model = fastbert_kernels.patch(spread_model())
    with torch.no_grad():
        model.backbone.embeddings.word_embeddings.weight[5] = torch.nan
    with pytest.warns(RuntimeWarning, match=r"not finite for sample\(s\) \[1\]"):
        got = model.forward_packed(torch.tensor([1, 2, 3, 5, 1]), torch.tensor([0, 2, 5]), speed=0.5)
    assert got.uncertainty.isnan().tolist() == [False, True]


def test_the_method_comes_and_goes_with_the_patch():
    model = spread_model()
    assert not hasattr(model, "forward_packed")
    fastbert_kernels.patch(model)
    assert hasattr(copy.deepcopy(model), "forward_packed")
    fastbert_kernels.unpatch(model)
    assert not hasattr(model, "forward_packed")


def test_what_was_changed_after_patch_is_answered_by_the_models_own_forward():
    model, batch = fastbert_kernels.patch(spread_model()), padded_batch(LENGTHS)
    before = assert_packed_as_padded(model, batch, 0.5)
    model.layers[1].register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.warns(RuntimeWarning, match="its own forward answers from now on"):
        got = model.forward_packed(**packed_batch(batch), speed=0.5)
    with torch.inference_mode():
        want = fastbert_kernels.unpatch(model)(**batch, speed=0.5)
    torch.testing.assert_close(got.logits, want.logits)
    assert not torch.allclose(got.logits, before.logits, atol=1e-2)


class Tokenizer(StubTokenizer):
    """A text is its number; it becomes 1 to 17 ids of the tiny model's vocabulary."""

    def __call__(self, texts, pairs, **options):
        return {"input_ids": [[1 + int(text) % 90] * (1 + int(text) % 17) for text in texts]}


def test_predict_packs_for_a_patched_model_and_counts_real_tokens(monkeypatch):
    model, texts = spread_model(), [str(number) for number in range(100)]
    want = predict(model, Tokenizer(), texts, speed=0.5)
    fastbert_kernels.patch(model)
    packed, calls = model.forward_packed, []

    def counted(input_ids, cu_seqlens, **options):
        calls.append((len(cu_seqlens) - 1, len(input_ids)))
        return packed(input_ids, cu_seqlens, **options)

    def padded(*arguments, **options):
        raise AssertionError("padded")

    monkeypatch.setattr(model, "forward_packed", counted)
    monkeypatch.setattr(model, "forward", padded)
    got = predict(model, Tokenizer(), texts, speed=0.5, max_tokens=64)
    torch.testing.assert_close(got.logits, want.logits, rtol=0, atol=1e-4)
    assert torch.equal(got.exit_layer, want.exit_layer)
    assert sum(size for size, _ in calls) == 100
    assert sum(tokens for _, tokens in calls) == sum(1 + number % 17 for number in range(100))
    assert all(64 - 17 < tokens <= 64 for _, tokens in calls[:-1])  # none could be larger
    calls.clear()
    predict(model, Tokenizer(), texts, max_tokens=5)
    assert max(tokens for size, tokens in calls if size > 1) <= 5 < max(tokens for _, tokens in calls)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_predict_runs_the_hooks_of_the_model(register):
    model, calls = fastbert_kernels.patch(spread_model()), []
    getattr(model, register)(lambda *arguments: calls.append(len(arguments)))
    predict(model, Tokenizer(), ["1", "2", "3"])
    assert calls


def test_the_batch_that_a_host_packs_is_what_its_forward_runs():
    model = spread_model()
    host, batch = find_host(model), packed_batch(padded_batch(LENGTHS))
    encoder = host.encoder(model, None, "auto").get()
    with torch.no_grad():
        packed = host.pack(model, encoder, batch["input_ids"], batch["cu_seqlens"], speed=0.5)
        got = encoder.run(packed, Rule())
        want = fastbert_kernels.patch(model).forward_packed(**batch, speed=0.5)
    assert packed.hidden.shape[0] == sum(LENGTHS) and packed.max_seqlen == max(LENGTHS)
    assert torch.equal(got.logits, want.logits) and torch.equal(got.exit_layer, want.exit_layer)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_host_waits_for_nothing_in_front_of_the_layers(monkeypatch, family):
    """Tensors without memory stand for those of a GPU: whoever asks one for a value raises."""
    model, count = random_model(family).eval(), LaunchCount(monkeypatch)
    host, model = find_host(model), model.to("meta")
    packed = packed_batch(padded_batch(LENGTHS))
    ids, bounds = packed["input_ids"].to("meta"), packed["cu_seqlens"]
    with torch.inference_mode(), count:
        batch = host.pack(model, types.SimpleNamespace(dtype=torch.float32), ids, bounds, None, 0.5)
        assert count.launches > 5 and count.waits == 0
        with pytest.raises(RuntimeError, match="meta"):
            batch.cu_seqlens[-1].item()
    assert batch.hidden.shape[0] == int(bounds[-1]) and batch.hidden.is_meta
    assert batch.max_seqlen == max(LENGTHS) and len(batch.speed) == len(LENGTHS)
