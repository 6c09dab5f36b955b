"""Folded weights of the attentive exit head: exact algebra, done once in float64.

Only the [CLS] token's attention output is used, so of the n x n attention one row is needed. With query, key, value
and output projections q, k, v, o (heads of size d, biases included) the score of token j is

    (Wq z_0 + bq)_i . (Wk z_j + bk)_i / sqrt(d)  =  (B_i z_0 + beta_i) . z_j  +  a term that is the same for every j

    B_i = Wk_i^T Wq_i / sqrt(d)      beta_i = Wk_i^T bq_i / sqrt(d)

(softmax drops the constant term, and bk with it), and since the attention weights sum to 1, what follows up to the
activation is

    W1 (Wo [v_1 .. v_h] + bo) + b1  =  sum_i A_i c_i + a,   c_i the weighted sum of the z_j

    A_i = W1 Wo[:, i] Wv_i           a = W1 (Wo bv + bo) + b1
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastbert_kernels.engine.weights import AttentiveHeadWeights
from fastbert_kernels.ops import AttentiveHeadTensors


def fold_attentive_head(
    projection_weight: Tensor,
    projection_bias: Tensor,
    query_weight: Tensor,
    query_bias: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    attention_output_weight: Tensor,
    attention_output_bias: Tensor,
    dense_weight: Tensor,
    dense_bias: Tensor,
    classifier_weight: Tensor,
    classifier_bias: Tensor,
    *,
    num_attention_heads: int,
    dtype: torch.dtype,
) -> AttentiveHeadWeights:
    """Fold the Linear layers of an attentive head (Liu et al. 2020, section 3.1); weights are [out, in].

    All but the first and the last are [C, C]. There is no key bias: it shifts all scores alike and drops out of the
    softmax.

    Args:
        projection_weight: [C, H].
        classifier_weight: [N, C].
        num_attention_heads: h, divides C.
        dtype: of the hidden states that the head will read; the projection weight is cast to it.

    Returns:
        Matrices in row-vector convention (`z @ query[i]`). On a CPU all but the projection weight are float32, on a GPU
        `query` and `value` too have the given dtype; float64 for float64 hidden states.
    """
    heads = num_attention_heads
    narrow = query_weight.shape[0]
    size = narrow // heads  # d
    folded = torch.promote_types(dtype, torch.float32)
    # A GPU reads these matrices once per sample from its cache, so half the bytes count; a CPU computes in float32.
    matrices = dtype if projection_weight.is_cuda else folded

    w_query = query_weight.double().view(heads, size, narrow)
    b_query = query_bias.double().view(heads, size)
    w_key = key_weight.double().view(heads, size, narrow)
    w_value = value_weight.double().view(heads, size, narrow)
    w_dense = dense_weight.double()
    w_output = attention_output_weight.double()

    query = torch.einsum("hdk,hdc->hkc", w_query, w_key) / size**0.5  # B_i^T
    bias = torch.einsum("hd,hdc->hc", b_query, w_key) / size**0.5
    into_dense = (w_dense @ w_output).view(narrow, heads, size)  # W1 Wo, columns by head
    value = torch.einsum("ohd,hdc->hco", into_dense, w_value).reshape(heads * narrow, narrow)  # A_i^T
    value_bias_folded = (
        w_dense @ (w_output @ value_bias.double() + attention_output_bias.double()) + dense_bias.double()
    )
    tensors = AttentiveHeadTensors(
        projection_weight=projection_weight.to(dtype).contiguous(),
        projection_bias=projection_bias.to(folded),
        query=query.to(matrices).contiguous(),
        query_bias=bias.to(folded),
        value=value.to(matrices).contiguous(),
        value_bias=value_bias_folded.to(folded),
        output_weight=classifier_weight.to(folded).contiguous(),
        output_bias=classifier_bias.to(folded),
    )
    return AttentiveHeadWeights(tensors)
