"""The native look at the objects that a patched model was read from: what it takes for unchanged is."""

from __future__ import annotations

import math
import types

import pytest
import torch
from torch import Tensor, nn

import fastbert_kernels
from fastbert_kernels import _extension
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.hosts.guard import VERSION, Guard
from fastbert_kernels.patched_calls import PATCH
from helpers.models import padded_batch, spread_model

native, REASON = _extension.load()
if native is None:
    pytest.skip(REASON, allow_module_level=True)

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class OwnKind(nn.Parameter):
    pass


class TestEntries:
    def entries(self):
        nothing_equals_it = object()
        holders = [{"a": 1.5, "b": (1, "x")}, {"a": nothing_equals_it}, {"f": None}]
        return (
            [holders[0], holders[0], holders[1], holders[2]],
            ["a", "b", "a", "f"],
            [1.5, (1, "x"), nothing_equals_it, None],
        )

    def test_the_same_and_equal_values(self):
        holders, names, values = self.entries()
        assert native.entries_hold(holders, names, values)
        pair = [1, "x"]
        values[:2] = [float("1.5"), tuple(pair)]
        assert native.entries_hold(holders, names, values)
        assert native.entries_hold([], [], [])

    @pytest.mark.parametrize("place", range(4))
    def test_another_value_and_none_at_all(self, place):
        holders, names, values = self.entries()
        holders[place][names[place]] = math.pi
        assert not native.entries_hold(holders, names, values)
        del holders[place][names[place]]
        assert not native.entries_hold(holders, names, values)

    def test_a_comparison_that_fails_is_an_error(self):
        class Odd:
            def __eq__(self, other):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            native.entries_hold([{"a": 1}], ["a"], [Odd()])

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="of one length"):
            native.entries_hold([{}], [], [])
        with pytest.raises(TypeError, match="must be a dict"):
            native.entries_hold([[]], ["a"], [1])
        with pytest.raises(TypeError):
            native.entries_hold({}, [], [])
        with pytest.raises(TypeError, match="unhashable"):
            native.entries_hold([{"a": 1}], [[]], [1])


class TestModules:
    def modules(self):
        modules = [nn.Linear(2, 2), nn.Dropout(), nn.LayerNorm(3)]
        attributes = [module.__dict__ for module in modules]
        return modules, (modules, attributes, [*map(type, modules)], [*map(len, attributes)], HOOKS)

    def test_as_they_were(self):
        _, given = self.modules()
        assert native.modules_hold(*given)

    @pytest.mark.parametrize("place", range(3))
    @pytest.mark.parametrize(
        "change",
        [
            lambda module: setattr(module, "one_more", 1),
            lambda module: delattr(module, "training"),
            lambda module: setattr(module, "__class__", type("Own", (type(module),), {})),
            lambda module: module.register_forward_hook(print),
            lambda module: module.register_forward_pre_hook(print),
            lambda module: delattr(module, "_forward_hooks"),
        ],
    )
    def test_changed(self, change, place):
        modules, given = self.modules()
        change(modules[place])
        assert not native.modules_hold(*given)

    def test_what_is_refused(self):
        _, (modules, attributes, classes, numbers, hooks) = self.modules()
        with pytest.raises(ValueError, match="of one length"):
            native.modules_hold(modules, attributes[:2], classes, numbers, hooks)
        with pytest.raises(TypeError):
            native.modules_hold(modules, attributes, classes, ["a", *numbers[1:]], hooks)
        with pytest.raises(TypeError, match="must be a dict"):
            native.modules_hold(modules, [None, *attributes[1:]], classes, numbers, hooks)


class TestTensors:
    def tensors(self):
        module = nn.Linear(3, 2)
        tensors = [module.weight, module.bias]
        addresses, versions = [*map(Tensor.data_ptr, tensors)], [*map(VERSION, tensors)]
        kinds = [*map(type, tensors)]
        looks = Tensor.data_ptr, VERSION
        return module, ([module.__dict__] * 2, ["weight", "bias"], tensors, kinds, addresses, versions, *looks)

    def test_as_they_were(self):
        _, given = self.tensors()
        assert native.tensors_hold(*given)

    @pytest.mark.parametrize("name", ["weight", "bias"])
    @pytest.mark.parametrize(
        "change",
        [
            lambda module, name: getattr(module, name).add_(0),
            lambda module, name: setattr(getattr(module, name), "data", getattr(module, name).data.clone()),
            lambda module, name: setattr(module, name, nn.Parameter(getattr(module, name))),
            lambda module, name: setattr(module, name, None),
            lambda module, name: delattr(module, name),
            lambda module, name: setattr(getattr(module, name), "__class__", OwnKind),
            lambda module, name: module.__dict__.update(_parameters=dict.fromkeys(("weight", "bias"), torch.ones(3))),
            lambda module, name: module.__dict__.pop("_parameters"),
        ],
    )
    @torch.no_grad()
    def test_changed(self, change, name):
        module, given = self.tensors()
        change(module, name)
        assert not native.tensors_hold(*given)

    def test_a_look_that_fails_is_an_error(self):
        with torch.inference_mode():
            made = torch.ones(2)
        holders = [{"_parameters": {"weight": made}}]
        given = holders, ["weight"], [made], [Tensor], [made.data_ptr()], [0], Tensor.data_ptr, VERSION
        with pytest.raises(RuntimeError, match="[Ii]nference tensors"):
            native.tensors_hold(*given)

    def test_what_is_refused(self):
        _, (holders, names, tensors, kinds, addresses, versions, *looks) = self.tensors()
        with pytest.raises(ValueError, match="of one length"):
            native.tensors_hold(holders, names, tensors, kinds, addresses, versions[:1], *looks)
        with pytest.raises(TypeError, match="must be a dict"):
            native.tensors_hold([None, None], names, tensors, kinds, addresses, versions, *looks)


WITHOUT = types.SimpleNamespace(load=lambda: (None, "not built"))


@pytest.mark.parametrize("natively", [True, False])
@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        (lambda model: setattr(model[1], "p", 0.3), False),  # for `in_train_mode` to look at
        (lambda model: setattr(model, "1", nn.Dropout(0.1)), True),
        (lambda model: setattr(model[0], "forward", lambda x: x), True),
        (lambda model: setattr(model[2], "eps", 1e-3), True),
        (lambda model: model[0].register_forward_hook(lambda *a: None), True),
        (lambda model: model.append(nn.Identity()), True),
    ],
)
def test_a_guard_without_the_compiled_module_notices_the_same(monkeypatch, natively, change, noticed):
    if not natively:
        monkeypatch.setattr("fastbert_kernels.hosts.guard._extension", WITHOUT)
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1), nn.LayerNorm(3))
    guard = Guard(model, [model])
    assert guard.intact() and guard._modules_hold_natively() is natively
    change(model)
    assert guard.intact() is not noticed


@pytest.mark.parametrize("natively", [True, False])
@torch.no_grad()
def test_what_is_derived_without_the_compiled_module_is_as_new(monkeypatch, natively):
    if not natively:
        monkeypatch.setattr("fastbert_kernels.hosts.derived._extension", WITHOUT)
    module, built = nn.Linear(2, 2), []

    def build(weight, bias):
        built.append(float(weight.sum() + bias.sum()))
        return built[-1]

    derived = Derived(module, [(module, "weight"), (module, "bias")], build, [])
    changes = [
        lambda: module.weight.fill_(1.0),
        lambda: module.bias.fill_(2.0),
        lambda: setattr(module, "weight", nn.Parameter(torch.full((2, 2), 3.0))),
        lambda: setattr(module.bias, "data", torch.full((2,), 4.0)),
        lambda: module.double(),
    ]
    for number, change in enumerate(changes):
        change()
        for _ in range(3):
            assert derived.get() == float(module.weight.sum() + module.bias.sum())
            assert derived._holds_natively(derived._state) is natively
        assert len(built) == number + 1


def test_of_a_patched_model_the_native_look_is_enough():
    model, batch = fastbert_kernels.patch(spread_model(), backend="cpu"), padded_batch([5, 3])
    with torch.inference_mode():
        model(**batch, speed=0.5)
    encoder = model.__dict__[PATCH].encoder
    assert encoder.guard._modules_hold_natively() and encoder._holds_natively(encoder._state)
