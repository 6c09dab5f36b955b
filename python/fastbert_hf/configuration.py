"""Configuration of a FastBERT classifier: a backbone and the exit heads behind its encoder layers."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformers import AutoConfig, BertConfig, PreTrainedConfig

from fastbert_hf.backbone_families import longest_input, read_field
from fastbert_hf.backbone_faults import ATTENTION, check_backbone_config, fault_of_attention
from fastbert_hf.bag import DEFAULT_BUCKETS, MOST_BUCKETS
from fastbert_hf.heads import ACTIVATIONS, ATTENTIVE_ACTIVATIONS, POOLINGS

HEAD_TYPES = ("attentive", "pooled")
PROBLEM_TYPES = (None, "single_label_classification", "multi_label_classification", "regression")

_MAX_DENSE_LAYERS = 2
_READ_FROM_BACKBONE = (
    "hidden_size",
    "num_hidden_layers",
    "max_position_embeddings",
    "num_attention_heads",
    "intermediate_size",
    "layer_norm_eps",
    "hidden_act",
    "vocab_size",
)
_CLASSES = ("num_labels", "id2label", "label2id")


class FastBertConfig(PreTrainedConfig):
    """Configuration of `FastBertForSequenceClassification`.

    Args:
        backbone_config: configuration of the backbone, as an object or a dict with `model_type` (a dict without
            one is read as BERT). `None` means BERT-base.
        head_type: "attentive", the paper's exit head (Liu et al. 2020, section 3.1), or "pooled": pooling, dense
            layers and a linear classifier.
        head_hidden_size: C, the inner width of every exit head (128 in the paper).
        head_num_attention_heads: h, attention heads inside an attentive head; must divide C.
        head_pooling: of a pooled head, over the valid tokens: "first", "mean" or "max".
        head_num_dense_layers: dense layers of a pooled head before its classifier, 0 to 2. 0 with pooling "first" is
            the linear highway of DeeBERT (Xin et al. 2020), 1 with "tanh" is BERT's pooler and classifier.
        head_activation: behind every dense layer of a pooled head: "tanh", "relu" or "gelu"; in an attentive head
            "tanh", the paper's, or "identity" for none.
        student_pooling: of the pooled student heads, where it is another than that of the teacher classifier; `None`:
            all heads pool as `head_pooling` says. For classifiers that were adopted: theirs looks at the first token,
            which was trained to sum up a text for the last layer only.
        exit_layers: layers (1-based, ascending, L among them) that have an exit head; `None` means all. A 0 in front
            is exit zero: a hashed bag (`fastbert_hf.bag`) that stands before the first layer. Reads as a list
            afterwards.
        exit_zero_buckets: rows of the table of exit zero, a power of 2.
        trained_max_length: tokens at which texts were cut off in training, which is where they are cut off afterwards
            unless a call says otherwise; `None`: the model was not trained here.
        trained_stride: tokens that passages of longer texts shared in training, which is how such texts are read
            afterwards unless a call says otherwise; `None`: they are cut off.
        **kwargs: `num_labels` or `id2label` (N >= 2 classes; `label2id` follows from it), `problem_type`
            ("single_label_classification", which `None` means too, "multi_label_classification", or "regression" for
            one output, N = 1, a score), and whatever else `PreTrainedConfig` takes.

    Raises:
        ValueError: backbone type not supported, a size of the backbone passed outside `backbone_config`, a setting of
            the heads that is not among those above, exit layers that are not, fewer than two classes, a regression of
            other than one output, `num_labels` and `id2label` of different lengths, ids other than 0 to N - 1 or
            names that are not distinct, or another problem type.
        TypeError: `backbone_config` is neither a dict nor a configuration, or `id2label` no mapping and no sequence.
    """

    model_type = "fastbert"
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}
    # So that predictions of Trainer are the logits alone, as of other classifiers.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["uncertainty", "exit_layer", "all_logits", "all_uncertainty"]

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        head_type: str = "attentive",
        head_hidden_size: int = 128,
        head_num_attention_heads: int = 2,
        head_pooling: str = "first",
        head_num_dense_layers: int = 1,
        head_activation: str = "tanh",
        student_pooling: str | None = None,
        exit_layers: Sequence[int] | None = None,
        exit_zero_buckets: int = DEFAULT_BUCKETS,
        trained_max_length: int | None = None,
        trained_stride: int | None = None,
        **kwargs: Any,
    ) -> None:
        misplaced = [name for name in _READ_FROM_BACKBONE if name in kwargs]
        if misplaced:
            raise ValueError(
                f"{', '.join(misplaced)} belong(s) inside backbone_config. If this is the checkpoint of a plain "
                "backbone, load it with FastBertForSequenceClassification.from_backbone"
            )
        if backbone_config is None:
            backbone_config = BertConfig()
        elif isinstance(backbone_config, dict):
            fields = dict(backbone_config)
            backbone_config = AutoConfig.for_model(fields.pop("model_type", "bert"), **fields)
        elif not isinstance(backbone_config, PreTrainedConfig):
            raise TypeError(
                f"backbone_config must be a dict or a transformers configuration, got {type(backbone_config).__name__}"
            )
        check_backbone_config(backbone_config)

        # Set before the base class runs: its constructor reaches into the sub-configurations.
        self.backbone_config = backbone_config
        self.head_type = head_type
        self.head_hidden_size = head_hidden_size
        self.head_num_attention_heads = head_num_attention_heads
        self.head_pooling = head_pooling
        self.head_num_dense_layers = head_num_dense_layers
        self.head_activation = head_activation
        self.student_pooling = student_pooling
        self.exit_layers = list(range(1, self.num_hidden_layers + 1) if exit_layers is None else exit_layers)
        self.exit_zero_buckets = exit_zero_buckets

        self.trained_max_length = trained_max_length
        self.trained_stride = trained_stride

        num_labels, id2label = kwargs.get("num_labels"), kwargs.get("id2label")
        if id2label is not None:
            if num_labels is not None and num_labels != len(id2label):
                raise ValueError(
                    f"num_labels={num_labels} but id2label names {len(id2label)} classes; pass one of them"
                )
            kwargs["id2label"] = class_names(id2label)
            kwargs["label2id"] = {name: index for index, name in kwargs["id2label"].items()}
        self._check_choice("problem_type", kwargs.get("problem_type"), PROBLEM_TYPES)
        super().__init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise `ValueError` for settings of the heads that no model can have; the model asks again when it is made."""
        for name in ("head_hidden_size", "head_num_attention_heads"):
            if not _is_integer(getattr(self, name), 1):
                raise ValueError(f"{name} must be a positive integer, got {getattr(self, name)!r}")
        if self._attn_implementation not in ATTENTION:
            raise ValueError(f"this model is not loaded: {fault_of_attention(self)}")
        self._check_choice("head_type", self.head_type, HEAD_TYPES)
        self._check_choice("head_pooling", self.head_pooling, POOLINGS)
        self._check_choice("student_pooling", self.student_pooling, (None, *POOLINGS))
        if self.head_type == "attentive" and self.student_pooling is not None:
            raise ValueError("student_pooling is for pooled heads; leave it out with head_type 'attentive'")
        activations = ATTENTIVE_ACTIVATIONS if self.head_type == "attentive" else ACTIVATIONS
        self._check_choice("head_activation", self.head_activation, tuple(activations))
        self._check_choice("problem_type", self.problem_type, PROBLEM_TYPES)
        dense_layers = self.head_num_dense_layers
        if not _is_integer(dense_layers, 0) or dense_layers > _MAX_DENSE_LAYERS:
            raise ValueError(f"head_num_dense_layers must be 0 to {_MAX_DENSE_LAYERS}, got {dense_layers!r}")
        if self.head_type == "attentive" and self.head_hidden_size % self.head_num_attention_heads:
            raise ValueError(
                f"head_hidden_size ({self.head_hidden_size}) must be divisible by "
                f"head_num_attention_heads ({self.head_num_attention_heads})"
            )
        if self.problem_type == "regression" and self.num_labels != 1:
            raise ValueError(f"a model of problem_type 'regression' has one output, got num_labels={self.num_labels}")
        if self.problem_type != "regression" and (self.num_labels is None or self.num_labels < 2):
            raise ValueError(
                f"a classifier needs at least 2 classes, got num_labels={self.num_labels}; a model with one output, "
                "which gives scores, has problem_type='regression'"
            )
        class_names(self.id2label or {})
        if self.trained_max_length is not None and not _is_integer(self.trained_max_length, 1):
            raise ValueError(f"trained_max_length must be a positive integer, got {self.trained_max_length!r}")
        if self.trained_stride is not None and not _is_integer(self.trained_stride, 0):
            raise ValueError(f"trained_stride must be an integer of at least 0, got {self.trained_stride!r}")
        self._check_exit_layers()

    def _check_exit_layers(self) -> None:
        layers, depth = self.exit_layers, self.num_hidden_layers
        if (
            not all(_is_integer(layer, 0) for layer in layers)
            or any(layer >= following for layer, following in itertools.pairwise(layers))
            or layers[-1:] != [depth]
        ):
            raise ValueError(
                f"exit_layers must be ascending layers of 1..{depth} and end with the last, {depth}, whose head is the "
                f"teacher classifier (0 in front for exit zero); got {layers}"
            )
        buckets = self.exit_zero_buckets
        if not _is_integer(buckets, 1) or buckets > MOST_BUCKETS or buckets & (buckets - 1):
            raise ValueError(f"exit_zero_buckets must be a power of 2 of at most 2^31, got {buckets!r}")
        if self.has_exit_zero and self.gives_scores:
            raise ValueError(
                "exit zero is for models with classes: a bag of tokens has no score that one output could be compared "
                "with; leave 0 out of exit_layers"
            )

    @staticmethod
    def _check_choice(name: str, value: Any, choices: tuple[str | None, ...]) -> None:
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in `PreTrainedConfig`; a number of classes or their names among `kwargs` replace all that the dict says of
        both, so that `from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)` puts on heads for others."""
        names: Mapping[Any, str] = config_dict.get("id2label") or {}
        if "id2label" in kwargs or kwargs.get("num_labels", len(names)) != len(names):
            config_dict = {name: value for name, value in config_dict.items() if name not in _CLASSES}
            config_dict |= {name: kwargs.pop(name) for name in _CLASSES if name in kwargs}
        return super().from_dict(config_dict, **kwargs)

    @property
    def multi_label(self) -> bool:
        """Whether every class is a decision of its own, so that a sample may have several of them, or none."""
        return self.problem_type == "multi_label_classification"

    @property
    def has_exit_zero(self) -> bool:
        """Whether a hashed bag stands before the first layer."""
        return self.exit_layers[:1] == [0]

    @property
    def first_exit(self) -> int:
        """The layer at which counts of exit layers begin: 0 with exit zero, else 1, whether it has a head or not."""
        return 0 if self.has_exit_zero else 1

    @property
    def gives_scores(self) -> bool:
        """Whether the model has one output, a score, as rerankers have it, and no classes."""
        return self.problem_type == "regression"

    @property
    def vocab_size(self) -> int:
        """V, the number of token ids; `resize_token_embeddings` of the model sets it."""
        return self.backbone_config.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.backbone_config.vocab_size = value

    @property
    def hidden_size(self) -> int:
        """H, the width of the backbone."""
        return read_field(self.backbone_config, "hidden_size")

    @property
    def num_hidden_layers(self) -> int:
        """L, the number of encoder layers."""
        return read_field(self.backbone_config, "num_hidden_layers")

    @property
    def num_attention_heads(self) -> int:
        """Attention heads of an encoder layer."""
        return read_field(self.backbone_config, "num_attention_heads")

    @property
    def intermediate_size(self) -> int:
        """F, the inner width of an encoder layer's feed-forward part."""
        return read_field(self.backbone_config, "intermediate_size")

    @property
    def layer_norm_eps(self) -> float:
        """Epsilon of the LayerNorms of the encoder layers."""
        return read_field(self.backbone_config, "layer_norm_eps")

    @property
    def hidden_act(self) -> str:
        """Activation inside the feed-forward part, by its name in Transformers."""
        return read_field(self.backbone_config, "hidden_act")

    @property
    def max_position_embeddings(self) -> int:
        """The longest input, in tokens, that the backbone has positions for."""
        return longest_input(self.backbone_config)


def class_names(id2label: Any) -> dict[int, str]:
    """Return the names of N classes by their ids 0 to N - 1.

    Args:
        id2label: a mapping whose keys are these ids, as integers or as text (the form of JSON), or a sequence of names.

    Raises:
        TypeError: neither.
        ValueError: other ids, or names that are not distinct text.
    """
    if isinstance(id2label, Sequence) and not isinstance(id2label, str):
        id2label = dict(enumerate(id2label))
    if not isinstance(id2label, Mapping):
        raise TypeError(f"id2label must name the classes by their ids, as {{0: 'no', 1: 'yes'}}; got {id2label!r}")
    names = {}
    for key, name in id2label.items():
        try:
            index = int(key) if isinstance(key, str) else operator.index(key)
        except (TypeError, ValueError):
            index = -1
        if isinstance(key, bool) or not isinstance(name, str) or not name:
            raise ValueError(f"id2label must have whole numbers for ids and text for names; got {key!r}: {name!r}")
        names[index] = name
    if sorted(names) != list(range(len(id2label))):
        raise ValueError(f"the ids in id2label must be 0 to {len(id2label) - 1}, each once; got {list(id2label)}")
    if len(set(names.values())) < len(names):
        raise ValueError(f"id2label has a name twice: {', '.join(names.values())}; name every class once")
    return dict(sorted(names.items()))


def _is_integer(value: Any, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


AutoConfig.register(FastBertConfig.model_type, FastBertConfig, exist_ok=True)
