"""Configuration of a FastBERT classifier: a backbone and one exit head per encoder layer."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, BertConfig, PreTrainedConfig

SUPPORTED_BACKBONES = ("bert",)

_READ_FROM_BACKBONE = ("hidden_size", "num_hidden_layers", "max_position_embeddings")


def check_backbone_type(backbone_config: PreTrainedConfig) -> None:
    """Raise `ValueError` unless `backbone_config` describes an encoder that FastBERT can put exit heads on."""
    model_type = backbone_config.model_type
    if model_type not in SUPPORTED_BACKBONES:
        raise ValueError(
            f"backbone type {model_type!r} is not supported; supported backbone types: {', '.join(SUPPORTED_BACKBONES)}"
        )
    if getattr(backbone_config, "is_decoder", False):
        raise ValueError("the backbone must be an encoder; set is_decoder=False in its configuration")


class FastBertConfig(PreTrainedConfig):
    """Configuration of `FastBertForSequenceClassification`.

    Args:
        backbone_config: configuration of the backbone, as an object or a dict with `model_type` (a dict without
            one is read as BERT). `None` means BERT-base.
        head_hidden_size: C, the width of every exit head (128 in Liu et al. 2020, section 3.1).
        head_num_attention_heads: h, attention heads inside every exit head; must divide C.
        **kwargs: `num_labels` or `id2label` (N >= 2 classes), and whatever else `PreTrainedConfig` takes.

    Raises:
        ValueError: backbone type not supported, a size of the backbone passed outside `backbone_config`, C not
            divisible by h, fewer than two classes, or `num_labels` and `id2label` of different lengths.
        TypeError: `backbone_config` is neither a dict nor a configuration.
    """

    model_type = "fastbert"
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        head_hidden_size: int = 128,
        head_num_attention_heads: int = 2,
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
        check_backbone_type(backbone_config)

        # Set before the base class runs: its constructor reaches into the sub-configurations.
        self.backbone_config = backbone_config
        self.head_hidden_size = head_hidden_size
        self.head_num_attention_heads = head_num_attention_heads

        num_labels, id2label = kwargs.get("num_labels"), kwargs.get("id2label")
        if id2label is not None:
            if num_labels is not None and num_labels != len(id2label):
                raise ValueError(
                    f"num_labels={num_labels} but id2label names {len(id2label)} classes; pass one of them"
                )
            if kwargs.get("label2id") is None:
                kwargs["label2id"] = {name: int(index) for index, name in id2label.items()}
        super().__init__(**kwargs)
        self._check()

    def _check(self) -> None:
        for name in ("head_hidden_size", "head_num_attention_heads"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.head_hidden_size % self.head_num_attention_heads:
            raise ValueError(
                f"head_hidden_size ({self.head_hidden_size}) must be divisible by "
                f"head_num_attention_heads ({self.head_num_attention_heads})"
            )
        if self.num_labels is None or self.num_labels < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got num_labels={self.num_labels}")

    @property
    def hidden_size(self) -> int:
        """H, the width of the backbone."""
        return self.backbone_config.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """L, the number of encoder layers and of exit heads."""
        return self.backbone_config.num_hidden_layers

    @property
    def max_position_embeddings(self) -> int:
        """The longest input, in tokens, that the backbone has positions for."""
        return self.backbone_config.max_position_embeddings
