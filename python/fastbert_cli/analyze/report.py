"""The output folder of `fastbert analyze`: the page, its charts, and the figures as JSON."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastbert_cli.analyze.command import FIGURES, REPORT, RESULTS
from fastbert_cli.errors import faults_explained
from fastbert_hf.analysis import Analysis, Baseline, Example, captions
from fastbert_hf.analysis.charts import accuracy_by_uncertainty_chart, changes_chart, exits_chart, uncertainty_chart
from fastbert_hf.analysis.class_charts import confusion_chart, exit_layers_chart
from fastbert_hf.analysis.page import Page, Picture, ShownExample, class_rows, render
from fastbert_hf.analysis.tradeoff_charts import flops_chart, wall_clock_chart
from fastbert_hf.data import ClassificationData
from fastbert_hf.files import folder_written_atomically
from fastbert_hf.machine import describe_machine, name_machine
from fastbert_hf.scoring import FLOPS_CONVENTION

# Name of the analyzed model among those that were timed.
ANALYZED = "analyzed"
# Of classes that the page names.
_MOST_CLASSES = 12
# Of classes in its table.
_MOST_ROWS = 30


@dataclass(frozen=True)
class Source:
    """What was analyzed: folders of the models, where the data is from, and the options that decide what was read."""

    model: str
    compared: str | None
    data: str
    split: str | None
    subset: str | None
    max_length: int | None
    dtype: str


def write(
    out: Path,
    analysis: Analysis,
    source: Source,
    timing: dict[str, Any] | None,
    data: ClassificationData,
    *,
    with_texts: bool,
) -> None:
    """Write the page, the charts and the figures into the folder `out`, in one step.

    Args:
        out: replaced as a whole.
        analysis: the figures.
        source: what was analyzed.
        timing: how times were taken; `None` without times.
        data: the texts of the records, in their order.
        with_texts: show the easiest and the hardest texts.

    Raises:
        CommandError: it cannot be written.
    """
    machine = describe_machine()
    machine["versions"]["matplotlib"] = importlib.metadata.version("matplotlib")
    easiest, hardest = (_shown(examples, data, with_texts) for examples in (analysis.easiest, analysis.hardest))
    pictures, classes = _pictures(analysis), class_rows(analysis.by_class, _MOST_ROWS)
    page = Page(
        title=f"Early exits of {source.model}",
        facts=_facts(source, analysis, data, machine),
        verdict=analysis.verdict.sentence,
        summary=captions.summary(analysis),
        pictures=pictures,
        classes=classes,
        classes_caption=captions.by_class(analysis, len(classes) - 1),
        examples_caption=captions.examples(analysis),
        easiest=easiest,
        hardest=hardest,
        notes=_notes(timing, analysis.baseline),
    )
    figures = asdict(analysis)
    del figures["easiest"], figures["hardest"]
    results = {
        "machine": machine,
        "source": asdict(source) | {"texts": len(data), "classes": data.label_names},
        "flops_convention": FLOPS_CONVENTION,
        "timing": timing,
        "figures": figures,
        "examples": {
            **{"setting": analysis.leading.kind, "speed": analysis.leading.value, "texts_shown": with_texts},
            "easiest": [asdict(example) for example in easiest],
            "hardest": [asdict(example) for example in hardest],
        },
    }
    with faults_explained(f"--out {out}"), folder_written_atomically(out) as folder:
        (folder / FIGURES).mkdir()
        for picture in pictures:
            (folder / FIGURES / f"{picture.name}.png").write_bytes(picture.png)
        text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / RESULTS).write_text(text, encoding="utf-8")
        (folder / REPORT).write_text(render(page, analysis), encoding="utf-8")


def _shown(examples: Sequence[Example], data: ClassificationData, with_texts: bool) -> list[ShownExample]:
    def texts_of(row: int) -> tuple[str, ...]:
        return (data.texts[row],) if data.pairs is None else (data.texts[row], data.pairs[row])

    return [
        ShownExample.of(example, data.label_names, texts_of(example.row) if with_texts else None)
        for example in examples
    ]


def _pictures(analysis: Analysis) -> list[Picture]:
    pictures = [
        Picture(
            "accuracy_by_uncertainty",
            "Does lower uncertainty mean higher accuracy?",
            "Accuracy and number of texts in ten intervals of the uncertainty, for three exit heads",
            captions.accuracy_by_uncertainty(analysis),
            accuracy_by_uncertainty_chart(analysis),
        ),
        Picture(
            "uncertainty_by_layer",
            "How uncertain is each layer?",
            "Distribution of the uncertainty of the texts that reach each layer, at several Speeds",
            captions.uncertainty(analysis),
            uncertainty_chart(analysis),
        ),
        Picture(
            "exit_layers",
            "Where do texts leave?",
            "Share of the texts that leave behind each layer, at every Speed",
            captions.exits(analysis),
            exits_chart(analysis),
        ),
        Picture(
            "accuracy_and_flops",
            "What does speed cost in accuracy?",
            "Accuracy against FLOPs speed-up: early exits, and models of the first layers only",
            captions.flops(analysis),
            flops_chart(analysis),
        ),
    ]
    if analysis.tradeoff.full_depth.wall_clock is not None:
        pictures.append(
            Picture(
                "accuracy_and_time",
                "",
                "Accuracy against measured speed-up: early exits, and models of the first layers only",
                captions.wall_clock(analysis),
                wall_clock_chart(analysis),
            )
        )
    pictures.append(
        Picture(
            "changed_predictions",
            "What do the later layers correct, and what do they spoil?",
            "Share of texts that the last layer corrects and spoils, by layer and by Speed",
            captions.changes(analysis),
            changes_chart(analysis),
        )
    )
    classes = analysis.by_class.at_exits
    pictures += [
        Picture(
            "exit_layers_by_class",
            "Which classes leave early?",
            "Texts of each class by the layer behind which they leave",
            captions.exits_by_class(analysis),
            exit_layers_chart(classes, min(1, analysis.exit_layers[0])),
        ),
        Picture(
            "confusion",
            "Which class is taken for which?",
            "Confusion matrix: texts of each class by the class that they are taken for",
            captions.confusion(analysis),
            confusion_chart(analysis.by_class.confusion, [score.name for score in classes]),
        ),
    ]
    return pictures


def _facts(source: Source, analysis: Analysis, data: ClassificationData, machine: dict[str, Any]) -> dict[str, str]:
    counts = [f"{name}: {n:,}" for name, n in zip(data.label_names, analysis.samples_per_class, strict=True)]
    if len(counts) > _MOST_CLASSES:
        counts = [*counts[:_MOST_CLASSES], f"and {len(counts) - _MOST_CLASSES} more"]
    largest = max(analysis.samples_per_class) / analysis.samples
    parts = [part for part in (source.data, source.subset, source.split) if part is not None]
    facts = {"Model": f"{source.model}, {analysis.num_layers} layers, exit heads behind {_layers(analysis)}"}
    if source.compared is not None:
        facts["Compared model"] = source.compared
    return facts | {
        "Data": f"{', '.join(parts)}: {analysis.samples:,} texts of {analysis.mean_tokens:.1f} tokens on average",
        "Classes": f"{', '.join(counts)} (always the most frequent: {captions.percent(largest, 1)} right)",
        "Machine": name_machine(machine),
        "Date": machine["date"].replace("T", " ").replace("+00:00", " UTC"),
        "Versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version),
    }


def _layers(analysis: Analysis) -> str:
    layers = [layer for layer in analysis.exit_layers if layer > 0]
    every = len(layers) == analysis.num_layers
    before = " and before the first" if len(layers) < len(analysis.exit_layers) else ""
    return ("all of them" if every else f"layers {', '.join(map(str, layers))}") + before


def _notes(timing: dict[str, Any] | None, baseline: Baseline | None) -> list[str]:
    notes = [
        "Every text ran once through all layers and all exit heads of the unpatched model; from these answers follows "
        "what happens at any Speed. Uncertainty is the entropy of a head's answer divided by that of a uniform one. At "
        "a Speed, a text leaves at the first head whose uncertainty is below it; at the last layer every text leaves.",
        "FLOPs are those of Linear layers, as Liu et al. (2020) count them, at each text's own length and with every "
        "head that is asked. A model of the first layers only has those layers and the head behind them, with the same "
        "weights. Intervals are those of Clopper and Pearson; they are for each figure by itself.",
        "The first sentence compares at equal accuracy, that of full depth less one point: the greatest FLOPs speed-up "
        "of early exits (one Speed, or the calibrated setting) and that of the first layers alone; early exit pays "
        "where the interval of their ratio, over 2,000 resamples of the texts, lies above 1. A bag of words is as good "
        "where the interval of its accuracy does not lie below that accuracy.",
    ]
    if baseline is not None:
        notes.append(
            f"The bag of {baseline.unit} is TF-IDF with logistic regression behind it, trained on "
            f"{captions.texts(baseline.trained_on)}. Its times begin with the text, those of the model with tokens."
        )
    if timing is not None:
        kernels = "on the fast kernels" if timing["patched"][ANALYZED] else "without the fast kernels"
        notes.append(
            f"Times: {timing['texts']:,} texts, evenly spread over the data, in batches of {timing['batch_size']}, "
            f"{kernels}; all ways to run took turns batch by batch in {timing['rounds']} rounds, of which the median "
            f"counts. Speed-ups are over the analyzed model at full depth, timed in the same rounds."
        )
        checked = timing["agreement_of_patched_and_unpatched"].get(ANALYZED)
        if checked is not None:
            notes.append(
                "Patched and unpatched answers, on up to four of these batches at every Speed: "
                f"{checked['labels']:.2%} of labels and {checked['exit_layers']:.2%} of exit layers are equal."
            )
    return notes
