"""FLOPs of a FastBERT model: the one definition that every figure of this project uses.

One multiply-add counts as 2 FLOPs. There are two conventions:

`"paper"`
    What Liu et al. 2020 report (tables 2 and 3): the Linear layers only, and of an exit head all but its last one.
    BERT-base with one exit head has exactly 21,785,247,744 FLOPs at length 128.
`"attention"`
    The same, and the attention products QK^T and PV of the encoder layers and of the attentive exit heads, and the last
    Linear layer of the exit head.

Both count the attentive exit head as the paper has it, with attention from every token to every token, whatever an
implementation saves by computing less. The hashed bag at layer 0 is one Linear layer on a row with 2 n - 1 entries,
which both count, though it is the last one of its head: else a sample that leaves there would cost nothing.
Embeddings (and ELECTRA's projection of them), pooling, LayerNorm, activations, softmax and biases count as nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from fastbert_hf.configuration import FastBertConfig

Convention: TypeAlias = Literal["paper", "attention"]
Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide the FLOPs of a FastBERT model."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    head_hidden_size: int
    num_labels: int
    head_type: str = "attentive"
    head_num_dense_layers: int = 1  # of a pooled head
    # Ascending, the last layer among them, and 0 where a hashed bag stands before the first; None: all layers, no bag.
    exit_layers: tuple[int, ...] | None = None

    @classmethod
    def from_config(cls, config: FastBertConfig) -> ModelShape:
        """Return the shape of the model that `config` describes."""
        every_layer = list(range(1, config.num_hidden_layers + 1))
        return cls(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            head_hidden_size=config.head_hidden_size,
            num_labels=len(config.id2label or {}),
            head_type=config.head_type,
            head_num_dense_layers=config.head_num_dense_layers,
            exit_layers=None if config.exit_layers == every_layer else tuple(config.exit_layers),
        )

    def asking(self, layers: Iterable[int]) -> ModelShape:
        """Return the shape with student classifiers at `layers`, ascending, only: others cost nothing."""
        return replace(self, exit_layers=(*layers, self.num_layers))


def layer_flops(shape: ModelShape, lengths: npt.ArrayLike, convention: Convention = "paper") -> Integers:
    """Return the FLOPs of one encoder layer for samples of n tokens.

    Linear layers, per token: query, key, value and output (4 H^2 multiply-adds), and the feed-forward pair (2 H F).
    Attention: QK^T and PV take n^2 H multiply-adds each.

    Args:
        shape: sizes of the model.
        lengths: n of every sample, integers >= 1 of any array shape.
        convention: which products count.

    Returns:
        int64, of the shape of `lengths`.

    Raises:
        ValueError: unknown convention, or lengths that are not integers >= 1.
    """
    n = _check_lengths(lengths)
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    flops = 2 * n * (4 * hidden**2 + 2 * hidden * intermediate)
    if _counts_attention(convention):
        flops = flops + 2 * (2 * n**2 * hidden)
    return flops


def head_flops(shape: ModelShape, lengths: npt.ArrayLike, convention: Convention = "paper") -> Integers:
    """Return the FLOPs of one exit head behind an encoder layer, for samples of n tokens; arguments, result and errors
    as in `layer_flops`.

    Attentive head. Linear layers: the projection (H C multiply-adds) and query, key, value and output (4 C^2) for every
    token, then one C x C layer for the first token. Attention: n^2 C for each of QK^T and PV. Last layer: C N.

    Pooled head, once per sample: H C for the first dense layer, C^2 for the second. Last layer: C N, or H N without
    dense layers.
    """
    n = _check_lengths(lengths)
    width = shape.head_hidden_size
    if shape.head_type == "attentive":
        flops = 2 * n * (shape.hidden_size * width + 4 * width**2) + 2 * width**2
        if _counts_attention(convention):
            flops = flops + 2 * (2 * n**2 * width) + 2 * width * shape.num_labels
        return flops
    widths = [shape.hidden_size, *[width] * shape.head_num_dense_layers]
    per_sample = sum(2 * before * after for before, after in itertools.pairwise(widths))
    if _counts_attention(convention):
        per_sample += 2 * widths[-1] * shape.num_labels
    return np.full_like(n, per_sample)


def exit_head_flops(
    shape: ModelShape, layer: int, lengths: npt.ArrayLike, convention: Convention = "paper"
) -> Integers:
    """Return the FLOPs of the exit head at `layer`: of the hashed bag at layer 0, else as `head_flops`.

    The bag has N multiply-adds for each of the n tokens and n - 1 pairs of neighbours.
    """
    if layer > 0:
        return head_flops(shape, lengths, convention)
    _counts_attention(convention)
    return 2 * (2 * _check_lengths(lengths) - 1) * shape.num_labels


def first_layers_flops(
    shape: ModelShape, layer: int, lengths: npt.ArrayLike, convention: Convention = "paper"
) -> Integers:
    """Return the FLOPs of the first `layer` layers alone with the exit head behind them, no other; arguments and result
    as in `exit_head_flops`."""
    return layer * layer_flops(shape, lengths, convention) + exit_head_flops(shape, layer, lengths, convention)


def leaving_flops(shape: ModelShape, lengths: npt.ArrayLike, convention: Convention = "paper") -> Integers:
    """Return the FLOPs of leaving at each of the E exit heads of `shape`, when those before it were asked, too.

    Args:
        shape: sizes of the model, with the exit heads that are asked (`ModelShape.asking`).
        lengths: n of every sample, integers [B].
        convention: which products count.

    Returns:
        int64 [E, B].

    Raises:
        ValueError: as `layer_flops`.
    """
    layers = _layers_with_head(shape)
    heads = np.stack([exit_head_flops(shape, layer, lengths, convention) for layer in layers.tolist()])
    return layers[:, None] * layer_flops(shape, lengths, convention) + heads.cumsum(axis=0)


def full_depth_flops(shape: ModelShape, lengths: npt.ArrayLike, convention: Convention = "paper") -> Integers:
    """Return the FLOPs of all L layers and the teacher classifier, no students; arguments and result as in
    `layer_flops`."""
    return first_layers_flops(shape, shape.num_layers, lengths, convention)


def exit_flops(
    shape: ModelShape, exit_layers: npt.ArrayLike, lengths: npt.ArrayLike, convention: Convention = "paper"
) -> Integers:
    """Return the FLOPs of samples that leave early: k layers and the exit heads up to k for exit layer k.

    Args:
        shape: sizes of the model, with the exit heads that are asked (`ModelShape.asking`).
        exit_layers: exit layer of every sample, integers [B] in 0..L, each a layer that has an exit head.
        lengths: n of every sample, integers [B], or one integer for all.
        convention: which products count.

    Returns:
        int64 [B].

    Raises:
        ValueError: as `layer_flops`, exit layers without an exit head, or arrays of different lengths.
    """
    depth, n = _broadcast(shape, exit_layers, lengths)
    place = np.searchsorted(_layers_with_head(shape), depth)
    every = leaving_flops(shape, n.ravel(), convention)
    return every[place.ravel(), np.arange(n.size)].reshape(depth.shape)


def executed_flops(
    shape: ModelShape, exit_layers: npt.ArrayLike, lengths: npt.ArrayLike, convention: Convention = "paper"
) -> int:
    """Return the FLOPs of adaptive inference over a set of samples, the sum of `exit_flops`."""
    return int(exit_flops(shape, exit_layers, lengths, convention).sum())


def flops_speedup(
    shape: ModelShape, exit_layers: npt.ArrayLike, lengths: npt.ArrayLike, convention: Convention = "paper"
) -> float:
    """Return the FLOPs of the full-depth model over the FLOPs executed, over a set of samples; as `executed_flops`.

    Below 1 when the heads cost more than early exits save. Raises `ValueError` when there is no sample.
    """
    depth, n = _broadcast(shape, exit_layers, lengths)
    if depth.size == 0:
        raise ValueError("the FLOPs speed-up of no samples is not defined")
    return int(full_depth_flops(shape, n, convention).sum()) / executed_flops(shape, depth, n, convention)


def _counts_attention(convention: Convention) -> bool:
    if convention not in get_args(Convention):
        raise ValueError(f"unknown FLOPs convention {convention!r}; choose one of {', '.join(get_args(Convention))}")
    return convention == "attention"


def _as_integers(name: str, values: npt.ArrayLike) -> Integers:
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    return array.astype(np.int64)


def _check_lengths(lengths: npt.ArrayLike) -> Integers:
    array = _as_integers("lengths", lengths)
    if (array < 1).any():
        raise ValueError("lengths must be at least 1")
    return array


def _layers_with_head(shape: ModelShape) -> Integers:
    return np.asarray(shape.exit_layers or range(1, shape.num_layers + 1), dtype=np.int64)


def _broadcast(shape: ModelShape, exit_layers: npt.ArrayLike, lengths: npt.ArrayLike) -> tuple[Integers, Integers]:
    depth, n = _as_integers("exit_layers", exit_layers), _check_lengths(lengths)
    known = _layers_with_head(shape)
    first = min(1, int(known[0]))  # 0 with a hashed bag
    if ((depth < first) | (depth > shape.num_layers)).any():
        raise ValueError(f"exit layers must lie in {first}..{shape.num_layers}")
    if not np.isin(depth, known).all():
        raise ValueError(f"exit layers must be layers that have an exit head, {list(shape.exit_layers or ())}")
    if n.ndim and n.shape != depth.shape:
        raise ValueError(f"got {depth.shape} exit layers but {n.shape} lengths")
    return depth, np.broadcast_to(n, depth.shape)
