"""The configuration of a training run as a YAML file: read together with options, checked, and written."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import yaml

from fastbert_cli.command import options_by_key
from fastbert_cli.config_values import StrictLoader, describe, fits
from fastbert_cli.errors import CommandError
from fastbert_cli.training import CONFIG_FILE, RESULTS_FILE, Step, TrainingConfig
from fastbert_hf.files import write_atomically
from fastbert_hf.machine import computes_in_bfloat16

# What a resumed run may have otherwise: none of it changes the result.
_FREE = (
    "fine_tune.keep_checkpoints",
    "distil.keep_checkpoints",
    "distil.cache",
    "distil.cache_limit_gb",
    "run.report_to",
)

# What it may have more of: it trains on from there.
_MAY_GROW = ("fine_tune.max_epochs",)

Config = TypeVar("Config", bound=TrainingConfig)

_HEADER = "# Repeat this run with: "  # with which the configuration of a run begins


def read_config(kind: type[Config], file: Path | None, flags: Mapping[str, Any]) -> Config:
    """Return what `look_at_config` returns, with the precision "auto" replaced by what it means on this machine."""
    config = look_at_config(kind, file, flags)
    if config.run.precision != "auto":
        return config
    return replace(config, run=replace(config.run, precision=_best_precision()))  # type: ignore[type-var]


def look_at_config(kind: type[Config], file: Path | None, flags: Mapping[str, Any]) -> Config:
    """Return a configuration from a file and flags, of which the flags win; what neither names has its default.

    Args:
        kind: of the configuration.
        file: YAML, a mapping of sections to mappings of keys to values; `None`: flags alone.
        flags: values by their key, such as "fine_tune.epochs".

    Raises:
        CommandError: a file that cannot be read or is not of that form, an unknown section or key, a value of another
            type or out of its range. The message names the key, or the option that was given.
    """
    sections: dict[str, dict[str, Any]] = {}
    if file is not None:
        sections = _read_sections(file)
        _build(kind, sections, f"{file}: ")
    for key, value in flags.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    config = _build(kind, sections, "", flags)
    shared = config.shared()
    if shared["precision"] == "auto":
        del shared["precision"]  # any of those it may mean will do
    try:
        for section in vars(config).values():
            if isinstance(section, Step):
                section.settings(**shared)  # checks what the steps take from the sections run and model
    except ValueError as error:
        raise CommandError(_as_typed(error, kind, flags)) from error
    return config


def write_config(config: TrainingConfig, file: Path, command: str) -> None:
    """Write the complete configuration as YAML, with how to repeat the run as a comment."""
    text = yaml.safe_dump(as_sections(config), sort_keys=False, allow_unicode=True)
    write_atomically(file, f"{_HEADER}{command}\n{text}")


def as_sections(config: TrainingConfig) -> dict[str, dict[str, Any]]:
    """Return the configuration as plain values, the form of the file."""
    sections: dict[str, dict[str, Any]] = asdict(config)  # type: ignore[call-overload]
    return {
        name: {key: list(value) if isinstance(value, tuple) else value for key, value in section.items()}
        for name, section in sections.items()
    }


def check_same(stored: Config, asked: Config, folder: Path, flags: Collection[str] = ()) -> None:
    """Raise `CommandError` if a run with the configuration `stored` cannot go on with the one `asked` for.

    Args:
        stored: of the run.
        asked: as given now.
        folder: of the run.
        flags: keys that were given as options, which the message names.
    """
    before, now = _flat(stored), _flat(asked)
    options = options_by_key(type(stored))
    differences = [
        f"{options.get(key, key) if key in flags else key} is {before[key]!r} there and {now[key]!r} now"
        for key in before
        if before[key] != now[key] and key not in _FREE and not (key in _MAY_GROW and _is_more(before[key], now[key]))
    ]
    if differences:
        raise CommandError(
            f"{folder} holds another run: {'; '.join(differences)}; resume without these options, or choose another "
            "--out"
        )


def _is_more(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and now > before


def _flat(config: TrainingConfig) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, section in as_sections(config).items() for key, value in section.items()}


def _read_sections(file: Path) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=StrictLoader)
    except OSError as error:
        raise CommandError(f"{file}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: not YAML ({' '.join(str(error).split())})") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise CommandError(f"{file}: not a mapping of sections; write them as in the config.yaml of a run")
    return {str(name): {} if section is None else section for name, section in content.items()}


def _build(kind: type[Config], sections: Mapping[str, Any], source: str, flags: Collection[str] = ()) -> Config:
    kinds = {name: type(default) for name, default in vars(kind()).items()}
    _refuse_unknown(sections, kinds, f"{source}unknown section {{}}; known are {{}}")
    built = {}
    for name, values in sections.items():
        if not isinstance(values, dict):
            raise CommandError(f"{source}section {name} must have keys and values, got {values!r}")
        try:
            built[name] = _build_section(kinds[name], name, values, source)
        except ValueError as error:
            raise CommandError(f"{source}{_as_typed(error, kind, flags, name)}") from error
    return kind(**built)


def _as_typed(error: ValueError, kind: Any, flags: Collection[str], section: str = "") -> str:
    """Return the message of `error`, which begins with a key, with the option in its place where that was given.

    Args:
        error: of the settings of a section.
        kind: of the configuration.
        flags: keys that were given as options.
        section: with which the message then begins, where it is known.
    """
    name = re.match(r"\w*", str(error))[0]  # type: ignore[index]
    keys = [key for key in flags if key.partition(".")[2] == name and key.startswith(section)]
    if not keys:
        return f"{section}.{error}" if section else str(error)
    return f"{options_by_key(kind)[keys[0]]}{str(error)[len(name) :]}"


def _build_section(kind: Any, name: str, values: Mapping[str, Any], source: str) -> Any:
    """Return a section; raise `ValueError` for a value out of its range, in which its key comes first."""
    known = [field.name for field in fields(kind)]
    _refuse_unknown(values, known, f"{source}unknown key {name}.{{}}; known in {name} are {{}}")
    types = get_type_hints(kind)
    for key, value in values.items():
        if not fits(value, types[key]):
            raise CommandError(f"{source}{name}.{key} must be {describe(types[key])}, got {value!r}")
    section = kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    if isinstance(section, Step):
        section.settings()
    return section


def _refuse_unknown(names: Mapping[Any, Any], known: Any, message: str) -> None:
    for name in names:
        if name not in known:
            raise CommandError(message.format(name, ", ".join(known)))


def _best_precision() -> Literal["fp32", "bf16"]:
    import torch  # here, so that what is wrong in a configuration is told before

    fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else computes_in_bfloat16()
    return "bf16" if fast else "fp32"


def run_to_begin(
    folder: Path, kind: type[Config], config_file: Path | None, flags: Mapping[str, Any], resume: bool
) -> tuple[Config, Path | None]:
    """Return the configuration of a run in `folder` before anything is written, and the file that it began with.

    Arguments as in `OutputFolder`.

    Raises:
        CommandError: as in `OutputFolder`, but for a run that is to go on with another configuration.
    """
    stored = folder / CONFIG_FILE
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"--out {folder}: a file; choose another name")
    if resume and not stored.is_file():
        raise CommandError(f"{folder} holds no run to go on with (no {CONFIG_FILE}); start one without --resume")
    if not resume and holds_run(folder):
        raise CommandError(f"{folder} holds a run already; add --resume to go on with it, or choose another --out")
    if not resume and (name := _file_of_others(folder)) is not None:
        raise CommandError(f"--out {folder}: has a {name} that no run wrote, and this one would; choose another name")
    file = stored if resume and config_file is None else config_file
    return look_at_config(kind, file, flags), file


def holds_run(folder: Path) -> bool:
    """Return True if there is something in the folder that a new run would spoil."""
    return (folder / "model").exists() or any(folder.glob("*/checkpoint-*"))


def _file_of_others(folder: Path) -> str | None:
    """Return the name of a file that a run would write over and that is of no run."""
    stored = folder / CONFIG_FILE
    if stored.is_file() and stored.read_bytes().startswith(_HEADER.encode()):
        return None
    return next((name for name in (CONFIG_FILE, RESULTS_FILE) if (folder / name).exists()), None)
