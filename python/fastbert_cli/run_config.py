"""The configuration of a training run: sections of settings, from a YAML file and from flags, checked, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import torch
import yaml

from fastbert_cli.config_values import StrictLoader, describe, fits
from fastbert_cli.errors import CommandError
from fastbert_hf.files import write_atomically
from fastbert_hf.machine import computes_in_bfloat16
from fastbert_hf.training import DistillationSettings, LabelSettings, TrainingSettings

# What a step takes from the sections `run` and `model`, or from the output folder.
_NOT_OF_THE_STEP = ("seed", "precision", "max_length", "cache_dir")
# What a resumed run may have otherwise: none of it changes the result.
_FREE = ("fine_tune.keep_checkpoints", "distil.keep_checkpoints", "distil.cache", "distil.cache_limit_gb")


@dataclass(frozen=True)
class TrainDataSection:
    """Where texts and labels are; `train` and `dev` are files or names of `datasets`."""

    train: str | None = None
    dev: str | None = None
    unlabelled: tuple[str, ...] = ()
    subset: str | None = None
    train_split: str | None = None
    dev_split: str | None = None
    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None
    multi_label: bool = False


@dataclass(frozen=True)
class DistilDataSection:
    """Where the texts are, and labelled texts to score on."""

    texts: tuple[str, ...] = ()
    dev: str | None = None
    subset: str | None = None
    dev_split: str | None = None
    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class NewModelSection:
    """The backbone and the exit heads; names and defaults are those of `FastBertConfig`."""

    backbone: str | None = None
    head_type: Literal["attentive", "pooled"] = "attentive"
    head_hidden_size: int = 128
    head_num_attention_heads: int = 2
    head_pooling: Literal["first", "mean", "max"] = "first"
    head_num_dense_layers: int = 1
    head_activation: Literal["tanh", "relu", "gelu"] = "tanh"
    exit_layers: tuple[int, ...] | None = None
    max_length: int = 128

    def of_the_heads(self) -> dict[str, Any]:
        """What `from_backbone` takes beside the backbone."""
        settings = {option.name: getattr(self, option.name) for option in fields(self)}
        del settings["backbone"], settings["max_length"]
        return settings


@dataclass(frozen=True)
class SavedModelSection:
    """The folder of a saved FastBERT."""

    folder: str | None = None
    max_length: int = 128


@dataclass(frozen=True)
class DistilSection(DistillationSettings):
    """Step 2, with the cache switched on or off instead of a folder for it."""

    cache: bool = False


@dataclass(frozen=True)
class RunSection:
    """What concerns all steps."""

    seed: int = 42
    precision: Literal["auto", "fp32", "bf16"] = "auto"


@dataclass(frozen=True)
class TrainRunSection(RunSection):
    """Also which steps there are: both, step 1 alone, or joint training in their place."""

    steps: Literal["both", "fine_tune", "joint"] = "both"


@dataclass(frozen=True)
class DistilConfig:
    """All of `fastbert distill`."""

    data: DistilDataSection = DistilDataSection()
    model: SavedModelSection = SavedModelSection()
    distil: DistilSection = field(default_factory=DistilSection)
    run: RunSection = RunSection()

    def distillation(self, cache_dir: Path) -> DistillationSettings:
        """The settings of step 2, with a cache in `cache_dir` if one is wanted."""
        return _distillation(self, cache_dir)


@dataclass(frozen=True)
class TrainConfig:
    """All of `fastbert train`."""

    data: TrainDataSection = TrainDataSection()
    model: NewModelSection = NewModelSection()
    fine_tune: LabelSettings = field(default_factory=LabelSettings)
    distil: DistilSection = field(default_factory=DistilSection)
    run: TrainRunSection = TrainRunSection()

    def fine_tuning(self) -> LabelSettings:
        """The settings of step 1, or of joint training."""
        return replace(self.fine_tune, **_shared(self))

    def distillation(self, cache_dir: Path) -> DistillationSettings:
        """The settings of step 2, with a cache in `cache_dir` if one is wanted."""
        return _distillation(self, cache_dir)


Config = TypeVar("Config", TrainConfig, DistilConfig)


def read_config(kind: type[Config], file: Path | None, flags: Mapping[str, Any]) -> Config:
    """A configuration from a file and flags, of which the flags win; what neither names has its default.

    Args:
        kind: of the configuration.
        file: YAML, a mapping of sections to mappings of keys to values; `None`: flags alone.
        flags: values by their key, such as "fine_tune.epochs".

    Returns:
        The configuration, with the precision "auto" replaced by what it means on this machine.

    Raises:
        CommandError: a file that cannot be read or is not of that form, an unknown section or key, a value of another
            type or out of its range. The message names the key.
    """
    sections: dict[str, dict[str, Any]] = {}
    if file is not None:
        sections = _read_sections(file)
        _build(kind, sections, f"{file}: ")
    for key, value in flags.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    config = _build(kind, sections, "")
    if config.run.precision == "auto":
        config = replace(config, run=replace(config.run, precision=_best_precision()))
    try:
        config.distillation(Path())  # checks what the steps take from the sections run and model
    except ValueError as error:
        raise CommandError(str(error)) from error
    return config


def write_config(config: TrainConfig | DistilConfig, file: Path, command: str) -> None:
    """Write the complete configuration as YAML, with how to repeat the run as a comment."""
    text = yaml.safe_dump(as_sections(config), sort_keys=False, allow_unicode=True)
    write_atomically(file, f"# Repeat this run with: {command}\n{text}")


def as_sections(config: TrainConfig | DistilConfig) -> dict[str, dict[str, Any]]:
    """The configuration as plain values, the form of the file."""
    sections = {section.name: getattr(config, section.name) for section in fields(config)}
    return {
        name: {
            key: list(value) if isinstance(value := getattr(section, key), tuple) else value for key in _keys(section)
        }
        for name, section in sections.items()
    }


def check_same(stored: Config, asked: Config, folder: Path) -> None:
    """Raise `CommandError` if a run with the configuration `stored` cannot go on with the one `asked` for."""
    before, now = _flat(stored), _flat(asked)
    differences = [
        f"{key} is {before[key]!r} there and {now[key]!r} now"
        for key in before
        if key not in _FREE and before[key] != now[key]
    ]
    if differences:
        raise CommandError(
            f"{folder} holds another run: {'; '.join(differences)}; resume without these options, or choose another "
            "--out"
        )


def _flat(config: TrainConfig | DistilConfig) -> dict[str, Any]:
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


def _build(kind: type[Config], sections: Mapping[str, Any], source: str) -> Config:
    kinds = {name: type(default) for name, default in vars(kind()).items()}
    _refuse_unknown(sections, kinds, f"{source}unknown section {{}}; known are {{}}")
    built = {}
    for name, values in sections.items():
        if not isinstance(values, dict):
            raise CommandError(f"{source}section {name} must have keys and values, got {values!r}")
        _refuse_unknown(values, _keys(kinds[name]), f"{source}unknown key {name}.{{}}; known in {name} are {{}}")
        built[name] = _build_section(kinds[name], name, values, source)
    return kind(**built)


def _build_section(kind: Any, name: str, values: Mapping[str, Any], source: str) -> Any:
    types = get_type_hints(kind)
    for key, value in values.items():
        if not fits(value, types[key]):
            raise CommandError(f"{source}{name}.{key} must be {describe(types[key])}, got {value!r}")
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except ValueError as error:  # its message begins with the key
        raise CommandError(f"{source}{name}.{error}") from error


def _refuse_unknown(names: Mapping[Any, Any], known: Any, message: str) -> None:
    for name in names:
        if name not in known:
            raise CommandError(message.format(name, ", ".join(known)))


def _keys(section: Any) -> list[str]:
    kind = section if isinstance(section, type) else type(section)
    hidden = _NOT_OF_THE_STEP if issubclass(kind, TrainingSettings) else ()
    return [option.name for option in fields(kind) if option.name not in hidden]


def _shared(config: TrainConfig | DistilConfig) -> dict[str, Any]:
    return {"seed": config.run.seed, "precision": config.run.precision, "max_length": config.model.max_length}


def _distillation(config: TrainConfig | DistilConfig, cache_dir: Path) -> DistillationSettings:
    own = {option.name: getattr(config.distil, option.name) for option in fields(DistillationSettings)}
    return DistillationSettings(
        **{**own, **_shared(config), "cache_dir": str(cache_dir) if config.distil.cache else None}
    )


def _best_precision() -> Literal["fp32", "bf16"]:
    fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else computes_in_bfloat16()
    return "bf16" if fast else "fp32"
