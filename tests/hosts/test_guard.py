"""What a user did to the modules of a model, before `patch` or after it: the patched model gives the answers that the
unpatched one gives, or refuses; and where its own forward has to answer, it says so."""

from __future__ import annotations

import copy
import functools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import BertLayer

import fastbert_kernels
from doubles.branchy_bert import BranchyBert
from doubles.highway_bert import HighwayModel
from fastbert_kernels.hosts.guard import Guard
from helpers.changed_models import CHANGES, LowRankLinear, adapter, hook_on_layer
from helpers.families import make_backbone_config
from helpers.models import padded_batch, spread_model
from helpers.patched import only_the_fast_path, run

SPEED = 0.5


@pytest.fixture(params=CHANGES)
def case(request):
    return CHANGES[request.param]


def answers(model, batch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return run(model, batch, speed=SPEED)


def assert_close(got, want):
    assert torch.equal(got.exit_layer, want.exit_layer)
    torch.testing.assert_close(got.logits, want.logits, rtol=1e-4, atol=1e-4)


def changed(change):
    """A model, the same one changed, and a batch on which the change shows."""
    model, batch = spread_model(), padded_batch([5, 9, 3, 17])
    other = copy.deepcopy(model)
    change(other)
    assert not torch.allclose(every_answer(other, batch), every_answer(model, batch), atol=1e-3)
    return model, other, batch


def every_answer(model, batch):
    return run(model, batch, output_all_exits=True).all_logits


def test_a_change_before_patch_is_computed_or_refused(case):
    change, computed = case
    _, other, batch = changed(change)
    want = run(other, batch, speed=SPEED)
    if not computed:
        with pytest.raises(ValueError, match="cannot be patched"):
            fastbert_kernels.patch(other)
        assert not fastbert_kernels.is_patched(other)
        return
    fastbert_kernels.patch(other)
    with only_the_fast_path(other):
        assert_close(run(other, batch, speed=SPEED), want)


def test_a_change_after_patch_is_noticed_at_the_next_call(case):
    change, computed = case
    model, other, batch = changed(change)
    want = run(other, batch, speed=SPEED)
    fastbert_kernels.patch(model)
    run(model, batch, speed=SPEED)
    change(model)
    if isinstance(other.layers[0].attention.self.query, LowRankLinear) or hasattr(other.heads[1].dense, "down"):
        model.load_state_dict(other.state_dict())  # adapters begin with random weights
        want = run(other, batch, speed=SPEED)
    if computed:
        assert_fast_path(model, batch, want)
        return
    with pytest.warns(RuntimeWarning, match="changed after patch.*own forward answers.*cannot be patched"):
        got = run(model, batch, speed=SPEED)
    assert_close(got, want)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # said once
        assert_close(run(model, batch, speed=SPEED), want)


def test_the_fast_path_is_back_when_the_change_is_taken_back():
    model, batch = spread_model(), padded_batch([5, 9, 3])
    want = run(model, batch, speed=SPEED)
    fastbert_kernels.patch(model)
    handle = model.layers[0].register_forward_hook(lambda module, args, output: 2 * output)
    answers(model, batch)
    handle.remove()
    assert_fast_path(model, batch, want)


def assert_fast_path(model, batch, want):
    assert_close(run(model, batch, speed=SPEED), want)  # looks at the model anew
    with only_the_fast_path(model):
        assert_close(run(model, batch, speed=SPEED), want)


def test_merged_adapters_are_served():
    """The remedy that the message names."""
    model, batch = spread_model(), padded_batch([5, 9, 3])
    fastbert_kernels.patch(model)
    adapter(model)
    want = answers(model, batch)
    attention = model.layers[0].attention.self
    wrapped = attention.query
    with torch.no_grad():
        wrapped.base.weight += wrapped.up.weight @ wrapped.down.weight
    attention.query = wrapped.base
    assert_fast_path(model, batch, want)


def test_a_deep_copy_is_checked_anew():
    model, batch = fastbert_kernels.patch(spread_model()), padded_batch([5, 9, 3])
    run(model, batch, speed=SPEED)
    hook_on_layer(model)
    copied = copy.deepcopy(model)
    assert_close(answers(copied, batch), answers(fastbert_kernels.unpatch(model), batch))


@pytest.mark.parametrize("wrapped", [False, True], ids=["another", "wrapped"])
@pytest.mark.parametrize(("kind", "name"), [(nn.Linear, "forward"), (BertLayer, "feed_forward_chunk")])
def test_a_method_replaced_on_a_class(kind, name, wrapped):
    model, batch = spread_model(), padded_batch([5, 9, 3])
    fastbert_kernels.patch(model)
    own = getattr(kind, name)
    doubled = functools.wraps(own)(lambda self, x: 2 * own(self, x)) if wrapped else lambda self, x: 2 * own(self, x)
    setattr(kind, name, doubled)
    try:
        got, want = answers(model, batch), answers(fastbert_kernels.unpatch(copy.deepcopy(model)), batch)
        with pytest.raises(ValueError, match="replaced on the class"):
            fastbert_kernels.patch(spread_model())
    finally:
        setattr(kind, name, own)
    assert_close(got, want)


def plain_classifier():
    torch.manual_seed(0)
    return BertForSequenceClassification(make_backbone_config("bert")).eval()


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (spread_model, {}),
        (plain_classifier, {}),
        (HighwayModel, {}),
        (BranchyBert, {"inference": True, "inference_speed": 0.5}),
    ],
    ids=["own", "plain", "DeeBERT", "BitVoyage"],
)
def test_the_forward_of_the_models_class_replaced(monkeypatch, make, options):
    model, batch = fastbert_kernels.patch(make().eval()), {"input_ids": torch.ones(1, 3).long(), **options}
    kind = type(model)
    run(model, batch)
    monkeypatch.setattr(kind, "forward", functools.wraps(kind.forward)(lambda self, *args, **kwargs: "mine"))
    with pytest.warns(RuntimeWarning, match=f"changed after patch.*the forward of {kind.__name__} was replaced"):
        assert run(model, batch) == "mine"
    with pytest.raises(ValueError, match="a forward of its own|the forward of .* was replaced on the class"):
        fastbert_kernels.patch(make().eval())


def test_a_hook_for_all_modules():
    model, batch = fastbert_kernels.patch(spread_model()), padded_batch([5, 9, 3])
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(type(module)))
    try:
        with pytest.warns(RuntimeWarning, match="hook is registered for all modules"):
            run(model, batch, speed=SPEED)
    finally:
        handle.remove()
    assert BertLayer in seen
    assert_fast_path(model, batch, run(fastbert_kernels.unpatch(copy.deepcopy(model)), batch, speed=SPEED))


def test_a_layer_in_train_mode():
    model, batch = spread_model(), padded_batch([5, 9, 3])
    fastbert_kernels.patch(model)
    model.layers[0].train()
    for module in model.layers[0].modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.9
    model.eval()
    model.layers[0].train()
    torch.manual_seed(0)
    with pytest.warns(RuntimeWarning, match="train mode, where dropout is active"):
        got = run(model, batch, speed=SPEED)
    torch.manual_seed(0)
    assert_close(got, run(fastbert_kernels.unpatch(model), batch, speed=SPEED))


def test_a_dropout_that_gets_its_probability_later():
    model, batch = spread_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), padded_batch([5, 9, 3])
    fastbert_kernels.patch(model)
    dropout = model.layers[0].output.dropout.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # one that drops nothing is as in eval mode
        run(model, batch, speed=SPEED)
    dropout.p = 0.9
    torch.manual_seed(0)
    with pytest.warns(RuntimeWarning, match="train mode, where dropout is active"):
        got = run(model, batch, speed=SPEED)
    torch.manual_seed(0)
    assert_close(got, run(fastbert_kernels.unpatch(model), batch, speed=SPEED))


def doubled_attention(module, query, key, value, mask, scaling, **options):
    return 2 * F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2), None


@pytest.mark.parametrize("name", ["mine", "sdpa"])
def test_attention_that_is_not_of_transformers(monkeypatch, name):
    model, batch = spread_model(), padded_batch([5, 9, 3])
    fastbert_kernels.patch(model)
    before = run(model, batch, speed=SPEED)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, name, doubled_attention)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "mine", sdpa_mask)
    model.set_attn_implementation(name)
    with pytest.warns(RuntimeWarning, match=f"changed after patch.*attn_implementation='{name}' may compute something"):
        got = run(model, batch, speed=SPEED)
    assert_close(got, run(fastbert_kernels.unpatch(model), batch, speed=SPEED))
    assert not torch.allclose(got.logits, before.logits, atol=1e-2)
    with pytest.raises(ValueError, match="may compute something else than attention"):
        fastbert_kernels.patch(model)


def test_autocast_is_said_to_change_nothing():
    model, batch = fastbert_kernels.patch(spread_model()), padded_batch([5, 9, 3])
    want = run(model, batch, speed=SPEED)
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(RuntimeWarning, match="torch.autocast does not reach"):
        got = run(model, batch, speed=SPEED)
    assert torch.equal(got.logits, want.logits)


def test_a_guard_of_a_model_as_it_was_is_intact():
    model = spread_model()
    guard = Guard(model, [*model.layers, *model.heads])
    run(model, padded_batch([5, 9, 3]), speed=SPEED)
    model.to(torch.float64).to(torch.float32).train().eval().requires_grad_(False)
    assert guard.intact()
