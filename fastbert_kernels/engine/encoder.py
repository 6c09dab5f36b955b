"""One encoder layer of the BERT family on a packed batch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from fastbert_kernels.engine.attention import packed_attention
from fastbert_kernels.engine.weights import LayerWeights


def encoder_layer(hidden: Tensor, cu_seqlens: Tensor, max_seqlen: int, weights: LayerWeights) -> Tensor:
    """Attention and feed-forward block, each with residual and LayerNorm behind it (Devlin et al. 2019).

    Args:
        hidden: [T, H]. cu_seqlens: [B + 1] int32. max_seqlen: an upper bound of the sample lengths.

    Returns:
        [T, H].
    """
    size = hidden.shape[-1:]
    qkv = F.linear(hidden, weights.qkv_weight, weights.qkv_bias)
    context = packed_attention(qkv, cu_seqlens, max_seqlen, weights.num_attention_heads)
    attended = F.linear(context, weights.attention_output_weight, weights.attention_output_bias)
    attended = F.layer_norm(
        attended + hidden, size, weights.attention_norm_weight, weights.attention_norm_bias, weights.layer_norm_eps
    )
    intermediate = weights.activation(F.linear(attended, weights.intermediate_weight, weights.intermediate_bias))
    output = F.linear(intermediate, weights.output_weight, weights.output_bias)
    return F.layer_norm(
        output + attended, size, weights.output_norm_weight, weights.output_norm_bias, weights.layer_norm_eps
    )
