"""A reader for each kind of result file: what it holds of accuracy and time on a data set.

A kind is the beginning of the names of its files; of a file that is no kind's, nothing is read. What a benchmark
measures on random weights has no accuracy, and no reader.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from families import processor_of
from measured.point import Kind, Point, clock
from peers.contestant import ADAPTIVE_PEER, FULL_DEPTH_PEER, OURS, STATIC_PEER
from run_folders import SMALL, VARIANTS, RunName

Result = dict[str, Any]

SETS = {
    "ag_news": "AG News",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "book_review": "Book review",
    "chnsenticorp": "ChnSentiCorp",
}
DEMO = "docstrings of 5 libraries"
MINILM = "MiniLM, 6 layers"
_CHARACTERS = "characters, 6 layers, random weights"
_STUDENTS = {
    "soft": "students from the teacher on all texts",
    "soft_labelled": "students from the teacher on the labelled texts",
    "hard": "students from labels",
}
_COMPARED_BATCH = 32


def bag_of_words(result: Result, source: str) -> Iterator[Point]:
    """Yield TF-IDF and logistic regression on each set; its time is the processor's, from the text on."""
    for row in result["tasks"]:
        series, times = f"TF-IDF of {row['unit']}, logistic regression", statistics.median(row["ms_per_text"])
        yield _bag(row, series, source, row["test"], row["train"], **clock(result, times))


def _bag(row: Result, series: str, source: str, texts: int, labels: int, **timed: Any) -> Point:
    return Point(SETS[row["task"]], Kind.BAG, series, "", source, row["accuracy"], texts, labels, **timed)


def adopted(result: Result, source: str) -> Iterator[Point]:
    """Yield Transformers' classifiers, patched and adopted."""
    for case in result["tasks"]:
        model = _model(case["task"], case.get("backbone", SMALL), case.get("layers"))
        for row in case["rows"]:
            name, exits = row["contestant"], "flops_speedup" in row
            ours = name.startswith(("patched", "adopted"))
            yield Point(
                SETS[case["task"]],
                Kind.EARLY if exits else Kind.FULL if ours else Kind.PEER,
                f"{model}, {name.replace(', full depth', '').replace(', by itself', ' (auto)')}",
                f"calibrated to {result['max_disagreement']:.0%} other labels" if exits else "full depth",
                source,
                row["accuracy"],
                case["texts"],
                case["labelled"],
                row.get("flops_speedup"),
                **clock(result, 1e3 / row["texts_per_second"]),
            )


def exit_zero(result: Result, source: str) -> Iterator[Point]:
    """Yield the settings with and without layer 0, adopted, and the bag of words beside them, which was not timed."""
    for case in result["tasks"]:
        about: dict[str, Any] = {"data": SETS[case["task"]], "source": source, "labels": case["labelled"]}
        times, model = case["times"], _model(case["task"], case.get("backbone", SMALL), case.get("layers"))
        for row in times["rows"]:
            full, kind = row["setting"] == "full depth", "without" if "without" in row["setting"] else "with"
            yield Point(
                kind=Kind.FULL if full else Kind.EARLY,
                series=f"{model}, adopted, {kind} layer 0",
                setting=row["setting"].replace(", with layer 0", "").replace(", without layer 0", ""),
                accuracy=row["accuracy"],
                texts=times["texts"],
                **clock(result | case, row["microseconds_per_text"] / 1e3),
                **about,
            )
        yield Point(
            kind=Kind.BAG,
            series="TF-IDF, logistic regression, on the same labels",
            setting="",
            accuracy=case["bag_of_words"],
            texts=times["texts"],
            **about,
        )


def trained(result: Result, source: str) -> Iterator[Point]:
    """Yield the models of training.py; none was timed."""
    for row in result["rows"]:
        model = _model(row["task"], row.get("backbone", SMALL), len(row["layer_accuracy"]))
        yield from _trained(row, f"{model}, {VARIANTS[row['variant']]}, seed {row['seed']}", source)


def few_labels(result: Result, source: str) -> Iterator[Point]:
    """Yield the models of few_labels.py; none was timed."""
    for row in result["rows"]:
        model = _model(row["task"], row["backbone"], len(row["layer_accuracy"]))
        series = f"{model}, {row['labels']} labels, {_STUDENTS[row['students']]}, seed {row['seed']}"
        yield from _trained(row, series, source)
    for bag in result["bags"]:
        series = f"TF-IDF, logistic regression, {bag['labels']} labels, seed {bag['seed']}"
        yield _bag(bag, series, source, bag["samples"]["test"], bag["labels"])


def demo(result: Result, source: str) -> Iterator[Point]:
    """Yield the demo's model, unpatched and patched, at full depth and each Speed."""
    for row in result["rows"]:
        full = row["speed"] is None
        for name, variant in row["variants"].items():
            yield Point(
                DEMO,
                Kind.FULL if full else Kind.EARLY,
                f"{MINILM}, {name}",
                "full depth" if full else f"Speed {row['speed']:g}",
                source,
                variant["accuracy"],
                result["data"]["test"],
                result["data"]["train"],
                row["flops_speedup"],
                **clock(result, 1e3 * statistics.median(variant["seconds"]) / result["timed_texts"]),
            )


def compared(result: Result, source: str) -> Iterator[Point]:
    """Yield every engine on the demo's model and texts, in batches of 32; accuracies were not counted."""
    kinds = {FULL_DEPTH_PEER: Kind.PEER, ADAPTIVE_PEER: Kind.EARLY_PEER, STATIC_PEER: Kind.STATIC}
    for case in result["configurations"]:
        if (case["kind"], case["batch"]) != ("texts", _COMPARED_BATCH):
            continue
        for row in case["rows"]:
            own = Kind.FULL if row["run"] == "full depth" else Kind.EARLY
            differs = "" if row["agrees"] else ", whose outputs disagree"
            yield Point(
                DEMO,
                own if row["group"] == OURS else kinds[row["group"]],
                f"{MINILM}, {row['contestant']}{differs}",
                row["run"],
                source,
                flops_speedup=row["flops_speedup"],
                **clock(result, 1e3 / row["samples_per_second"]["p50"]),
            )


def analyzed(result: Result, source: str) -> Iterator[Point]:
    """Yield what `fastbert analyze` has of a model, of the first layers alone and of a bag of words."""
    about: dict[str, Any] = {
        "data": SETS[_run_name(result, "model").task],
        "source": source,
        "texts": result["source"]["texts"],
    }
    figures = result["figures"]
    for model in ("analyzed", "compared"):
        found = figures["tradeoff" if model == "analyzed" else "compared"]
        if found is None:
            continue
        name = _run_name(result, "model" if model == "analyzed" else "compared")
        seed = [] if name.seed is None else [f"seed {name.seed}"]
        whole = [_model(name.task, name.backbone, figures["num_layers"]), VARIANTS[name.variant], *seed]
        patched = "patched" if (result["timing"] or {"patched": {}})["patched"].get(model) else "unpatched"
        for point in (*found["depths"], *found["speeds"], *filter(None, [found["calibrated"]])):
            kind, setting = _analyzed_kind(point, figures["num_layers"])
            yield Point(
                kind=kind,
                series=", ".join([*whole, patched]),
                setting=setting,
                accuracy=point["accuracy"],
                flops_speedup=point["flops_speedup"],
                **_wall_clock(result, point),
                **about,
            )
    if (bag := figures.get("baseline")) is not None:
        yield Point(
            kind=Kind.BAG,
            series=f"TF-IDF of {bag['unit']}, logistic regression",
            setting="",
            accuracy=bag["accuracy"],
            labels=bag["trained_on"],
            **_wall_clock(result, bag),
            **about,
        )


def many_classes(result: Result, source: str) -> Iterator[Point]:
    """Yield full depth, and normalised entropy at each Speed, on 96 classes; none was timed."""
    samples = result["data"]["samples"]
    about: dict[str, Any] = {
        "data": f"docstrings of {len(result['data']['classes'])} modules",
        "series": f"{MINILM}, self-distilled",
        "source": source,
        "texts": samples["test"],
        "labels": samples["train"],
    }
    yield Point(kind=Kind.FULL, setting="full depth", accuracy=result["layers"]["test_accuracy"][-1], **about)
    for speed, at in result["criteria"]["normalised entropy"]["at_speeds"].items():
        yield Point(kind=Kind.EARLY, setting=f"Speed {float(speed):g}", **at, **about)


def walked(result: Result, source: str) -> Iterator[Point]:
    """Yield the model of the walk with defaults alone, and its bag of words, which was not timed."""
    bag = result["bag_of_words"]
    about: dict[str, Any] = {
        "data": f"docstrings of {bag['classes']} modules, the walk",
        "source": source,
        "texts": bag["test"],
        "labels": bag["train"],
    }
    yield Point(
        kind=Kind.BAG, series="TF-IDF of words, logistic regression", setting="", accuracy=bag["accuracy"], **about
    )
    for row in result["walk"]["rows"]:
        milliseconds = row.get("ms_per_text")
        yield Point(
            kind=Kind.FULL if row["setting"] == "full depth" else Kind.EARLY,
            series=f"{MINILM}, by `fastbert train`",
            setting=row["setting"],
            accuracy=row["accuracy"],
            flops_speedup=row["flops_speedup"],
            **({} if milliseconds is None else clock(result, milliseconds)),
            **about,
        )


READERS: dict[str, Callable[[Result, str], Iterator[Point]]] = {
    "adopted_classifiers_": adopted,
    "analysis_": analyzed,
    "bag_of_words_": bag_of_words,
    "comparison_": compared,
    "demo_": demo,
    "exit_zero_": exit_zero,
    "few_labels_": few_labels,
    "many_classes_": many_classes,
    "training_cpu": trained,
    "walk_": walked,
}


def read_points(folder: Path) -> list[Point]:
    """Return every point that the result files of a folder hold, file by file in the order of their names.

    Raises:
        KeyError: a file lacks what its kind has, or has a data set that `SETS` does not know.
        ValueError: an analysis is of a model whose folder has no name of training.py.
    """
    points = []
    for path in sorted(folder.glob("*.json")):
        reader = next((reader for start, reader in READERS.items() if path.name.startswith(start)), None)
        if reader is not None:
            result = json.loads(path.read_text(encoding="utf-8"))
            family = path.stem.partition("_cpu_")[2]
            if family:
                result["machine"]["processor"] = processor_of(family, result)
            points += reader(result, path.name)
    return points


def _trained(row: Result, series: str, source: str) -> Iterator[Point]:
    """Yield full depth, each Speed, and each head alone, of a row as training.py writes it."""
    about: dict[str, Any] = {
        "data": SETS[row["task"]],
        "series": series,
        "source": source,
        "texts": row["samples"]["test"],
        "labels": row["samples"]["train"],
    }
    yield Point(kind=Kind.FULL, setting="full depth", accuracy=row["full_depth"]["accuracy"], **about)
    for at in row["speeds"]:
        setting, speedup = f"Speed {at['speed']:g}", at["flops_speedup"]["paper"]
        yield Point(kind=Kind.EARLY, setting=setting, accuracy=at["accuracy"], flops_speedup=speedup, **about)
    for layer, accuracy in enumerate(row["layer_accuracy"][:-1], start=1):
        yield Point(kind=Kind.STATIC, setting=_layers(layer), accuracy=accuracy, **about)


def _model(task: str, backbone: str, layers: int | None) -> str:
    """Return what a model started from; `layers` are of a backbone with a name."""
    if backbone != SMALL:
        return f"{backbone}, {layers} layers"
    return _CHARACTERS if task in ("book_review", "chnsenticorp") else MINILM


def _run_name(result: Result, which: str) -> RunName:
    """Return what an analysis says of its model, whose folder is one of training.py."""
    return RunName.parse(Path(result["source"][which]).name)


def _layers(number: int) -> str:
    return f"first {number} layer{'s' * (number > 1)}"


def _analyzed_kind(point: Result, layers: int) -> tuple[Kind, str]:
    if point["kind"] == "speed":
        return Kind.EARLY, f"Speed {point['value']:g}"
    if point["kind"] == "calibrated":
        return Kind.EARLY, "calibrated"
    if point["kind"] == "depth":
        return (Kind.FULL, "full depth") if point["value"] == layers else (Kind.STATIC, _layers(int(point["value"])))
    raise ValueError(f"an analysis has points of the kinds speed, depth and calibrated, not {point['kind']!r}")


def _wall_clock(result: Result, point: Result) -> dict[str, Any]:
    """Return the time of a point of an analysis, which may not have one."""
    found = point["wall_clock"]
    return {} if found is None else clock(result, found["milliseconds_per_text"])
