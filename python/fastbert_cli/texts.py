"""What the training commands read: labelled texts, and texts without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastbert_cli.errors import CommandError
from fastbert_cli.run_config import DistilDataSection, TrainDataSection
from fastbert_hf.data import ClassificationData, TextData, read_classification_data, read_unlabelled_texts
from fastbert_hf.data.files import PLAIN

Section = TrainDataSection | DistilDataSection


def read_labelled(
    source: str, label_names: Sequence[str] | None, section: Section, *, split: str | None, multi_label: bool
) -> ClassificationData:
    """Labelled texts with the columns and, of a data set, the subset that `section` names.

    Args:
        source: file, folder or name of a data set.
        label_names: known classes, if there are any.
        section: of the configuration.
        split: of the data set.
        multi_label: a text may have any number of classes.

    Raises:
        DataFileError: the file or data set cannot be used.
        ValueError: `pair_column` without `text_column`.
    """
    return read_classification_data(
        source,
        label_names,
        split=split,
        subset=None if Path(source).is_file() else section.subset,
        text_column=section.text_column,
        pair_column=section.pair_column,
        label_column=section.label_column,
        multi_label=multi_label,
    )


def check_subset(section: Section, *sources: str | None) -> None:
    """Raise `CommandError` for a subset when all of `sources` are files, which have none."""
    if section.subset is not None and all(source is None or Path(source).is_file() for source in sources):
        raise CommandError(f"--subset {section.subset} is for data sets, and there are files only; leave it away")


def read_unlabelled(file: str, section: Section) -> TextData:
    """The texts of `file`; the names of columns are for those files that have some.

    Raises:
        DataFileError: the file cannot be used.
        ValueError: `pair_column` without `text_column`.
    """
    if Path(file).suffix.lower() in PLAIN:
        return read_unlabelled_texts(file)
    return read_unlabelled_texts(file, section.text_column, section.pair_column)
