"""What the comparison shows while it runs: a progress bar and tables, plain lines where `rich` is not installed."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from comparing.report import below, markdown_section, table_rows, title
from peers import BASELINE


class PlainDisplay:
    """Lines only."""

    def start(self, what: str) -> None:
        """A shape or a configuration begins."""
        print(what, flush=True)

    def doing(self, what: str) -> None:
        """A step inside it."""

    def finish(self, case: dict[str, Any]) -> None:
        """A configuration has been measured."""
        print(markdown_section(case, BASELINE), flush=True)

    def say(self, line: str) -> None:
        print(line, flush=True)


class RichDisplay(PlainDisplay):
    """A progress bar over the configurations, and their tables above it. `progress` is a `rich.progress.Progress`."""

    def __init__(self, progress: Any, total: int) -> None:
        self.progress = progress
        self.task = progress.add_task("", total=total, what="", doing="")

    def start(self, what: str) -> None:
        self.progress.update(self.task, what=what)

    def doing(self, what: str) -> None:
        self.progress.update(self.task, doing=what)

    def finish(self, case: dict[str, Any]) -> None:
        from rich.table import Table

        rows = table_rows(case, BASELINE)
        table = Table(*rows[0], title=title(case), caption="\n".join(below(case)), caption_justify="left")
        for row in rows:
            table.add_row(*row.values())
        self.progress.console.print(table)
        self.progress.advance(self.task)

    def say(self, line: str) -> None:
        self.progress.console.print(line, soft_wrap=True, markup=False)


@contextlib.contextmanager
def open_display(total: int) -> Iterator[PlainDisplay]:
    """A display for `total` configurations. The other engines' warnings, which would tear the bar, are kept quiet."""
    with contextlib.ExitStack() as stack:
        logging.disable(logging.WARNING)
        stack.callback(logging.disable, logging.NOTSET)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        except ImportError:
            yield PlainDisplay()
            return
        what, doing = (TextColumn(f"{{task.fields[{name}]}}") for name in ("what", "doing"))
        progress = stack.enter_context(Progress(what, BarColumn(), TimeElapsedColumn(), doing, transient=True))
        yield RichDisplay(progress, total)
