"""Do the modules that the engine stands in for still compute what was read from them?

The engine takes the weights of a layer and computes the layer itself, so whatever else a user did to its modules would
be lost without a word: hooks, a `forward` of an instance, adapters in place of Linear layers, another activation.
`differences` names such things when a model is patched. A `Guard` remembers the modules as they were then, and tells at
every call, in microseconds, whether anything has moved since.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import prune

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_CAPTURE = "transformers.utils.output_capturing"
# Computed by the weights alone, or not at all in eval mode: nothing but a hook or a forward changes their answers.
_WITHOUT_SETTINGS = (nn.Linear, nn.Dropout, nn.Identity, nn.ModuleList, nn.ModuleDict, nn.Sequential)


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
            elif "forward" in module.__dict__:
                found.append(f"{path} has a forward of its own on the instance")
            elif not _defines_its_forward(kind):
                found.append(f"the forward of {kind.__qualname__} ({path}) was replaced on the class")
            hooks = _hooks_of_the_user(module)
            if any(isinstance(hook, prune.BasePruningMethod) for hook in hooks):
                found.append(f"{path} is pruned by a hook (torch.nn.utils.prune.remove makes that permanent)")
            elif hooks:
                found.append(f"{path} has a forward hook")
            if isinstance(module, nn.Embedding) and module.max_norm is not None:
                found.append(f"{path} renormalizes its rows (max_norm={module.max_norm})")
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
        self._classes: list[Any] = list(dict.fromkeys(map(type, modules)))
        self._forwards: list[Callable[..., Any]] = [kind.forward for kind in self._classes]
        self._modes = [module.__dict__ for module in modules if _may_drop(module)]

    def intact(self) -> bool:
        """Return whether the modules, their hooks, their settings and their forwards are as they were."""
        attributes = self._attributes
        return (
            not torch_module._has_any_global_hook()
            and not (any(self._hooks_of_modules()) and any(map(_hooks_of_the_user, self._parts)))
            and [*map(dict.get, self._holders, self._names)] == self._values
            and [*map(len, attributes)] == self._numbers_of_attributes
            and [kind.forward for kind in self._classes] == self._forwards
        )

    def _hooks_of_modules(self) -> Iterator[Any]:
        """Yield the hooks of every module, in two dictionaries of which nearly all are empty."""
        return itertools.chain(*(map(itemgetter(name), self._attributes) for name in _HOOKS))

    def in_train_mode(self) -> bool:
        """Return whether dropout may be active in any of the modules."""
        return any(map(itemgetter("training"), self._modes))


def _hooks_of_the_user(module: nn.Module) -> list[Any]:
    """Return the hooks of a module that may change what it computes, or that somebody waits for.

    Transformers leaves hooks on the layers of a model that was asked for all hidden states or attentions once, which do
    nothing in other calls. No packed engine answers a call in which they do something.
    """
    hooks = [hook for name in _HOOKS for hook in module.__dict__[name].values()]
    return [hook for hook in hooks if getattr(hook, "__module__", None) != _CAPTURE]


def _may_drop(module: nn.Module) -> bool:
    """Return whether a module is a dropout, or has one, whose probability it may use itself."""
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


def _defines_its_forward(kind: type[nn.Module]) -> bool:
    """Return whether the forward of a class is the one that was written in it or in a class it derives from."""
    owner = next(owner for owner in kind.__mro__ if "forward" in owner.__dict__)
    forward = owner.__dict__["forward"]
    if owner is nn.Module:  # a container, which is never called
        return True
    return (getattr(forward, "__module__", None), getattr(forward, "__qualname__", None)) == (
        owner.__module__,
        f"{owner.__qualname__}.forward",
    )
