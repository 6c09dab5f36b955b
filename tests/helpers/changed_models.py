"""What users do to the modules of a model."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.bert.modeling_bert import BertLayer


class DoublingLayer(BertLayer):
    def forward(self, *args, **kwargs):
        return 2 * super().forward(*args, **kwargs)


def derived_classes(base):
    """Return two classes of a user's own: with a `forward` of its own, and without."""

    class Mine(base):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    class Plain(base):
        pass

    return Mine, Plain


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


def quantised_linear(model):
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
    """Weights that only PyTorch's operations know how to read, as those of libraries for quantisation."""

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


def renormalised_words(model):
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
    "quantised Linear": (quantised_linear, False),
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
    "renormalised words": (renormalised_words, False),
    "activation for a dropout": (activation_for_a_dropout, False),
    "activation for the dropout of the embeddings": (activation_for_a_dropout_of_embeddings, False),
    "buffer of segments": (buffer_of_segments, False),
    "transposed view of a weight": (transposed_view_of_a_weight, True),
    "heads of an exit head": (heads_of_exit_head, True),
    "activation of an exit head": (activation_of_exit_head, True),
}
