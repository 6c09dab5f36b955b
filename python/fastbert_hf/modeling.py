"""FastBERT for sequence classification: an encoder with exit heads behind its layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, initialization

from fastbert_hf import backbone_faults, backbones, passes
from fastbert_hf.bag import HashedBag
from fastbert_hf.configuration import FastBertConfig
from fastbert_hf.data.seen import SeenTexts
from fastbert_hf.exits.calibrated_setting import CalibratedSetting
from fastbert_hf.exits.resolution import ResolvedSpeed, Speed, resolve_speed
from fastbert_hf.heads import make_head
from fastbert_hf.inputs import (
    check_forms,
    check_inputs,
    check_position_ids,
    check_values,
    make_position_ids,
)
from fastbert_hf.losses import loss_of
from fastbert_hf.outputs import FastBertOutput, warn_if_not_finite
from fastbert_hf.saving import SavedModel

# What from_backbone may set besides the backbone and the number of classes.
_BACKBONE_OVERRIDES = (
    "head_type",
    "head_hidden_size",
    "head_num_attention_heads",
    "head_pooling",
    "head_num_dense_layers",
    "head_activation",
    "student_pooling",
    "exit_layers",
    "exit_zero_buckets",
    "id2label",
    "label2id",
    "problem_type",
)


class FastBertForSequenceClassification(SavedModel):
    """Text classifier whose samples may leave after any encoder layer that has an exit head (Liu et al., ACL 2020).

    `backbone` is an encoder of Transformers without pooler (`backbone_faults.py` says which); `heads` holds one exit
    head for each entry of `config.exit_layers`, of which the last is the teacher classifier and the others are the
    student classifiers; that at 0, exit zero, is a `HashedBag`, which reads token ids. Made with `from_backbone` from a
    pretrained encoder, or with `from_pretrained` from a saved FastBERT.

    `calibrated_setting` is what a calibration chose for these weights, or `None`: how samples leave when a call names
    no Speed. `seen_texts` are the texts that the training steps trained on and chose epochs by, as numbers. Both are
    saved and loaded with the model.
    """

    config: FastBertConfig
    config_class = FastBertConfig
    base_model_prefix = "backbone"
    # Trainer shall scale the loss of accumulated batches: it is a mean over the batch.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: FastBertConfig) -> None:
        super().__init__(config)
        config.check()
        self.num_labels = cast(int, config.num_labels)
        self.backbone = backbones.build_backbone(config.backbone_config)
        self.heads = nn.ModuleList(make_head(config, layer) for layer in config.exit_layers)
        # Of `freeze_for_distillation`: what required gradients before, by name.
        self._flags_before_freezing: dict[str, bool] | None = None
        self.calibrated_setting: CalibratedSetting | None = None
        self.seen_texts = SeenTexts()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw the weights of exit heads; Transformers lets the backbone draw its own.

        Xavier keeps the size of the signal through the head's stack of layers. With BERT's N(0, 0.02) it shrinks by
        four at every layer of width 128, and training hardly starts within the first hundred steps.
        """
        if isinstance(module, nn.Linear):
            initialization.xavier_uniform_(module.weight)
            initialization.zeros_(module.bias)
        elif isinstance(module, HashedBag):
            initialization.zeros_(module.table)
            initialization.zeros_(module.bias)

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str,
        num_labels: int,
        *,
        attn_implementation: str | None = None,
        **overrides: Any,
    ) -> FastBertForSequenceClassification:
        """Put fresh exit heads on a pretrained backbone; the weights are float32.

        Args:
            name_or_path: folder or hub name of a pretrained encoder. What its checkpoint has beside embeddings and
                encoder layers is dropped: the pooler, and the head of a task or of pretraining (masked words, next
                sentence, ELECTRA's discriminator, a classifier).
            num_labels: N, at least 2.
            attn_implementation: as in Transformers; `None` lets it choose (sdpa).
            **overrides: the settings of the heads, `exit_layers`, `id2label`, `label2id` and `problem_type` of
                `FastBertConfig`.

        Raises:
            ValueError: the backbone's type is not supported, or see `FastBertConfig`.
            TypeError: an unknown override.
            RuntimeError: the checkpoint lacks parameters of the backbone, or has more than its configuration says.
        """
        unknown = sorted(set(overrides) - set(_BACKBONE_OVERRIDES))
        if unknown:
            raise TypeError(f"unknown setting(s) {unknown}; from_backbone takes {list(_BACKBONE_OVERRIDES)}")
        backbone_config = AutoConfig.from_pretrained(name_or_path)
        backbone_faults.check_backbone_config(backbone_config)
        backbone = backbones.load_backbone(name_or_path, backbone_config)
        config = FastBertConfig(
            backbone_config=backbone_config,
            num_labels=num_labels,
            attn_implementation=attn_implementation,
            **overrides,
        )
        model = cls(config)
        model.backbone.load_state_dict(backbone.state_dict())
        return model.eval()

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Resize the backbone's table of positions, where its family can (DistilBERT)."""
        self.backbone.resize_position_embeddings(new_num_position_embeddings)

    def get_position_embeddings(self) -> Any:
        """Return the backbone's table of positions, where its family has such a method (DistilBERT)."""
        return self.backbone.get_position_embeddings()

    @property
    def layers(self) -> nn.ModuleList:
        """The backbone's L encoder layers, whatever its family calls them."""
        return backbones.layers_of(self.backbone)

    @property
    def student_classifiers(self) -> nn.ModuleList:
        """The exit heads before the last layer: `AttentiveHead` or `PooledHead`, and `exit_zero` where there is one."""
        return self.heads[:-1]

    @property
    def layer_heads(self) -> nn.ModuleList:
        """The exit heads behind encoder layers: all but `exit_zero`."""
        return self.heads[1:] if self.config.has_exit_zero else self.heads

    @property
    def exit_zero(self) -> HashedBag | None:
        """The student classifier before the first layer, which `training.distill_exit_zero` adds."""
        return cast(HashedBag, self.heads[0]) if self.config.has_exit_zero else None

    @property
    def teacher_classifier(self) -> nn.Module:
        """The exit head (`AttentiveHead` or `PooledHead`) after the last layer."""
        return self.heads[-1]

    @property
    def frozen_for_distillation(self) -> bool:
        """True between `freeze_for_distillation` and `unfreeze`."""
        return self._flags_before_freezing is not None

    def freeze_for_distillation(self) -> None:
        """Freeze the backbone and the teacher classifier, so that only the student classifiers train.

        Both stay in eval mode, whatever `train()` is told later, and the backbone runs without autograd.
        """
        if self._flags_before_freezing is None:
            self._flags_before_freezing = {name: value.requires_grad for name, value in self.named_parameters()}
        self.backbone.requires_grad_(False)
        self.teacher_classifier.requires_grad_(False)
        self.train(self.training)

    def unfreeze(self) -> None:
        """Undo `freeze_for_distillation`: backbone and teacher classifier require the gradients that they did before.

        Does nothing to a model that is not frozen.
        """
        flags, self._flags_before_freezing = self._flags_before_freezing, None
        if flags is not None:
            own = {id(value) for part in (self.backbone, self.teacher_classifier) for value in part.parameters()}
            for name, parameter in self.named_parameters():
                if id(parameter) in own:
                    parameter.requires_grad_(flags.get(name, True))
        self.train(self.training)

    def train(self, mode: bool = True) -> FastBertForSequenceClassification:
        """As in `nn.Module`, except that frozen parts stay in eval mode (no dropout in the teacher's signal)."""
        super().train(mode)
        if self.frozen_for_distillation:
            self.backbone.eval()
            self.teacher_classifier.eval()
        return self

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        speed: Speed | None = None,
        labels: torch.Tensor | None = None,
        output_all_exits: bool = False,
        speedup: float | None = None,
        *,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> FastBertOutput | tuple[Any, ...]:
        """Classify a batch.

        Args:
            input_ids: int64 or int32 [B, L]; B may be 0.
            attention_mask: [B, L], 1 for valid tokens and 0 for padding on either side; `None` for no padding.
            token_type_ids: int64 or int32 [B, L], or `None` for one segment. Must be 0 throughout where the backbone
                has no segments (RoBERTa, DistilBERT); checked together with the mask, in one read of the device.
            speed: a sample exits after layer i, if that has an exit head, when its uncertainty there is below its Speed
                (strictly); after the last layer every sample exits. A number in [0, 1], of which 0 means full depth
                (the teacher classifier alone answers); a float tensor [B]; a sequence with one Speed for each student
                classifier; or an `ExitRule`. `None`: in eval mode the rule of `calibrated_setting`, otherwise and
                without a setting full depth.
            labels: integer [B], class ids (-100 is left out of the loss), or float [B, N] of 0 and 1 for a multi-label
                model; adds `loss`.
            output_all_exits: run every layer and every exit head on every sample and return all of them too. What
                `speed` selects stays the same.
            speedup: instead of `speed`, the FLOPs speed-up wanted: the Speed that has it according to
                `calibrated_setting`.
            position_ids: int64 or int32 [B, L] or [1, L], rows of the backbone's position table; `None`: counted from
                each row's first valid token, and in RoBERTa's family over the ids that are not its padding's.
            inputs_embeds: float [B, L, E], in place of `input_ids`, without which exit zero cannot be asked.
            output_hidden_states: also return the hidden states of all layers, which then run on every sample. What
                `speed` selects stays the same. `None`: as the configuration says, and so the next two.
            output_attentions: the same for the attention probabilities; needs eager attention.
            return_dict: `False` returns a tuple of what the output has.

        Returns:
            `FastBertOutput` with rows in input order.

        Raises:
            TypeError, ValueError: see `check_inputs` and `resolve_speed` of this class, and labels that do not fit.

        Warns:
            RuntimeWarning: an uncertainty is not finite (CPU only). Such a sample does not exit before the last layer.
        """
        batch = self.check_batch(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        size = batch.valid.shape[0]
        resolved = self.resolve_speed(speed, speedup, size)
        asked = passes.Asked(
            all_exits=output_all_exits,
            hidden_states=_or_default(output_hidden_states, self.config.output_hidden_states),
            attentions=_or_default(output_attentions, self.config.output_attentions),
        )
        if size == 0:
            output = passes.empty_output(self, batch, asked)
        elif asked.hidden_states or asked.attentions:
            output = passes.run_whole(self, batch, resolved, asked)
        elif output_all_exits:
            output = passes.run_all_exits(self, batch, resolved)
        elif resolved.is_full_depth:
            output = passes.run_full_depth(self, batch, resolved)
        else:
            output = passes.run_adaptive(self, batch, resolved)

        warn_if_not_finite(output.uncertainty)
        return self.finished_output(output, labels, return_dict)

    def finished_output(
        self, output: FastBertOutput, labels: torch.Tensor | None, return_dict: bool | None
    ) -> FastBertOutput | tuple[Any, ...]:
        """Return `output` with the loss against `labels`, if there are any, in the form of `return_dict`.

        Arguments and errors as in `forward`.
        """
        if labels is not None:
            # Made anew, so that the loss comes first.
            output = FastBertOutput(loss=loss_of(self.config, output.logits, labels), **output)
        return output if _or_default(return_dict, self.config.return_dict) else output.to_tuple()

    def resolve_speed(self, speed: Speed | None, speedup: float | None, batch_size: int) -> ResolvedSpeed:
        """Return what `speed` and `speedup` of a call to this model come to; arguments as in `forward`.

        Raises:
            TypeError: `speed` is none of what it may be.
            ValueError: both are given, `speedup` without a calibrated setting or out of its reach, or `speed` out of
                range or not fitting the model.
        """
        if speedup is not None:
            if speed is not None:
                raise ValueError("give either speed or speedup, not both")
            if self.calibrated_setting is None:
                raise ValueError(
                    "speedup needs a calibrated model, which knows the Speed for it; calibrate this one first "
                    "(fastbert calibrate, or fastbert_hf.calibration), or give a speed"
                )
            speed = self.calibrated_setting.speed_for_speedup(speedup)
        elif speed is None and self.calibrated_setting is not None and not self.training:
            speed = self.calibrated_setting.rule
        return resolve_speed(
            speed,
            batch_size=batch_size,
            device=self.device,
            exit_layers=self.config.exit_layers,
            problem_type=self.config.problem_type,
        )

    def exit_hidden_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield what the exit heads behind encoder layers get: the hidden states [B, L, H] behind each in turn.

        The backbone runs layer by layer as they are asked for; no exit head runs. Arguments and errors as in `forward`.
        """
        batch = self.check_batch(input_ids, attention_mask, token_type_ids)
        if input_ids.shape[0] == 0:
            empty = torch.zeros(*input_ids.shape, self.config.hidden_size, dtype=self.dtype, device=input_ids.device)
            return iter([empty] * len(self.layer_heads))
        return passes.exit_states(self, batch)

    def check_batch(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> passes.PaddedBatch:
        """Check the inputs of a call and derive the positions of the tokens; arguments and errors as in `forward`."""
        num_segments = backbones.num_segments(self.backbone)
        valid = check_inputs(
            input_ids,
            attention_mask,
            token_type_ids,
            self.config.max_position_embeddings,
            num_segments=num_segments,
            vocabulary=backbones.vocabulary(self.backbone),
            inputs_embeds=inputs_embeds,
        )
        if position_ids is None:
            uncounted = backbones.uncounted_id(self.backbone)
            counted = None if uncounted is None or input_ids is None else input_ids != uncounted
            positions = make_position_ids(valid, 0 if uncounted is None else uncounted + 1, counted)
        else:
            positions = check_position_ids(position_ids, valid, self.backbone.config.max_position_embeddings)
        segments = token_type_ids if num_segments > 1 else None
        return passes.PaddedBatch(input_ids, valid, segments, positions, inputs_embeds)

    def check_forms(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> None:
        """Raise what `check_batch` raises for kinds, shapes and devices of the inputs, without a look at values."""
        check_forms(input_ids, attention_mask, token_type_ids, self.config.max_position_embeddings)

    def check_values(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> None:
        """Raise what `check_batch` raises for the values of the inputs, also of ids on a GPU; the host waits."""
        check_values(
            input_ids,
            attention_mask,
            token_type_ids,
            num_segments=backbones.num_segments(self.backbone),
            vocabulary=backbones.vocabulary(self.backbone),
        )


def _or_default(given: bool | None, default: bool | None) -> bool:
    return bool(default if given is None else given)


AutoModelForSequenceClassification.register(FastBertConfig, FastBertForSequenceClassification, exist_ok=True)
