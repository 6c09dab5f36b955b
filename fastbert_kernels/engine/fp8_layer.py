"""The encoder layer whose products are in FP8, for NVIDIA GPUs that have them. Its import needs Triton."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastbert_kernels.engine.attention_choice import UNMEASURED, AttentionChoice
from fastbert_kernels.engine.dtypes import FP8, PRODUCTS
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.weights import LayerWeights
from fastbert_kernels.triton import elementwise, fp8_rows
from fastbert_kernels.triton.fp8_rows import Fp8Rows

CAPABILITY = (9, 0)  # Hopper: before it Triton 3.6 rounds to FP8 without the hardware's instruction
MULTIPLE = 16  # of the columns of every product


class Scales(NamedTuple):
    """Of the rows of the weights, [out, 1] float32, by the products in `dtypes.PRODUCTS`."""

    qkv: Tensor
    attention_output: Tensor
    intermediate: Tensor
    output: Tensor


@dataclass(frozen=True)
class Fp8Layer(TorchLayer):
    """The layer of the BERT family on hidden states in bfloat16, with all four products in FP8.

    Both operands of a product have a scale for each row. Of the rows, those behind the first LayerNorm and behind the
    activation are written in FP8 by the kernel that computes them; the hidden states, between whose writing and reading
    samples leave, and the output of the attention are rounded by a launch each. Attention, LayerNorm and residuals are
    in bfloat16, sums in float32.

    Attributes:
        weights: those of the products in float8_e4m3fn, all others in bfloat16.
        scales: of those.
    """

    scales: Scales = field(kw_only=True)

    @classmethod
    def cast(cls, weights: LayerWeights, dtype: torch.dtype, attention: AttentionChoice = UNMEASURED) -> Fp8Layer:
        """Make a layer for hidden states of `dtype`, bfloat16."""
        rounded = {name: fp8_rows.round_weight(getattr(weights, f"{name}_weight")) for name in PRODUCTS}
        others = TorchLayer.cast(weights, dtype).weights
        values: dict[str, Any] = {f"{name}_weight": rows.values for name, rows in rounded.items()}
        scales = Scales(**{name: rows.scales for name, rows in rounded.items()})
        return cls(dataclasses.replace(others, **values), attention, scales=scales)

    @staticmethod
    def unsupported(device: torch.device, weights: LayerWeights) -> str | None:
        """Return why such a layer has no products in FP8 on a GPU, or None."""
        width, inner = weights.qkv_weight.shape[1], weights.intermediate_weight.shape[0]
        if width % MULTIPLE or inner % MULTIPLE:
            return f"they take sizes that {MULTIPLE} divides, not {width} and {inner}"
        widest, activation = max(width, inner), weights.activation_name
        return elementwise.unsupported(torch.bfloat16, widest, activation) or unavailable(device)

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.attention_norm_weight.dtype

    @property
    def precision(self) -> str:
        return FP8

    def __call__(self, hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        """[T, H] in and out; cu_seqlens [B + 1] int32; max_seqlen an upper bound of the sample lengths."""
        if hidden.shape[0] == 0:
            return hidden
        weights, scales = self.weights, self.scales
        qkv = fp8_rows.linear(
            fp8_rows.round_rows(hidden), Fp8Rows(weights.qkv_weight, scales.qkv), bias=weights.qkv_bias
        )
        context = fp8_rows.round_rows(self.attend(qkv, cu_seqlens, max_seqlen))
        attended = fp8_rows.linear(context, Fp8Rows(weights.attention_output_weight, scales.attention_output))
        rows = fp8_rows.add_layer_norm_(attended, weights.attention_output_bias, hidden, weights.attention_norm)
        intermediate = fp8_rows.bias_activation(
            fp8_rows.linear(rows, Fp8Rows(weights.intermediate_weight, scales.intermediate)),
            weights.intermediate_bias,
            weights.activation_name,
        )
        output = fp8_rows.linear(intermediate, Fp8Rows(weights.output_weight, scales.output))
        return elementwise.add_layer_norm_(output, weights.output_bias, attended, weights.output_norm)


@cache
def unavailable(device: torch.device) -> str | None:
    """Return why a GPU has no products in FP8 with a scale for each row, or None.

    A product is tried, in which every row of both operands has another scale.
    """
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than Hopper (compute capability 9.0)"
    powers = torch.exp2(torch.arange(MULTIPLE, dtype=torch.float32, device=device))[:, None]
    rows, weight = (fp8_rows.round_weight(scale.expand(-1, MULTIPLE)) for scale in (powers, 1 / powers.square()))
    want = MULTIPLE * powers / powers.square().t()
    try:
        found = fp8_rows.linear(rows, weight)
    except torch.OutOfMemoryError:
        raise  # nothing that is so for good
    except (RuntimeError, TypeError, AttributeError) as error:
        return f"PyTorch {torch.__version__} cannot do them here: {str(error).splitlines()[0]}"
    return None if torch.equal(found.float(), want) else f"those of PyTorch {torch.__version__} are wrong here"
