"""Do the modules that the engine stands in for still compute what was read from them?

The engine takes the weights of a layer and computes the layer itself, so whatever else a user did to its modules would
be lost without a word: hooks, a `forward` of an instance, adapters in place of Linear layers, another activation.
`differences` names such things when a model is patched. A `Guard` remembers the modules as they were then, and tells at
every call, in microseconds, whether anything has moved since.
"""

from __future__ import annotations

import inspect
import itertools
import os
import sys
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import prune

from fastbert_kernels import _extension

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_CALL = ("forward", "_call_impl", "_wrapped_call_impl", "_slow_forward")  # what a call of a module runs, in nn.Module
_CAPTURE = "transformers.utils.output_capturing"
VERSION = Tensor._version.__get__  # type: ignore[attr-defined]
_PASSED_OVER = (nn.Dropout, nn.Identity)  # what a module called dropout may be, since no engine runs it
_BUFFERS = ("position_ids", "token_type_ids")  # of the embeddings of Transformers, which read them where none are given
# Computed by the weights alone, or not at all in eval mode: nothing but a hook or a forward changes their answers.
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_WITHOUT_SETTINGS = (nn.Linear, *_PASSED_OVER, *_CONTAINERS)


def differences(
    roots: Mapping[str, nn.Module],
    packages: tuple[str, ...] | None = None,
    called: Container[object] = (),
) -> list[str]:
    """Name what keeps the modules from computing what their classes say.

    Args:
        roots: path for the message -> a module; it and all modules within are looked at.
        packages: prefixes of the modules in which the classes are defined, with the dot; another class may compute
            something else. None leaves the classes to the caller.
        called: modules that the engine calls as they are, so that they may compute anything.

    Returns:
        One phrase for each difference.
    """
    found = []
    for prefix, root in roots.items():
        for name, module in root.named_modules():
            if module in called:
                continue
            path, kind = ".".join(filter(None, (prefix, name))), type(module)
            if packages is not None and not f"{kind.__module__}.".startswith(packages):
                found.append(f"{path} is a {kind.__module__}.{kind.__qualname__}, a class of your own")
            elif own := _methods_of_the_instance(module):
                found.append(f"{path} has a {own[0]} of its own on the instance")
            elif replaced := _methods_replaced_on_the_class(kind):
                found.append(f"the {replaced[0]} of {kind.__qualname__} ({path}) was replaced on the class")
            elif "dropout" in path.rpartition(".")[2] and kind not in _PASSED_OVER:
                found.append(f"{path} is a {kind.__qualname__}, and the engine takes it for a dropout")
            hooks = _hooks_of_the_user(module)
            if any(isinstance(hook, prune.BasePruningMethod) for hook in hooks):
                found.append(f"{path} is pruned by a hook (torch.nn.utils.prune.remove makes that permanent)")
            elif hooks:
                found.append(f"{path} has a forward hook")
            if isinstance(module, nn.Embedding) and module.max_norm is not None:
                found.append(f"{path} renormalises its rows (max_norm={module.max_norm})")
    if torch_module._has_any_global_hook():
        found.append("a hook is registered for all modules (torch.nn.modules.module.register_module_forward_hook)")
    return found


def is_as_its_class(module: nn.Module) -> bool:
    """Return whether a module without others in it computes what its class says."""
    return not differences({"": module})


class Guard:
    """The modules of a model as they are now.

    Args:
        model: its modules are watched for others put in their place.
        replaced: modules of it that the engine stands in for; these are watched with all that is in them.
    """

    def __init__(self, model: nn.Module, replaced: Iterable[nn.Module]) -> None:
        modules = list(dict.fromkeys(module for root in replaced for module in root.modules()))
        # Several hundred modules are looked at in every call: `intact` runs no line of Python for each of them.
        self._parts = modules
        self._attributes = [module.__dict__ for module in modules]
        self._numbers_of_attributes = [*map(len, self._attributes)]
        places = [(module._modules, name) for module in model.modules() for name in module._modules]
        places += [(module.__dict__, name) for module in modules for name in _settings(module)]
        self._holders = [holder for holder, _ in places]
        self._names = [name for _, name in places]
        self._values = [holder[name] for holder, name in places]
        self._classes: list[Any] = [*map(type, modules)]
        self._methods = [(kind, name) for kind in dict.fromkeys(self._classes) for name in _methods(kind)]
        self._functions: list[Callable[..., Any]] = [getattr(kind, name) for kind, name in self._methods]
        self._modes = [module.__dict__ for module in modules if _has_dropout(module)]
        # A module put behind the last one of a list takes nobody's place.
        self._lists = [module._modules for module in modules if isinstance(module, _CONTAINERS)]
        self._lengths = [*map(len, self._lists)]
        self._buffers = [(module._buffers, name) for module in modules for name in _BUFFERS if name in module._buffers]
        self._states_of_buffers = self._look_at_buffers()
        configurations = [getattr(module, "config", None) for module in modules]
        self._configurations = list({id(one): one for one in configurations if one is not None}.values())
        self._attentions = [*map(attention_of, self._configurations)]
        # Weak: what the engine made of a model shall not keep it.
        self._model, self._exit_layers = weakref.ref(model), _exit_layers_of(model)

    def intact(self) -> bool:
        """Return whether the modules, their classes, hooks, settings, methods and buffers are as they were."""
        return (
            not torch_module._has_any_global_hook()
            and (self._modules_hold_natively() or self._modules_hold())
            and [*map(len, self._lists)] == self._lengths
            and [getattr(kind, name) for kind, name in self._methods] == self._functions
            and self._look_at_buffers() == self._states_of_buffers
            and [*map(attention_of, self._configurations)] == self._attentions
            and _exit_layers_of(self._model()) == self._exit_layers
        )

    def _modules_hold_natively(self) -> bool:
        """Return whether the modules have no hook and are as they were; False also where that cannot be told."""
        native, _ = _extension.load()
        return (
            native is not None
            and native.modules_hold(self._parts, self._attributes, self._classes, self._numbers_of_attributes, _HOOKS)
            and native.entries_hold(self._holders, self._names, self._values)
        )

    def _modules_hold(self) -> bool:
        """Return whether the modules have no hook of the user's, and are as they were."""
        return (
            not (any(self._hooks_of_modules()) and any(map(_hooks_of_the_user, self._parts)))
            and [*map(dict.get, self._holders, self._names)] == self._values
            and [*map(len, self._attributes)] == self._numbers_of_attributes
            and [*map(type, self._parts)] == self._classes
        )

    def _look_at_buffers(self) -> list[tuple[int, int]]:
        """Return which tensor each buffer is, and how often it was written to."""
        found = [holder.get(name) for holder, name in self._buffers]
        return [(id(buffer), 0 if buffer is None else version_of(buffer)) for buffer in found]

    def _hooks_of_modules(self) -> Iterator[Any]:
        """Yield the hooks of every module, in two dictionaries of which nearly all are empty."""
        return itertools.chain(*(map(itemgetter(name), self._attributes) for name in _HOOKS))

    def in_train_mode(self) -> bool:
        """Return whether dropout may be active in any of the modules."""
        if not any(map(itemgetter("training"), self._modes)):
            return False
        return any(module.training and _may_drop(module) for module in self._parts)


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was written to; 0 for one made under inference mode, whose writes are not counted."""
    return 0 if tensor.is_inference() else VERSION(tensor)


def attention_of(config: Any) -> tuple[object, object]:
    """Return the name of the attention that a configuration of Transformers chose, and the function registered for it
    (None for "eager", which the modeling files have themselves, and where nothing is registered)."""
    name = getattr(config, "_attn_implementation", None)
    modeling = sys.modules.get("transformers.modeling_utils")
    return name, None if modeling is None else modeling.ALL_ATTENTION_FUNCTIONS.get(name)


def _exit_layers_of(model: nn.Module | None) -> list[int] | None:
    """Return the layers behind which a model has exit heads, where its configuration says so, in a list of its own."""
    layers = getattr(getattr(model, "config", None), "exit_layers", None)
    return None if layers is None else [*layers]


def _hooks_of_the_user(module: nn.Module) -> list[Any]:
    """Return the hooks of a module that may change what it computes, or that somebody waits for.

    Transformers leaves hooks on the layers of a model that was asked for all hidden states or attentions once, which do
    nothing in other calls, and one on the word embeddings of a model that trains with gradient checkpointing, which
    changes no number. No packed engine answers a call in which they do something.
    """
    hooks = [hook for name in _HOOKS for hook in module.__dict__[name].values()]
    return [hook for hook in hooks if not _is_left_by_transformers(hook)]


def _is_left_by_transformers(hook: Any) -> bool:
    module, name = str(getattr(hook, "__module__", "")), str(getattr(hook, "__qualname__", ""))
    return module == _CAPTURE or (module.startswith("transformers.") and name.endswith(".make_inputs_require_grads"))


def _has_dropout(module: nn.Module) -> bool:
    """Return whether a module is a dropout, or has one, whose probability it may use itself."""
    return any(isinstance(part, nn.Dropout) for part in (module, *module.children()))


def _may_drop(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Dropout) and part.p > 0 for part in (module, *module.children()))


def _settings(module: nn.Module) -> list[str]:
    """Names of the numbers, names and functions that a module keeps for its forward."""
    if isinstance(module, _WITHOUT_SETTINGS):
        return []
    return [
        name
        for name, value in module.__dict__.items()
        if name != "training" and not name.startswith("_") and (_is_plain(value) or callable(value))
    ]


def _is_plain(value: object) -> bool:
    return (
        value is None
        or isinstance(value, int | float | str)
        or (isinstance(value, tuple) and all(map(_is_plain, value)))
    )


def _methods_of_the_instance(module: nn.Module) -> list[str]:
    """Return the methods in whose place a function was put on the instance, of those that may be part of a call."""
    kind = type(module)
    return [
        name
        for name, value in module.__dict__.items()
        if callable(value) and callable(getattr(kind, name, None)) and (name in _CALL or not hasattr(nn.Module, name))
    ]


def _methods_replaced_on_the_class(kind: type[nn.Module]) -> list[str]:
    """Return the methods that are other functions than those that were written in the class, or in one it derives
    from."""
    return [name for name in _methods(kind) if was_replaced(kind, name)]


def was_replaced(kind: type[nn.Module], name: str) -> bool:
    """Return whether a method of a class is another function than the one that was written there."""
    return not _was_written_there(name, _owner(kind, name))


def _methods(kind: type[nn.Module]) -> list[str]:
    """Return the methods of a class that a call of it may run: its forward, and what the authors of a model's layers
    divided that into. PyTorch's own modules have no other, and those of Transformers' base classes run no layer."""
    names = {"forward": None}
    for owner in kind.__mro__:
        path = f"{owner.__module__}."
        if path.startswith("transformers.models.") or not path.startswith(("builtins.", "torch.", "transformers.")):
            names |= dict.fromkeys(name for name, value in owner.__dict__.items() if _is_method(name, value))
    return list(names)


def _is_method(name: str, value: object) -> bool:
    return inspect.isfunction(value) and not name.startswith("__")


def _owner(kind: type[nn.Module], name: str) -> type:
    return next(owner for owner in kind.__mro__ if name in owner.__dict__)


def _was_written_there(name: str, owner: type) -> bool:
    """Return whether a method of a class is the one in its source, or an alias of another one there."""
    if owner is nn.Module:  # the forward of a container, which is never called
        return True
    method = owner.__dict__[name]
    qualified = getattr(method, "__qualname__", "")
    in_class = qualified == f"{owner.__qualname__}.forward" if name == "forward" else True
    return (
        in_class
        and getattr(method, "__module__", None) == owner.__module__
        and qualified.startswith(f"{owner.__qualname__}.")
        and is_code_of_its_package(method)
    )


def is_code_of_its_package(function: Any) -> bool:
    """Return whether the code of a function lies in the package that its module belongs to, or is a wrapper of torch or
    Transformers.

    What somebody put around it with `functools.wraps` has its name and its module, and computes something else.
    """
    code, own = getattr(function, "__code__", None), str(getattr(function, "__module__", "")).partition(".")[0]
    packages = [sys.modules.get(name) for name in (own, "torch", "transformers")]
    if code is None or not hasattr(packages[0], "__path__"):  # compiled, or of a module that is in no package
        return True
    folders = [folder for package in packages for folder in getattr(package, "__path__", ())]
    return any(code.co_filename.startswith(f"{folder}{os.sep}") for folder in folders)
