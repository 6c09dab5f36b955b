"""What commands look at before the libraries of their work are imported: folders, the first rows of files, options."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fastbert_cli.errors import CommandError
from fastbert_cli.hub import look_at_hub
from fastbert_cli.options import BACKENDS, PRODUCTS, LabelledTexts, Patching
from fastbert_hf.data import look_at_classification_data, look_at_text_data, look_at_text_file
from fastbert_hf.data.files import LABELLED, PLAIN

MODEL_REMEDY = "name a folder into which a FastBERT and its tokenizer were saved with save_pretrained"
_CLASSIFIER_REMEDY = "name a folder into which a classifier and its tokenizer were saved with save_pretrained"
_CONFIG = "config.json"  # of a saved model


class Classes(NamedTuple):
    """The classes of a saved model, and whether a text has any number of them."""

    names: Sequence[str]
    multi_label: bool

    @property
    def gives_scores(self) -> bool:
        """Return True for a model with one output, which is a score and no class."""
        return len(self.names) == 1 and not self.multi_label


class Columns(Protocol):
    """Where the sections of training configurations say what is read of a file or a data set."""

    @property
    def subset(self) -> str | None: ...
    @property
    def text_column(self) -> str | None: ...
    @property
    def pair_column(self) -> str | None: ...
    @property
    def label_column(self) -> str | None: ...


def look_at_model(folder: Path) -> Classes | None:
    """Return the classes of the FastBERT in `folder`; `None` where its configuration does not name them.

    Raises:
        CommandError: no such folder, or no configuration of a FastBERT in it.
    """
    if not folder.is_dir():  # Transformers would look for it on the hub
        raise CommandError(f"{folder}: no such folder; {MODEL_REMEDY}")
    config = _read_config(folder, MODEL_REMEDY)
    kind = config.get("model_type")
    if kind != "fastbert":
        raise CommandError(f"{folder}: holds a model of the type {kind!r}, not 'fastbert'; {MODEL_REMEDY}")
    return _classes_of(config)


def look_at_servable(folder: Path) -> None:
    """Raise `CommandError` for a folder that holds neither a FastBERT nor a classifier of Transformers."""
    if not folder.is_dir():
        raise CommandError(f"{folder}: no such folder; {_CLASSIFIER_REMEDY}")
    _read_config(folder, _CLASSIFIER_REMEDY)


def is_fastbert(folder: Path) -> bool:
    """Return True if the configuration in `folder` is that of a FastBERT."""
    return _read_config(folder, MODEL_REMEDY).get("model_type") == "fastbert"


def look_at_classifier(name: Path) -> Classes | None:
    """Return the classes of the classifier in a folder, which is no FastBERT yet.

    Args:
        name: a folder, or a name on the hub, of which nothing is fetched here.

    Returns:
        `None` where they are not named, and for a name on the hub.

    Raises:
        CommandError: a name on the hub, which cannot be reached; no configuration of a classifier, or that of a
            FastBERT.
    """
    if not name.is_dir():
        if name.is_absolute() or len(name.parts) > 2 or name.exists():
            raise CommandError(f"{name}: no such folder; {_CLASSIFIER_REMEDY}")
        look_at_hub(str(name), "models")
        return None
    config = _read_config(name, _CLASSIFIER_REMEDY)
    if config.get("model_type") == "fastbert":
        raise CommandError(f"{name}: is a FastBERT already; fastbert distill trains its students on")
    return _classes_of(config)


def _read_config(folder: Path, remedy: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"{folder}: no {_CONFIG} that can be read ({error.strerror}); {remedy}") from error
    except ValueError as error:
        raise CommandError(f"{folder}: {_CONFIG} is not JSON ({error}); {remedy}") from error
    return config if isinstance(config, dict) else {}


def _classes_of(config: dict[str, Any]) -> Classes | None:
    names = config.get("id2label")
    if not isinstance(names, dict) or not all(str(index) in names for index in range(len(names))):
        return None  # two classes by default, or a configuration that loading will refuse
    multi_label = config.get("problem_type") == "multi_label_classification"
    return Classes([names[str(index)] for index in range(len(names))], multi_label)


def look_at_labelled(model: Path, texts: LabelledTexts) -> None:
    """Raise for a folder without a FastBERT, and for labelled texts that it cannot be scored on.

    Raises:
        CommandError: see `look_at_model`.
        DataFileError: the first rows of the file cannot be used, or have labels that the model does not know.
    """
    classes = look_at_model(model)
    if classes is None:
        return
    _look_at_source(texts.data)
    columns = {key: value for key, value in vars(texts).items() if key != "data"}
    look_at_classification_data(texts.data, classes.names, multi_label=classes.multi_label, **columns)


def look_at_texts(model: Path, texts: LabelledTexts) -> Classes | None:
    """Return the classes of the FastBERT in a folder; raise for texts, whose labels are not looked at.

    Raises:
        CommandError: see `look_at_model`.
        DataFileError: the first rows of the file cannot be used.
    """
    classes = look_at_model(model)
    _look_at_source(texts.data)
    columns = {key: value for key, value in vars(texts).items() if key not in ("data", "label_column")}
    look_at_text_data(texts.data, **columns)
    return classes


def look_at_labelled_of_run(
    source: str, columns: Columns, *, split: str | None, multi_label: bool, label_names: Sequence[str] | None = None
) -> None:
    """Raise `DataFileError` for labelled texts of a training configuration whose first rows cannot be used."""
    _look_at_source(source)
    look_at_classification_data(source, label_names, split=split, multi_label=multi_label, **places_of(source, columns))


def _look_at_source(source: str) -> None:
    if Path(source).suffix.lower() not in (*PLAIN, *LABELLED):  # such a name is that of a file
        look_at_hub(source, "datasets")


def look_at_unlabelled(file: str, columns: Columns) -> None:
    """Raise `DataFileError` for texts of a training configuration whose first rows cannot be used."""
    look_at_text_file(file, **text_columns_of(file, columns))


def text_columns_of(file: str, columns: Columns) -> dict[str, Any]:
    """Return the names of the columns of texts for `file`, none for one that has no columns."""
    if _is_plain(file):
        return {}
    return {"text_column": columns.text_column, "pair_column": columns.pair_column}


def places_of(source: str, columns: Columns) -> dict[str, Any]:
    """Return where labelled texts stand in `source`, one of several: a subset is for the data sets among them."""
    subset = None if Path(source).is_file() else columns.subset
    texts = {"text_column": columns.text_column, "pair_column": columns.pair_column}
    return {"subset": subset, **texts, "label_column": columns.label_column}


def check_subset(columns: Columns, *sources: str | None) -> None:
    """Raise `CommandError` for a subset when all of `sources` are files, which have none."""
    if columns.subset is not None and all(source is None or Path(source).is_file() for source in sources):
        raise CommandError(f"--subset {columns.subset} is for data sets, and there are files only; leave it out")


def check_text_column(columns: Columns, *sources: str | None) -> None:
    """Raise `CommandError` for the name of a column when none of `sources` has columns."""
    if columns.text_column is not None and all(source is None or _is_plain(source) for source in sources):
        raise CommandError(f"--text-column {columns.text_column}: the texts are in .txt, without columns; leave it out")


def _is_plain(source: str) -> bool:
    return Path(source).suffix.lower() in PLAIN


def check_speeds(classes: Classes | None, speeds: Iterable[float]) -> None:
    """Raise `CommandError` for a Speed that is none for a model with these classes, or with one output."""
    largest = math.inf if classes is not None and classes.gives_scores else 1
    for speed in speeds:
        if not 0 <= speed <= largest or math.isinf(speed):
            allowed = "from 0 to 1" if largest == 1 else "a change of the score, finite and at least 0"
            raise CommandError(f"--speed {speed:g}: a Speed of this model is {allowed}")


def check_patching(patching: Patching) -> None:
    """Raise `CommandError` for an unknown backend, or an unknown product."""
    check_backend(patching.backend)
    for product in patching.bf16_product:
        if product not in PRODUCTS:
            raise CommandError(f"unknown --bf16-product {product!r}; choose from {', '.join(PRODUCTS)}")


def check_backend(backend: str) -> None:
    """Raise `CommandError` for a name that is none of the backends."""
    if backend not in BACKENDS:
        raise CommandError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")


def check_file_to_write(option: str, file: Path | None) -> None:
    """Raise `CommandError` where no file of that name can be written."""
    if file is None:
        return
    if not file.parent.is_dir():
        raise CommandError(f"{option} {file}: no such folder; make it first")
    if file.is_dir():
        raise CommandError(f"{option} {file}: a folder; name a file")


def check_files_to_write(files: Mapping[str, Path | None], read: Sequence[str | Path]) -> None:
    """Raise `CommandError` where a file cannot be written, would take the place of what is read, or of another one.

    Args:
        files: to write, by their options; `None`: not asked for.
        read: files and folders that the command reads; other words, as names of data sets, are passed over.
    """
    options: dict[Path, str] = {}
    for option, file in files.items():
        if file is None:
            continue
        check_file_to_write(option, file)
        for source in map(Path, read):
            if _is_part_of(file, source):
                what = "is" if source.is_file() else f"is a file of {source}, and that is"
                raise CommandError(f"{option} {file}: that {what} what is read here; choose another name")
        other = options.setdefault(file.resolve(), option)
        if other != option:
            raise CommandError(f"{other} and {option} both write {file}; give each a file of its own")


def check_folder_to_replace(option: str, folder: Path, read: Iterable[str | Path | None]) -> None:
    """Raise `CommandError` where a folder that is replaced as a whole holds, or is, something that is read.

    Args:
        option: that names the folder, or the one around it.
        folder: to replace.
        read: as in `check_files_to_write`; `None` is passed over.
    """
    for source in read:
        if source is not None and Path(source).exists() and Path(source).resolve().is_relative_to(folder.resolve()):
            raise CommandError(f"{option}: {folder} is replaced as a whole, and {source} is in it; choose another name")


def _is_part_of(file: Path, source: Path) -> bool:
    if not file.exists() or not source.exists():
        return False
    return file.samefile(source) or (source.is_dir() and file.resolve().is_relative_to(source.resolve()))
