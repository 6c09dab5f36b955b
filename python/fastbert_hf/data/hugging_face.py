"""Data sets of the `datasets` library: on the hub, or in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastbert_hf.data.errors import Place, listed
from fastbert_hf.data.files import LABELLED, PLAIN
from fastbert_hf.data.reading import (
    classification_data,
    look_at_classification_file,
    look_at_text_file,
    read_classification_file,
    read_unlabelled_texts,
    text_data,
)
from fastbert_hf.data.records import Choose, Records, Rows
from fastbert_hf.data.samples import ClassificationData, TextData
from fastbert_hf.data.tables import TABLES

_ROWS_AT_ONCE = 1024


def read_classification_data(
    source: str | Path,
    label_names: Sequence[str] | None = None,
    *,
    split: str | None = None,
    subset: str | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    multi_label: bool = False,
) -> ClassificationData:
    """Read labelled texts from a file or from a data set of the `datasets` library.

    `source` is the first of these that fits: a file as in `read_classification_file`; a folder with such a file named
    after the split (`train.tsv` for "train"), which is read by the same rules; a folder that `Dataset.save_to_disk`
    wrote; a folder or a name on the hub that `datasets.load_dataset` knows, which reads `.tsv` and `.csv` by rules of
    its own: quoting in both, and "NA" is a missing value, hence an error. The names of a `ClassLabel` column become
    `label_names`, also those that do not occur.

    Args:
        source: path or name.
        label_names: as in `read_classification_file`.
        split: part of the data set, such as "train"; `None`: the only one there is. A file has none.
        subset: configuration of a data set that has several, such as "sst2" of "glue".
        text_column: as in `read_classification_file`, as are those that follow.
        pair_column: of the second text.
        label_column: of the label.
        multi_label: a sample may have any number of classes.

    Raises:
        DataFileError: as `read_classification_file`; a data set that cannot be loaded; a split that is not there or
            not named among several; `datasets` is needed and not installed.
        ValueError: as `read_classification_file`.
    """
    columns: dict[str, Any] = {
        "text_column": text_column,
        "pair_column": pair_column,
        "label_column": label_column,
        "multi_label": multi_label,
    }
    file = _file_of(source, split, subset)
    if file is not None:
        return read_classification_file(file, label_names, **columns)
    return classification_data(_dataset_records(str(source), split, subset), label_names, **columns)


def read_text_data(
    source: str | Path,
    *,
    split: str | None = None,
    subset: str | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
) -> TextData:
    """Read texts from whatever `read_classification_data` reads, or from a `.txt` file; labels are not read.

    Arguments and errors are those of `read_classification_data`, of which a `.txt` file has neither splits nor columns.
    """
    file = _file_of(source, split, subset, plain=True)
    if file is not None:
        return read_unlabelled_texts(file, text_column, pair_column)
    return text_data(_dataset_records(str(source), split, subset), text_column, pair_column)


def look_at_text_data(
    source: str | Path, *, split: str | None = None, subset: str | None = None, **columns: Any
) -> None:
    """Raise what `read_text_data` would, whose arguments these are, for the first rows in a file.

    How many these are is as in `look_at_classification_file`.
    """
    file = _file_of(source, split, subset, plain=True)
    if file is not None:
        look_at_text_file(file, **columns)


def look_at_classification_data(
    source: str | Path,
    label_names: Sequence[str] | None = None,
    *,
    split: str | None = None,
    subset: str | None = None,
    **columns: Any,
) -> None:
    """Raise what `read_classification_data` would, whose arguments these are, for the first rows in a file.

    How many these are is as in `look_at_classification_file`. What only the `datasets` library can read is not looked
    at.
    """
    file = _file_of(source, split, subset)
    if file is not None:
        look_at_classification_file(file, label_names, **columns)


def _file_of(source: str | Path, split: str | None, subset: str | None, *, plain: bool = False) -> Path | None:
    """Return the file that `source` names, alone or as a folder with its split; `None`: it is for `datasets`.

    Args:
        source: path or name.
        split: part of the data set.
        subset: configuration of the data set.
        plain: a `.txt` is a file, too.
    """
    path = Path(source)
    if path.is_file() or path.suffix.lower() in (*LABELLED, *(PLAIN if plain else ())):
        if split is not None or subset is not None:
            raise Place(str(path)).error("a file has no splits or subsets", "name the folder, or leave them out")
        return path
    return _file_of_split(path, split) if subset is None else None


def _file_of_split(folder: Path, split: str | None) -> Path | None:
    """The file in `folder` that is named after the split, if there is one."""
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in LABELLED and file.is_file())
    named = [file for file in files if file.stem == split]
    if len(named) > 1:
        problem = f"several files for the split {split}: {listed(file.name for file in named)}"
        raise Place(str(folder)).error(problem, "name the file itself")
    if named:
        return named[0]
    tables = [file for file in files if file.suffix.lower() in TABLES]
    if tables:  # datasets would read them by other rules, which take "NA" for a missing text
        problem = "the split is not named" if split is None else f"no file for the split {split}"
        raise Place(str(folder)).error(problem, f"choose one of {listed(dict.fromkeys(file.stem for file in tables))}")
    return None


def _dataset_records(source: str, split: str | None, subset: str | None) -> Records:
    """The rows of a data set; only the chosen columns are read."""
    dataset = _load(source, split, subset)
    parts = [source, *([subset] if subset else []), *([split] if split else [])]
    name = " ".join(parts)

    def rows(choose: Choose) -> Rows:
        chosen = choose(dataset.column_names, Place(name), "rename a column or say which one it is")
        number = 0
        for batch in dataset.with_format(None).select_columns(chosen).iter(_ROWS_AT_ONCE):
            for values in zip(*(batch[column] for column in chosen), strict=True):
                number += 1
                yield Place(name, number, "row"), list(values)

    class_names = {}
    for column, feature in dataset.features.items():
        feature = getattr(feature, "feature", feature)  # of a list: what is in it
        if getattr(feature, "names", None):
            class_names[column] = feature.names
    return Records(Place(name), rows, class_names=class_names)


def _load(source: str, split: str | None, subset: str | None) -> Any:
    """One split of a data set, as a `datasets.Dataset`."""
    place = Place(source)
    try:
        import datasets
    except ModuleNotFoundError as error:
        problem = f"neither a file ({', '.join(LABELLED)}) nor to be loaded without the library datasets"
        raise place.error(problem, "check the path, or pip install datasets") from error
    saved = any((Path(source) / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        loaded = datasets.load_from_disk(source) if saved else datasets.load_dataset(source, subset, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        generating = isinstance(error, datasets.exceptions.DatasetGenerationError)
        reason = f"{error}: {error.__cause__}" if generating else str(error)
        raise place.error(f"datasets cannot load it ({reason})", "check path or name, subset and split") from error
    if saved and subset is not None:
        raise place.error("a saved data set has no subsets", "leave the subset out")
    if not isinstance(loaded, dict):
        if saved and split is not None and split != str(loaded.split):
            raise place.error(f"not known to be the split {split}", "leave the split out")
        return loaded
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if split not in loaded:
        problem = "several splits" if split is None else f"no split {split}"
        raise place.error(problem, f"choose one of {listed(loaded)}")
    return loaded[split]
