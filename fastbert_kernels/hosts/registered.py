"""`register_host`: models that this package does not know, described by whoever has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastbert_kernels.engine.dtypes import EncoderDtype
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.engine.host_layers import CallLayer, HostEncoder
from fastbert_kernels.engine.packed import Results
from fastbert_kernels.engine.rule import ENTROPY_RULE, Rule
from fastbert_kernels.hosts.base import Host
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.hosts.heads import HostHead
from fastbert_kernels.hosts.host_path import HostPath, run_padded

REGISTERED: list[Host] = []  # the latest first


@dataclass(frozen=True)
class Run:
    """What a registered host's `forward` calls in place of its own loop over layers."""

    encoder: HostEncoder
    keep_padding: bool

    def __call__(
        self, hidden: Tensor, valid: Tensor, speed: float | Tensor | None = None, rule: Rule = ENTROPY_RULE
    ) -> Results:
        """Run all samples until their uncertainty is below their Speed, or to the last layer.

        Args:
            hidden: [B, L, H], what the first layer takes.
            valid: [B, L] bool, True at tokens, False at padding.
            speed: in [0, 1], a number or [B] for each sample; None runs to full depth.
            rule: another criterion than entropy, or a Speed per layer (`engine.rule.Rule`): the lower one counts.

        Returns:
            logits [B, N] float32, uncertainty [B] float32, exit_layer [B] int64, in the order of the batch.

        Raises:
            ValueError, TypeError: shapes or dtypes do not fit, a Speed outside [0, 1], or a sample without tokens.
        """
        if speed is not None and not bool(((given := torch.as_tensor(speed)) >= 0).logical_and(given <= 1).all()):
            raise ValueError(f"speed must lie in [0, 1], not {speed}")
        return run_padded(self.encoder, hidden, valid, speed, rule=rule, keep_padding=self.keep_padding)


def register_host(
    kind: type[nn.Module] | Callable[[nn.Module], bool],
    *,
    layers: Callable[[Any], Sequence[nn.Module]],
    heads: Callable[[Any], Sequence[HostHead | None]],
    call_layer: CallLayer,
    forward: Callable[..., Any],
    keep_padding: bool = False,
    name: str | None = None,
) -> Host:
    """Make `patch` know another model: its own encoder layers, with fused exit heads and compaction between them.

    docs/hosts.md has a complete example.

    Args:
        kind: the model's class (derived classes are meant too), or a function that says whether a model is of the kind.
        layers: model -> its L encoder layers, of any class. A layer must give the same for a sample whatever other
            samples are in the batch and however long the padding is.
        heads: model -> an L-long list of `hosts.PooledHead`, `hosts.AttentiveHead` or None for a layer without exit
            head; the last layer has one.
        call_layer: (layer, hidden [B, L, H], valid [B, L] bool) -> hidden [B, L, H]. B and L shrink when samples leave;
            tokens lie on the left, whatever side the padding of the input was on.
        forward: (model, run, *args, **kwargs) -> what `model(*args, **kwargs)` returns. It embeds, calls `run(hidden,
            valid, speed)` (`hosts.registered.Run`) and makes the answer of its results. For a call that the model's own
            forward should answer it returns NotImplemented.
        keep_padding: for models whose answers depend on the padding. It stays where it is: heads take it for tokens,
            and `valid` is the caller's.
        name: in messages; None takes that of `kind`.

    Returns:
        What `unregister_host` takes.

    Raises:
        TypeError: an argument of the wrong kind. ValueError: a host of that name is registered.
    """
    is_class = isinstance(kind, type)
    if is_class and not issubclass(cast(type, kind), nn.Module):
        raise TypeError(f"kind must be a class derived from torch.nn.Module or a function of a model, not {kind}")
    functions = {"kind": kind, "layers": layers, "heads": heads, "call_layer": call_layer, "forward": forward}
    for argument, function in functions.items():
        if not callable(function):
            raise TypeError(f"{argument} of register_host must be a function, not {function!r}")
    _check_arity(layers=(layers, 1), heads=(heads, 1), call_layer=(call_layer, 3), forward=(forward, 2))
    name = name or f"{kind.__module__}.{getattr(kind, '__qualname__', type(kind).__qualname__)}"
    if any(host.name == name for host in REGISTERED):
        raise ValueError(f"a host {name!r} is registered already: unregister_host it first, or give another name=")

    def encoder(model: nn.Module, dtype: EncoderDtype | None, backend: str) -> Derived[Encoder]:
        return HostPath(model, list(layers(model)), list(heads(model)), call_layer, dtype, backend).encoder()

    def patched_forward(model: nn.Module, encoder: HostEncoder, *args: Any, **kwargs: Any) -> Any:
        return forward(model, Run(encoder, keep_padding), *args, **kwargs)

    def matches(model: nn.Module) -> bool:
        return isinstance(model, kind) if isinstance(kind, type) else bool(kind(model))

    host = Host(name=name, matches=matches, encoder=encoder, forward=patched_forward)
    REGISTERED.insert(0, host)
    return host


def unregister_host(host: Host) -> None:
    """Forget a host; models that are patched stay so. ValueError when it is not registered."""
    if host not in REGISTERED:
        raise ValueError(f"no host {getattr(host, 'name', host)!r} is registered")
    REGISTERED.remove(host)


def _check_arity(**functions: tuple[Callable[..., Any], int]) -> None:
    """A wrong number of parameters is found here, and not at the first call of a patched model."""
    for argument, (function, count) in functions.items():
        try:
            signature = inspect.signature(function)
        except ValueError:  # some builtins have none
            continue
        try:
            signature.bind_partial(*range(count))
        except TypeError:
            raise TypeError(f"{argument} of register_host must take {count} arguments, not {signature}") from None
