"""When the texts of a request leave: as it says itself, or by a setting that a calibration chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastbert_hf.exits.calibrated_setting import CalibratedSetting
from fastbert_hf.exits.fingerprint import is_of
from fastbert_hf.exits.resolution import Speed
from fastbert_serving.load import LoadController, Ticket

CALIBRATED, FAST = "calibrated", "fast"  # the model's own setting, and the one that it may take under load


@dataclass(frozen=True)
class Leaving:
    """When the texts of one request leave.

    Attributes:
        speed: as in the model's `forward`.
        speedup: as in the model's `forward`.
        setting: `CALIBRATED` or `FAST`; None where the request itself says, or texts run to full depth.
        ticket: of the request in flight; None where speed does not follow load.
    """

    speed: Speed | None
    speedup: float | None
    setting: str | None
    ticket: Ticket | None = None


FULL_DEPTH = Leaving(0.0, None, None)


class Choice:
    """Says when the texts of each request leave.

    Attributes:
        settings: those that are in use, by name.
        load: chooses between them; None where there is one or none.
    """

    def __init__(
        self, own: CalibratedSetting | None, fast: CalibratedSetting | None = None, target_p99: float | None = None
    ) -> None:
        """
        Args:
            own: the model's setting.
            fast: for times of load, certified as `check_fast_setting` says.
            target_p99: seconds; with `fast`.

        Raises:
            ValueError: a fast setting that is not faster, or a target that is not above 0.
        """
        self.settings = {name: one for name, one in ((CALIBRATED, own), (FAST, fast)) if one is not None}
        self.load: LoadController | None = None
        if fast is not None:
            assert own is not None and target_p99 is not None
            self.load = LoadController(target_p99, fast.figures.flops_speedup / own.figures.flops_speedup)

    def enter(self, speed: float | None, speedup: float | None, tokens: int, begin: float) -> Leaving:
        """Let a request in and say when its texts leave; it has to `leave`.

        Args:
            speed: what it asks for, if anything.
            speedup: what it asks for, if anything.
            tokens: of its texts.
            begin: when it came, on the clock of `time.monotonic`.
        """
        follows = speed is None and speedup is None and CALIBRATED in self.settings
        ticket = None if self.load is None else self.load.enter(tokens, begin, follows=follows)
        if not follows:
            return Leaving(speed, speedup, None, ticket)
        name = FAST if ticket is not None and ticket.fast else CALIBRATED
        return Leaving(None if name == CALIBRATED else self.settings[name].rule, None, name, ticket)

    def leave(self, leaving: Leaving, *, answered: bool) -> None:
        """Take note that a request that was let in has its answer, or has left without one."""
        if self.load is not None:
            assert leaving.ticket is not None
            self.load.leave(leaving.ticket, answered=answered)


def check_fast_setting(model: Any, fast: CalibratedSetting, max_length: int, passages: bool) -> None:
    """Raise `ValueError` unless what calibration promised holds of both settings as the model runs here.

    Args:
        model: a patched `FastBertForSequenceClassification`.
        fast: the setting for times of load.
        max_length: tokens at which texts are cut off.
        passages: whether longer texts are read in passages instead.
    """
    own = model.calibrated_setting
    if own is None:
        raise ValueError("the model has no calibrated setting that a faster one could stand in for; calibrate it first")
    if not is_of(fast.fingerprint, model):
        raise ValueError("the fast setting was made for other weights than these; calibrate this model")
    if passages:
        raise ValueError("the promise is for texts that are cut off, and this model reads long ones in passages")
    runs_in = model.inference_precision()
    for name, setting in (("model's", own), ("fast", fast)):
        if setting.evidence.guarantee is None:
            raise ValueError(
                f"nothing is guaranteed of the {name} setting; calibrate with --max-drop or --max-disagreement"
            )
        if setting.precision not in (None, runs_in):
            raise ValueError(
                f"the {name} setting is guaranteed in {setting.precision}, and the model runs in {runs_in}; give the "
                "--dtype of the calibration"
            )
        if setting.max_length not in (None, max_length):
            raise ValueError(
                f"the {name} setting is guaranteed for texts that are cut off at {setting.max_length} tokens, and here "
                f"they are at {max_length}; give the --max-length of the calibration"
            )
    model.resolve_speed(fast.rule, None, 1)  # layers that the model has
    if not fast.figures.flops_speedup > own.figures.flops_speedup:
        raise ValueError(
            f"the fast setting has a FLOPs speed-up of {fast.figures.flops_speedup:.3g} and the model's own one of "
            f"{own.figures.flops_speedup:.3g}; calibrate the fast one with a larger loss allowed"
        )
