"""The models of the paper's authors (`fastbert` of PyPI): patched against unpatched, text by text and in batches."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings

import pytest
import torch

import fastbert_kernels
from doubles.pypi import register_configuration, spread_weights
from fastbert_kernels.hosts import pypi_fastbert as host
from fastbert_kernels.hosts import uer_models
from helpers.hooks import assert_hooks_are_heeded
from helpers.patched import assert_auto_asks_random_texts
from helpers.uer_answers import (
    Unpatched,
    assert_accurate,
    assert_low_precision_is_close,
    assert_same,
    assert_same_at_speeds,
    random_texts,
)

LABELS = ["sport", "trade", 3]
LENGTH = 40


@pytest.fixture(scope="module")
def package(package_named):
    return package_named("fastbert")


def make(package, folder, *, kind="FastBERT", labels=LABELS, seed=0, **changes):
    name = register_configuration(package, folder, **changes)
    model = getattr(package, kind)(name, list(labels), seq_length=LENGTH, is_load=False)
    spread_weights(model, seed)
    return model


@pytest.fixture
def model(package, folder):
    return make(package, folder)


@pytest.mark.proof  # 500 texts through the package
def test_labels_and_layers_of_500_texts_at_five_speeds(package, model, count_ties):
    depths = assert_same_at_speeds(model, random_texts(500), count_ties, one_by_one=60)
    assert depths == {1, 2, 3, 4}


def test_auto_asks_random_texts(monkeypatch, package, model):
    assert_auto_asks_random_texts(model, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_low_precision_is_close(package, model, dtype):
    assert_low_precision_is_close(model, random_texts(200, seed=1), dtype, at_most=0.9)


def test_as_accurate_as_the_package_against_float64(package, model):
    encoders = [host.encoder(model, None, backend).get() for backend in ("cpu", "reference")]
    assert_accurate(model, random_texts(40, seed=2), encoders, uer_models.entropy_decision)


def test_speeds_beyond_zero_and_one(package, model):
    texts = random_texts(12, seed=3)
    with torch.no_grad():
        model.classifiers[0].output_layer_2.weight.mul_(100)  # so sure that the entropy underflows
    speeds = [-1.0, 0.0, 1e-12, 1e-7, 1.0, 1.5, float("inf"), float("nan"), 1, torch.tensor(0.4)]
    want = {str(speed): [model(text, speed) for text in texts] for speed in speeds}
    fastbert_kernels.patch(model)
    for speed in speeds:
        assert model.predict(texts, speed) == [model(text, speed=speed) for text in texts] == want[str(speed)]
    assert {layers for _, layers in want["1e-12"]} == {4} and {layers for _, layers in want["1.5"]} == {1}
    for bad in ("0.5", None):
        with pytest.raises(TypeError):
            model("好", bad)


def test_texts_of_every_kind(package, model):
    texts = ["", " ", "好" * 300, "a" * 500, "\U000e0001\x00", "[CLS] [PAD] 好", "x" * 39, "好" * 39, "好" * 40]
    want = [model(text, speed=0.4) for text in texts]
    fastbert_kernels.patch(model)
    assert [model(text, speed=0.4) for text in texts] == model.predict(texts, 0.4) == want
    assert model.predict(iter(texts), 0.4) == want and model.predict([]) == []
    assert model.predict(texts) == [model(sentence=text) for text in texts]
    with pytest.raises(TypeError, match="not one text"):
        model.predict("好")
    for bad in (3, None, ("好", "坏")):  # the last would be taken apart, as a text is into characters
        with pytest.raises(TypeError, match="a list of texts, but number 1 is "):
            model.predict(["好", bad])


def test_batches_are_cut_by_tokens(package, model, monkeypatch):
    texts = random_texts(100, seed=4)
    fastbert_kernels.patch(model)
    want, sizes, run = model.predict(texts, 0.5), [], uer_models.run_batch
    monkeypatch.setattr(uer_models, "_WINDOW", 30)
    monkeypatch.setattr(uer_models, "_BATCH_TOKENS", 64)

    def counted(model, encoder, samples, decision):
        sizes.append(sum(len(ids) for ids, _ in samples))
        return run(model, encoder, samples, decision)

    monkeypatch.setattr(uer_models, "run_batch", counted)
    assert model.predict(texts, 0.5) == want
    assert max(sizes) <= 64 and len(sizes) > 100 * 10 / 64 and min(sizes) >= 1


def test_modes_are_as_the_package_has_them(package, model):
    """A call is inference whatever the mode, leaves the model in eval mode, and needs no autograd switch."""
    want = model("天气 very good", speed=0.5)
    fastbert_kernels.patch(model)
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.is_grad_enabled() and model("天气 very good", speed=0.5) == want
        assert not model.training and not model.kernel.embedding.dropout.training
        model.train()
        assert model.predict(["天气 very good"], 0.5) == [want] and not model.training


def train_a_step(package, model):
    """As the package does, whose optimiser writes past the version counters."""
    optimiser = package.fastbert.AdamW(model.parameters(), lr=0.05, correct_bias=False)
    for labels in (["sport", 3], None):
        optimiser.zero_grad()
        model._forward_for_loss(["天气好", "bank"], labels).backward()
        optimiser.step()


def test_training_is_as_before_and_noticed(package, model):
    texts = random_texts(50, seed=5)
    other = copy.deepcopy(model)
    stale = fastbert_kernels.patch(model).predict(texts, 0.5)
    for candidate in (other, model):
        torch.manual_seed(3)
        train_a_step(package, candidate)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    fresh = Unpatched.ask(other, [(text,) for text in texts])
    want = fresh.answers(other, 0.5)
    assert want != stale
    assert_same(model.predict(texts, 0.5), want, fresh.ties(0.5), at_most=0.1)


def test_fit_works_on_a_patched_model(package, model, tmp_path):
    texts, labels = random_texts(8, seed=6), ["sport", "trade", 3, "sport"] * 2
    fastbert_kernels.patch(model).predict(texts, 0.5)
    model.fit(
        texts,
        labels,
        batch_size=4,
        sentences_dev=texts[:2],
        labels_dev=labels[:2],
        finetuning_epochs_num=1,
        distilling_epochs_num=1,
        learning_rate=1e-3,
        model_saving_path=str(tmp_path / "model.bin"),
        verbose=False,
    )
    got = model.predict(texts, 0.5)
    fastbert_kernels.unpatch(model)
    assert got == [model(text, 0.5) for text in texts]
    model.load_model(str(tmp_path / "model.bin"))


@pytest.mark.proof
def test_500_pairs_at_five_speeds(package, folder, count_ties):
    model = make(package, folder, kind="FastBERT_S2")
    texts = random_texts(996, seed=7)
    pairs = [*zip(texts[:498], texts[498:], strict=True), ("", ""), ("好" * 90, "x" * 90)]
    signature = inspect.signature(model.forward)
    assert_same_at_speeds(model, pairs, count_ties, one_by_one=20)
    assert inspect.signature(model.forward) == signature and "fastbert_kernels" in repr(model)
    for bad in ("好坏", ("好",), ("好", "坏", "天"), ("好", None), None):
        with pytest.raises(TypeError, match="a list of pairs of texts, but number 1 is "):
            model.predict([("好", "坏"), bad])
    for bad in (("好天", "坏天"), "好坏"):  # one pair, not a list of pairs; a text
        with pytest.raises(TypeError, match="but number 0 is '好"):
            model.predict(bad)


def test_unpatch_restores_bit_for_bit(package, folder, model):
    second = make(package, folder, seed=1)
    want = model("天气好", 0.5), second("天气好", 0.5)
    attributes, text, others = dict(model.__dict__), repr(model), dict(second.__dict__)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert fastbert_kernels.patch(model) is model
    assert str(inspect.signature(model.predict)).startswith("(sentences: ") and "in batches" in model.predict.__doc__
    model.predict(["天气好"], 0.5)
    assert model.state_dict().keys() == state.keys() and "patched by fastbert_kernels" in repr(model)
    assert second.__dict__ == others and not hasattr(second, "predict") and second("天气好", 0.5) == want[1]

    fastbert_kernels.unpatch(model)
    assert model.__dict__ == attributes and repr(model) == text and not hasattr(model, "predict")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model("天气好", 0.5) == want[0]


def test_copies_and_patching_twice(package, model):
    texts = random_texts(30, seed=8)
    want = fastbert_kernels.patch(model).predict(texts, 0.5)
    assert fastbert_kernels.patch(model, backend="reference").predict(texts, 0.5) == want
    other = copy.deepcopy(model)
    assert other.predict.__self__ is other and other.predict(texts, 0.5) == want
    with torch.no_grad():
        for classifier in other.classifiers:
            classifier.output_layer_2.bias.copy_(torch.tensor([1e4, 0.0, 0.0]))
    assert set(other.predict(texts, 0.5)) == {("sport", 1)} and model.predict(texts, 0.5) == want
    with pytest.raises(TypeError, match="unpatch"):
        pickle.dumps(model)


def test_a_text_without_finite_logits_is_reported(package, model):
    texts = ["好", "坏", "天"]
    before = fastbert_kernels.patch(model).predict(texts, 0.5)
    with torch.no_grad():
        model.kernel.embedding.word_embedding.weight[model.vocab.get("坏")] = torch.nan
    with pytest.warns(RuntimeWarning, match=r"text\(s\) \[1\]"):
        after = model.predict(texts, 0.5)
    assert after == [before[0], (None, 4), before[2]]
    for candidate in (model, fastbert_kernels.unpatch(copy.deepcopy(model))):
        with pytest.raises(ValueError):
            candidate("坏", 0.5)


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_other_poolings_are_refused(package, folder, pooling):
    model = make(package, folder, pooling=pooling)
    with pytest.raises(ValueError, match=f"pooling='{pooling}' cannot be patched"):
        fastbert_kernels.patch(model)
    assert not fastbert_kernels.is_patched(model)


def test_changed_models_are_refused(package, folder, model):
    class Mine(package.FastBERT):
        def _fast_infer(self, sentence, speed):
            return 0, 1

    class Scaled(torch.nn.Linear):
        pass

    name = register_configuration(package, folder)
    for changed, message in [
        (Mine(name, LABELS, is_load=False), "Mine has a _fast_infer of its own"),
        (make(package, folder, labels=["one"]), "one label has nothing to decide"),
    ]:
        with pytest.raises(ValueError, match=message):
            fastbert_kernels.patch(changed)
    model.kernel.encoder.transformer[2].feed_forward.linear_1 = Scaled(48, 96)
    with pytest.raises(ValueError, match="transformer.2.feed_forward.linear_1 of the encoder is a Scaled, not a torch"):
        fastbert_kernels.patch(model)
    model.kernel.encoder.transformer[2] = torch.nn.Identity()
    with pytest.raises(ValueError, match="an encoder layer is a Identity, not UER's TransformerLayer"):
        fastbert_kernels.patch(model)


@pytest.mark.parametrize("where", ["class", "instance"])
def test_a_method_of_the_users_own_is_not_hidden(package, folder, where):
    class Mine(package.FastBERT):
        pass

    model = Mine(register_configuration(package, folder), LABELS, is_load=False)
    fastbert_kernels.unpatch(fastbert_kernels.patch(model))  # a class derived from it is served
    (Mine if where == "class" else model).predict = lambda *args: "mine"
    with pytest.raises(ValueError, match="has an attribute 'predict' of its own.*rename it"):
        fastbert_kernels.patch(model)
    assert model.predict() == "mine" and not fastbert_kernels.is_patched(model)


def test_hooks_are_heeded(package, folder):
    texts = random_texts(5)
    places = ("kernel.embedding", "kernel.encoder.transformer.1.feed_forward.linear_1", "classifiers.0.output_layer_0")
    assert_hooks_are_heeded(
        lambda: make(package, folder), lambda model: [model(text, speed=0.5) for text in texts], *places
    )
