"""What the engine knows of a model: dataclasses of tensors that a host file fills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels.exit_heads import AttentiveHeadWeights, PooledHeadWeights
from fastbert_kernels.layer_norm import LayerNorm

GELU_BY_TANH = "gelu_pytorch_tanh"  # x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), by whatever name


@dataclass(frozen=True)
class LayerWeights:
    """A post-LayerNorm encoder layer of the BERT family; H hidden size, I intermediate size. Linear weights are [out,
    in]."""

    num_attention_heads: int
    layer_norm_eps: float
    activation: Callable[[Tensor], Tensor]
    activation_name: str  # as Transformers calls it; "gelu" is the one by the error function, and see GELU_BY_TANH
    qkv_weight: Tensor  # [3H, H]: query, key and value in one product
    qkv_bias: Tensor  # [3H]
    attention_output_weight: Tensor  # [H, H]
    attention_output_bias: Tensor  # [H]
    attention_norm_weight: Tensor  # [H]
    attention_norm_bias: Tensor  # [H]
    intermediate_weight: Tensor  # [I, H]
    intermediate_bias: Tensor  # [I]
    output_weight: Tensor  # [H, I]
    output_bias: Tensor  # [H]
    output_norm_weight: Tensor  # [H]
    output_norm_bias: Tensor  # [H]
    layer_norm: str = field(default="standard", kw_only=True)  # a name of `fastbert_kernels.layer_norm.LAYER_NORMS`
    # [heads, 2P - 1] for samples of up to P tokens: what attention adds to the score of a key that is d places behind
    # its query is in column P - 1 + d. None adds nothing.
    position_bias: Tensor | None = field(default=None, kw_only=True)
    # Whether the activation is GELU by tanh in place of the model's own by the error function, at most 4.8e-4 from it.
    approximates_gelu: bool = field(default=False, kw_only=True)

    @property
    def attention_norm(self) -> LayerNorm:
        return LayerNorm(self.attention_norm_weight, self.attention_norm_bias, self.layer_norm_eps, self.layer_norm)

    @property
    def output_norm(self) -> LayerNorm:
        return LayerNorm(self.output_norm_weight, self.output_norm_bias, self.layer_norm_eps, self.layer_norm)

    def by_tanh(self) -> LayerWeights:
        """Return the same layer with GELU by tanh in place of the one by the error function; other activations stay."""
        if self.activation_name != "gelu":
            return self
        by_tanh = partial(F.gelu, approximate="tanh")
        return replace(self, activation=by_tanh, activation_name=GELU_BY_TANH, approximates_gelu=True)


ExitHead = AttentiveHeadWeights | PooledHeadWeights


def teacher_classifier(heads: Sequence[ExitHead | None]) -> ExitHead:
    """The head behind the last layer, which no encoder is without; `heads` as of `LayerLoop`."""
    last = heads[-1]
    if last is None:
        raise ValueError("the last layer has no exit head, but whoever leaves nowhere else gets its answer there")
    return last
