"""The models of the paper's authors (`fastplm` of PyPI): patched against unpatched, text by text and in batches."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import fastbert_kernels
from doubles.pypi import register_configuration, spread_weights
from fastbert_kernels.hosts import pypi_fastplm as host
from fastbert_kernels.hosts import uer_models
from helpers.uer_answers import (
    Unpatched,
    assert_accurate,
    assert_low_precision_is_close,
    assert_same,
    assert_same_at_speeds,
)
from helpers.uer_answers import random_texts as texts_with_any_segments

LABELS = ["sport", "trade", 3, "art", "law", "war"]
LENGTH = 40
BERT = {"hidden_act": "gelu"}
ALBERT = {"emb_size": 32, "encoder": "albert", "target": "albert", "hidden_act": "relu"}
GPT = {"encoder": "gpt", "pooling": "last", "hidden_act": "gelu"}
GCNN = {"embedding": "word", "encoder": "gatedcnn", "kernel_size": 3, "block_size": 2, "emb_size": 16}


@pytest.fixture(scope="module")
def package(package_named):
    return package_named("fastplm")


def make(package, folder, *, kind="FastBERT", labels=LABELS, seed=0, options=None, **changes):
    chosen = getattr(package, kind) if isinstance(kind, str) else kind
    family = {"FastALBERT": ALBERT, "FastGPT": GPT, "FastGCNN": GCNN}.get(chosen.__name__.removesuffix("_S2"), BERT)
    name = register_configuration(package, folder, **{**family, **changes})
    made = chosen(name, labels=list(labels), seq_length=LENGTH, is_load=False, **(options or {}))
    spread_weights(made, seed)
    return made


@pytest.fixture
def model(package, folder):
    return make(package, folder)


def random_texts(count, seed=0):
    """With one [SEP] at most: the package has no segment behind the second."""
    parts = (text.partition("[SEP]") for text in texts_with_any_segments(count, seed))
    return [f"{begin}{separator}{end.replace('[SEP]', '')}" for begin, separator, end in parts]


@pytest.mark.proof  # 500 texts through the package
@pytest.mark.parametrize("kind", ["FastBERT", "FastALBERT"])
def test_labels_and_layers_of_500_texts_at_five_speeds(package, folder, count_ties, kind):
    model = make(package, folder, kind=kind)
    depths = assert_same_at_speeds(model, random_texts(500), count_ties, one_by_one=40)
    assert len(depths) >= 3 and {1, 4} <= depths


@pytest.mark.parametrize("number", [1, 2, 3, 5, 6, 7, 40])
def test_the_uncertainty_of_the_most_likely_classes(package, folder, number):
    """Also of more classes than there are, which makes every uncertainty smaller, and of one, which is none."""
    model, texts = make(package, folder, options={"uncertainty_N": number}), random_texts(60, seed=1)
    unpatched = Unpatched.ask(model, [(text,) for text in texts])
    assert [unpatched.answers(model, 0.3)[i] for i in range(10)] == [model(text, speed=0.3) for text in texts[:10]]
    fastbert_kernels.patch(model)
    for speed, want, ties in unpatched.at_speeds(model, speeds=(1e-9, 0.1, 0.3, 0.6, 0.9, 2.0)):
        assert_same(model.predict(texts, speed), want, ties, at_most=0.1)
    assert {layers for _, layers in model.predict(texts, 2.0)} == ({4} if number == 1 else {1})


def test_the_number_of_classes_may_change_after_patching(package, model):
    texts = random_texts(60, seed=2)
    all_classes = fastbert_kernels.patch(model).predict(texts, 0.5)
    model.args.uncertainty_N = 2
    unpatched = Unpatched.ask(fastbert_kernels.unpatch(copy.deepcopy(model)), [(text,) for text in texts])
    want = unpatched.answers(model, 0.5)
    assert want != all_classes
    assert_same(model.predict(texts, 0.5), want, unpatched.ties(0.5), at_most=0.1)
    for bad in (0, -1, 2.5, "2"):
        model.args.uncertainty_N = bad
        with pytest.raises(ValueError, match="uncertainty_N must be None or a number from 1 on"):
            model("好", 0.5)
        with pytest.raises(ValueError, match="uncertainty_N must be None or a number from 1 on"):
            fastbert_kernels.patch(model)


@pytest.mark.parametrize("kind", ["FastBERT", "FastALBERT"])
def test_as_accurate_as_the_package_against_float64(package, folder, kind):
    model = make(package, folder, kind=kind)
    encoders = [host.encoder(model, None, backend).get() for backend in ("cpu", "reference")]
    assert_accurate(model, random_texts(40, seed=3), encoders, host.decision)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_low_precision_is_close(package, model, dtype):
    assert_low_precision_is_close(model, random_texts(100, seed=4), dtype, at_most=0.95)


@pytest.mark.parametrize(
    ("kind", "strict", "count"),
    [
        pytest.param("FastBERT_S2", False, 497, marks=pytest.mark.proof),
        ("FastBERT_S2", False, 60),
        ("FastBERT_S2", True, 60),
        ("FastALBERT_S2", False, 60),
        ("FastALBERT_S2", True, 60),
    ],
)
def test_pairs_have_two_segments(package, folder, count_ties, kind, strict, count):
    model = make(package, folder, kind=kind, options={"strict_length": strict})
    texts = [text.replace("[SEP]", "") for text in random_texts(2 * count, seed=5)]
    # Chinese around it makes [SEP] a token of its own; between Latin letters the package splits it.
    pairs = [(f"{a}好", f"好{b}好") for a, b in zip(texts[:count], texts[count:], strict=True)]
    pairs += [("", ""), ("good", "bad"), ("好" * 90, "x" * 90)]
    segments = {segment for a, b in pairs for segment in uer_models.tokens_of(model, model._merge(a, b))[1]}
    assert segments == {1, 2}
    assert_same_at_speeds(model, pairs, count_ties, one_by_one=20, at_most=0.05)


def test_a_segment_that_the_model_has_not_is_refused(package, model):
    text = "好 [SEP] 好 [SEP] 好"
    with pytest.raises(IndexError):
        model(text, 0.5)
    fastbert_kernels.patch(model)
    for call in (lambda: model(text, 0.5), lambda: model.predict(["好", text], 0.5)):
        with pytest.raises(ValueError, match="has segment 3, one for each .SEP., but the model's segments end at 2"):
            call()
    assert model("好 [SEP] 好 [SEP]", 0.0)[1] == 4


def test_dense_heads(package, folder):
    class Dense(package.FastBERT):
        MiniClassifier = package.fastalbert.DenseMiniClassifier

    model, texts = make(package, folder, kind=Dense), random_texts(60, seed=6)
    unpatched = Unpatched.ask(model, [(text,) for text in texts])
    fastbert_kernels.patch(model)
    for speed, want, ties in unpatched.at_speeds(model):
        assert_same(model.predict(texts, speed), want, ties, at_most=0.1)


@pytest.mark.parametrize("kind", ["FastBERT", "FastALBERT"])
def test_training_is_noticed(package, folder, kind):
    model, texts = make(package, folder, kind=kind), random_texts(40, seed=7)
    stale = fastbert_kernels.patch(model).predict(texts, 0.5)
    optimiser = package.fastbert.AdamW(model.parameters(), lr=0.05, correct_bias=False)
    for labels in (["sport", 3], None):
        optimiser.zero_grad()
        model._forward_for_loss(["天气好", "bank"], labels).backward()
        optimiser.step()
    got = model.predict(texts, 0.5)
    fresh = Unpatched.ask(fastbert_kernels.unpatch(model), [(text,) for text in texts])
    assert fresh.answers(model, 0.5) != stale
    assert_same(got, fresh.answers(model, 0.5), fresh.ties(0.5), at_most=0.1)


def test_unpatch_restores_and_factories_make_such_models(package, folder):
    name = register_configuration(package, folder, **BERT)
    for table, kind in (
        (package.SINGLE_SENTENCE_CLS_KERNEL_MAP, "FastBERT"),
        (package.DOUBLE_SENTENCE_CLS_KERNEL_MAP, "FastBERT_S2"),
    ):
        table[name] = kind
    single = package.FastPLM(name, labels=LABELS, is_load=False)
    pair = package.FastPLM_S2(name, labels=LABELS, is_load=False)
    for model, arguments in ((single, ("好",)), (pair, ("好", "坏"))):
        want = model(*arguments)
        attributes = dict(model.__dict__)
        fastbert_kernels.patch(model)
        assert model(*arguments) == want and "patched by fastbert_kernels" in repr(model)
        assert model.predict([arguments if model is pair else "好"]) == [want]
        fastbert_kernels.unpatch(model)
        assert model.__dict__ == attributes and not hasattr(model, "predict")


@pytest.mark.parametrize("kind", ["FastBERT", "FastALBERT", "FastBERT_S2"])
def test_unpatch_copies_and_pickles(package, folder, kind):
    model, second = (make(package, folder, kind=kind, seed=seed) for seed in (0, 1))
    texts = [(text.replace("[SEP]", ""), "坏")[: 1 + kind.endswith("_S2")] for text in random_texts(8, seed=8)]
    want, others = [model(*text, speed=0.5) for text in texts], [second(*text, speed=0.5) for text in texts]
    attributes = dict(second.__dict__)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fastbert_kernels.patch(model)
    assert second.__dict__ == attributes and [second(*text, speed=0.5) for text in texts] == others
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for classifier in copied.classifiers:
            classifier.output_layer_2.bias.copy_(torch.tensor([1e4] + [0.0] * 5))
    assert {copied(*text, speed=0.5) for text in texts} == {("sport", 1)}
    assert [model(*text, speed=0.5) for text in texts] == want
    with pytest.raises(TypeError, match="unpatch"):
        pickle.dumps(model)
    fastbert_kernels.unpatch(model)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [pickle.loads(pickle.dumps(model))(*text, speed=0.5) for text in texts] == want


@pytest.mark.parametrize("kind", ["FastBERT", "FastALBERT"])
@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_other_poolings_are_refused(package, folder, kind, pooling):
    model = make(package, folder, kind=kind, options={"pooling": pooling})
    with pytest.raises(ValueError, match=f"pooling='{pooling}' cannot be patched: in this package that takes padding"):
        fastbert_kernels.patch(model)
    assert not fastbert_kernels.is_patched(model)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("FastGPT", "do not see those behind"), ("FastGPT_S2", "do not see"), ("FastGCNN", "gated convolutions")],
)
def test_other_kinds_are_refused(package, folder, kind, reason):
    model = make(package, folder, kind=kind)
    with pytest.raises(ValueError, match=f"{kind} cannot be patched: .*{reason}.*the unpatched model serves it"):
        fastbert_kernels.patch(model)


def test_changed_models_are_refused(package, folder, model):
    class Masked(package.FastBERT):
        def _mask_transfer(self, mask, emb):
            return 0 * super()._mask_transfer(mask, emb)

    class Head(package.fastbert.AttMiniClassifier):
        pass

    with pytest.raises(ValueError, match="Masked has a _mask_transfer of its own"):
        fastbert_kernels.patch(make(package, folder, kind=Masked))
    with pytest.raises(ValueError, match="one label has nothing to decide"):
        fastbert_kernels.patch(make(package, folder, labels=["one"]))
    model.kernel.encoder.transformer[1].feed_forward.act = torch.nn.functional.silu
    with pytest.raises(ValueError, match="layers with the activation silu cannot be patched"):
        fastbert_kernels.patch(model)
    changed = make(package, folder)
    changed.classifiers[1] = Head(changed.args, 48, 6)
    with pytest.raises(ValueError, match="exit heads of the kind Head cannot be patched"):
        fastbert_kernels.patch(changed)
