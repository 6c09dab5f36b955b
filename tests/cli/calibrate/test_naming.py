"""Arguments of the library become options in messages; what only looks like them stays."""

from __future__ import annotations

import pytest

from fastbert_cli.calibrate.naming import as_typed, options_named
from fastbert_cli.errors import CommandError


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("a larger max_drop or less confidence", "a larger --max-drop or less --confidence"),
        ("use max_disagreement.", "use --max-disagreement."),
        ("with 0.95 confidence, all", "with 0.95 confidence, all"),
        ("say max_score_change=0.1, please", "say --max-score-change 0.1, please"),
        ("class 'max_drop' in /tmp/max_drop/x and my_max_drop", "class 'max_drop' in /tmp/max_drop/x and my_max_drop"),
        ("--max-drop is there", "--max-drop is there"),
    ],
)
def test_names(message, typed):
    assert as_typed(message) == typed


def test_messages_of_the_command_itself_stay():
    with pytest.raises(CommandError, match=r"^max_drop is mine$"), options_named():
        raise CommandError("max_drop is mine")
    with pytest.raises(CommandError, match=r"^--max-drop is a number$"), options_named():
        raise ValueError("max_drop is a\nnumber")
