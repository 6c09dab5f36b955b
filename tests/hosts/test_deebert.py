"""The host of models in the way of DeeBERT, on models of that structure."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import fastbert_kernels
from doubles.highway_bert import DEPTH, LABELS, VOCABULARY, HighwayModel, entropy_of
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.hosts import find_host
from helpers.accuracy import assert_mean_error_is_like
from helpers.hooks import assert_hooks_are_heeded
from helpers.patched import assert_auto_asks_random_texts, only_the_fast_path

# How many texts, and the arguments of the model.
KINDS = [
    (500, "bert", True),
    (200, "bert", False),
    (200, "roberta", True),
    (200, "bert", False, True),
    (200, "bert", True, False),
]
LARGEST = math.log(LABELS)
THRESHOLDS = {
    "never": [-1] * DEPTH,
    "low": [0.2] * DEPTH,
    "middle": [0.5] * DEPTH,
    "rising": [0.1, 0.3, 0.6, 0.8],
    "one layer": [0, 0.7, 0, 0],
}


def make_batch(lengths):
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    # Ids above RoBERTa's padding; its positions follow the ids, so padding has to have that of padding.
    ids = torch.randint(2, VOCABULARY, valid.shape).where(valid, 1)
    return {"input_ids": ids, "attention_mask": valid.long()}


@torch.inference_mode()
def run(model, batch, **options):
    return model(**batch, **options)


@pytest.fixture(
    scope="module",
    params=KINDS,
    ids=["bert", "bert, no pooler", "roberta", "only the classifier has a pooler", "only the highways have poolers"],
)
def texts(request):
    """A model, a batch, and the logits of all heads in float32 and float64."""
    count, *kind = request.param
    model = HighwayModel(*kind).eval()
    batch = make_batch(torch.randint(1, 30, (count,)).tolist())
    with torch.inference_mode():
        return model, batch, model.every(**batch), copy.deepcopy(model).double().every(**batch)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_answers_are_those_of_the_unpatched_model(texts, count_ties, name):
    model, batch, every, precise = texts
    model.set_thresholds(*THRESHOLDS[name])
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    with only_the_fast_path(fast, fast.backbone.encoder):
        got = run(fast, batch)
    own, want = model.decide(every), model.decide(precise)
    distance = (entropy_of(precise)[:-1] - torch.tensor(THRESHOLDS[name])[:, None]).abs().amin(dim=0)
    clear = distance > 1e-5
    assert clear.float().mean() > 0.98
    count_ties((~clear).sum(), len(clear))
    assert torch.equal(got[-1][clear], want[-1][clear]) and got[-1].dtype == torch.int64
    assert got[-1].unique().numel() >= (3 if name in ("middle", "rising") else 1)
    assert torch.equal(got[0][clear].argmax(dim=1), want[0][clear].argmax(dim=1))
    for pair in ((got[0], own[0], want[0]), (got[-2][0], own[-2][0], want[-2][0])):
        assert_mean_error_is_like(*(answers[clear] for answers in pair))
        torch.testing.assert_close(pair[0][clear].double(), pair[2][clear], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_last_highway_answers_the_sure_and_the_classifier_the_others(backend):
    model = HighwayModel().eval().set_thresholds(-1, -1, -1, 0.5)
    batch = make_batch([3, 30, 9, 17, 4, 21, 8, 5])
    with torch.inference_mode():
        every = model.every(**batch)
    sure = entropy_of(every[-2]) < 0.5
    assert sure.any() and not sure.all()
    got = run(fastbert_kernels.patch(model, backend=backend), batch)
    assert got[-1].tolist() == [DEPTH] * 8
    torch.testing.assert_close(got[0], torch.where(sure[:, None], every[-2], every[-1]), rtol=1e-4, atol=1e-4)


def test_a_highway_may_be_a_linear_itself():
    wrapped = HighwayModel(pooled=False).eval().set_thresholds(*THRESHOLDS["middle"])
    bare, batch = copy.deepcopy(wrapped), make_batch([3, 30, 9, 17, 4, 21, 8, 5])
    bare.bert.encoder.highway = nn.ModuleList(highway.classifier for highway in bare.bert.encoder.highway)
    got, want = (run(fastbert_kernels.patch(model), batch) for model in (bare, wrapped))
    assert torch.equal(got[0], want[0]) and torch.equal(got[-1], want[-1]) and got[-1].unique().numel() > 1


def test_a_text_that_begins_with_padding_is_answered_by_the_model_itself():
    """Which reads its answer from there."""
    model = HighwayModel().eval().set_thresholds(*THRESHOLDS["never"])
    batch = {name: tensor[1:].flip(1) for name, tensor in make_batch([9, 5]).items()}
    want = run(model, batch)
    with pytest.warns(RuntimeWarning, match="own forward, not the fast path, answers calls with padding at the first"):
        got = run(fastbert_kernels.patch(model), batch)
    assert torch.equal(got[0], want[0])


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("always", [1.001 * LARGEST, math.log(2 * LABELS), 100.0, math.inf])
def test_a_threshold_above_the_largest_entropy_lets_everybody_out_even_the_evenly_undecided(pooled, always):
    model = HighwayModel(pooled=pooled).eval().set_thresholds(-1, always, -1, -1)
    with torch.no_grad():  # all classes equally likely
        for parameter in model.bert.encoder.highway[1].classifier.parameters():
            parameter.zero_()
    got = run(fastbert_kernels.patch(model), make_batch([3, 8, 5]))
    assert got[-1].tolist() == [2, 2, 2]
    torch.testing.assert_close(got[-2][0], torch.full((3,), LARGEST))
    # The largest entropy itself is no more than a threshold like others: who has it stays.
    model.set_thresholds(-1, LARGEST - 1e-4, -1, -1)
    assert run(model, make_batch([3, 8, 5]))[-1].tolist() == [DEPTH] * 3


def test_thresholds_are_read_at_every_call():
    model, batch = fastbert_kernels.patch(HighwayModel().eval()), make_batch([3, 8, 5])
    assert run(model, batch)[-1].tolist() == [DEPTH] * 3
    model.bert.encoder.early_exit_entropy[2] = 9
    assert run(model, batch)[-1].tolist() == [3] * 3
    for wrong in ([0.5], [0.5, 0.5, math.nan, 0.5]):
        model.set_thresholds(*wrong)
        with pytest.raises(ValueError, match="a number for each of the 4 layers"):
            run(model, batch)


def test_it_is_the_packed_engine_that_runs():
    encoder = find_host(HighwayModel()).encoder(HighwayModel(), None, "cpu").get()
    assert isinstance(encoder, CompiledEncoder)


def test_auto_asks_random_texts(monkeypatch):
    assert_auto_asks_random_texts(HighwayModel().eval(), monkeypatch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_low_precision_is_close(dtype):
    model = HighwayModel().eval().set_thresholds(0.3, 0.3, 0.3, 9.0)
    batch = make_batch([3, 30, 9, 17] * 8)
    want = run(model, batch)
    got = run(fastbert_kernels.patch(model, dtype=dtype), batch)
    same = got[-1] == want[-1]
    assert same.float().mean() > 0.5
    assert (got[0] - want[0])[same].abs().mean() < (0.1 if dtype == torch.bfloat16 else 0.3)  # of logits of about 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_precision_answers_in_it(dtype):
    model = HighwayModel().eval().set_thresholds(*THRESHOLDS["middle"])
    batch = make_batch([3, 30, 9, 17])
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    run(fast, batch)
    for each in (model, fast):  # the one that is patched, too
        each.to(dtype)
    got, want = run(fast, batch), run(model, batch)
    assert got[0].dtype == want[0].dtype == dtype and got[-2][0].dtype == want[-2][0].dtype
    assert torch.equal(got[-1], want[-1])
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-4 if dtype == torch.float64 else 0.1)


@pytest.mark.parametrize("pruned_first", [True, False], ids=["before", "after"])
def test_pruned_weights_are_left_to_the_model_until_pruning_is_permanent(pruned_first):
    model, batch = HighwayModel().eval().set_thresholds(*THRESHOLDS["middle"]), make_batch([3, 30, 9, 17])
    pruned = model.bert.encoder.highway[0].classifier
    if not pruned_first:
        fastbert_kernels.patch(model)
    prune.l1_unstructured(pruned, "weight", 0.3)
    message = "highway.0.classifier is pruned by a hook .*prune.remove makes that"
    if pruned_first:
        with pytest.raises(ValueError, match=message):
            fastbert_kernels.patch(model)
    else:
        with pytest.warns(RuntimeWarning, match=message):
            run(model, batch)
    prune.remove(pruned, "weight")
    got, want = run(fastbert_kernels.patch(model), batch), run(fastbert_kernels.unpatch(model), batch)
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-4)


def test_a_layer_without_bias_is_refused():
    model = HighwayModel()
    model.classifier = nn.Linear(32, LABELS, bias=False)
    with pytest.raises(ValueError, match="needs the parameter 'bias'.*bias=False.*has none .made without"):
        fastbert_kernels.patch(model)


@pytest.mark.parametrize(("wrap", "inner"), [(nn.DataParallel, "module"), (torch.compile, "_orig_mod")])
def test_a_wrapped_model_is_told_where_the_model_is(wrap, inner):
    with pytest.raises(TypeError, match=f"PyTorch's wrapper of a model; patch the model in it, model.{inner}$"):
        fastbert_kernels.patch(wrap(HighwayModel()))


def test_the_result_has_the_form_of_the_published_one():
    """(loss,) logits, what highways said, (entropy, entropies of highways), exit layer, which may be a key."""
    model = HighwayModel().eval().set_thresholds(*THRESHOLDS["middle"])
    fast, batch = fastbert_kernels.patch(copy.deepcopy(model)), make_batch([9])
    for options in ({}, {"labels": torch.tensor([1])}):
        got, want = run(fast, batch, **options), run(model, batch, **options)
        assert [type(part) for part in got] == [type(part) for part in want] and len(got) == 4 + len(options)
        assert {1: "a", 2: "b", 3: "c", 4: "d"}[got[-1]] and got[-1] == want[-1]


def test_segments_loss_and_what_the_model_answers_itself():
    model = HighwayModel().eval().set_thresholds(*THRESHOLDS["middle"])
    batch = make_batch([3, 30, 9])
    batch["token_type_ids"] = torch.randint(0, 2, batch["input_ids"].shape)
    labels = torch.tensor([0, 2, 1])
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    got, want = (run(each, batch, labels=labels) for each in (fast, model))
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1], want[1], rtol=1e-4, atol=1e-4)
    for each in (fast, model):
        each.config.output_hidden_states = True
    assert torch.equal(run(fast, batch)[0], run(model, batch)[0])
    for each in (fast, model):
        each.config.output_hidden_states = False
    for options in ({"output_layer": 1}, {"train_highway": True, "labels": labels}):
        for got, want in zip(run(fast, batch, **options)[:1], run(model, batch, **options)[:1], strict=True):
            assert torch.equal(got, want)
    no_mask = {"input_ids": torch.randint(2, VOCABULARY, (2, 7))}
    torch.testing.assert_close(run(fast, no_mask)[0], run(model, no_mask)[0], rtol=1e-4, atol=1e-4)
    batch["attention_mask"][1] = 0
    with pytest.raises(ValueError, match=r"no valid token in row\(s\) \[1\]"):
        run(fast, batch)


def test_unpatch_copies_and_pickles():
    models = [HighwayModel(seed=seed).eval().set_thresholds(*THRESHOLDS["middle"]) for seed in (0, 1)]
    model, other = models
    batch = make_batch([5, 30, 2])
    attributes, others, state = dict(model.__dict__), dict(other.__dict__), pickle.dumps(model.state_dict())
    before = run(model, batch)
    fast = run(fastbert_kernels.patch(model), batch)
    assert other.__dict__ == others
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.bert.encoder.layer[0].output.dense.weight.zero_()
    assert not torch.equal(run(copied, batch)[-2][0], run(model, batch)[-2][0])
    assert torch.equal(run(model, batch)[0], fast[0])
    with pytest.raises(TypeError, match="unpatch"):
        pickle.dumps(model)
    fastbert_kernels.unpatch(model)
    assert model.__dict__ == attributes and pickle.dumps(model.state_dict()) == state
    after = run(pickle.loads(pickle.dumps(model)), batch)
    assert torch.equal(after[0], before[0]) and torch.equal(after[-1], before[-1])


def relu_pooler(model):
    model.bert.encoder.highway[2].pooler.activation = nn.ReLU()


def no_thresholds(model):
    del model.bert.encoder.early_exit_entropy


def another_number_of_labels(model):
    model.classifier = nn.Linear(32, 5)


def one_label(model):
    for holder in (model, *model.bert.encoder.highway):
        holder.classifier = nn.Linear(32, 1)


def learned_exits(model):
    model.bert.encoder.lte_classifier = nn.Linear(32, 1)


class ForwardOfItsOwn(HighwayModel):
    def forward(self, input_ids, attention_mask, patience=0):
        return super().forward(input_ids, attention_mask)


def another_forward(model):
    model.__class__ = ForwardOfItsOwn


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (relu_pooler, r"bert.encoder.highway\[2\].pooler.activation is a ReLU, not a Tanh"),
        (no_thresholds, "early_exit_entropy is missing"),
        (another_number_of_labels, "different numbers of labels, 3 and 5"),
        (one_label, "with one label there is nothing to decide"),
        (learned_exits, "bert.encoder.lte_classifier.weight is unknown"),
        (
            another_forward,
            r"forward takes \(input_ids, attention_mask, patience\), not \(input_ids, attention_",
        ),
        (lambda model: model.bert.encoder.highway.append(nn.Linear(32, 3)), "has 5 highways for 4 layers"),
        (lambda model: model.bert.encoder.highway[0].add_module("more", nn.Linear(2, 2)), "more.weight is unknown"),
        (lambda model: model.__delattr__("classifier"), "classifier is missing"),
    ],
    ids=[
        *("pooler", "thresholds", "labels", "one label", "learned", "forward"),
        *("count", "more", "classifier"),
    ],
)
def test_a_near_miss_is_told_what_differs(change, message):
    model = HighwayModel()
    change(model)
    with pytest.raises(ValueError, match=f"looks like DeeBERT on Transformers, but cannot be patched: .*{message}"):
        fastbert_kernels.patch(model)


def test_other_models_are_not_taken_for_it():
    assert find_host(HighwayModel()).name == "DeeBERT on Transformers"
    model = HighwayModel()
    del model.bert.encoder.highway
    with pytest.raises(TypeError, match="not a model that can be patched"):
        find_host(model)


def test_hooks_are_heeded():
    batch = make_batch([3, 30, 9, 17])
    places = ("bert.encoder.layer.1", "bert.encoder.highway.0.pooler.dense", "bert.pooler", "classifier")
    assert_hooks_are_heeded(
        lambda: HighwayModel().eval().set_thresholds(*THRESHOLDS["middle"]), lambda model: run(model, batch)[0], *places
    )
