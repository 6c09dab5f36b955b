"""Which of the two ways finds the rule: decided by the number of texts, before any answer is looked at."""

from __future__ import annotations

import sys
from dataclasses import replace

from fastbert_cli.calibrate.command import Calibrate
from fastbert_cli.errors import CommandError
from fastbert_hf.calibration.guarantee import TESTED_SHARE, enough_samples
from fastbert_hf.exits.calibrated_setting import Objective

# A search spends a fifth of the texts on choosing. With fewer than so many times the texts that a guarantee takes at
# least, one Speed tested on all of them is taken. No border suits all models: docs/calibration.md has what was measured
# around it (benchmarks/calibration_power.py).
FEW = 6


def with_search(options: Calibrate, objective: Objective, texts: int) -> Calibrate:
    """Return `options` with the way to find the rule, where the user named none.

    Args:
        options: of the command.
        objective: the target.
        texts: how many there are to calibrate on.

    Raises:
        CommandError: a search is asked for on texts that are enough for one Speed only.
    """
    if objective.max_risk is None or not 0 < objective.max_risk < 1 or not 0 < options.confidence < 1:
        return options
    needed = enough_samples(objective.max_risk, options.confidence)
    searching = {"--no-one-speed": options.one_speed is False, "--criterion auto": options.criterion == "auto"}
    asked = next((option for option, given in searching.items() if given), None)
    if asked and int(texts * TESTED_SHARE) < needed <= texts and not options.temperature_scaling:
        raise CommandError(
            f"{texts:,} texts are too few for a search ({asked}), which tests on {TESTED_SHARE:.0%} of them and needs "
            f"{needed:,} there, but enough for --one-speed, which needs {needed:,} in all; leave {asked} out, or "
            "give more texts"
        )
    if asked or options.one_speed or options.temperature_scaling or texts >= FEW * needed:
        return options
    if texts >= needed:  # fewer are refused, with the number that is enough for this way
        print(
            f"note: one Speed for all layers, since {texts:,} texts are fewer than {FEW * needed:,}: a search would "
            "spend a fifth of them on choosing (--no-one-speed)"
            + ("; nothing is drawn, so --seed does nothing" if options.seed is not None else ""),
            file=sys.stderr,
        )
    return replace(options, one_speed=True)
