"""Limits of a server, each with the status that a request beyond it gets, and what it does beside answering."""

from __future__ import annotations

from dataclasses import dataclass

from fastbert_hf.exits.calibrated_setting import CalibratedSetting


@dataclass(frozen=True)
class Settings:
    """What a server allows and does.

    Attributes:
        api_key: that requests must bring as `Authorization: Bearer KEY` (401); `None`: none is asked for.
        max_body: bytes of a request (413).
        max_texts: texts of a request (413).
        max_concurrent: requests that are read and answered together (429).
        max_tokens: tokens of a request (413), and of all texts in flight together, from which on new requests get 429:
            fewer than twice as many are in flight (`room.Room`).
        max_length: texts end at this many tokens; `None`: where those of the training did.
        max_samples: texts, or passages of long ones, as `max_tokens`.
        audit: share of the texts that run to full depth as well, in (0, 1]; `None`: none.
        fast_setting: that texts get while the predicted p99 is above `target_p99`; `None`: never another than the
            model's own.
        target_p99: seconds; together with `fast_setting`.
    """

    api_key: str | None = None
    max_body: int = 2_000_000
    max_texts: int = 128
    max_concurrent: int = 512
    max_tokens: int = 65_536
    max_length: int | None = None
    max_samples: int = 8192
    audit: float | None = None
    fast_setting: CalibratedSetting | None = None
    target_p99: float | None = None
