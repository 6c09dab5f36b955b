"""What `distill` is given, looked at before the libraries of the work are imported."""

from __future__ import annotations

from collections.abc import Callable

from fastbert_cli.distill.command import DistillConfig
from fastbert_cli.errors import CommandError
from fastbert_cli.inputs import Classes, check_subset, check_text_column, look_at_labelled_of_run, look_at_unlabelled


def look(config: DistillConfig, look_at_model: Callable[[], Classes | None]) -> None:
    """Raise for a configuration whose sections do not fit together, and for a folder or texts that cannot be used.

    Args:
        config: of the run.
        look_at_model: returns the classes of the model, `None` where they are not known yet.

    Raises:
        CommandError: no texts, sections that contradict each other, or what `look_at_model` raises.
        DataFileError: the first rows of a file cannot be used.
    """
    section, targets = config.data, config.distil.targets
    if not section.texts:
        raise CommandError("no texts to distill from; name a file with --texts")
    check_subset(section, section.dev, *section.texts)
    check_text_column(section, section.dev, *section.texts)
    if targets != "soft" and len(section.texts) > 1:
        raise CommandError(
            f"--targets {targets} learns from labels, which one file or data set must have; give --texts once"
        )
    classes = look_at_model()
    if targets == "soft":
        for file in section.texts:
            look_at_unlabelled(file, section)
    if classes is None:
        return
    names, multi_label = classes
    if classes.gives_scores:
        for option, given in (("--dev", section.dev is not None), (f"--targets {targets}", targets != "soft")):
            if given:
                raise CommandError(
                    f"{option} takes labels, and this model has one output, a score; leave it out: students learn the "
                    "scores of full depth, and fastbert calibrate --max-score-change says how near they come"
                )
        for option, given in (
            (f"--objective {config.distil.objective}", config.distil.objective != "kl"),
            (f"--temperature {config.distil.temperature:g}", config.distil.temperature != 1),
        ):
            if given:
                raise CommandError(
                    f"{option}: this model has one output, a score, and students learn its square distance whatever is "
                    "said here; leave it out"
                )
    labelled = [(section.dev, section.dev_split)] if section.dev is not None else []
    if targets != "soft":
        labelled.append((section.texts[0], None))
    for source, split in labelled:
        look_at_labelled_of_run(source, section, split=split, multi_label=multi_label, label_names=names)
