"""What `train` is given, looked at before the libraries of the work are imported."""

from __future__ import annotations

from fastbert_cli.errors import CommandError
from fastbert_cli.hub import look_at_hub
from fastbert_cli.inputs import check_subset, look_at_labelled_of_run, look_at_unlabelled
from fastbert_cli.train.command import TrainConfig


def look(config: TrainConfig) -> None:
    """Raise for a configuration whose sections do not fit together, and for texts that cannot be used.

    Raises:
        CommandError: no texts, or sections that contradict each other.
        DataFileError: the first rows of a file cannot be used.
    """
    section = config.data
    if section.train is None:
        raise CommandError("no data to train on; name labelled texts with --train")
    if has_unlabelled(config) and config.distil.targets != "soft":
        raise CommandError(
            f"--targets {config.distil.targets} learns from labels, which --unlabelled has not; choose one of them"
        )
    if section.dev == section.train and section.dev_split == section.train_split:
        raise CommandError(
            f"--dev {section.dev}: that is --train, and the best epoch would be the one that remembers most of it; "
            "give other labelled texts, or leave --dev out"
        )
    epochs, most = config.fine_tune.epochs, config.fine_tune.max_epochs
    if config.has_rounds and epochs is not None and most is not None and most < epochs:
        raise CommandError(
            f"--max-epochs {most:g} is the limit of all rounds, and --epochs {epochs:g} of each; raise the one or "
            "lower the other"
        )
    check_subset(section, section.train, section.dev)
    if config.model.backbone is not None:
        look_at_hub(config.model.backbone, "models")
    multi_label = section.multi_label
    look_at_labelled_of_run(section.train, section, split=section.train_split, multi_label=multi_label)
    if section.dev is not None:
        look_at_labelled_of_run(section.dev, section, split=section.dev_split, multi_label=multi_label)
    if has_unlabelled(config):
        for file in section.unlabelled:
            look_at_unlabelled(file, section)


def has_unlabelled(config: TrainConfig) -> bool:
    """Return True if there are texts without labels, and a step that learns from them."""
    return bool(config.data.unlabelled) and config.run.steps == "both"
