"""torch.compile: with frozen weights on a CPU, with max-autotune on a GPU."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from peers.contestant import FULL_DEPTH_PEER, Answer, Contestant, Entry, Request, Setup
from peers.transformers_eager import answer, classifier_in

_LONGEST = 128


def full_depth(dtype: str) -> Entry:
    def build(setup: Setup) -> Contestant:
        torch._dynamo.config.recompile_limit = 64  # all contestants and batch sizes share the code of one forward
        classifier = classifier_in(setup, dtype)
        if setup.device.type == "cpu":
            compiled = torch.compile(classifier, dynamic=True, options={"freezing": True})
            return Contestant(lambda request: answer(compiled, request), note="dynamic shapes, freezing")
        tuned = torch.compile(classifier, dynamic=False, mode="max-autotune")

        def run(request: Request) -> Answer:
            # A compilation takes minutes: all lengths share one. The copy outlives the next CUDA graph replay.
            missing = (0, _LONGEST - request.input_ids.shape[1])
            ids, mask = F.pad(request.input_ids, missing), F.pad(request.attention_mask, missing)
            return Answer(tuned(ids, mask).float().clone())

        return Contestant(run, note=f"max-autotune, one compilation per batch size, padded to {_LONGEST}")

    return Entry(f"torch.compile {dtype}", FULL_DEPTH_PEER, dtype, build)


ENTRIES = (full_depth("float32"), full_depth("bfloat16"))
