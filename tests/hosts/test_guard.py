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
from helpers.families import make_backbone_config
from helpers.models import padded_batch, spread_model
from helpers.patched import only_the_fast_path, run

SPEED = 0.5


class DoublingLayer(BertLayer):
    def forward(self, *args, **kwargs):
        return 2 * super().forward(*args, **kwargs)


class LowRankLinear(nn.Module):
    """An adapter around a Linear, as libraries for adapters put it in its place."""

    def __init__(self, base):
        super().__init__()
        self.base, self.down = base, nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(2 * x)


def set_activation(make):
    def change(model):
        for layer in model.layers:
            del layer.intermediate.intermediate_act_fn  # a module, in whose place no function can be put
            layer.intermediate.intermediate_act_fn = make()

    return change


def hook_on_layer(model):
    model.layers[1].register_forward_hook(lambda module, args, output: 2 * output)


def pre_hook_on_linear(model):
    model.layers[1].intermediate.dense.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def hook_on_head(model):
    model.heads[0].classifier.register_forward_hook(lambda module, args, output: -output)


def hook_on_embeddings(model):
    model.backbone.embeddings.register_forward_hook(lambda module, args, output: 2 * output)


def forward_of_instance(model):
    linear = model.layers[0].output.dense
    linear.forward = lambda x: 2 * F.linear(x, linear.weight, linear.bias)


def derived_layer(model):
    layer = DoublingLayer(model.backbone.config)
    layer.load_state_dict(model.layers[1].state_dict())
    model.layers[1] = layer.eval()


def adapter(model):
    attention = model.layers[0].attention.self
    attention.query = LowRankLinear(attention.query).eval()


def adapter_in_head(model):
    model.heads[1].dense = LowRankLinear(model.heads[1].dense).eval()


def quantized_linear(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch wants another package for it
        torch.ao.quantization.quantize_dynamic(model.layers[0].intermediate, {nn.Linear}, inplace=True)


class DoublingLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class DoublingNorm(nn.LayerNorm):
    def forward(self, x):
        return 2 * super().forward(x)


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


class DoubledTensor(torch.Tensor):
    """Weights that only PyTorch's operations know how to read, as those of libraries for quantization."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (F.linear, F.embedding):
            return function(
                *(2 * x.as_subclass(torch.Tensor) if isinstance(x, cls) else x for x in args), **kwargs or {}
            )
        return super().__torch_function__(function, types, args, kwargs or {})


def tensors_of_another_kind(model):
    linear = model.layers[1].intermediate.dense
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(DoubledTensor), requires_grad=False)


def words_of_another_kind(model):
    words = model.backbone.embeddings.word_embeddings
    words.weight = nn.Parameter(words.weight.detach().as_subclass(DoubledTensor), requires_grad=False)


def parametrized_linear(model):
    nn.utils.parametrize.register_parametrization(model.layers[1].intermediate.dense, "weight", Doubled())


def class_of_a_linear(model):
    model.layers[1].intermediate.dense.__class__ = DoublingLinear


def class_of_a_norm(model):
    model.layers[1].output.LayerNorm.__class__ = DoublingNorm


def method_of_an_instance(model):
    layer = model.layers[1]
    layer.feed_forward_chunk = lambda x: 2 * layer.output(layer.intermediate(x), x)


def other_head(model):
    model.heads[0] = copy.deepcopy(model.heads[1])


def other_layer(model):
    model.layers[0] = copy.deepcopy(model.layers[2])


def eps_of_one_norm(model):
    model.layers[0].output.LayerNorm.eps = 0.5


def eps_of_both_norms(model):
    for norm in (model.layers[0].output.LayerNorm, model.layers[0].attention.output.LayerNorm):
        norm.eps = 0.5


def eps_of_embeddings(model):
    model.backbone.embeddings.LayerNorm.eps = 0.5


def scaling(model):
    model.layers[0].attention.self.scaling *= 3


def size_of_heads(model):
    attention = model.layers[0].attention.self
    attention.attention_head_size //= 2
    attention.num_attention_heads *= 2
    attention.scaling = attention.attention_head_size**-0.5


def renormalized_words(model):
    model.backbone.embeddings.word_embeddings.max_norm = 0.1


def heads_of_exit_head(model):
    model.heads[0].num_attention_heads = 1


def activation_of_exit_head(model):
    model.heads[0].activation = "identity"


def activation_for_a_dropout(model):
    model.layers[1].output.dropout = nn.Tanh()


def activation_for_a_dropout_of_embeddings(model):
    model.backbone.embeddings.dropout = nn.Sequential(nn.Tanh())


def buffer_of_segments(model):
    model.backbone.embeddings.token_type_ids.fill_(1)


def transposed_view_of_a_weight(model):
    dense = model.layers[1].attention.output.dense
    dense.weight = nn.Parameter(dense.weight.detach().t())


# change -> whether the engine still computes such a model
CHANGES = {
    "relu": (set_activation(nn.ReLU), True),
    "relu as a function": (set_activation(lambda: F.relu), True),
    "tanh form of GELU": (set_activation(lambda: nn.GELU(approximate="tanh")), True),
    "activation of the user": (set_activation(Swish), True),
    "hook on a layer": (hook_on_layer, False),
    "pre-hook on a Linear": (pre_hook_on_linear, False),
    "hook on a head": (hook_on_head, False),
    "hook on the embeddings": (hook_on_embeddings, False),
    "forward of an instance": (forward_of_instance, False),
    "derived layer": (derived_layer, False),
    "adapter": (adapter, False),
    "adapter in a head": (adapter_in_head, False),
    "quantized Linear": (quantized_linear, False),
    "tensors of another kind": (tensors_of_another_kind, False),
    "words of another kind": (words_of_another_kind, True),
    "parametrized Linear": (parametrized_linear, False),
    "class of a Linear": (class_of_a_linear, False),
    "class of a norm": (class_of_a_norm, False),
    "method of an instance": (method_of_an_instance, False),
    "another layer": (other_layer, True),
    "another exit head": (other_head, True),
    "eps of one norm": (eps_of_one_norm, False),
    "eps of both norms": (eps_of_both_norms, True),
    "eps of the embeddings": (eps_of_embeddings, True),
    "scaling": (scaling, False),
    "size of the attention heads": (size_of_heads, True),
    "renormalized words": (renormalized_words, False),
    "activation for a dropout": (activation_for_a_dropout, False),
    "activation for the dropout of the embeddings": (activation_for_a_dropout_of_embeddings, False),
    "buffer of segments": (buffer_of_segments, False),
    "transposed view of a weight": (transposed_view_of_a_weight, True),
    "heads of an exit head": (heads_of_exit_head, True),
    "activation of an exit head": (activation_of_exit_head, True),
}


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


def trace(model, batch):
    torch.jit.trace(lambda ids, mask: model(ids, mask).logits, (batch["input_ids"], batch["attention_mask"]))


def trace_by_dispatch(model, batch):
    from torch.fx.experimental.proxy_tensor import make_fx

    make_fx(lambda ids, mask: model(ids, mask).logits)(batch["input_ids"], batch["attention_mask"])


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        return self.model(ids, mask).logits


def trace_symbolically(model, batch):
    torch.fx.symbolic_trace(Logits(model))


def onnx_export(model, batch):
    torch.onnx.export(model, (batch["input_ids"], batch["attention_mask"]), "model.onnx", dynamo=False)


@pytest.mark.parametrize("tracer", [trace, trace_by_dispatch, trace_symbolically, onnx_export])
def test_tracers_are_refused(tracer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, batch = fastbert_kernels.patch(spread_model()), padded_batch([5, 9, 3])
    with torch.no_grad(), pytest.raises(Exception, match="the data decides which layers run"):
        tracer(model, batch)
    assert not list(tmp_path.iterdir())


def test_the_unpatched_model_can_be_traced_at_full_depth():
    """As the message says."""
    model, batch = spread_model(), padded_batch([5, 9, 3])
    fastbert_kernels.unpatch(fastbert_kernels.patch(model))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Logits(model).eval(), (batch["input_ids"], batch["attention_mask"]))
        want = model(**batch).logits
    torch.testing.assert_close(traced(batch["input_ids"], batch["attention_mask"]), want)
