"""Speed, the threshold on the uncertainty: one place that reads what the user passed."""

from __future__ import annotations

from numbers import Real

import torch


def resolve_speed(
    speed: float | torch.Tensor | None, *, batch_size: int, device: torch.device | str
) -> torch.Tensor | None:
    """Speed as one threshold per sample (Liu et al. 2020, section 3.3).

    Args:
        speed: a number in [0, 1] for all samples, a float tensor [B] with one Speed per sample, or `None` for full
            depth.
        batch_size: B.
        device: where the result has to be.

    Returns:
        float32 [B] on `device`, or `None` when `speed` is `None`.

    Raises:
        TypeError: not a real number and not a floating point tensor.
        ValueError: NaN, a value outside [0, 1], or a tensor of another shape than [B].
    """
    if speed is None:
        return None
    if isinstance(speed, torch.Tensor):
        if not speed.is_floating_point():
            raise TypeError(f"a speed tensor must be floating point, got {speed.dtype}; convert it with .float()")
        if speed.shape != (batch_size,):
            raise ValueError(f"a speed tensor must have shape [{batch_size}] (the batch), got {list(speed.shape)}")
        # Written so that NaN fails the comparison.
        in_range = (speed >= 0) & (speed <= 1)
        if not bool(in_range.all()):
            rows = (~in_range).nonzero().flatten().tolist()
            raise ValueError(f"speed must lie in [0, 1] and not be NaN; wrong for sample(s) {rows}")
        return speed.detach().to(device=device, dtype=torch.float32)
    if isinstance(speed, bool) or not isinstance(speed, Real):
        raise TypeError(f"speed must be None, a number or a tensor [B], got {type(speed).__name__}")
    if not 0.0 <= float(speed) <= 1.0:
        raise ValueError(f"speed must lie in [0, 1] and not be NaN, got {speed}")
    return torch.full((batch_size,), float(speed), dtype=torch.float32, device=device)
