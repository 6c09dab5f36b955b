"""Static models of fewer layers: what early exits have to beat."""

from __future__ import annotations

import copy

from torch import nn

from fastbert_hf.modeling import FastBertForSequenceClassification


def cut_to_depth(model: FastBertForSequenceClassification, layer: int) -> FastBertForSequenceClassification:
    """The model up to one layer, whose exit head is the teacher classifier and the only head.

    The parameters are those of `model`, not copies: training one of the two changes the other. A calibrated setting,
    which is about other heads, is left out.

    Args:
        model: not patched.
        layer: 1..L, one that has an exit head.

    Raises:
        ValueError: the layer has no exit head.
    """
    if layer == 0:
        raise ValueError("exit zero alone is no model of fewer layers; name a layer of 1 or more")
    if layer not in model.config.exit_layers:
        raise ValueError(f"layer {layer} has no exit head; those of this model are at {model.config.exit_layers}")
    # What deepcopy finds in its memo it takes as it is.
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    cut = copy.deepcopy(model, shared)
    cut.heads = nn.ModuleList([cut.heads[model.config.exit_layers.index(layer)]])
    del cut.layers[layer:]
    cut.config.backbone_config.num_hidden_layers = layer
    cut.backbone.config.num_hidden_layers = layer
    cut.config.exit_layers = [layer]
    cut.calibrated_setting = None
    cut.config.check()
    return cut
