"""The host of the authors' script model, on a model of that structure."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import fastbert_kernels
from doubles.script_classifier import DEPTH, LABELS, VOCABULARY, ScriptClassifier, uncertainty_of
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.hosts import find_host
from helpers.accuracy import assert_accurate, floor
from helpers.hooks import assert_hooks_are_heeded
from helpers.patched import assert_auto_asks_random_texts, only_the_fast_path
from helpers.pypi import imported
from helpers.rounding import rivals

SPEEDS = [0.05, 0.3, 0.5, 0.8, 0.95]
TIE = 2e-5


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    with imported("fastbert", tmp_path_factory.mktemp("home")) as module:
        yield module


def make_batch(lengths, seed=0):
    """(src, label, mask), a second segment behind the middle."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)[:, None]
    places = torch.arange(int(lengths.max()))
    src = torch.randint(1, VOCABULARY, (len(lengths), len(places)), generator=generator).where(places < lengths, 0)
    mask = (1 + (places > lengths // 2).long()).where(places < lengths, 0)
    return src, None, mask


@torch.inference_mode()
def run(model, batch, **options):
    nothing, logits = model(*batch, **options)
    assert nothing is None
    return logits


@pytest.fixture(scope="module")
def five_hundred():
    """A model, a batch, and the logits [L, B, N] behind all layers: in float32, of its rivals, and in float64."""
    model = ScriptClassifier().eval()
    lengths = torch.randint(1, 30, (500,), generator=torch.Generator().manual_seed(1))
    batch = make_batch(lengths.tolist())
    with torch.inference_mode():
        every, *others = rivals(lambda: model.every(batch[0], batch[2]), answers=500)
        return model, batch, every, others, copy.deepcopy(model).double().every(batch[0], batch[2])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("speed", SPEEDS)
def test_answers_are_those_of_the_unpatched_model(five_hundred, count_ties, speed, backend):
    model, batch, every, others, precise = five_hundred
    model.threshold = speed
    fast = fastbert_kernels.patch(copy.deepcopy(model), backend=backend)
    with only_the_fast_path(fast, fast.encoder):
        got = run(fast, batch)
    clear = ((uncertainty_of(every) - speed).abs() > TIE).all(dim=0)
    assert (~clear).sum() <= 10
    count_ties((~clear).sum(), 500)
    layers = model.leaving(every)
    own = every[layers - 1, torch.arange(500)]
    torch.testing.assert_close(run(model, batch)[clear], own[clear], rtol=1e-4, atol=1e-4)
    assert layers.unique().numel() >= (3 if speed < 0.8 else 2)
    want, *plain = (logits[layers - 1, torch.arange(500)][clear] for logits in (precise, every, *others))
    allowed = assert_accurate(got[clear], want, plain, least=floor(want, torch.float32))
    # The logits of another layer are not within that, so it is the layer that is right.
    other = precise[layers - 2, torch.arange(500)][clear]
    assert ((other - want).abs().amax(dim=1) > 10 * allowed).float().mean() > 0.99


def test_without_fast_the_last_layer_answers(five_hundred):
    model, batch, *_, precise = five_hundred
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    got = run(fast, batch, fast=False)
    torch.testing.assert_close(got.double(), precise[-1], rtol=1e-4, atol=1e-4)
    assert got.dtype == torch.float32


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_who_is_exactly_at_the_speed_leaves(backend):
    """All classes equally likely: the uncertainty is 1, and the logits tell the layer."""
    model = ScriptClassifier(labels=4).eval()
    with torch.no_grad():
        for number, classifier in enumerate(model.classifiers, start=1):
            classifier.output_layer_2.weight.zero_()
            classifier.output_layer_2.bias.fill_(number)
    batch = make_batch([3, 8, 5])
    fast = fastbert_kernels.patch(copy.deepcopy(model), backend=backend)
    below = math.nextafter(1.0, 0.0)  # in float32 that is 1
    for threshold, layer in ((1.0, 1), (below, 1), (1 - 2**-24, DEPTH), (1.1, 1)):
        for each in (model, fast):
            each.threshold = threshold
            assert run(each, batch).unique().tolist() == [layer]


def test_thresholds_of_every_kind_are_read_at_every_call():
    model = ScriptClassifier().eval()
    with torch.no_grad():
        model.classifiers[0].output_layer_2.weight.mul_(100)  # so sure that the entropy underflows
    batch = make_batch([3, 30, 9, 17])
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    for threshold in (-1, 0, 1e-12, 1e-7, 1e-4, 0.6, 1, 1.5, 1e300, math.inf, -math.inf, torch.tensor(0.4)):
        model.threshold = fast.threshold = threshold
        torch.testing.assert_close(run(fast, batch), run(model, batch), rtol=1e-4, atol=1e-3)


def test_a_sample_answers_alike_alone_and_in_any_batch():
    model = fastbert_kernels.patch(ScriptClassifier().eval())
    src, _, mask = make_batch([5, 30, 2, 11])
    together = run(model, (src, None, mask))
    wider = [nn.functional.pad(part, (0, 9)) for part in (src, mask)]
    torch.testing.assert_close(run(model, (wider[0], None, wider[1])), together, rtol=1e-4, atol=1e-4)
    for number in range(4):
        row = slice(number, number + 1), slice(0, int((mask[number] > 0).sum()))
        torch.testing.assert_close(run(model, (src[row], None, mask[row])), together[row[0]], rtol=1e-4, atol=1e-4)


def test_masks_of_other_forms():
    """A gap is passed over and keeps its place; where the first position is padding the model itself answers."""
    model = ScriptClassifier().eval()
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    src, _, mask = make_batch([12, 9, 4])
    mask[0, 3:6] = 0
    torch.testing.assert_close(run(fast, (src, None, mask)), run(model, (src, None, mask)), rtol=1e-4, atol=1e-4)
    for blank in (slice(0, 1), slice(None)):
        mask[1, blank] = 0
        assert torch.equal(run(fast, (src, None, mask)), run(model, (src, None, mask)))
    mask[2, 1] = 3
    for each in (model, fast):
        with pytest.raises(IndexError):
            run(each, (src[2:], None, mask[2:]))


def test_it_is_the_packed_engine_that_runs():
    model = ScriptClassifier()
    assert find_host(model).name == "FastBertClassifier of run_fastbert.py"
    assert isinstance(find_host(model).encoder(model, None, "cpu").get(), CompiledEncoder)


def test_auto_asks_random_texts(monkeypatch):
    assert_auto_asks_random_texts(ScriptClassifier().eval(), monkeypatch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_low_precision_is_close(dtype):
    model = ScriptClassifier().eval()
    batch = make_batch([3, 30, 9, 17] * 8)
    want = run(model, batch, fast=False)
    got = run(fastbert_kernels.patch(model, dtype=dtype), batch, fast=False)
    assert got.dtype == torch.float32
    assert (got - want).abs().mean() < (0.15 if dtype == torch.bfloat16 else 0.5)  # of logits of about 5


def test_training_is_the_models_own_and_noticed():
    model = ScriptClassifier()
    other = copy.deepcopy(model)
    src, _, mask = make_batch([3, 30, 9])
    labels = torch.tensor([0, 2, 1])
    stale = run(fastbert_kernels.patch(model).eval(), (src, None, mask))
    for each in (model, other):
        each.train()
        torch.manual_seed(3)
        each(src, labels, mask)[0].backward()
        for parameter in each.parameters():
            if parameter.grad is not None:
                parameter.data.add_(parameter.grad, alpha=-0.1)  # past the version counters, as the script's optimiser
        each.eval()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    got = run(model, (src, None, mask))
    assert not torch.equal(got, stale)
    torch.testing.assert_close(got, run(other, (src, None, mask)), rtol=1e-4, atol=1e-4)


def test_logits_that_are_not_finite_are_reported():
    model = ScriptClassifier().eval()
    batch = make_batch([3, 8, 5])
    with torch.no_grad():
        model.embedding.word_embedding.weight[batch[0][1, 0]] = torch.nan
    assert not (batch[0][[0, 2]] == batch[0][1, 0]).any()
    with pytest.raises(ValueError):
        run(model, batch)
    with pytest.raises(ValueError, match=r"logits of row\(s\) \[1\] are not finite"):
        run(fastbert_kernels.patch(model), batch)


def test_unpatch_copies_and_pickles():
    model, other = (ScriptClassifier(seed).eval() for seed in (0, 1))
    batch = make_batch([5, 30, 2])
    attributes, others, text = dict(model.__dict__), dict(other.__dict__), repr(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before, second = run(model, batch), run(other, batch)
    fast = run(fastbert_kernels.patch(model), batch)
    assert model.state_dict().keys() == state.keys() and "patched by fastbert_kernels" in repr(model)
    assert other.__dict__ == others and torch.equal(run(other, batch), second)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.encoder.transformer[0].feed_forward.linear_2.weight.zero_()
    assert not torch.equal(run(copied, batch), fast) and torch.equal(run(model, batch), fast)
    with pytest.raises(TypeError, match="unpatch"):
        pickle.dumps(model)
    fastbert_kernels.unpatch(model)
    assert model.__dict__ == attributes and repr(model) == text
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(run(pickle.loads(pickle.dumps(model)), batch), before)


class ForwardOfItsOwn(ScriptClassifier):
    def forward(self, src, label, mask, fast=True, teacher=None):
        return super().forward(src, label, mask, fast)


def another_forward(model):
    model.__class__ = ForwardOfItsOwn


def other_pooling(model):
    model.classifiers[1].pooling = "max"


class Scaled(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.__delattr__("threshold"), "threshold is missing"),
        (lambda model: model.__delattr__("embedding"), "embedding is missing"),
        (lambda model: model.classifiers.append(model.classifiers[0]), "classifiers has 5 heads for 4 layers"),
        (
            lambda model: model.classifiers[2].__setattr__("output_layer_1", Scaled(16, 16)),
            r"classifiers\[2\].output_layer_1 is a Scaled, not a Linear",
        ),
        (lambda model: model.classifiers[0].add_module("more", nn.Linear(2, 2)), "more.weight is unknown"),
        (lambda model: model.add_module("gate", nn.Linear(2, 2)), "gate.weight is unknown"),
        (another_forward, r"forward takes \(src, label, mask, fast, teacher\), not \(src, label, mask, fast\)"),
        (other_pooling, "pooling='max' cannot be patched"),
        (lambda model: model.encoder.transformer.__setitem__(1, nn.Identity()), "an encoder layer is a Identity"),
        (lambda model: setattr(model, "labels_num", 1), "one label has nothing to decide"),
    ],
    ids=["threshold", "embedding", "count", "linear", "more", "gate", "forward", "pooling", "layer", "labels"],
)
def test_a_near_miss_is_told_what_differs(change, message):
    model = ScriptClassifier()
    change(model)
    with pytest.raises(ValueError, match=message):
        fastbert_kernels.patch(model)
    assert not fastbert_kernels.is_patched(model)


def test_the_package_of_the_same_authors_is_not_taken_for_it():
    model = ScriptClassifier(labels=LABELS)
    wrapped = nn.Module()
    wrapped.kernel, wrapped.classifiers = nn.Module(), model.classifiers
    wrapped.kernel.encoder = model.encoder
    with pytest.raises(TypeError, match="not a model that can be patched"):
        find_host(wrapped)


def test_hooks_are_heeded():
    batch = make_batch([3, 30, 9, 17])
    places = ("embedding", "encoder.transformer.1", "encoder.transformer.0.self_attn.final_linear", "classifiers.0")
    assert_hooks_are_heeded(lambda: ScriptClassifier().eval(), lambda model: run(model, batch), *places)
