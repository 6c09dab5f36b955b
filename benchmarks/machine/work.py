"""The work of every part of the encoder by count: products, and the bytes that it reads and writes at the least.

Bytes are counted as if every part read its weights once, and its rows once from where the part before wrote them. So a
part whose rows still lie in a cache may be faster than memory allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ELEMENT = {"float32": 4, "bfloat16": 2, "int8": 1}  # bytes of a weight
_ROW_ELEMENT = {"float32": 4, "bfloat16": 2, "int8": 2}  # of what lies between products: bfloat16 around those in int8
_SUM = 4  # what goes into a LayerNorm is float32


@dataclass(frozen=True)
class Work:
    """What a part does.

    Attributes:
        flops: 2 per multiply-add of its products.
        bytes: read and written.
        operands: dtype of what its products multiply.
    """

    flops: int
    bytes: int
    operands: str

    def __add__(self, other: Work) -> Work:
        if self.operands != other.operands:
            raise ValueError(f"work in {self.operands} and work in {other.operands} have no sum")
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.operands)


def layer_work(hidden: int, inner: int, lengths: Sequence[int], dtype: str) -> dict[str, Work]:
    """Return the work of one layer, by part."""
    tokens, row = sum(lengths), _ROW_ELEMENT[dtype]

    def product(depth: int, outputs: int, others: int, out: int) -> Work:
        """`others`: bytes beside weights, input and output; `out`: bytes of an output."""
        weights = _ELEMENT[dtype] * depth * outputs
        return Work(2 * tokens * depth * outputs, weights + tokens * (row * depth + out * outputs) + others, dtype)

    residual = tokens * row * hidden
    attention_flops = 4 * hidden * sum(length * length for length in lengths)
    return {
        "qkv": product(hidden, 3 * hidden, 0, row),
        # Its operands are rows as they lie there, in int8 too.
        "attention": Work(attention_flops, 4 * tokens * row * hidden, "bfloat16" if dtype == "int8" else dtype),
        "attention_output": product(hidden, hidden, residual, _SUM),
        "norm": Work(0, 2 * tokens * hidden * (_SUM + row), dtype),
        "intermediate": product(hidden, inner, 0, row),
        "output": product(inner, hidden, residual, _SUM),
    }


def run_work(
    config: Any, lengths: Sequence[int], exit_layers: Sequence[int], dtype: str, adaptive: bool
) -> dict[str, Work]:
    """Return the work of a whole run, by part.

    Args:
        config: of the model.
        lengths: tokens of every sample.
        exit_layers: the layer that every sample leaves behind.
        dtype: of the products of the layers.
        adaptive: a head behind every layer, and compaction; else the last head alone.
    """
    backbone, row = config.backbone_config, _ROW_ELEMENT[dtype]
    hidden, narrow, depth = backbone.hidden_size, config.head_hidden_size, backbone.num_hidden_layers
    head_operands = "bfloat16" if dtype == "int8" else dtype
    total = {"head": Work(0, 0, head_operands), "compaction": Work(0, 0, dtype)}
    for layer in range(1, depth + 1):
        alive = [length for length, last in zip(lengths, exit_layers, strict=True) if last >= layer]
        for part, work in layer_work(hidden, backbone.intermediate_size, alive, dtype).items():
            total[part] = total[part] + work if part in total else work
        if adaptive or layer == depth:  # 2 H C of a token are 99 % of a head
            head = Work(2 * sum(alive) * hidden * narrow, row * hidden * (sum(alive) + narrow), head_operands)
            total["head"] += head
        if adaptive and layer < depth:
            kept = sum(length for length, last in zip(lengths, exit_layers, strict=True) if last > layer)
            total["compaction"] += Work(0, 2 * row * hidden * (kept if kept < sum(alive) else 0), dtype)
    return total
