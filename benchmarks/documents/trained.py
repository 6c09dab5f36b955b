"""What training gives, for docs/results.md: a section for each set and backbone, other seeds, and the paper beside
them."""

from __future__ import annotations

from typing import Any

from harness import markdown_table
from measured.readers import SETS
from run_folders import SMALL, VARIANTS

Row = dict[str, Any]

_TASKS = ("sst2", "mrpc", "ag_news", "book_review", "chnsenticorp")
_SPEEDS = (0.1, 0.3, 0.5, 0.8)
_NOTHING = "Not trained yet."
# Liu et al. 2020: full depth and Speeds 0.1, 0.5 and 0.8 of table 2, and our set that is the same or the most like it.
_TABLE_2 = (
    ("AG News", ("94.47%", "94.38%, 3.62x", "93.14%, 10.33x", "92.53%, 11.72x"), "ag_news"),
    ("Book review", ("86.88%", "86.88%, 1.60x", "86.64%, 4.21x", "85.14%, 7.23x"), "book_review"),
    ("sentiment: Yelp.P", ("96.04%", "95.99%, 3.26x", "95.32%, 6.30x", "94.31%, 8.85x"), "sst2"),
    ("pairs: LCQMC (Chinese)", ("86.68%", "86.59%, 1.68x", "84.05%, 3.42x", "77.45%, 6.57x"), "mrpc"),
)
# With and without self-distillation at Speeds 0.2 and 0.7 of table 3, and our sets to be read beside it.
_TABLE_3 = (
    ("Book review", (("86.98%, 2.23x", "86.22%, 2.19x"), ("85.69%, 6.01x", "85.02%, 5.08x")), ("book_review",)),
    ("Yelp.P", (("95.90%, 4.12x", "95.55%, 5.22x"), ("94.67%, 7.90x", "94.54%, 9.18x")), ("sst2", "ag_news")),
)
_SPEEDS_OF_TABLE_3 = (0.2, 0.7)
_SPEEDS_WITHOUT_CURVE = (0.3, 0.8)  # the nearest that rows without a curve have


def sections(result: Row | None) -> str:
    """Return a section for each set and backbone, of its first seed: results, every head, and where they were recorded
    the first layers without adaptation, and differences at equal FLOPs."""
    found = []
    for rows in _first_seeds(result):
        first = rows[0]
        samples, layers = first["samples"], len(first["layer_accuracy"])
        model = "" if _backbone(first) == SMALL else f", {_backbone(first)} of {layers} layers"
        seed = "" if first["seed"] == 0 else f", seed {first['seed']}"
        head = "accuracy of the head behind layer"
        found += [
            f"### {SETS[first['task']]}{model}{seed}: {samples['train']:,} to train, {samples['test']:,} to test, "
            f"{first['mean_tokens']:.0f} tokens on average",
            markdown_table([_results(VARIANTS[row["variant"]], row) for row in rows]),
            markdown_table(
                [
                    {head: VARIANTS[row["variant"]]}
                    | {str(layer): f"{one:.1%}" for layer, one in enumerate(row["layer_accuracy"], start=1)}
                    for row in rows
                ]
            ),
            *_static(rows),
            *_differences(result or {}, first),
        ]
    return "\n\n".join(found) or _NOTHING


def other_seeds(result: Row | None) -> str:
    """Return a row for each model of a seed that `sections` does not have."""
    shown = {id(row) for rows in _first_seeds(result) for row in rows}
    rows = [row for row in _in_order(result) if id(row) not in shown]
    return markdown_table([_results(_whole_name(row), row) for row in rows]) if rows else _NOTHING


def beside_table_2(result: Row | None) -> str:
    """Return the paper's table 2, and our self-distilled models beside it."""
    columns = ("full depth", "Speed 0.1", "Speed 0.5", "Speed 0.8")
    lines = []
    for name, figures, task in _TABLE_2:
        lines.append({"": name, " ": "paper", **dict(zip(columns, figures, strict=True))})
        for row in (row for rows in _first_seeds(result) for row in rows):
            if (row["task"], row["variant"]) == (task, "distilled"):
                own = (f"{row['full_depth']['accuracy']:.1%}", *(_at(row, speed) for speed in (0.1, 0.5, 0.8)))
                start = {"": _set_unless(name, task), " ": _here(row)}
                lines.append(start | dict(zip(columns, own, strict=True)))
    return markdown_table(lines)


def beside_table_3(result: Row | None) -> str:
    """Return the paper's table 3, and our models with and without self-distillation beside it."""
    lines = []
    for name, figures, tasks in _TABLE_3:
        for number, (speed, (with_it, without)) in enumerate(zip(_SPEEDS_OF_TABLE_3, figures, strict=True)):
            start = {"": "" if number else name, " ": f"paper, Speed {speed:g}"}
            lines.append(start | {"with": with_it, "without": without})
        for rows in _first_seeds(result):
            ours = {row["variant"]: row for row in rows}
            task = rows[0]["task"]
            if task not in tasks or not {"distilled", "joint"} <= ours.keys():
                continue
            pair = ours["distilled"], ours["joint"]
            speeds = _SPEEDS_OF_TABLE_3 if all("curve" in row for row in pair) else _SPEEDS_WITHOUT_CURVE
            for number, speed in enumerate(speeds):
                start = {
                    "": "" if number else _set_unless(name, task),
                    " ": f"{_here(pair[0])}, Speed {speed:g}",
                }
                lines.append(
                    start | {part: _at(row, speed) for part, row in zip(("with", "without"), pair, strict=True)}
                )
    return markdown_table(lines)


def _backbone(row: Row) -> str:
    return row.get("backbone", SMALL)  # older rows have none


def _in_order(result: Row | None) -> list[Row]:
    """Return the rows: by set, the smallest backbone first, by seed, by variant."""
    rows = [] if result is None else result["rows"]
    return sorted(
        rows,
        key=lambda row: (
            _TASKS.index(row["task"]),
            _backbone(row) != SMALL,
            _backbone(row),
            row["seed"],
            list(VARIANTS).index(row["variant"]),
        ),
    )


def _first_seeds(result: Row | None) -> list[list[Row]]:
    """Return the rows of each set and backbone with the lowest seed that it has."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in _in_order(result):
        group = groups.setdefault((row["task"], _backbone(row)), [])
        if not group or group[0]["seed"] == row["seed"]:
            group.append(row)
    return list(groups.values())


def _results(name: str, row: Row) -> dict[str, str]:
    found = {at["speed"]: at for at in row["speeds"]}
    cells = {"": name, "full depth": f"{row['full_depth']['accuracy']:.1%}"}
    for speed in _SPEEDS:
        at = found[speed]
        figures = _figures(at["accuracy"], at["flops_speedup"]["paper"])
        cells[f"Speed {speed:g}"] = f"{figures}, {at['mean_exit_layer']:.1f}"
    return cells


def _static(rows: list[Row]) -> list[str]:
    lines = [
        {"no adaptation": VARIANTS[row["variant"]]}
        | {f"first {at['layers']} layers": _figures(at["accuracy"], at["flops_speedup"]) for at in row["static"]}
        for row in rows
        if row.get("static")
    ]
    return [markdown_table(lines)] if lines else []


def _differences(result: Row, first: Row) -> list[str]:
    key = {"task": first["task"], "backbone": _backbone(first), "seed": first["seed"]}
    pairs = [pair for pair in result.get("differences", []) if key.items() <= pair.items()]
    if not pairs:
        return []
    speedups = dict.fromkeys(f"{at['flops_speedup']:g}x" for pair in pairs for at in pair["at"])
    lines = []
    for pair in pairs:
        found = {f"{at['flops_speedup']:g}x": at for at in pair["at"]}
        lines.append(
            {
                "ahead at equal FLOPs, points (95 % interval)": (
                    f"{VARIANTS[pair['variant']]} of {VARIANTS[pair['baseline']]}"
                ),
                **{speedup: _points(found[speedup]) if speedup in found else "-" for speedup in speedups},
                "mean": f"{_points(pair['mean'])}, {pair['mean']['from']:g}x to {pair['mean']['to']:.3g}x",
            }
        )
    return [markdown_table(lines)]


def _points(found: Row) -> str:
    low, high = (100 * bound for bound in found["interval"])
    return f"{100 * found['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


def _at(row: Row, speed: float) -> str:
    """Return accuracy and FLOPs speed-up of a Speed that the row's table or its curve has."""
    for at in row["speeds"]:
        if at["speed"] == speed:
            return _figures(at["accuracy"], at["flops_speedup"]["paper"])
    curve = row["curve"]
    place = curve["speed"].index(speed)
    return _figures(curve["accuracy"][place], curve["flops_speedup"][place])


def _figures(accuracy: float, speedup: float) -> str:
    return f"{accuracy:.1%}, {speedup:.2f}x"


def _set_unless(name: str, task: str) -> str:
    return "" if SETS[task] == name else SETS[task]


def _here(row: Row) -> str:
    return "here" if _backbone(row) == SMALL else f"here, {_backbone(row)}"


def _whole_name(row: Row) -> str:
    model = "" if _backbone(row) == SMALL else f", {_backbone(row)}"
    return f"{SETS[row['task']]}{model}, {VARIANTS[row['variant']]}, seed {row['seed']}"
