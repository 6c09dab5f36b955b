"""What `fastbert train` says of the rounds of step 1."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from fastbert_cli.train.run import tell_that_it_rises
from fastbert_hf.training import StillRising


@pytest.mark.parametrize(
    ("state", "printed", "noted"),
    [
        (StillRising(0.6, 0.7, 3, True), "(60.00% before, 70.00% in the last epoch): another 3 epochs", ""),
        (StillRising(0.6, 0.7, 3, False), "", "(60.00% before, 70.00% in the last epoch); --max-epochs 12 trains on"),
        (StillRising(0.8, 0.9, 9, False), "", "--max-epochs 24 trains on"),
    ],
)
def test_a_score_that_still_rises(capsys, state, printed, noted):
    shown = io.StringIO()
    output = SimpleNamespace(
        config=SimpleNamespace(fine_tune=SimpleNamespace(epochs=3)), console=Console(file=shown, width=200)
    )
    tell_that_it_rises(output, state)
    for text, wanted in ((shown.getvalue(), printed), (capsys.readouterr().err, noted)):
        assert wanted in text if wanted else text == ""
