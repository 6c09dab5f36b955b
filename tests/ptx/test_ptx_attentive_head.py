"""The PTX of the CUDA attentive head, executed, against the reference in float64: the kernel that projects every token
and, without an activation in the narrow layer, the one that projects none."""

from __future__ import annotations

import ctypes

import pytest
import torch
from compiled import Launcher, number_of
from heads import (
    FLOOR,
    FLOOR_OF_APPROXIMATED_TANH,
    Decision,
    check_bad_bounds,
    check_head,
    history_of,
    place_outputs,
    run_head,
)
from ptx_interpreter import GlobalMemory
from torch import Tensor

from cuda_on_cpu.cpu_library import AttentiveHeadShape, AttentiveHeadWeights
from fastbert_kernels import reference
from helpers.criteria import assert_every_criterion
from helpers.op_inputs import attentive_head_inputs, cast_attentive_head_inputs, map_tensors

pytestmark = pytest.mark.proof  # the first compiles the kernels
FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16


def run_attentive(
    launcher: Launcher, inputs, activations: tuple[str, str], decision: Decision, *, multiprocessors=4, seed=None
) -> tuple[str, list[Tensor]]:
    """Return the name of the kernel and the outputs. Small weights lie on 4 bytes, as they may."""
    hidden, cu_seqlens, speed, head = inputs
    memory = GlobalMemory()
    wide = ("projection_weight", "query", "value")
    weights = AttentiveHeadWeights(
        *(
            memory.place(name, getattr(head, name), offset=0 if name in wide else 4)
            for name in AttentiveHeadWeights.NAMES
        )
    )
    weights.fold_dtype = _dtype(head.query)
    weights.narrow_activation, weights.mlp_activation = (number_of("Activation", name) for name in activations)
    heads, narrow = head.query_bias.shape
    labels = len(head.output_bias)
    (launch,) = launcher.ask(
        ctypes.c_void_p(memory.place("hidden", hidden)),
        ctypes.c_int(_dtype(hidden)),
        ctypes.c_void_p(memory.place("cu_seqlens", cu_seqlens)),
        weights,
        AttentiveHeadShape(len(hidden), len(speed), hidden.shape[1], narrow, heads, labels),
        decision.place(memory),
        place_outputs(memory, len(speed), labels),
        multiprocessors=multiprocessors,
    )
    return launch.kernel, run_head(launcher, memory, launch, seed)


def _dtype(tensor: Tensor) -> int:
    return number_of("DType", str(tensor.dtype).removeprefix("torch."))


def check_attentive(
    launcher: Launcher,
    lengths: list[int],
    dtype: torch.dtype,
    sizes: tuple[int, int, int, int],
    *,
    fold: torch.dtype = FLOAT32,
    activations: tuple[str, str] = ("tanh", "tanh"),
    rule: tuple[str, int] = ("entropy", 0),
    is_linear: bool = False,
    rows: int = 0,
    **options,
) -> None:
    """`sizes` are the hidden size, the narrow size, the heads and the labels; `rule` is a criterion and its parameter;
    `is_linear` says which kernel is due; `rows` more of hidden belong to no sample."""
    torch.manual_seed(0)
    hidden, cu_seqlens, speed, head = cast_attentive_head_inputs(attentive_head_inputs(lengths, *sizes), dtype)
    head = head._replace(query=head.query.to(fold), value=head.value.to(fold))
    decision = Decision(speed, *rule, history_of(rule[0], len(lengths), sizes[3]))
    padded = torch.cat([hidden, torch.full((rows, sizes[0]), float("nan"), dtype=dtype)])
    name, outputs = run_attentive(launcher, [padded, cu_seqlens, speed, head], activations, decision, **options)
    assert ("linear" in name) == is_linear

    def logits_in(dtype: torch.dtype) -> Tensor:
        precision = torch.promote_types(dtype, FLOAT32)
        weights = map_tensors(lambda tensor: tensor.to(precision), head)
        weights = weights._replace(projection_weight=head.projection_weight.to(dtype))
        names = dict(zip(("narrow_activation", "mlp_activation"), activations, strict=True))
        return reference.attentive_head(hidden.to(dtype), cu_seqlens, speed, weights, **names)[0]

    floor = FLOOR_OF_APPROXIMATED_TANH if dtype == BFLOAT16 and not is_linear else FLOOR
    check_head(outputs, logits_in, FLOAT32 if is_linear else dtype, decision, floor)


TOKENS_PROJECTED = [
    (BFLOAT16, (72, 64, 2, 3), [5, 0, 130, 1], {"rule": ("margin", 0)}),
    (FLOAT16, (136, 128, 3, 77), [33, 1], {"fold": FLOAT16, "rule": ("top_k_entropy", 3), "multiprocessors": 1}),
    (FLOAT32, (40, 64, 1, 2), [140, 3], {"rule": ("patience", 2), "activations": ("tanh", "identity")}),
    (BFLOAT16, (264, 256, 2, 5), [70], {"fold": BFLOAT16, "rule": ("confidence", 0)}),
    (
        BFLOAT16,
        (72, 64, 3, 3),
        [66],
        {"activations": ("identity", "tanh"), "seed": 1, "rule": ("binary_entropy", 0)},
    ),
    (FLOAT32, (40, 64, 1, 2), [3, 17], {"rule": ("stability", 0)}),
]
NO_TOKEN_PROJECTED = [
    (FLOAT32, (72, 128, 5, 3), [5, 0, 40, 1], {"rule": ("margin", 0), "multiprocessors": 1}),
    (FLOAT32, (8, 64, 1, 2), [17], {"seed": 1}),
    (BFLOAT16, (136, 64, 3, 5), [33], {"rows": 800, "fold": BFLOAT16, "rule": ("patience", 2)}),
    (FLOAT16, (40, 64, 1, 40), [2, 18], {"rows": 800, "rule": ("top_k_entropy", 3)}),
    (FLOAT32, (8, 64, 1, 3), [3, 17], {"rule": ("stability", 0)}),
]


def test_the_cases_have_every_criterion():
    """Between them: both kernels decide by one function."""
    cases = [*TOKENS_PROJECTED, *NO_TOKEN_PROJECTED]
    assert_every_criterion(options.get("rule", ("entropy",))[0] for *_, options in cases)


@pytest.mark.parametrize(("dtype", "sizes", "lengths", "options"), TOKENS_PROJECTED)
def test_tokens_projected(attentive_head, dtype, sizes, lengths, options):
    check_attentive(attentive_head, lengths, dtype, sizes, **options)


@pytest.mark.parametrize(("dtype", "sizes", "lengths", "options"), NO_TOKEN_PROJECTED)
def test_no_token_projected(attentive_head, dtype, sizes, lengths, options):
    check_attentive(attentive_head, lengths, dtype, sizes, is_linear=True, activations=("identity", "tanh"), **options)


@pytest.mark.parametrize(("dtype", "activation"), [(BFLOAT16, "tanh"), (FLOAT32, "identity")])
def test_bad_bounds(attentive_head, dtype, activation):
    hidden, _, speed, head = cast_attentive_head_inputs(attentive_head_inputs([3, 5, 4, 2], 40, 64, 2, 3), dtype)
    check_bad_bounds(
        lambda bounds: run_attentive(
            attentive_head, [hidden, bounds, speed, head], (activation, "tanh"), Decision(speed)
        )[1]
    )
