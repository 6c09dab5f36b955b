"""The marks of the CPU engine, and what every processor family came to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from comparing.ratios import Ratio
from comparing.report import fastest_peer
from documents.rates import DEPTH_4, DTYPES, Case, Results, find_case, find_row
from families import in_words
from harness import markdown_table

NOT_MEASURED = "not measured"
NO_TILES = "has no tiles"
NO_PEER = "no such peer here"
_NONE = "-"  # beside dtypes that were measured
AMX, ANY = "Intel with AMX", "any"
_PRODUCTS = ("qkv", "attention_output", "intermediate", "output")
_TILES = {"bfloat16": "tiles_bfloat16", "int8": "tiles_int8"}

Result = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """The result files of one family; None where there is none."""

    family: str
    comparison: Result | None
    profile: Result | None

    def case(self, shape: str, batch: int, kind: str) -> Case | None:
        return None if self.comparison is None else find_case(self.comparison, shape, batch, kind)


Measure = Callable[[Measured, str], str | None]  # of a dtype; None where it was not measured


@dataclass(frozen=True)
class Mark:
    """A line of the table.

    Attributes:
        title: what is measured.
        wanted: the figure to reach.
        where: the processors that have to reach it.
        dtypes: of which the line has figures.
        measure: makes a figure.
        of_tiles: means nothing on a processor without them.
    """

    title: str
    wanted: str
    where: str
    measure: Measure
    dtypes: Sequence[str] = DTYPES
    of_tiles: bool = False


def marks(comparisons: Results, profiles: Results) -> str:
    """Return a row for every mark, with what it came to in the column of every family that has any of the files.

    Processors with AMX have a column even before there is a file of theirs: a mark for them is not left out.
    """
    columns = {}
    for family in sorted({*comparisons, *profiles}):
        heading = in_words(family, comparisons.get(family) or profiles[family])
        columns[heading] = Measured(family, comparisons.get(family), profiles.get(family))
    if not any(_has_tiles(measured.family) for measured in columns.values()):
        columns[AMX] = Measured("intel_amx", None, None)
    table = []
    for mark in _MARKS:
        cells = {"what": mark.title, "mark": mark.wanted, "for processors": mark.where}
        table.append({**cells, **{heading: _cell(mark, measured) for heading, measured in columns.items()}})
    return markdown_table(table)


def _has_tiles(family: str) -> bool:
    return family.endswith("_amx")


def _cell(mark: Mark, measured: Measured) -> str:
    if mark.of_tiles and not _has_tiles(measured.family):
        return NO_TILES
    found = {dtype: mark.measure(measured, dtype) for dtype in mark.dtypes}
    if not any(found.values()):
        return NOT_MEASURED
    return ", ".join(f"{dtype} {value or _NONE}" for dtype, value in found.items())


def _over(shape: str, batch: int, kind: str, run: str, peer: Callable[[Case, str], Case | None]) -> Measure:
    """Return ours over the row that `peer` picks out of a configuration for a dtype, with its spread."""

    def measure(measured: Measured, dtype: str) -> str | None:
        case = measured.case(shape, batch, kind)
        if case is None:
            return None
        row, other = find_row(case, f"ours patched {dtype}", run), peer(case, dtype)
        if row is None:
            return None
        if other is None:
            return NO_PEER
        return str(Ratio.of(other, row)) if row["agrees"] else "outputs disagree"

    return measure


def _named(name: str) -> Callable[[Case, str], Case | None]:
    return lambda case, dtype: find_row(case, name)


def _fastest_of_all(case: Case, dtype: str) -> Case | None:
    return fastest_peer(case)


def _realisation(shape: str) -> Measure:
    def measure(measured: Measured, dtype: str) -> str | None:
        found = [
            row["realisation"]
            for case in ([] if measured.comparison is None else measured.comparison["configurations"])
            if case["shape"] == shape and case["batch"] in (8, 32)
            for row in case["rows"]
            if row["contestant"] == f"ours patched {dtype}" and "realisation" in row
        ]
        return f"{min(found):.2f} to {max(found):.2f}" if found else None

    return measure


def _profiled(measured: Measured, shape: str, dtype: str, run: str) -> Case | None:
    cases = [] if measured.profile is None else measured.profile["cases"]
    return next((case for case in cases if (case["shape"], case["dtype"], case["run"]) == (shape, dtype, run)), None)


def _share_of_tiles(measured: Measured, dtype: str) -> str | None:
    """Say what the products of all layers reach of the rate of tiles with operands in registers, at full depth."""
    case = _profiled(measured, "BERT-base", dtype, "full depth")
    rate = None if case is None else case.get("rates", {}).get(_TILES[dtype])
    if case is None or rate is None:
        return None
    flops = sum(case["bounds"][part]["flops"] for part in _PRODUCTS)
    return f"{flops / sum(case['parts'][part] for part in _PRODUCTS) / rate:.0%}"


def _heads_and_compaction(shape: str) -> Measure:
    def measure(measured: Measured, dtype: str) -> str | None:
        case = _profiled(measured, shape, dtype, DEPTH_4)
        if case is None:
            return None
        return f"{(case['parts']['head'] + case['parts']['compaction']) / case['seconds']:.1%}"

    return measure


_RUNS = {
    "full depth, all 128 tokens, batch 8": ("BERT-base", 8, "full", "full depth"),
    "full depth, mixed lengths, batch 1": ("BERT-base", 1, "mixed", "full depth"),
    "full depth, mixed lengths, batch 32": ("BERT-base", 32, "mixed", "full depth"),
    "depth 4, mixed lengths, batch 1": ("BERT-base", 1, "mixed", DEPTH_4),
    "depth 4, mixed lengths, batch 32": ("BERT-base", 32, "mixed", DEPTH_4),
}
_SAME, _ANY_DTYPE = "the fastest full-depth peer of the same dtype", "the fastest full-depth peer in any dtype"
_PEERS: dict[str, tuple[Callable[[Case, str], Case | None], Sequence[str]]] = {
    _SAME: (fastest_peer, DTYPES),
    _ANY_DTYPE: (_fastest_of_all, DTYPES),
    "OpenVINO bfloat16": (_named("OpenVINO bfloat16"), ("bfloat16",)),
    "ONNX Runtime int8": (_named("ONNX Runtime int8"), ("int8",)),
    "eager float32": (_named("Transformers eager float32"), DTYPES),
}
# Run, peer, ratio to reach, processors.
_RATIOS = (
    ("full depth, all 128 tokens, batch 8", _SAME, "1.05x in float32", ANY),
    ("full depth, all 128 tokens, batch 8", "OpenVINO bfloat16", "2x", AMX),
    ("full depth, all 128 tokens, batch 8", "ONNX Runtime int8", "2.5x", AMX),
    ("full depth, mixed lengths, batch 1", _SAME, "1.05x in float32", ANY),
    ("full depth, mixed lengths, batch 32", _SAME, "2x", ANY),
    ("full depth, mixed lengths, batch 32", "OpenVINO bfloat16", "5x", AMX),
    ("full depth, mixed lengths, batch 32", "ONNX Runtime int8", "9x", AMX),
    ("depth 4, mixed lengths, batch 32", _ANY_DTYPE, "6x; with AMX 14x in bfloat16, 18x in int8", ANY),
    ("depth 4, mixed lengths, batch 32", _SAME, "6.5x in float32", ANY),
    ("depth 4, mixed lengths, batch 32", "eager float32", "9x in float32, 20x in any; with AMX 70x in any", ANY),
    ("depth 4, mixed lengths, batch 1", _ANY_DTYPE, "2x in any; with AMX 5x", ANY),
)
_MARKS = (
    *(
        Mark(f"{run}, over {peer}", wanted, where, _over(*_RUNS[run], _PEERS[peer][0]), _PEERS[peer][1])
        for run, peer, wanted, where in _RATIOS
    ),
    Mark(
        "products' share of the rate of tiles, measured in registers, at full depth",
        "40 % in bfloat16, 35 % in int8",
        AMX,
        _share_of_tiles,
        tuple(_TILES),
        of_tiles=True,
    ),
    Mark(
        "realisation at batch 8 and 32, BERT-base", "0.9 in every dtype, at first 0.95", ANY, _realisation("BERT-base")
    ),
    Mark("realisation at batch 8 and 32, MiniLM", "0.9 in every dtype, at first 0.95", ANY, _realisation("MiniLM-L6")),
    Mark(
        "heads and compaction of the time, batch 32, depth 4, BERT-base",
        "at most 4 %",
        ANY,
        _heads_and_compaction("BERT-base"),
    ),
    Mark(
        "heads and compaction of the time, batch 32, depth 4, MiniLM",
        "at most 4 %",
        ANY,
        _heads_and_compaction("MiniLM-L6"),
    ),
)
