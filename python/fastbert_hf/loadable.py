"""Whether the parameters of a model are those that its configuration describes, so that it can be loaded again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

_SHOWN = 3


def check_loadable(model: Any, state_dict: Mapping[str, torch.Tensor] | None = None) -> None:
    """Raise `ValueError` when a model made from the configuration would not have the parameters of this one.

    Does nothing to models whose weights are saved in another form: quantised ones, and those with adapters.

    Args:
        model: a FastBERT model.
        state_dict: what would be saved in place of the model's own.
    """
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "_hf_peft_config_loaded", False):
        return
    own = model.state_dict() if state_dict is None else state_dict
    with torch.device("meta"):
        made = type(model)(copy.deepcopy(model.config)).state_dict()
    faults = [f"{name} is there and unknown to it" for name in own if name not in made]
    faults += [f"{name} is missing" for name in made if name not in own]
    faults += [
        f"{name} is {list(own[name].shape)} and would be {list(made[name].shape)}"
        for name in own
        if name in made and own[name].shape != made[name].shape
    ]
    if faults:
        more = f", and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ValueError(
            f"the parameters are not those that the configuration describes: {', '.join(faults[:_SHOWN])}{more}. It "
            "could not be loaded again. Set what was changed in the configuration too (config.exit_layers, "
            "config.id2label, config.backbone_config.num_hidden_layers), or undo the change"
        )
