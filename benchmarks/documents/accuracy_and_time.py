"""The page of accuracy against time: for each data set a table per processor, and what was not timed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness import markdown_table
from measured.point import Kind, Point
from measured.readers import SETS

UNKNOWN = "not measured"


def sections(points: Sequence[Point]) -> str:
    """Return a section for every data set: first those of `SETS`, then the others in the order of names."""
    found = {point.data for point in points}
    names = [name for name in SETS.values() if name in found]
    names += sorted(found - set(names))
    return "\n\n".join(_section(name, [point for point in points if point.data == name]) for name in names)


def best(points: Iterable[Point]) -> list[Point]:
    """Return the points that have both, and to which no other is equal or better in both and better in one."""
    both = [point for point in points if point.seconds is not None and point.accuracy is not None]
    return [point for point in both if not any(_beats(other, point) for other in both)]


def _beats(one: Point, other: Point) -> bool:
    assert one.accuracy is not None and other.accuracy is not None
    assert one.seconds is not None and other.seconds is not None
    no_worse = one.accuracy >= other.accuracy and one.seconds <= other.seconds
    return no_worse and (one.accuracy, one.seconds) != (other.accuracy, other.seconds)


def _timed(point: Point) -> bool:
    return point.seconds is not None


def _section(name: str, points: list[Point]) -> str:
    parts = [f"### {name}"]
    for processor in sorted({point.processor for point in points if _timed(point)}):
        parts += [f"On {processor}:", _timed_table([point for point in points if point.processor == processor])]
    if rest := [point for point in points if not _timed(point)]:
        parts += [f"Without a time (seconds: {UNKNOWN}):", _untimed_table(rest)]
    return "\n\n".join(parts)


def _timed_table(points: list[Point]) -> str:
    front = best(points)
    rows = []
    for point in sorted(points, key=lambda point: (point.seconds, point.series, point.setting)):
        name = ", ".join(filter(None, [point.series, point.setting]))
        rows.append(
            {
                "": f"**{name}**" if point in front else name,
                "seconds per 1,000 texts": f"{point.seconds:#.3g}".removesuffix("."),
                "accuracy (95 % interval)": _accuracy(point),
                "FLOPs speed-up": "-" if point.flops_speedup is None else f"{point.flops_speedup:.2f}x",
                "labels": _count(point.labels),
                "threads": str(point.threads),
                "from": _link(point.source) + ("" if point.load is None else f", load {point.load:.1f}"),
            }
        )
    return markdown_table(rows)


def _untimed_table(points: list[Point]) -> str:
    rows = []
    for series, source in dict.fromkeys((point.series, point.source) for point in points):
        own = [point for point in points if (point.series, point.source) == (series, source)]
        first = own[0]
        rows.append(
            {
                "": series,
                "alone or at full depth": _listed(own, Kind.BAG, Kind.FULL, Kind.PEER),
                "early exits": _listed(own, Kind.EARLY, Kind.EARLY_PEER),
                "first layers alone": _listed(own, Kind.STATIC),
                "labels": _count(first.labels),
                "texts": _count(first.texts),
                "from": _link(source),
            }
        )
    return markdown_table(rows)


def _listed(points: list[Point], *kinds: Kind) -> str:
    cells = []
    for point in points:
        if point.kind in kinds:
            speedup = "" if point.flops_speedup is None else f" ({point.flops_speedup:.2f}x FLOPs)"
            setting = "" if point.setting in ("", "full depth") else f"{point.setting}: "
            cells.append(f"{setting}{UNKNOWN if point.accuracy is None else f'{point.accuracy:.1%}'}{speedup}")
    return ", ".join(cells) or "-"


def _accuracy(point: Point) -> str:
    if point.accuracy is None:
        return UNKNOWN
    interval = point.interval
    return f"{point.accuracy:.1%}" + ("" if interval is None else f" ({100 * interval[0]:.1f} to {interval[1]:.1%})")


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _link(source: str) -> str:
    name = source.removesuffix(".json")
    return f"[{name}](../benchmarks/results/{source})"
