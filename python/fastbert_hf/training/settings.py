"""Settings of the training steps, with defaults that work and checks that speak before any time is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

from fastbert_hf.training.trainer_arguments import check_arguments

Precision = Literal["fp32", "bf16"]
Score = Literal["accuracy", "macro_f1"]
Objective = Literal["kl", "reverse_kl", "ce"]
Targets = Literal["soft", "hard", "mixed"]
CacheDtype = Literal["bfloat16", "float32"]
BALANCED: Literal["balanced"] = "balanced"

# Training arguments that change how the backbone is trained.
_OF_THE_BACKBONE = (
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "neftune_noise_alpha",
)


@dataclass(frozen=True)
class TrainingSettings:
    """Settings that every training step has.

    Attributes:
        epochs: passes over the data; a part of a pass is allowed (0.5, 2.5).
        learning_rate: highest learning rate of AdamW; it rises over the warm-up, then falls linearly and would be 0
            one step after the last, unless `arguments` has another `lr_scheduler_type`.
        batch_size: samples that are computed at a time, of all devices together, and per optimiser step, unless
            `arguments` has `gradient_accumulation_steps`. The last batch of an epoch may be smaller and is used too.
            (Several processes need equal parts: there it is filled up with the first samples of the epoch.)
        warmup_fraction: part of all steps that the warm-up takes.
        weight_decay: of AdamW, on weights only, not on biases and LayerNorm.
        seed: of shuffling and dropout. The fresh exit heads are drawn earlier, by `from_backbone`, from the global
            generator.
        precision: `"bf16"` computes in bfloat16 under autocast; weights and optimiser stay float32.
        max_length: texts are cut off at this many tokens.
        stride: longer texts are not cut off but divided into passages of `max_length` tokens that share so many; each
            is a sample with the label of its text. Scores on dev data are of texts, whose probabilities are the mean of
            those of their passages. `None`: they are cut off.
        best_by: with dev data, the score on it that decides which epoch is best; both are means over the exit heads
            that the step trains.
        keep_checkpoints: checkpoints that stay in the run folder, at least 2: the newest ones, and always the best.
        arguments: further arguments of `transformers.TrainingArguments`, by name: `gradient_accumulation_steps`,
            `lr_scheduler_type`, `report_to`, `max_grad_norm`, `optim`, ... With G accumulation steps, an optimiser step
            is that of a batch of G x `batch_size` samples.

    Raises:
        ValueError: a value out of its range, or an argument that is not known or that the step itself decides.
    """

    epochs: float = 3
    learning_rate: float = 5e-5
    batch_size: int = 32
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    seed: int = 42
    precision: Precision = "fp32"
    max_length: int = 128
    stride: int | None = None
    best_by: Score = "accuracy"
    keep_checkpoints: int = 2
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        self._check_number("epochs", above=0)
        self._check_number("learning_rate", above=0)
        self._check_integer("batch_size", least=1)
        self._check_number("warmup_fraction", least=0, below=1)
        self._check_number("weight_decay", least=0)
        self._check_integer("seed", least=0, most=2**32 - 1)  # NumPy's generator takes no more
        self._check_choice("precision", Precision)
        self._check_integer("max_length", least=1)
        if self.stride is not None:
            self._check_integer("stride", least=0, most=self.max_length - 1)
        self._check_choice("best_by", Score)
        self._check_integer("keep_checkpoints", least=2)
        check_arguments(self.arguments)
        object.__setattr__(self, "arguments", dict(self.arguments))

    def _check_number(
        self,
        name: str,
        *,
        least: float = -math.inf,
        above: float = -math.inf,
        most: float = math.inf,
        below: float = math.inf,
    ) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")
        if value < least or value <= above or value > most or value >= below:
            bounds = [
                f"{words} {bound}"
                for words, bound in (("at least", least), ("above", above), ("at most", most), ("below", below))
                if math.isfinite(bound)
            ]
            raise ValueError(f"{name} must be {' and '.join(bounds)}, got {value!r}")

    def _check_integer(self, name: str, *, least: int, most: int | None = None) -> None:
        value = getattr(self, name)
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if not is_integer or value < least or (most is not None and value > most):
            bounds = f"at least {least}" + ("" if most is None else f" and at most {most}")
            raise ValueError(f"{name} must be an integer of {bounds}, got {value!r}")

    def _check_choice(self, name: str, choices: Any) -> None:
        value = getattr(self, name)
        if value not in get_args(choices):
            raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")


@dataclass(frozen=True)
class LabelSettings(TrainingSettings):
    """Settings of the steps that learn from labels: fine-tuning and joint training.

    Attributes:
        label_smoothing: e; a label has the probability 1 - e + e / N and every other class e / N. Multi-label: the
            targets 1 and 0 become 1 - e / 2 and e / 2.
        class_weights: what the loss of a text is multiplied by, by the name of its class; multi-label: what the loss of
            a class is multiplied by for the texts that have it. `"balanced"`: so that all classes count alike, see
            `class_weights_of`. `None`: every text counts the same. The mean over a batch is that over its number of
            texts, not of their weights, so that a text counts the same in every batch.
    """

    label_smoothing: float = 0.0
    class_weights: Literal["balanced"] | Mapping[str, float] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("label_smoothing", least=0, below=1)
        weights = self.class_weights
        if isinstance(weights, Mapping):
            object.__setattr__(self, "class_weights", dict(zip(weights, map(_weight, weights.items()), strict=True)))
        elif weights not in (None, BALANCED):
            raise ValueError(f"class_weights must be {BALANCED!r} or a weight for every class by name, got {weights!r}")


def _weight(named: tuple[Any, Any]) -> float:
    name, value = named
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not isinstance(name, str) or not is_number or not 0 < value < math.inf:
        raise ValueError(f"class_weights must have a finite number above 0 for every class, got {name!r}: {value!r}")
    return float(value)


@dataclass(frozen=True)
class DistillationSettings(TrainingSettings):
    """Settings of self-distillation. Only small, fresh heads train, which want larger steps than pretrained layers.

    Attributes:
        objective: what a student minimises against the teacher's distribution: `"kl"` is KL(teacher || student), which
            the authors' code computes, `"reverse_kl"` is KL(student || teacher), which the paper writes (section
            3.2.3), and `"ce"` the cross-entropy of the student under the teacher, with the gradient of `"kl"`.
        temperature: T; teacher's and students' logits are divided by it, and the loss is multiplied by T^2, so that
            its gradient keeps its size (Hinton et al. 2015).
        targets: `"soft"` learns from the teacher alone, for which text is enough; `"hard"` from the labels alone;
            `"mixed"` from both.
        hard_weight: w of `"mixed"`: the loss is w times that of the labels plus 1 - w times that of the teacher.
        cache_dir: folder for a cache of what the frozen backbone computes, written in the first epoch and read in
            the following ones, which then run no backbone pass. The space is freed when the step ends, however it
            ends. `None` keeps no cache.
        cache_limit_gb: the most disk the cache may use, in units of 10^9 bytes.
        cache_dtype: of the cached hidden states; `"float32"` takes twice the space and changes nothing but rounding.
    """

    epochs: float = 5
    learning_rate: float = 1e-3
    objective: Objective = "kl"
    temperature: float = 1.0
    targets: Targets = "soft"
    hard_weight: float = 0.5
    cache_dir: str | Path | None = None
    cache_limit_gb: float = 20.0
    cache_dtype: CacheDtype = "bfloat16"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("objective", Objective)
        self._check_number("temperature", above=0)
        self._check_choice("targets", Targets)
        self._check_number("hard_weight", least=0, most=1)
        self._check_number("cache_limit_gb", above=0)
        self._check_choice("cache_dtype", CacheDtype)
        useless = self.arguments.keys() & set(_OF_THE_BACKBONE)
        if useless:
            names = ", ".join(sorted(useless))
            raise ValueError(f"arguments: {names} is for steps that train the backbone, which is frozen here")


FINE_TUNING = LabelSettings()
DISTILLATION = DistillationSettings()
JOINT_TRAINING = LabelSettings()
