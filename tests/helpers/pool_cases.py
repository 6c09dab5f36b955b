"""A small encoder, texts for it and what they are answered alone, for the tests of the pool."""

from __future__ import annotations

import functools
import itertools

import torch

from fastbert_kernels.criteria import Criterion
from fastbert_kernels.engine.arrival import Arrival
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.dtypes import PRODUCTS
from fastbert_kernels.engine.layer_cost import STEP_SECONDS, LayerCost
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.pool import Pool
from fastbert_kernels.engine.rule import ENTROPY_RULE, FULL_DEPTH, Rule
from helpers.criteria import EVERY_CRITERION
from helpers.encoders import WIDTH, attentive, cast, pooled, random_loop

DEPTH = 5
COST = LayerCost((16, 48, 96), (1.0, 1.2, 2.4))  # full from 48 tokens on
# As full, of layers so thin that a step is of several: of two at least, or of all that are left where it is not full.
THINNER = LayerCost((16, 48, 96), tuple(STEP_SECONDS + seconds for seconds in (9e-3, 10e-3, 22e-3)))
THIN = LayerCost((16, 48, 96), tuple(STEP_SECONDS + seconds for seconds in (4e-3, 4.5e-3, 11e-3)))
COSTS = (COST, THINNER, THIN)
RULES = [
    ENTROPY_RULE,
    FULL_DEPTH,
    Rule(layer_speeds=(None, 0.7, None, 0.4, None)),
    Rule(Criterion.PATIENCE, 2),
    Rule(Criterion.CONFIDENCE),
    Rule(Criterion.CONFIDENCE, early_exits=False),
    *(Rule(**options) for options in EVERY_CRITERION),
]
SPEEDS = [0.0, 0.2, 0.4, 0.6, 1.0]
ROOMY = {"max_tokens": 10**6, "max_samples": 10**5}
PRECISIONS = {"float32": (torch.float32, ()), "bfloat16": (torch.bfloat16, ()), "int8": (torch.bfloat16, PRODUCTS)}


@functools.cache
def encoder(precision="float32"):
    """Its third layer has no head; in any of the PRECISIONS its weights are the same."""
    dtype, int8_products = PRECISIONS[precision]
    with torch.random.fork_rng():
        torch.manual_seed(20)
        heads = [attentive(), pooled(3), None, attentive(), attentive()]
        for head in heads:
            if head is not None:
                (head.biases[-1] if hasattr(head, "biases") else head.tensors.output_bias)[0] += 2
        layers = [layer.weights for layer in random_loop(depth=DEPTH, hidden_size=WIDTH).layers]
    heads = [None if head is None else cast(head, dtype) for head in heads]
    return CompiledEncoder(layers, heads, dtype, int8_products)


@functools.cache
def texts():
    """Hidden states [length, H] of 60 samples."""
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(1 + number % 37, WIDTH, generator=generator) for number in range(60)]


def arrival_of(numbers, speeds, rule=ENTROPY_RULE):
    """Samples whose texts are their hidden states, so that `torch.cat` embeds them for an encoder in float32."""
    rows = [texts()[number] for number in numbers]
    return Arrival(torch.cat(rows), [*map(len, rows)], torch.tensor(speeds), rule)


@functools.cache
def answer_of(rule, number, speed, precision):
    """Return what a run of one text alone says."""
    alone, rows = encoder(precision), texts()[number]
    bounds = torch.tensor([0, len(rows)], dtype=torch.int32)
    return alone.run(PackedBatch.of(rows.to(alone.dtype), bounds, len(rows), torch.tensor([speed])), rule)


def answers_of(rule):
    """Return the same for all texts and Speeds in float32, by (text, Speed)."""
    return {case: answer_of(rule, *case, "float32") for case in itertools.product(range(60), SPEEDS)}


def assert_answer(future, rule, number, speed, precision="float32"):
    got, want = future.result(timeout=0), answer_of(rule, number, speed, precision)
    assert torch.equal(got.logits, want.logits[0])
    assert (got.uncertainty, got.exit_layer) == (float(want.uncertainty), int(want.exit_layer))
    return got.exit_layer


def pool_of(precision="float32", cost=COST, **options):
    def embed(texts):
        return torch.cat(texts).to(PRECISIONS[precision][0])

    return Pool(encoder(precision), cost, embed, **{**ROOMY, **options})
