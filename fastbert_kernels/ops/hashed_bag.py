"""`torch.ops.fastbert.hashed_bag`: the exit decision of a bag of hashed tokens before the first layer, on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from fastbert_kernels import _extension, reference
from fastbert_kernels.criteria import check_criterion, check_labels
from fastbert_kernels.ops import library


@library.op(devices=("CPU",))
def hashed_bag(
    table: Tensor,
    bias: Tensor,
    input_ids: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    *,
    criterion: str = "entropy",
    parameter: int = 0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, uncertainty and exit decision of every sample from its token ids alone.

    With n tokens w the logits are bias + (sum of the rows of all w_i and all (w_i, w_i+1)) / sqrt(2 n - 1);
    `reference.hashed_bag` says which row of the table that is.

    Args:
        table: [buckets, N] float32 or float64; a power of 2 of rows.
        bias: [N], as `table`.
        input_ids: [T] int64 or int32; T tokens of B samples, no padding.
        cu_seqlens: [B + 1] int32, begins with 0 and ends with T.
        speed: [B] float32, the threshold of each sample.
        criterion: as in `attentive_head`, as are `parameter` and `backend`.
        parameter: see `criterion`.
        backend: see `criterion`.

    Returns, Raises:
        As `attentive_head`, of a first head.
    """
    if table.dim() != 2 or table.shape[0] < 1 or table.shape[0] & (table.shape[0] - 1) or table.shape[0] > 2**31:
        raise ValueError(f"table must be [buckets, N] with a power of 2 of buckets, not {list(table.shape)}")
    if input_ids.dim() != 1 or speed.dim() != 1:
        raise ValueError(f"input_ids must be [T] and speed [B], not {list(input_ids.shape)} and {list(speed.shape)}")
    check, device, (batch,), labels = library.check_tensor, table.device, speed.shape, table.shape[1]
    check("table", table, device, tuple(table.shape), torch.float32, torch.float64)
    check("bias", bias, device, (labels,), table.dtype)
    check("input_ids", input_ids, device, tuple(input_ids.shape), torch.int64, torch.int32)
    check("cu_seqlens", cu_seqlens, device, (batch + 1,), torch.int32)
    check("speed", speed, device, (batch,), torch.float32)
    check_criterion(criterion, parameter)
    check_labels(criterion, labels)
    return library.decision_results(table, batch, labels)


def _cpu(
    results: tuple[Tensor, ...],
    table: Tensor,
    bias: Tensor,
    input_ids: Tensor,
    cu_seqlens: Tensor,
    speed: Tensor,
    *,
    criterion: str,
    parameter: int,
) -> None:
    _extension.module().hashed_bag(
        table, bias, input_ids.long(), cu_seqlens, speed, results, criterion=criterion, parameter=parameter
    )


library.implement(hashed_bag, cpu=_cpu, reference=reference.hashed_bag)
