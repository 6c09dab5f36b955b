"""Saving and loading a FastBERT: its weights, and what lies beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from fastbert_hf import backbones
from fastbert_hf.beside import file_beside_weights
from fastbert_hf.data.seen import SEEN_FILE, SeenTexts
from fastbert_hf.exits.calibrated_setting import CalibratedSetting, find_setting
from fastbert_hf.loadable import check_loadable

_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")  # what other modules put before the names of a model's parameters


class SavedModel(PreTrainedModel):
    """A model of Transformers whose checkpoint is complete or refused, with its calibrated setting and seen texts."""

    calibrated_setting: CalibratedSetting | None
    seen_texts: SeenTexts

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved FastBERT; arguments as in `PreTrainedModel.from_pretrained`.

        Raises:
            RuntimeError: the checkpoint and the model do not have the same parameters. Transformers alone would
                warn and go on with random weights.
            ValueError: the weights are a pickle that would have to run code to be loaded, or the calibrated setting or
                the seen texts beside the checkpoint cannot be read.

        Warns:
            UserWarning: the calibrated setting was made for other weights, and is left out.
        """
        want_info = kwargs.pop("output_loading_info", False)
        with backbones.pickles_refused(pretrained_model_name_or_path):
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        model, info = loaded
        problems = [
            f"{kind} parameters {sorted(info[key])}"
            for kind, key in (("missing", "missing_keys"), ("unexpected", "unexpected_keys"))
            if info[key]
        ]
        if problems:
            remedy = "A plain backbone is loaded with from_backbone."
            if any(_WRAPPERS.match(name) for name in info["unexpected_keys"]):
                remedy = (
                    "It was saved from a module that wraps the model; save the model inside, as with "
                    "accelerator.unwrap_model(model).save_pretrained(folder)."
                )
            raise RuntimeError(
                f"{pretrained_model_name_or_path} is not a checkpoint of this model: {'; '.join(problems)}. {remedy}"
            )
        model.calibrated_setting = find_setting(pretrained_model_name_or_path, model, kwargs)
        seen = file_beside_weights(pretrained_model_name_or_path, SEEN_FILE, kwargs)
        if seen is not None:
            model.seen_texts = SeenTexts.load(seen)
        return (model, info) if want_info else model

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Save the model so that `from_pretrained` loads it; arguments as in `PreTrainedModel.save_pretrained`.

        The calibrated setting, if there is one, and the seen texts are saved too. The names in `state_dict` may be
        those of a module that wraps the model (`torch.compile`, `DataParallel`).

        Raises:
            ValueError: the parameters are not those that the configuration describes, so that what would be written
                could not be loaded: layers were taken out, or classes renumbered, in one of them only.
        """
        if state_dict is not None:
            state_dict = {_WRAPPERS.sub("", name): value for name, value in state_dict.items()}
        if is_main_process:
            check_loadable(self, state_dict)
        super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)
        self._save_beside(save_directory)

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        # With push_to_hub=True, save_pretrained of the base class uploads before these files are in the folder.
        self._save_beside(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def _save_beside(self, folder: Any) -> None:
        if self.calibrated_setting is not None:
            self.calibrated_setting.save(Path(folder))
        self.seen_texts.save(Path(folder))
