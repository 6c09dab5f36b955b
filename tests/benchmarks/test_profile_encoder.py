"""The profile counts the FLOPs that fastbert_hf.flops counts, part by part."""

from __future__ import annotations

import numpy as np
import torch

import fastbert_kernels
import profile_encoder
from comparing import workload
from fastbert_hf import flops


def test_parts_add_up_to_the_one_definition():
    model = workload.make_random_model("tiny")
    shape = flops.ModelShape.from_config(model.config)
    lengths = [3, 50, 128, 17]
    layers = profile_encoder.layer_flops(shape.hidden_size, shape.intermediate_size, lengths)
    assert sum(layers.values()) == flops.layer_flops(shape, lengths, "attention").sum()

    exit_layers = [1, 4, 2, 4]
    counted = profile_encoder.executed_flops(model, lengths, exit_layers, adaptive=True)
    encoder = sum(count for part, count in counted.items() if part != "head")
    want = np.asarray(exit_layers) * flops.layer_flops(shape, lengths, "attention")
    assert encoder == want.sum()


def test_every_part_is_timed():
    model = workload.make_random_model("tiny")
    samples = workload.random_samples(4, "mixed", model, seed=0)
    patched = fastbert_kernels.patch(model)
    requests = list(samples.requests(4, model.device, samples.lengths.float() / 1000))
    with torch.inference_mode():
        parts, total = profile_encoder.profile(patched, requests, 3)
    assert set(profile_encoder.layer_flops(1, 1, [1])) | {"head", "compaction", "host"} == set(parts)
    assert all(seconds >= 0 for seconds in parts.values()) and sum(parts.values()) <= 2 * total
