"""The host of BitVoyage's FastBertModel, on a model of that structure."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import fastbert_kernels
from doubles.branchy_bert import DEPTH, LABELS, VOCABULARY, BranchyBert
from fastbert_kernels.hosts import find_host
from helpers.accuracy import assert_mean_error_is_like
from helpers.hooks import assert_hooks_are_heeded
from helpers.patched import only_the_fast_path

SPEEDS = [0.1, 0.3, 0.5, 0.8, 1.0]


def make_batch(lengths, longest=None):
    valid = torch.arange(longest or max(lengths)) < torch.tensor(lengths)[:, None]
    return {"input_ids": torch.randint(1, VOCABULARY, valid.shape) * valid, "attention_mask": valid.long()}


@torch.inference_mode()
def infer(model, batch, speed, **options):
    return model(**batch, inference=True, inference_speed=speed, **options)


def patched(model, zeros=False, **options):
    model = copy.deepcopy(model)
    model.fastbert_zero_undecided = zeros
    return fastbert_kernels.patch(model, **options)


@pytest.mark.parametrize("speed", SPEEDS)
def test_answers_are_those_of_the_unpatched_model(count_ties, speed):
    model = BranchyBert().eval()
    fast = {backend: patched(model, zeros=True, backend=backend) for backend in ("cpu", "reference")}
    precise, exits = copy.deepcopy(model).double(), set()
    for _ in range(5):
        batch = make_batch(torch.randint(1, 30, (100,)).tolist())
        own, want = (infer(each, batch, speed) for each in (model, precise))
        with torch.inference_mode():
            every = precise.every(batch["input_ids"], batch["attention_mask"])[1]
        clear = ((every - speed).abs() > 1e-5).all(dim=0)
        assert clear.sum() > 95
        count_ties((~clear).sum(), 100)
        exits |= set((every < speed).int().argmax(dim=0).tolist())
        for each in fast.values():
            with only_the_fast_path(each):
                got = infer(each, batch, speed)
            if clear.all():
                assert got[1] == own[1] == want[1]
            # The uncertainty tells the layer: no two of a sample are this close.
            for index, tolerance in ((0, 1e-5), (2, 1e-5)):
                torch.testing.assert_close(got[index][clear].double(), want[index][clear], rtol=0, atol=tolerance)
                assert_mean_error_is_like(*(answers[index][clear] for answers in (got, own, want)))
            assert torch.equal(got[0][clear].argmax(dim=1), want[0][clear].argmax(dim=1))
    assert len(exits) >= 3 or speed == 1.0


def test_padding_is_kept_because_the_heads_see_it():
    model = BranchyBert().eval()
    short, long = make_batch([6]), make_batch([6], longest=20)
    long["input_ids"][:, :6] = short["input_ids"]
    answers = {}
    for name, each in {"own": model, "fast": patched(model)}.items():
        answers[name] = [infer(each, batch, 1.0)[0] for batch in (short, long)]
    for got, want in zip(answers["fast"], answers["own"], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert not torch.allclose(*answers["own"], atol=1e-3)


@pytest.mark.parametrize("speed", [0.05, -1.0])
def test_the_undecided_are_answered_by_the_last_layer_unless_zeros_are_wanted(speed):
    model = BranchyBert().eval()
    batch = make_batch([3, 30, 9, 17, 4, 21])
    own = infer(model, batch, speed)[0]
    undecided = (own == 0).all(dim=1)
    assert undecided.any()
    zeros, answered = (infer(patched(model, zeros=flag), batch, speed) for flag in (True, False))
    torch.testing.assert_close(zeros[0], own, rtol=0, atol=1e-5)
    with torch.inference_mode():
        last = model.every(**batch)[0][-1].softmax(dim=-1)
    torch.testing.assert_close(answered[0][undecided], last[undecided], rtol=0, atol=1e-5)
    torch.testing.assert_close(answered[0][~undecided], own[~undecided], rtol=0, atol=1e-5)
    assert answered[1] == zeros[1] == DEPTH - 1
    assert (answered[2][undecided] == 0).all()


def test_one_text_without_mask_and_segments():
    model = BranchyBert().eval()
    ids = torch.randint(1, VOCABULARY, (1, 11))
    got, want = infer(patched(model), {"input_ids": ids}, 0.6), infer(model, {"input_ids": ids}, 0.6)
    assert got[1] == want[1] and got[2].shape == (1, LABELS)
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-5)
    segments = torch.ones_like(ids)
    got, want = (infer(each, {"input_ids": ids}, 1.0, token_type_ids=segments) for each in (patched(model), model))
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-5)


def test_training_is_the_models_own():
    model, batch = BranchyBert(), make_batch([3, 5])
    want = model(**batch, labels=torch.tensor([0, 1]))
    fast = patched(model).train()
    got = fast(**batch, labels=torch.tensor([0, 1]))
    assert torch.equal(got[0], want[0]) and got[0].requires_grad
    with torch.no_grad():
        assert torch.equal(fast.eval()(**batch, labels=torch.tensor([0, 1]))[1], want[1])


def test_unpatch_copies_and_pickles():
    model, other, batch = BranchyBert().eval(), BranchyBert(1).eval(), make_batch([5, 30, 2])
    attributes, others, state = dict(model.__dict__), dict(other.__dict__), pickle.dumps(model.state_dict())
    before = infer(model, batch, 0.5)
    fast = infer(fastbert_kernels.patch(model), batch, 0.5)
    assert other.__dict__ == others
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.graph.layers[0].output.dense.weight.zero_()
    assert not torch.allclose(infer(copied, batch, 1.0)[0], infer(model, batch, 1.0)[0], atol=1e-3)
    assert torch.equal(infer(model, batch, 0.5)[0], fast[0])
    with pytest.raises(TypeError, match="unpatch"):
        pickle.dumps(model)
    fastbert_kernels.unpatch(model)
    assert model.__dict__ == attributes and pickle.dumps(model.state_dict()) == state
    after = infer(pickle.loads(pickle.dumps(model)), batch, 0.5)
    assert torch.equal(after[0], before[0]) and after[1] == before[1] and torch.equal(after[2], before[2])


class MyLinear(nn.Linear):
    pass


def drop_a_head(model):
    del model.graph.layer_classifiers["branch_classifier_0"]


def derive_a_linear(model):
    model.graph.layer_classifier.dense_logits = MyLinear(16, LABELS)


def add_to_a_head(model):
    model.graph.layer_classifier.dense_extra = nn.Linear(16, 16)


def add_to_the_model(model):
    model.graph.gate = nn.Linear(2, 2)


class ForwardOfItsOwn(BranchyBert):
    def forward(self, ids, speed):
        return super().forward(ids, inference=True, inference_speed=speed)


def another_forward(model):
    model.__class__ = ForwardOfItsOwn


def drop_from_a_layer(model):
    del model.graph.layers[1].output.dense


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_a_head, "layer_classifiers has 3 heads for 4 layers"),
        (derive_a_linear, r"layer_classifiers\[3\].dense_logits is a MyLinear, not a Linear"),
        (add_to_a_head, r"layer_classifiers\[3\].dense_extra.bias is unknown"),
        (add_to_the_model, "graph.gate.weight is unknown"),
        (
            another_forward,
            r"forward takes \(ids, speed\), not \(input_ids, token_type_ids, attention_mask, ",
        ),
        (drop_from_a_layer, r"layers\[1\].output.dense is missing"),
        (lambda model: model.__delattr__("embeddings"), "embeddings is missing"),
    ],
    ids=["head", "class", "extra", "gate", "forward", "layer", "embeddings"],
)
def test_a_near_miss_is_told_what_differs(change, message):
    model = BranchyBert()
    change(model)
    with pytest.raises(ValueError, match=message):
        fastbert_kernels.patch(model)


def test_other_models_are_not_taken_for_it():
    assert find_host(BranchyBert()).name == "FastBertModel of BitVoyage/FastBERT"
    model = BranchyBert()
    for head in model.graph.layer_classifiers.values():
        del head.selfAttention
    for other in (model, nn.ModuleDict({"graph": nn.ModuleDict({"layers": nn.ModuleList()})})):
        with pytest.raises(TypeError, match="not a model that can be patched"):
            find_host(other)


def test_hooks_on_heads_are_heeded_and_those_on_layers_called():
    batch, places = make_batch([3, 30, 9, 17]), ("graph.layer_classifiers.final_classifier.dense_narrow",)
    assert_hooks_are_heeded(lambda: BranchyBert().eval(), lambda model: infer(model, batch, 0.0)[0], *places)
    model, called = patched(BranchyBert().eval()), []
    model.graph.layers[0].register_forward_hook(lambda *_: called.append(True))
    infer(model, batch, 0.5)
    assert called
