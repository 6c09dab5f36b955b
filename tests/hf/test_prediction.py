"""Many texts: same answers as one by one, in input order, in batches that keep their budget, with clear refusals."""

from __future__ import annotations

import copy
import math
import random
import threading

import accelerate
import pytest
import torch
from transformers import BertTokenizerFast

import fastbert_kernels
from fastbert_hf import iter_predict, predict
from fastbert_hf.calibration import ExitRule
from helpers.models import spread_model
from helpers.stubs import StubModel, StubTokenizer

WORDS = [f"w{number}" for number in range(40)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return BertTokenizerFast(str(path))


@pytest.fixture(scope="module", params=["unpatched", "patched"])
def model(request):
    model = spread_model()
    return fastbert_kernels.patch(model) if request.param == "patched" else model


@pytest.fixture
def plain_model():
    return spread_model()


def make_texts(count, longest=40, seed=0):
    """Shuffled lengths, every tenth text a second time."""
    generator = random.Random(seed)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(1, longest))) for _ in range(count)]
    texts[::10] = texts[5::10]
    return texts


def one_by_one(model, tokenizer, texts, speeds):
    outputs = []
    with torch.inference_mode():
        for text, speed in zip(texts, speeds, strict=True):
            parts = (text,) if isinstance(text, str) else text
            batch = tokenizer(*parts, return_tensors="pt", return_token_type_ids=True)
            outputs.append(model(**batch, speed=speed))
    return [torch.cat([getattr(o, name) for o in outputs]) for name in ("logits", "uncertainty", "exit_layer")]


def assert_same(got, want):
    logits, uncertainty, exit_layer = want
    torch.testing.assert_close(got.logits, logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.uncertainty, uncertainty, rtol=0, atol=1e-5)
    assert torch.equal(got.exit_layer, exit_layer)


class SpyOnCalls:
    """A model that notes the inputs of every call."""

    def __init__(self, model):
        self._model = model
        self.calls = []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, input_ids, **inputs):
        self.calls.append(inputs | {"input_ids": input_ids})
        return self._model(input_ids, **inputs)

    @property
    def forward_packed(self):
        packed = self._model.forward_packed  # AttributeError where the model is not patched

        def call(input_ids, cu_seqlens, **inputs):
            self.calls.append(inputs | {"input_ids": input_ids, "cu_seqlens": cu_seqlens})
            return packed(input_ids, cu_seqlens, **inputs)

        return call


@pytest.mark.parametrize("speed", [None, 0.5])
@pytest.mark.parametrize("window", [7, 8192])
def test_answers_are_those_of_one_text_at_a_time_in_input_order(model, tokenizer, speed, window):
    texts = make_texts(60)
    got = predict(model, tokenizer, texts, speed=speed, max_tokens=100, window=window)
    assert_same(got, one_by_one(model, tokenizer, texts, [speed] * len(texts)))
    assert len(got) == 60 and got.start == 0
    assert got.logits.dtype == got.uncertainty.dtype == got.probabilities.dtype == torch.float32
    assert got.labels.dtype == got.exit_layer.dtype == torch.int64
    assert got.label_names == [model.config.id2label[label] for label in got.logits.argmax(-1).tolist()]
    torch.testing.assert_close(got.probabilities.sum(-1), torch.ones(60))
    if speed is not None:
        assert len(set(got.exit_layer.tolist())) > 1  # else nothing was tested


def test_every_text_may_have_its_own_speed(model, tokenizer):
    texts = make_texts(30)
    speeds = torch.rand(30)
    got = predict(model, tokenizer, texts, speed=speeds, max_tokens=100, window=8)
    assert_same(got, one_by_one(model, tokenizer, texts, speeds.tolist()))


def test_pairs(model, tokenizer):
    texts = list(zip(make_texts(30), make_texts(30, longest=10, seed=1), strict=True))
    spy = SpyOnCalls(model)
    got = predict(spy, tokenizer, iter(texts), speed=0.5, max_tokens=200, window=8)
    assert_same(got, one_by_one(model, tokenizer, texts, [0.5] * 30))
    assert spy.calls and all(call["token_type_ids"].amax() == 1 for call in spy.calls)


def test_token_types_are_left_out_where_the_tokenizer_gives_none(plain_model, tokenizer):
    silent = BertTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, model_input_names=["input_ids"])
    spy = SpyOnCalls(plain_model)
    predict(spy, silent, make_texts(10))
    assert spy.calls and all("token_type_ids" not in call for call in spy.calls)


def test_batches_keep_the_token_budget_and_hold_texts_of_similar_length(plain_model, tokenizer):
    texts = make_texts(300)
    spy = SpyOnCalls(plain_model)
    predict(spy, tokenizer, texts, max_tokens=256)
    shapes = [tuple(call["input_ids"].shape) for call in spy.calls]
    assert sum(size for size, _ in shapes) == 300
    assert all(size * length <= 256 for size, length in shapes)
    assert all((size + 1) * length > 256 for size, length in shapes[:-1])  # none could be larger
    valid = sum(int(call["attention_mask"].sum()) for call in spy.calls)
    assert valid == sum(len(ids) for ids in tokenizer(texts)["input_ids"])
    assert valid > 0.9 * sum(size * length for size, length in shapes)


def test_a_text_above_the_budget_is_a_batch_of_its_own(plain_model, tokenizer):
    spy = SpyOnCalls(plain_model)
    predict(spy, tokenizer, ["w1 w2", "w1 " * 30, "w3 w4"], max_tokens=8)
    assert [tuple(call["input_ids"].shape) for call in spy.calls] == [(1, 32), (2, 4)]


def test_long_texts_are_cut_off(plain_model, tokenizer):
    spy = SpyOnCalls(plain_model)
    predict(spy, tokenizer, ["w1 " * 600])
    predict(spy, tokenizer, ["w1 " * 600], max_length=10)
    assert [call["input_ids"].shape[1] for call in spy.calls] == [512, 10]
    assert tokenizer.backend_tokenizer.truncation is None  # the caller's tokenizer stays as it was
    tokenizer.backend_tokenizer.enable_truncation(7, stride=2)
    before = tokenizer.backend_tokenizer.truncation
    predict(plain_model, tokenizer, ["w1"])
    assert tokenizer.backend_tokenizer.truncation == before
    tokenizer.backend_tokenizer.no_truncation()
    got = predict(plain_model, tokenizer, ["w1", "w1 " * 8, "w1 " * 9, "w1 " * 600], max_length=10, window=3)
    assert got.truncated.tolist() == [False, False, True, True]
    plain_model.config.trained_max_length = 10
    assert predict(plain_model, tokenizer, ["w1 " * 8, "w1 " * 9]).truncated.tolist() == [False, True]
    assert not predict(plain_model, tokenizer, ["w1 " * 9], max_length=11).truncated.any()


def test_of_a_text_of_many_megabytes_only_what_could_be_kept_is_tokenised(plain_model, tokenizer, monkeypatch):
    read = []
    call = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer), "__call__", lambda self, texts, *rest, **o: read.append(texts) or call(self, texts, *rest, **o)
    )
    long = "w1 w2 " * 50_000
    got = predict(plain_model, tokenizer, [long], max_length=10)
    assert [len(text) for text in read[0]] == [10_000] and got.truncated.all()
    torch.testing.assert_close(got.logits, predict(plain_model, tokenizer, [long[:60]], max_length=10).logits)
    predict(plain_model, tokenizer, [(long, "w3"), ("w4", long)], max_length=10)
    assert [len(text) for text in read[-1]] == [10_000, 2]


@pytest.mark.parametrize("count", [1, 20])
def test_texts_of_one_window_cost_neither_a_copy_of_the_tokenizer_nor_a_thread(model, tokenizer, monkeypatch, count):
    copies = []
    monkeypatch.setattr(copy, "deepcopy", lambda *args: copies.append(args))
    monkeypatch.setattr(threading.Thread, "start", lambda self: copies.append(self))
    for _ in range(3):
        assert len(predict(model, tokenizer, make_texts(20)[:count], speed=0.5)) == count
    assert copies == []


@pytest.mark.parametrize("texts", [[], iter(())])
def test_no_texts(plain_model, tokenizer, texts):
    got = predict(plain_model, tokenizer, texts, speed=0.5)
    assert len(got) == 0 and got.logits.shape == (0, 3) and got.probabilities.shape == (0, 3)
    assert got.labels.tolist() == got.exit_layer.tolist() == got.uncertainty.tolist() == got.label_names == []
    assert list(iter_predict(plain_model, tokenizer, [])) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(texts="w1 w2"), TypeError, "texts is a single string; pass a list of texts"),
        (dict(speed=1.5), ValueError, "speed must lie in"),
        (dict(speed="fast"), TypeError, "speed must be None, a number"),
        (dict(speed=torch.tensor([0.1])), ValueError, "must have shape"),
        (dict(speed=torch.tensor([0.1]), texts=iter(["w1"])), TypeError, "one Speed per text needs texts"),
        (dict(max_tokens=0), ValueError, "max_tokens must be at least 1, got 0"),
        (dict(window=0), ValueError, "window must be at least 1, got 0"),
        (dict(max_length=2), ValueError, r"max_length must be above 2 \(the special tokens\) and at most 512"),
        (dict(max_length=513), ValueError, "got 513"),
        (dict(max_length=3.5), ValueError, "max_length must be an integer, got 3.5"),
        (dict(max_tokens="a"), ValueError, "max_tokens must be an integer, got 'a'"),
        (dict(window=True), ValueError, "window must be an integer, got True"),
        (dict(stride=1.0), ValueError, "stride must be an integer of at least 0 and below 510"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(plain_model, tokenizer, options, error, message):
    with pytest.raises(error, match=message):
        iter_predict(plain_model, tokenizer, options.pop("texts", ["w1", "w2"]), **options)


def test_a_length_of_the_training_that_leaves_no_room_is_refused(plain_model, tokenizer):
    plain_model.config.trained_max_length = 2
    with pytest.raises(ValueError, match=r"max_length must be above 2 .the special tokens.* got 2"):
        predict(plain_model, tokenizer, ["w1"])


def test_names_of_classes_given_afterwards_are_checked(plain_model, tokenizer):
    plain_model.config.id2label = {1: "a", 2: "b", 3: "c"}
    with pytest.raises(ValueError, match=r"the ids in id2label must be 0 to 2, each once; got \[1, 2, 3\]"):
        predict(plain_model, tokenizer, ["w1"])


def passages_of(text, room, stride):
    """Words of a text, `room` at a time and `stride` of them again; every word is a token."""
    words, step = text.split(), room - stride
    last = max(0, -(-(len(words) - room) // step))
    return [" ".join(words[number * step : number * step + room]) for number in range(last + 1)]


@pytest.mark.parametrize(("speed", "stride"), [(None, 3), (0.5, 0)])
@pytest.mark.parametrize("multi_label", [False, True])
def test_long_texts_in_passages(tokenizer, speed, stride, multi_label):
    model, texts = spread_model(), make_texts(60, longest=45)
    if multi_label:
        model.config.problem_type = "multi_label_classification"
    passages = [passages_of(text, 10, stride) for text in texts]
    assert {len(parts) for parts in passages} >= {1, 2, 4}
    every = [part for parts in passages for part in parts]
    logits, _, exit_layer = one_by_one(model, tokenizer, every, [speed] * len(every))
    probabilities = logits.sigmoid() if multi_label else logits.softmax(-1)
    sizes = [len(parts) for parts in passages]
    for patched in (False, True):
        subject = fastbert_kernels.patch(model) if patched else model
        got = predict(subject, tokenizer, texts, speed=speed, max_length=12, stride=stride, window=7, max_tokens=50)
        want = torch.stack([part.mean(0) for part in probabilities.split(sizes)])
        torch.testing.assert_close(got.probabilities, want, rtol=0, atol=1e-5)
        assert got.exit_layer.tolist() == [int(part.max()) for part in exit_layer.split(sizes)]
        entropy = torch.special.entr(want) + torch.special.entr(1 - want) if multi_label else torch.special.entr(want)
        whole = entropy.mean(-1) / math.log(2) if multi_label else entropy.sum(-1) / math.log(want.shape[1])
        torch.testing.assert_close(got.uncertainty, whole, rtol=0, atol=1e-5)
        assert not got.truncated.any() and len(got) == 60


def test_passages_are_those_of_the_training_unless_a_call_says_otherwise(plain_model, tokenizer):
    texts = make_texts(9, longest=45)
    plain_model.config.trained_max_length, plain_model.config.trained_stride = 12, 3
    got, want = (predict(plain_model, tokenizer, texts, **options) for options in ({}, dict(stride=3, max_length=12)))
    assert torch.equal(got.logits, want.logits) and not got.truncated.any()
    cut = predict(plain_model, tokenizer, texts, stride=None)
    assert cut.truncated.any() and not torch.allclose(cut.logits, want.logits, atol=1e-3)


def test_the_uncertainty_of_a_mean_is_that_of_the_criterion(plain_model, tokenizer):
    rule = ExitRule((1, 2), (0.3, 0.3), "confidence")
    got = predict(plain_model, tokenizer, make_texts(20, longest=45), speed=rule, max_length=12, stride=3)
    torch.testing.assert_close(got.uncertainty, 1 - got.probabilities.amax(-1), rtol=0, atol=1e-6)


def test_passages_that_cannot_be_are_refused(plain_model, tokenizer, capsys):
    for stride in (-1, 10):
        with pytest.raises(ValueError, match=rf"stride must be an integer of at least 0 and below 10 .*, got {stride}"):
            iter_predict(plain_model, tokenizer, ["w1"], max_length=12, stride=stride)
    with pytest.raises(ValueError, match="passages are of single texts, and these are pairs; cut them off"):
        predict(plain_model, tokenizer, [("w1", "w2")], stride=2)
    before = copy.deepcopy(tokenizer.backend_tokenizer.truncation)
    predict(plain_model, tokenizer, make_texts(9), max_length=12, stride=2, progress=True)
    assert "9/9" in capsys.readouterr().err and tokenizer.backend_tokenizer.truncation == before


@pytest.mark.parametrize("elsewhere", ["meta", "offloaded"])
def test_weights_that_are_elsewhere_are_refused_in_a_sentence(plain_model, tokenizer, elsewhere):
    model = plain_model.to("meta") if elsewhere == "meta" else accelerate.cpu_offload(plain_model, "cpu")
    with pytest.raises(ValueError, match=r"on the meta device \(offloaded, or not loaded\); load it whole first"):
        iter_predict(model, tokenizer, ["w1"])


def test_train_mode_is_refused_whenever_it_begins(plain_model, tokenizer):
    answers = iter_predict(plain_model, tokenizer, ["w1", "w2"], window=1)
    next(answers)
    plain_model.train()
    with pytest.raises(RuntimeError, match="call model.eval\\(\\) first"):
        next(answers)
    with pytest.raises(RuntimeError, match="call model.eval\\(\\) first"):
        iter_predict(plain_model, tokenizer, ["w1"])


def test_the_caller_keeps_its_autograd_mode(plain_model, tokenizer):
    for part in iter_predict(plain_model, tokenizer, ["w1", "w2"], window=1):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        assert not any(tensor.is_inference() for tensor in (part.logits, part.uncertainty, part.exit_layer))


def test_what_is_not_finite_is_named_by_its_position():
    class Model(StubModel):
        def __call__(self, input_ids, **inputs):
            output = super().__call__(input_ids, **inputs)
            output.uncertainty[input_ids[:, 0] == 4] = float("nan")
            return output

    with pytest.warns(RuntimeWarning, match=r"for 1 text\(s\), at position\(s\) 4 of the input"):
        predict(Model(), StubTokenizer(), map(str, range(6)), window=3)


@pytest.mark.parametrize(("texts", "shown"), [(list("12345"), "5/5"), (iter("12345"), "5/?")])
def test_progress_is_shown_on_stderr_when_asked_for(capsys, texts, shown):
    predict(StubModel(), StubTokenizer(), texts, progress=True)
    captured = capsys.readouterr()
    assert shown in captured.err and "texts/s" in captured.err and captured.out == ""


@pytest.mark.parametrize("progress", [False, None])
def test_no_progress_where_nobody_looks(capsys, progress):
    predict(StubModel(), StubTokenizer(), list("12345"), progress=progress)
    assert capsys.readouterr().err == ""


def test_multi_label(tokenizer):
    """Any number of classes a text: those whose probability is above 1/2."""
    model = spread_model()
    model.config.problem_type = "multi_label_classification"
    texts = make_texts(40)
    with torch.no_grad():  # so that every class has about half of the texts
        model.teacher_classifier.classifier.bias -= predict(model, tokenizer, texts).logits.median(dim=0).values
    got = predict(model, tokenizer, texts)
    assert_same(got, one_by_one(model, tokenizer, texts, [None] * 40))
    torch.testing.assert_close(got.probabilities, 1 / (1 + (-got.logits).exp()))
    assert got.multi_label and torch.equal(got.labels, got.probabilities > 0.5)
    assert got.labels.any(dim=0).all() and not got.labels.all(dim=0).any()
    for row, names in zip(got.labels, got.label_names, strict=True):
        assert [model.config.label2id[name] for name in names] == row.nonzero().flatten().tolist()
    assert predict(model, tokenizer, []).label_names == []


def test_scores(tokenizer):
    """Of a model with one output, in pairs or not; it has no labels."""
    model = spread_model(labels=1, problem_type="regression")
    texts = [(text, other) for text, other in zip(make_texts(20), make_texts(20), strict=True)]
    for speed in (None, 2.0):
        got = predict(model, tokenizer, texts, speed=speed)
        patched = predict(fastbert_kernels.patch(copy.deepcopy(model)), tokenizer, texts, speed=speed)
        assert got.scores.shape == (20,) and got.scores.unique().numel() > 10
        torch.testing.assert_close(patched.scores, got.scores, rtol=0, atol=1e-4)
        assert torch.equal(patched.exit_layer, got.exit_layer)
    for name in ("labels", "label_names", "probabilities"):
        with pytest.raises(ValueError, match="one output gives"):
            getattr(got, name)
    with pytest.raises(ValueError, match="a model of 3 classes gives no score; take probabilities"):
        _ = predict(spread_model(), tokenizer, ["a"]).scores
    long = "w " * 60
    with pytest.raises(ValueError, match="scores of passages make no score of a text: leave stride out"):
        predict(model, tokenizer, [long], max_length=12, stride=0)
