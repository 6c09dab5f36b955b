"""Checkpoints of other FastBERT implementations: reading the file, and holding its names and sizes against a list."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_SHOWN = 8


class ConversionError(ValueError):
    """This checkpoint cannot be converted; the message is one line with the reason."""


@dataclass(frozen=True)
class Entry:
    """A parameter: its name in the checkpoint, in the converted model, and its shape in letters ("NH": classes, hidden
    size). A letter stands for the same number everywhere."""

    source: str
    target: str
    shape: str


def linear(source: str, target: str, shape: str) -> list[Entry]:
    """Weight and bias of a Linear layer whose weight has the shape [out, in]."""
    return [
        Entry(f"{source}.weight", f"{target}.weight", shape),
        Entry(f"{source}.bias", f"{target}.bias", shape[0]),
    ]


def layer_norm(source: str, target: str) -> list[Entry]:
    """Gamma and beta [H]."""
    return [Entry(f"{source}.gamma", f"{target}.weight", "H"), Entry(f"{source}.beta", f"{target}.bias", "H")]


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file that `torch.save` wrote, on the CPU; `module.` of DataParallel is taken off its names.

    Raises:
        ConversionError: no such file, or one that holds something else. A pickle that would have to run code to be
            loaded is not loaded.
    """
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        detail = f"it asks for {needed[1]}" if needed else "it is no file of torch.save"
        raise ConversionError(
            f"{path}: not a state dict ({detail}), and such a pickle can run code, so it is not loaded; "
            "save model.state_dict() in the program that made it"
        ) from None
    except Exception as error:  # what is no such file fails in the unpickler in any way
        raise ConversionError(
            f"{path}: cannot be read: {type(error).__name__} {' '.join(str(error).split())}"
        ) from None
    if not isinstance(loaded, dict) or not loaded:
        raise ConversionError(f"{path}: holds a {type(loaded).__name__}, not the names and tensors of a state dict")
    strange = [
        str(name) for name, value in loaded.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    if strange:
        raise ConversionError(
            f"{path}: not a plain state dict: {listed(strange)} "
            f"{'are not tensors' if len(strange) > 1 else 'is not a tensor'} under a name; "
            "save model.state_dict() alone"
        )
    if all(name.startswith("module.") for name in loaded):
        loaded = {name.removeprefix("module."): value for name, value in loaded.items()}
    broken = [name for name, value in loaded.items() if not torch.isfinite(value).all()]
    if broken:
        raise ConversionError(f"{path}: NaN or inf in {listed(broken)}")
    return loaded


def read_settings(paths: Sequence[Path]) -> dict[str, Any]:
    """The fields of JSON files that configure the original model, together.

    Raises:
        ConversionError: a file cannot be read, is not a JSON object, or contradicts another.
    """
    settings: dict[str, Any] = {}
    for path in paths:
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConversionError(f"{path}: cannot be read: {error}") from None
        if not isinstance(fields, dict):
            raise ConversionError(f"{path}: a JSON object is expected, not a {type(fields).__name__}")
        for name, value in fields.items():
            if settings.setdefault(name, value) != value:
                raise ConversionError(f"{path}: {name} is {value!r}, but {settings[name]!r} in another configuration")
    return settings


def check_names(names: Iterable[str], expected: Iterable[str], format: str) -> None:
    """Raise `ConversionError` unless a checkpoint has exactly the `expected` names."""
    have, want = set(names), set(expected)
    if have.isdisjoint(want):
        raise ConversionError(
            f"not a checkpoint of the format {format}: it has none of its names, but such as {listed(sorted(have)[:3])}"
        )
    problems = [
        f"{kind} {', '.join(_all_of(some))}"
        for kind, some in (("missing", want - have), ("unexpected", have - want))
        if some
    ]
    if problems:
        raise ConversionError(f"not a checkpoint of the format {format}: {'; '.join(problems)}")


def _all_of(names: Iterable[str]) -> list[str]:
    """All names, those that differ in the number of a layer as one, as a shell writes it: `layer.{0,1,2}.bias`."""
    numbers: dict[tuple[str, str], list[int]] = {}
    plain = []
    for name in names:
        parts = re.fullmatch(r"(.*?)\b(\d+)\b(.*)", name)
        if parts:
            numbers.setdefault((parts[1], parts[3]), []).append(int(parts[2]))
        else:
            plain.append(name)
    numbered = [
        f"{begin}{{{','.join(map(str, sorted(found)))}}}{end}" if len(found) > 1 else f"{begin}{found[0]}{end}"
        for (begin, end), found in numbers.items()
    ]
    return sorted(plain + numbered)


def solve_sizes(state: Mapping[str, torch.Tensor], entries: Sequence[Entry]) -> dict[str, int]:
    """The number that every letter of the shapes stands for.

    Raises:
        ConversionError: sizes contradict each other.
    """
    sizes: dict[str, int] = {}
    origin: dict[str, str] = {}
    problems = []
    for entry in entries:
        shape = tuple(state[entry.source].shape)
        for letter, size in zip(entry.shape, shape, strict=False):
            if sizes.setdefault(letter, size) == size:
                origin.setdefault(letter, entry.source)
        expected = tuple(sizes.get(letter, 0) for letter in entry.shape)
        if shape != expected:
            because = sorted({origin[letter] for letter in entry.shape if letter in origin} - {entry.source})
            problems.append(f"{entry.source} is {list(shape)}, but {list(expected)} follows from {', '.join(because)}")
    if problems:
        raise ConversionError(f"sizes contradict each other: {listed(problems, separator='; ')}")
    return sizes


def check_settings(settings: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise `ConversionError` when a configuration says of the checkpoint what it is not; `found` by the same names."""
    wrong = [
        f"{name} is {value} in the checkpoint, but {settings[name]} in the configuration"
        for name, value in found.items()
        if name in settings and settings[name] != value
    ]
    if wrong:
        raise ConversionError("; ".join(wrong))


def check_label_names(names: Mapping[str, Any], classes: int) -> None:
    """Raise `ConversionError` unless the names of the classes, if `id2label` has them, are as many and different."""
    given = list(names.get("id2label", {}).values())
    if given and len(given) != classes:
        raise ConversionError(f"the checkpoint has {classes} classes, but there are names for {len(given)} (--label)")
    if len(set(given)) < len(given) or not all(name.strip() for name in given):
        raise ConversionError(f"classes must have names (--label) that differ and are not blank, not {given}")


def count_layers(names: Iterable[str], pattern: str) -> int:
    """One more than the highest number that `pattern`, with one group, finds in front of a name; 0 for none."""
    found = (re.match(pattern, name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def listed(items: Sequence[str], separator: str = ", ") -> str:
    """All of a short list, the begin of a long one."""
    more = len(items) - _SHOWN
    return separator.join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
