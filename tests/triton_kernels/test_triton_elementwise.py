"""The element-wise Triton kernels of the encoder layer: interpreted on the CPU against float64 (tier 2), and compiled
ahead of time for sm_80, sm_90 and sm_100 (tier 3)."""

from __future__ import annotations

import functools
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

pytest.importorskip("triton.language", reason="triton is not installed")

from test_triton_compiles import ARCHITECTURES, REGISTERS, compiled, resources

from fastbert_kernels.layer_norm import LAYER_NORMS, LayerNorm
from fastbert_kernels.triton import configs
from fastbert_kernels.triton.elementwise import (
    DTYPES,
    _add_layer_norm_kernel,
    _bias_activation_kernel,
    add_layer_norm_,
    bias_activation_,
)
from helpers.accuracy import assert_accurate, floor
from helpers.rounding import rivals
from helpers.triton_interpreter import INTERPRETING, interpreted_elsewhere, round_to_nearest

ROWS = [1, 4, 9]
FUNCTIONS = {"gelu": F.gelu, "relu": F.relu}


if INTERPRETING:
    round_to_nearest()


test_everything_interpreted_in_a_process_of_its_own = interpreted_elsewhere(__file__)


def assert_as_accurate_as_pytorch(got, compute, want):
    """Error against float64 at most twice that of plain PyTorch in the same dtype, at the worst element and on
    average."""
    theirs = rivals(compute, got.numel())
    assert got.dtype == theirs[0].dtype and got.shape == theirs[0].shape
    if got.numel() == 0:
        return
    unit = floor(want, got.dtype)
    assert_accurate(got, want, theirs, least=unit, mean_least=unit / 20)


def amid_poison(values):
    """The same values with 3 rows' worth of poison before and behind them, and the memory in which all of that lies.

    Every second element is a NaN, which shows where it is read, and the others a number, which shows if it is written.
    """
    margin = 3 * values.shape[1]
    memory = torch.full((values.numel() + 2 * margin,), math.nan, dtype=values.dtype)
    memory[::2] = 7.0
    inner = memory[margin : margin + values.numel()].view(values.shape).copy_(values)
    return inner, memory


def assert_only_the_middle_was_written(memory, rows):
    margin = (memory.numel() - rows.numel()) // 2
    _, expected = amid_poison(rows)
    for outside in (slice(margin), slice(memory.numel() - margin, None)):
        torch.testing.assert_close(memory[outside], expected[outside], rtol=0, atol=0, equal_nan=True)
    assert not rows.isnan().any()


def check_bias_activation(rows, bias, activation):
    inner, memory = amid_poison(rows)
    got = bias_activation_(inner, amid_poison(bias[None])[0][0], activation)
    assert got is inner
    function = FUNCTIONS[activation]
    assert_as_accurate_as_pytorch(got, lambda: function(rows + bias), function(rows.double() + bias.double()))
    assert_only_the_middle_was_written(memory, inner)


def check_add_layer_norm(rows, residual, vectors, epsilon=1e-12, kind="standard"):
    inner, memory = amid_poison(rows)
    beside, untouched = amid_poison(residual)
    bias, weight, norm_bias = (amid_poison(vector[None])[0][0] for vector in vectors)
    got = add_layer_norm_(inner, bias, beside, LayerNorm(weight, norm_bias, epsilon, kind))
    assert got is inner
    assert_only_the_middle_was_written(untouched, beside)
    assert torch.equal(beside, residual)
    total = rows.double() + bias.double() + residual.double()
    want = LAYER_NORMS[kind](total, weight.double(), norm_bias.double(), epsilon)
    plain = functools.partial(LAYER_NORMS[kind], weight=weight, bias=norm_bias, eps=epsilon)
    assert_as_accurate_as_pytorch(got, lambda: plain(rows + bias + residual), want)
    assert_only_the_middle_was_written(memory, inner)


def norm_inputs(rows, columns, dtype):
    """rows, residual, and the vectors bias, weight and norm_bias."""
    vectors = [torch.randn(columns), 1 + 0.3 * torch.randn(columns), torch.randn(columns)]
    return (
        2 * torch.randn(rows, columns).to(dtype),
        torch.randn(rows, columns).to(dtype),
        [vector.to(dtype) for vector in vectors],
    )


class TestBiasActivation:
    __test__ = INTERPRETING

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("activation", FUNCTIONS)
    @pytest.mark.parametrize("columns", [1, 7, 64, 511, 512, 513, 1536])
    def test_accuracy(self, dtype, activation, columns):
        for rows in ROWS:
            values = 3 * torch.randn(rows, columns)
            check_bias_activation(values.to(dtype), torch.randn(columns).to(dtype), activation)

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(0, 40),
        st.integers(1, 1100),
        st.sampled_from(DTYPES),
        st.sampled_from(list(FUNCTIONS)),
        st.floats(1e-3, 100),
    )
    def test_any_shape(self, rows, columns, dtype, activation, scale):
        check_bias_activation(
            (scale * torch.randn(rows, columns)).to(dtype), torch.randn(columns).to(dtype), activation
        )

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_gelu_everywhere(self, dtype):
        """From where it is the identity to where it is 0, and beyond."""
        near = torch.linspace(-9, 9, 9000)
        far = torch.cat([torch.logspace(0.9, 4.5, 200), -torch.logspace(0.9, 4.5, 200), torch.logspace(-7, 0, 200)])
        values = torch.cat([near, far, torch.tensor([0.0, -0.0])]).to(dtype)[None]
        check_bias_activation(values, torch.zeros(values.shape[1], dtype=dtype), "gelu")

    def test_gelu_in_float32_is_that_of_float64_to_a_few_units_in_the_last_place(self):
        values = torch.cat([torch.linspace(-6, 6, 4001), torch.logspace(-12, 0, 200), -torch.logspace(-12, 0, 200)])
        got = bias_activation_(values[None].clone(), torch.zeros(values.shape[0]), "gelu")[0]
        error = (got.double() - F.gelu(values.double())).abs()
        assert (error <= 4e-7 * values.abs().clamp(max=1) + 1.2e-7 * values.abs()).all()

    @pytest.mark.parametrize("activation", FUNCTIONS)
    @pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_stays_in_its_element(self, activation, poison):
        rows, bias = torch.randn(6, 40), torch.randn(40)
        want = bias_activation_(rows.clone(), bias, activation)
        rows[2, 7] = want[2, 7] = poison
        got = bias_activation_(rows, bias, activation)
        assert {math.nan: got[2, 7].isnan(), math.inf: got[2, 7] == math.inf, -math.inf: not got[2, 7] > 0}[poison]
        got[2, 7] = want[2, 7] = 0
        assert torch.equal(got, want)

    def test_no_row_or_no_column(self):
        assert bias_activation_(torch.empty(0, 8), torch.zeros(8), "gelu").shape == (0, 8)
        assert bias_activation_(torch.empty(3, 0), torch.zeros(0), "gelu").shape == (3, 0)

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="must be contiguous"):
            bias_activation_(torch.zeros(4, 6)[:, :5], torch.zeros(5), "gelu")
        with pytest.raises(ValueError, match="unknown activation 'gelu_new'"):
            bias_activation_(torch.zeros(4, 6), torch.zeros(6), "gelu_new")

    def test_a_row_beyond_two_to_the_31_elements(self):
        """Memory that nothing touches is only addresses; one program, so only its columns are worked on."""
        width, far = configs.BIAS_ACTIVATION.block_columns, 2**30
        memory = torch.empty(2 * far + width, dtype=torch.bfloat16)
        values, bias = torch.randn(3, width).bfloat16(), torch.randn(width).bfloat16()
        for number, row in enumerate(values):
            memory[number * far : number * far + width] = row
        _bias_activation_kernel[(1,)](memory, bias, 3, far, GELU=True, BLOCK_ROWS=4, BLOCK_COLUMNS=width)
        assert torch.equal(memory[2 * far :], bias_activation_(values, bias, "gelu")[2])


class TestAddLayerNorm:
    __test__ = INTERPRETING

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("columns", [1, 2, 7, 64, 384, 512, 513, 768, 1024, 1031])
    def test_accuracy(self, dtype, columns):
        for rows in ROWS:
            if columns > 1:
                epsilon = 1e-2 if columns < 3 else 1e-6
                check_add_layer_norm(*norm_inputs(rows, columns, dtype), epsilon=epsilon, kind="unbiased")
            check_add_layer_norm(*norm_inputs(rows, columns, dtype), epsilon=1e-5 if columns < 3 else 1e-12)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("config", configs.WHOLE_ROWS, ids=str)
    def test_every_configuration(self, dtype, config):
        for columns in (config.block_columns - 1, config.block_columns):
            for kind in LAYER_NORMS:
                check_add_layer_norm(*norm_inputs(config.block_rows + 1, columns, dtype), kind=kind)

    @pytest.mark.filterwarnings("ignore:std_mean")  # of no rows
    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(0, 30),
        st.integers(2, 2100),
        st.sampled_from(DTYPES),
        st.sampled_from([1e-12, 1e-5, 0.1]),
        st.sampled_from(list(LAYER_NORMS)),
    )
    def test_any_shape(self, rows, columns, dtype, epsilon, kind):
        torch.manual_seed(columns)
        # Of two elements, LayerNorm is the sign of their difference: nearly equal ones make any error large.
        epsilon = max(epsilon, 1e-2 if columns < 5 else 0.0)
        check_add_layer_norm(*norm_inputs(rows, columns, dtype), epsilon=epsilon, kind=kind)

    @pytest.mark.parametrize("kind", LAYER_NORMS)
    @pytest.mark.parametrize("offset", [100.0, -3000.0])
    def test_a_mean_far_from_zero_takes_no_digits(self, offset, kind):
        rows, residual, vectors = norm_inputs(5, 768, torch.float32)
        check_add_layer_norm(rows + offset, residual, vectors, kind=kind)

    @pytest.mark.parametrize("size", [1e30, 1e-6, 1e-22])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_huge_and_tiny_values_of_the_unbiased_one(self, dtype, size):
        rows, residual, vectors = norm_inputs(5, 768, dtype)
        vectors[0] = size * vectors[0]
        check_add_layer_norm(size * rows, size * residual, vectors, epsilon=1e-6, kind="unbiased")

    def test_sums_that_the_dtype_does_not_hold(self):
        """In float16 the sum of rows and residual would overflow."""
        rows, residual, vectors = norm_inputs(4, 64, torch.float16)
        rows, residual = (50000 + 500 * x for x in (rows, residual))
        total = rows.double() + vectors[0].double() + residual.double()
        got = add_layer_norm_(rows, vectors[0], residual, LayerNorm(*vectors[1:], 1e-12))
        assert total.abs().max() > torch.finfo(torch.float16).max
        want = F.layer_norm(total, (64,), vectors[1].double(), vectors[2].double(), 1e-12)
        assert (got - want).abs().max() < floor(want, torch.float16)

    @pytest.mark.parametrize("kind", LAYER_NORMS)
    def test_equal_elements(self, kind):
        rows, residual, vectors = norm_inputs(3, 48, torch.float32)
        rows, residual = torch.full_like(rows, 0.5), torch.full_like(residual, 0.25)
        got = add_layer_norm_(rows, torch.zeros(48), residual, LayerNorm(*vectors[1:], 1e-12, kind))
        torch.testing.assert_close(got, vectors[2].expand(3, -1), rtol=0, atol=0)

    def test_equal_elements_whose_mean_is_rounded(self):
        """An error of 1e-9 in the mean would come out as 1e-3 beside an epsilon outside the root."""
        rows, residual, vectors = norm_inputs(4, 768, torch.float32)
        rows, residual = torch.tensor([0.1, 1 / 3, -0.7, 1e-3])[:, None].expand(4, 768).clone(), 0 * residual
        check_add_layer_norm(rows, residual, [torch.zeros(768), *vectors[1:]], epsilon=1e-6, kind="unbiased")
        got = add_layer_norm_(rows, torch.zeros(768), residual, LayerNorm(*vectors[1:], 1e-6, "unbiased"))
        torch.testing.assert_close(got, vectors[2].expand(4, -1), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("kind", LAYER_NORMS)
    @pytest.mark.parametrize("poison", [math.nan, math.inf])
    @pytest.mark.parametrize("operand", [0, 1])
    def test_what_is_not_finite_stays_in_its_row(self, poison, operand, kind):
        *matrices, vectors = norm_inputs(7, 40, torch.float32)
        want = add_layer_norm_(matrices[0].clone(), vectors[0], matrices[1], LayerNorm(*vectors[1:], 1e-12, kind))
        matrices[operand][2, 7] = poison
        got = add_layer_norm_(matrices[0], vectors[0], matrices[1], LayerNorm(*vectors[1:], 1e-12, kind))
        assert got[2].isnan().all()
        others = torch.arange(7) != 2
        assert torch.equal(got[others], want[others])

    def test_no_row(self):
        rows, residual, vectors = norm_inputs(0, 8, torch.bfloat16)
        assert add_layer_norm_(rows, vectors[0], residual, LayerNorm(*vectors[1:], 1e-12)).shape == (0, 8)

    def test_a_residual_with_gaps(self):
        rows, residual, vectors = norm_inputs(5, 24, torch.float32)
        want = add_layer_norm_(rows.clone(), vectors[0], residual, LayerNorm(*vectors[1:], 1e-12))
        gaps = torch.cat([residual, residual], dim=1)[:, :24]
        assert torch.equal(add_layer_norm_(rows, vectors[0], gaps, LayerNorm(*vectors[1:], 1e-12)), want)

    def test_what_is_refused(self):
        rows, residual, vectors = norm_inputs(2, 10, torch.float32)
        with pytest.raises(ValueError, match="must be contiguous"):
            add_layer_norm_(
                rows[:, :9], vectors[0][:9], residual[:, :9], LayerNorm(*(v[:9] for v in vectors[1:]), 1e-12)
            )
        rows, residual, vectors = norm_inputs(1, configs.WHOLE_ROWS[-1].block_columns + 1, torch.float32)
        with pytest.raises(ValueError, match="do not fit into a tile"):
            add_layer_norm_(rows, vectors[0], residual, LayerNorm(*vectors[1:], 1e-12))
        with pytest.raises(ValueError, match="unknown layer_norm 'rms'"):
            add_layer_norm_(rows, vectors[0], residual, LayerNorm(*vectors[1:], 1e-12, "rms"))
        rows, residual, vectors = norm_inputs(3, 1, torch.float32)
        with pytest.raises(ValueError, match="needs H >= 2"):
            add_layer_norm_(rows, vectors[0], residual, LayerNorm(*vectors[1:], 1e-12, "unbiased"))

    def test_a_row_beyond_two_to_the_31_elements(self):
        """As above; the kernel takes the distance of the rows for their size, and finds a mean and a variance of 0."""
        width, far = 512, 2**30
        memory, residual = (torch.empty(2 * far + width, dtype=torch.bfloat16) for _ in range(2))
        values = torch.randn(2, 3, width).bfloat16()
        for number in range(3):
            memory[number * far : number * far + width] = values[0, number]
            residual[number * far : number * far + width] = values[1, number]
        vectors = [torch.zeros(width), torch.ones(width), torch.zeros(width)]
        options = dict(NUM_COLUMNS=far, UNBIASED=False, BLOCK_ROWS=4, BLOCK_COLUMNS=width)
        _add_layer_norm_kernel[(1,)](memory, vectors[0], residual, *vectors[1:], 3, 1.0, **options)
        torch.testing.assert_close(memory[2 * far :], values[0, 2] + values[1, 2])


@pytest.mark.proof
@pytest.mark.skipif(INTERPRETING, reason="this is the interpreting process")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_the_kernels_take(architecture, tmp_path):
    """Nothing spills, half of the threads of a multiprocessor have their registers, shared memory is for sums over
    warps only, and rows are accessed 16 bytes at a time."""
    kernels = compiled(__file__, architecture, tmp_path)
    assert len(kernels) == len({kernel["name"] for kernel in kernels}) > 20
    for kernel in kernels:
        odd = " odd " in kernel["name"]
        assert kernel["stack"] == 0 and kernel["local"] == 0, kernel
        assert 0 < kernel["registers"] * 32 * kernel["num_warps"] <= REGISTERS, kernel
        assert odd or kernel["registers"] <= 64, kernel
        assert kernel["shared"] <= (16 * 1024 if odd else 4 * kernel["num_warps"] * 2), kernel
        assert kernel["wide_accesses"] == (not odd), kernel


def compile_for(architecture: int) -> None:
    """Every configuration, on rows of common sizes and on "odd" ones, which are not aligned.

    No instruction here is of one architecture alone, so that registers differ little between them: all dtypes are
    compiled for sm_80, and bfloat16, whose conversions are its own, for the others.
    """
    numbers = {"num_rows": "i32", "epsilon": "fp32"}
    for dtype in ("fp32", "bf16", "fp16") if architecture == 80 else ("bf16",):
        for columns, gelu in ((3072, True), (4096, False), (1001, True)):
            config = configs.BIAS_ACTIVATION
            values = {"NUM_COLUMNS": columns, "GELU": gelu}
            values |= {"BLOCK_ROWS": config.block_rows, "BLOCK_COLUMNS": config.block_columns}
            name = f"bias and {'gelu' if gelu else 'relu'}{' odd' if columns % 8 else ''} {dtype} {columns}"
            resources(architecture, name, _bias_activation_kernel, numbers, f"*{dtype}", values, config.num_warps)
        # Other conversions are all that tells float16 from bfloat16.
        for config in configs.WHOLE_ROWS[: 2 if dtype == "fp16" else None]:
            whole, part, odd = config.block_columns, config.block_columns * 3 // 4, config.block_columns - 11
            # The other kind differs by two reductions in registers, the same for every dtype.
            unbiased_too = [(part, True), (odd, True)] if dtype == "bf16" else []
            for columns, unbiased in [(whole, False), (odd, False), *unbiased_too]:
                values = {"NUM_COLUMNS": columns, "UNBIASED": unbiased}
                values |= {"BLOCK_ROWS": config.block_rows, "BLOCK_COLUMNS": config.block_columns}
                name = f"layer norm{' unbiased' * unbiased}{' odd' if columns % 8 else ''} {dtype} {columns}"
                resources(architecture, name, _add_layer_norm_kernel, numbers, f"*{dtype}", values, config.num_warps)


if __name__ == "__main__":
    compile_for(int(sys.argv[1]))
