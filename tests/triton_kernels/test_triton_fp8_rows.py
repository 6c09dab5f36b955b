"""The Triton kernels that write rows in FP8: interpreted on the CPU against the formula in PyTorch (tier 2), and
compiled ahead of time for the architectures that have FP8 (tier 3)."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

pytest.importorskip("triton.language", reason="triton is not installed")

from test_triton_compiles import ARCHITECTURES, compiled, resources

from fastbert_kernels.layer_norm import LAYER_NORMS, LayerNorm
from fastbert_kernels.triton import configs, elementwise, fp8_rows
from fastbert_kernels.triton.fp8_rows import LARGEST, SMALLEST_SCALE, Fp8Rows
from helpers.triton_interpreter import INTERPRETING, interpreted_elsewhere, round_to_nearest

ROWS = [1, 4, 9]
DTYPES = [torch.bfloat16, torch.float32]

if INTERPRETING:
    round_to_nearest()


test_everything_interpreted_in_a_process_of_its_own = interpreted_elsewhere(__file__)


def numbers_of(rows: Fp8Rows):
    return rows.values.double() * rows.scales.double()


def assert_rounded(got: Fp8Rows, want):
    """Every element is the nearest of the format, but for what a unit of float32 in `want` and in the scale can turn;
    `want` is in float64."""
    assert got.values.dtype == torch.float8_e4m3fn and got.values.shape == want.shape
    assert got.scales.dtype == torch.float32 and got.scales.shape == (len(want), 1)
    largest = want.abs().amax(dim=1, keepdim=True)
    scales = (largest / LARGEST).clamp_min(SMALLEST_SCALE)
    torch.testing.assert_close(got.scales.double(), scales, rtol=1e-5, atol=0)
    # The distance of numbers of the format is 1/8 of the power of two below, and 2^-9 among the smallest.
    in_units = (want / scales).abs().clamp_min(2.0**-6)
    half_a_unit = torch.exp2(in_units.log2().floor()) / 16
    error = (numbers_of(got) - want).abs() / scales
    assert (error <= half_a_unit * (1 + 1e-3) + 1e-5 * in_units).all()
    assert (numbers_of(got).abs().amax(dim=1) >= largest[:, 0] * (1 - 1e-5)).all()


def amid_poison(values):
    """The same values with NaN around them in memory, which shows where it is read."""
    memory = torch.full((values.numel() + 2 * values.shape[-1],), math.nan, dtype=values.dtype)
    return memory[values.shape[-1] : -values.shape[-1]].view(values.shape).copy_(values)


class TestRows:
    __test__ = INTERPRETING

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("columns", [1, 7, 64, 384, 513, 3072])
    def test_rounding(self, dtype, columns):
        for count in ROWS:
            rows = (torch.randn(count, columns) * torch.logspace(-9, 9, count)[:, None]).to(dtype)
            assert_rounded(fp8_rows.round_rows(amid_poison(rows)), rows.double())

    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 30), st.integers(1, 1100), st.floats(1e-30, 1e30))
    def test_any_shape(self, count, columns, size):
        rows = (size * torch.randn(count, columns)).bfloat16()
        assert_rounded(fp8_rows.round_rows(rows), rows.double())

    def test_every_number_of_the_format_stays(self):
        numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
        numbers = numbers[~numbers.float().isnan()]
        assert numbers.float().abs().max() == LARGEST
        rows = torch.stack([numbers.float(), numbers.float() / 1024])
        got = fp8_rows.round_rows(rows)
        assert torch.equal(got.scales, torch.tensor([[1.0], [1 / 1024]]))
        assert torch.equal(got.values.float(), numbers.float().expand(2, -1))

    def test_zeros_and_what_is_too_small(self):
        rows = torch.stack([torch.zeros(16), torch.full((16,), 1e-42), torch.full((16,), -0.0)])
        got = fp8_rows.round_rows(rows)
        assert not numbers_of(got).isnan().any() and (numbers_of(got) - rows.double()).abs().max() < 1e-38
        assert (got.scales >= SMALLEST_SCALE).all()

    @pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_stays_in_its_row_and_is_told(self, poison):
        rows, weight = torch.randn(6, 48), fp8_rows.round_weight(torch.randn(32, 48))
        want = fp8_rows.linear(fp8_rows.round_rows(rows), weight)
        rows[2, 7] = poison
        got = fp8_rows.linear(fp8_rows.round_rows(rows), weight)
        others = torch.arange(6) != 2
        assert got[2].isnan().all() and torch.equal(got[others], want[others])

    def test_rows_with_gaps(self):
        rows = torch.randn(5, 48)
        got = fp8_rows.round_rows(torch.cat([rows, rows], dim=1)[:, :48])
        assert torch.equal(numbers_of(got), numbers_of(fp8_rows.round_rows(rows)))

    def test_weights_are_rounded_alike(self):
        weight = torch.randn(40, 64) * torch.logspace(-6, 6, 40)[:, None]
        weight[3] = 0
        by_hand, by_kernel = fp8_rows.round_weight(weight), fp8_rows.round_rows(weight)
        assert torch.equal(by_hand.scales, by_kernel.scales)
        assert torch.equal(by_hand.values.float(), by_kernel.values.float())
        assert_rounded(by_hand, weight.double())

    def test_no_tile_is_wide_enough(self):
        with pytest.raises(ValueError, match="do not fit into a tile"):
            fp8_rows.round_rows(torch.zeros(1, configs.WHOLE_ROWS[-1].block_columns + 1))


class TestBiasActivation:
    __test__ = INTERPRETING

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("activation", ["gelu", "relu"])
    @pytest.mark.parametrize("columns", [7, 511, 512, 1536])
    def test_accuracy(self, dtype, activation, columns):
        for count in ROWS:
            rows, bias = (3 * torch.randn(count, columns)).to(dtype), torch.randn(columns).to(dtype) + 0.5
            want = {"gelu": F.gelu, "relu": F.relu}[activation](rows.double() + bias.double())
            before = rows.clone()
            assert_rounded(fp8_rows.bias_activation(rows, bias.to(dtype), activation), want)
            assert torch.equal(rows, before)

    @pytest.mark.parametrize("activation", ["gelu", "relu"])
    def test_a_nan_is_told(self, activation):
        rows = torch.randn(3, 16)
        rows[1, 4] = math.nan
        got = fp8_rows.bias_activation(rows, torch.zeros(16), activation)
        weight = fp8_rows.round_weight(torch.randn(16, 16))
        assert fp8_rows.linear(got, weight).isnan().all(dim=1).tolist() == [False, True, False]

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="unknown activation 'silu'"):
            fp8_rows.bias_activation(torch.zeros(4, 16), torch.zeros(16), "silu")
        with pytest.raises(ValueError, match="must be contiguous"):
            fp8_rows.bias_activation(torch.zeros(4, 17)[:, :16], torch.zeros(16), "gelu")


class TestAddLayerNorm:
    __test__ = INTERPRETING

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("kind", LAYER_NORMS)
    @pytest.mark.parametrize("columns", [8, 64, 384, 768, 1031])
    def test_accuracy(self, dtype, kind, columns):
        """In FP8 it is the LayerNorm in float64, and what is written in place is what the kernel without FP8 writes."""
        for count in ROWS:
            rows, residual = 2 * torch.randn(2, count, columns).to(dtype)
            vectors = torch.randn(3, columns).to(dtype)
            total = rows.double() + residual.double() + vectors[0].double()
            want = LAYER_NORMS[kind](total, vectors[1].double(), vectors[2].double(), 1e-6)
            plain = elementwise.add_layer_norm_(rows.clone(), vectors[0], residual, LayerNorm(*vectors[1:], 1e-6, kind))
            got = fp8_rows.add_layer_norm_(rows, vectors[0], residual, LayerNorm(*vectors[1:], 1e-6, kind))
            assert_rounded(got, want)
            assert torch.equal(rows, plain)

    def test_a_nan_is_told(self):
        rows, residual = torch.randn(2, 3, 16)
        residual[1, 4] = math.nan
        got = fp8_rows.add_layer_norm_(
            rows, torch.zeros(16), residual, LayerNorm(torch.ones(16), torch.zeros(16), 1e-6)
        )
        weight = fp8_rows.round_weight(torch.randn(16, 16))
        assert fp8_rows.linear(got, weight).isnan().all(dim=1).tolist() == [False, True, False]

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="unknown layer_norm 'rms'"):
            fp8_rows.add_layer_norm_(*torch.zeros(3, 16, 16), LayerNorm(*torch.zeros(2, 16), 1e-6, "rms"))
        with pytest.raises(ValueError, match="must be contiguous"):
            fp8_rows.add_layer_norm_(
                torch.zeros(4, 17)[:, :16], *torch.zeros(2, 16, 16), LayerNorm(*torch.zeros(2, 16), 1e-6)
            )


@pytest.mark.skipif(INTERPRETING, reason="the library's product, not the kernels")
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 16, 16), (7, 384, 1536), (33, 768, 48)])
def test_the_product_is_that_of_the_rounded_numbers(rows, inputs, outputs):
    operands = [fp8_rows.round_weight(torch.randn(size, inputs)) for size in (rows, outputs)]
    bias = torch.randn(outputs).bfloat16()
    want = numbers_of(operands[0]) @ numbers_of(operands[1]).T + bias.double()
    got = fp8_rows.linear(*operands, bias=bias)
    assert got.dtype == torch.bfloat16 and got.shape == (rows, outputs)
    torch.testing.assert_close(got.double(), want, rtol=1e-2, atol=1e-2 * float(want.abs().max()))


@pytest.mark.proof
@pytest.mark.skipif(INTERPRETING, reason="this is the interpreting process")
@pytest.mark.parametrize("architecture", [one for one in ARCHITECTURES if one >= 90])
def test_what_the_kernels_take(architecture, tmp_path):
    """Nothing spills, half of the threads of a multiprocessor have their registers, rows are accessed 16 bytes at a
    time, and the hardware's own instruction rounds."""
    kernels = compiled(__file__, architecture, tmp_path)
    assert len(kernels) == len({kernel["name"] for kernel in kernels}) == 3 * (len(configs.WHOLE_ROWS) + 1)
    for kernel in kernels:
        assert kernel["stack"] == 0 and kernel["local"] == 0, kernel
        assert 0 < kernel["registers"] <= 64 and kernel["rounds_to_fp8"], kernel
        assert kernel["wide_accesses"] == (" odd " not in kernel["name"]), kernel


def compile_for(architecture: int) -> None:
    """Every configuration in bfloat16, and one on rows that are not aligned."""
    types = {"num_rows": "i32", "epsilon": "fp32", "values_ptr": "*fp8e4nv", "scales_ptr": "*fp32"}
    kernels = {
        "round": (fp8_rows._round_kernel, {}),
        "bias and gelu": (fp8_rows._bias_activation_kernel, {"GELU": True}),
        "layer norm": (fp8_rows._add_layer_norm_kernel, {"UNBIASED": False}),
    }
    for name, (kernel, constants) in kernels.items():
        for config in configs.WHOLE_ROWS:
            widths = [config.block_columns] + [config.block_columns - 11] * (config is configs.WHOLE_ROWS[1])
            for columns in widths:
                values = {"NUM_COLUMNS": columns, **constants}
                values |= {"BLOCK_ROWS": config.block_rows, "BLOCK_COLUMNS": config.block_columns}
                label = f"{name}{' odd' if columns % 16 else ''} {columns}"
                resources(architecture, label, kernel, types, "*bf16", values, config.num_warps)


if __name__ == "__main__":
    compile_for(int(sys.argv[1]))
