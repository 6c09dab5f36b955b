"""From files to texts and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastbert_hf.data.bad_rows import look_at_first, usable
from fastbert_hf.data.columns import ColumnChoice
from fastbert_hf.data.errors import DataFileError, EmptyTextError, Place, argument, listed, quoted
from fastbert_hf.data.files import PLAIN, open_records
from fastbert_hf.data.labels import check_known, clean, label_list, label_name, sort_labels, without_fractions
from fastbert_hf.data.records import Records
from fastbert_hf.data.samples import ClassificationData, Text, TextData


def read_classification_file(
    path: str | Path,
    label_names: Sequence[str] | None = None,
    *,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    multi_label: bool = False,
) -> ClassificationData:
    """Read labelled texts, or pairs of texts, from a file with a column for each.

    The ending says what the file is: `.tsv` (UTF-8, a header line, tabs, no quoting, so that a lone quotation mark is
    an ordinary character), `.csv` (the same with commas and the usual quoting), `.jsonl` or `.ndjson` (one JSON object
    per line) or `.parquet`. Blanks around texts and labels are dropped, blank lines and other columns ignored. Upper
    and lower case are the same in names of columns. Rows of Parquet are counted from 1 in messages.

    A label is a string, a boolean or an integer, and `1.0` in a column of whole numbers is `1`; integers that a Parquet
    file has names for (`ClassLabel` of `datasets`) become these names. With `multi_label`, it is a list of them in JSON
    and Parquet, and several with `|` between them in `.tsv` and `.csv` (where `|` in a name is written with a backslash
    before it); the list or the field may be empty.

    Args:
        path: the file.
        label_names: classes in the order of their ids, for a second file (dev, test) of the same task. `None` takes
            the classes from the file: those that it has names for, else all that occur, sorted, as numbers when every
            label is an integer.
        text_column: of the text. `None`: the first there is of `text`, `text_a` (and `text_b`), and the names of GLUE,
            as in `text_column_names`.
        pair_column: of the second text, if `text_column` is given.
        label_column: of the label; `None`: `label`, or `labels` with `multi_label`.
        multi_label: a sample may have any number of classes.

    Raises:
        DataFileError: missing file, unknown ending, wrong encoding, missing column, broken line, the header again,
            empty text or label, null, label of another type, a label not in `label_names`, no samples, or (without
            `label_names`) a single class; pyarrow is needed and not installed. Of several rows, a `BadRowsError`.
        ValueError: `pair_column` without `text_column`, or a name twice in `label_names`.
    """
    return classification_data(
        open_records(Path(path)),
        label_names,
        text_column=text_column,
        pair_column=pair_column,
        label_column=label_column,
        multi_label=multi_label,
    )


def classification_data(
    records: Records,
    label_names: Sequence[str] | None,
    *,
    multi_label: bool,
    **columns: str | None,
) -> ClassificationData:
    """Labelled texts from `records`; arguments and errors as in `read_classification_file`."""
    texts: list[str] = []
    pairs: list[str] = []
    labels: list[list[str]] = []
    names: Sequence[str] | None = None
    for row in usable(_labelled_rows(records, label_names, multi_label, **columns)):
        first, *second = row.texts
        texts.append(first)
        pairs.extend(second)
        labels.append(row.labels)
        names = row.class_names
    if not texts:
        raise _no_samples(records)

    if label_names is None:
        if names is None:
            whole = without_fractions({name for sample in labels for name in sample})
            labels = [[whole[name] for name in sample] for sample in labels]
        found = {name for sample in labels for name in sample}
        if len(found) < 2:
            only = "no class at all" if not found else f"only one class, {quoted(*found)}"
            raise records.whole.error(only, "a classifier needs samples of two or more")
        label_names = sort_labels(found) if names is None else names
    ids = {name: index for index, name in enumerate(label_names)}
    label_ids: list[Any] = [sorted(ids[name] for name in sample) for sample in labels]
    return ClassificationData(
        texts=texts,
        pairs=pairs or None,
        label_ids=label_ids if multi_label else [index for (index,) in label_ids],
        label_names=list(label_names),
        multi_label=multi_label,
    )


def look_at_classification_file(
    path: str | Path,
    label_names: Sequence[str] | None = None,
    *,
    multi_label: bool = False,
    **columns: str | None,
) -> None:
    """Raise what `read_classification_file` would, whose arguments these are, for the first 1,000 rows.

    Where there is a fault among these, many more rows are looked at, so that it is told with others.
    """
    records = open_records(Path(path))
    if look_at_first(_labelled_rows(records, label_names, multi_label, **columns)) == 0:
        raise _no_samples(records)


def look_at_text_file(path: str | Path, text_column: str | None = None, pair_column: str | None = None) -> None:
    """Raise what `read_unlabelled_texts` would, as `look_at_classification_file` does."""
    look_at_first(_texts(_open(Path(path), None, text_column=text_column), text_column, pair_column))


class _LabelledRow(NamedTuple):
    texts: list[str]  # the text, and the second one of a pair
    labels: list[str]
    class_names: Sequence[str] | None  # of numbers in the label column


def _labelled_rows(
    records: Records,
    label_names: Sequence[str] | None,
    multi_label: bool,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
) -> Iterator[_LabelledRow | DataFileError]:
    """Yield the rows that are not blank, or what is wrong with them."""
    if label_names is not None and len(set(label_names)) < len(label_names):
        raise ValueError(f"label_names has a name twice: {', '.join(label_names)}; name every class once")
    usual = ("label", "labels") if multi_label else ("label",)
    choice = ColumnChoice(text_column, pair_column, usual if label_column is None else (label_column,))
    known = None if label_names is None else dict.fromkeys(label_names)
    for place, row in records.rows(choice):
        if row is None:
            continue
        found: _LabelledRow | DataFileError
        if isinstance(row, DataFileError):
            found = row
        else:
            try:
                found = _labelled_row(place, row, records, choice, known, multi_label)
            except DataFileError as error:
                found = error
        yield found


def _labelled_row(
    place: Place,
    row: list[Any],
    records: Records,
    choice: ColumnChoice,
    known: Mapping[str, None] | None,
    multi_label: bool,
) -> _LabelledRow:
    assert choice.chosen is not None and choice.chosen.label is not None
    column = choice.chosen.label
    names = records.class_names.get(column)
    texts = _clean_texts(place, choice, row[:-1])
    if multi_label:
        labels = label_list(place, column, row[-1], names, records.joined_labels)
    else:
        labels = [label_name(place, column, row[-1], names)]
    if known is not None:
        labels = [name if name in known else without_fractions([name])[name] for name in labels]
        check_known(place, labels, known)
    return _LabelledRow(texts, labels, names)


class TextRow(NamedTuple):
    """A row of texts.

    Attributes:
        text: `None`: an empty one, null, or a blank line.
        kept: values of the further columns that were asked for, in their order; of a blank line, `None` each.
    """

    text: Text | None
    kept: list[Any]


def read_texts(path: Path, text_column: str | None = None, pair_column: str | None = None) -> Iterator[Text]:
    """Texts, or pairs of texts, of a file in order; few are in memory at a time.

    Beside the formats of `read_classification_file`, of which a label is ignored, there is `.txt`: one text per line.

    Args:
        path: the file.
        text_column: of the text; `None` as in `read_classification_file`.
        pair_column: of the second text, if `text_column` is given.

    Raises:
        DataFileError: as soon as the reading gets there: a file, a line or a column that cannot be used, an empty text,
            or no texts at all.
        ValueError: `pair_column` without `text_column`.
    """
    for text in _texts(_open(path, None, text_column=text_column), text_column, pair_column):
        if isinstance(text, DataFileError):
            raise text
        yield text


def _texts(records: Records, text_column: str | None, pair_column: str | None) -> Iterator[Text | DataFileError]:
    """Yield the texts of `records`, whose labels are not read, or what is wrong with a row that is not blank."""
    for _, error, row in _text_rows(records, ColumnChoice(text_column, pair_column, ())):
        if error is not None:
            yield error
        elif row is not None:
            assert row.text is not None
            yield row.text


def read_text_rows(
    path: Path,
    text_column: str | None = None,
    pair_column: str | None = None,
    *,
    keep: Sequence[str] = (),
    form: str | None = None,
    bad_row: Callable[[DataFileError], None],
) -> Iterator[TextRow]:
    """Rows of a file in order, none of which is lost: empty texts and blank lines are rows too, but for blank lines at
    the end.

    Args:
        path: the file, or `STANDARD_INPUT`.
        text_column: as in `read_texts`.
        pair_column: as in `read_texts`.
        keep: further columns.
        form: the ending that says what the file is; `None`: its own.
        bad_row: told of every row that cannot be used, which is left out, and of every empty text.

    Raises:
        DataFileError: a file or a column that cannot be used, or no texts at all.
        ValueError: `pair_column` without `text_column`.
    """
    blank: list[Place] = []
    choice = ColumnChoice(text_column, pair_column, (), keep)
    for place, error, row in _text_rows(_open(path, form, text_column=text_column, keep=keep), choice):
        if error is None and row is None:
            blank.append(place)
            continue
        for line in blank:
            bad_row(line.error("empty text (a blank line)", "fill it in or delete the line", EmptyTextError))
            yield TextRow(None, [None] * len(keep))
        blank.clear()
        if error is not None:
            bad_row(error)
        if row is not None:
            yield row


def _open(path: Path, form: str | None, **columns: str | Sequence[str] | None) -> Records:
    """Open texts without labels; `columns`: arguments that name some, which a `.txt` has not."""
    records = open_records(path, plain=True, form=form)
    given = [argument(name) or name for name, value in columns.items() if value]
    if (path.suffix.lower() if form is None else form) in PLAIN and given:
        raise records.whole.error("a .txt file has no columns", f"leave {listed(given)} out")
    return records


def _text_rows(records: Records, choice: ColumnChoice) -> Iterator[tuple[Place, DataFileError | None, TextRow | None]]:
    """Yield what is wrong with each row, and the row if it has one: neither is a blank line."""
    empty = True
    for place, values in records.rows(choice):
        if values is None:
            yield place, None, None
            continue
        empty = False
        if isinstance(values, DataFileError):
            yield place, values, None
            continue
        count = _texts_per_row(choice)
        try:
            first, *second = _clean_texts(place, choice, values[:count])
        except EmptyTextError as error:
            yield place, error, TextRow(None, values[count:])
        except DataFileError as error:
            yield place, error, None
        else:
            yield place, None, TextRow((first, second[0]) if second else first, values[count:])
    if empty:
        raise _no_samples(records)


def read_unlabelled_texts(path: str | Path, text_column: str | None = None, pair_column: str | None = None) -> TextData:
    """All of `read_texts`, whose arguments and errors it has: more text to distill from.

    Raises:
        DataFileError: as there, but of several rows that cannot be used a `BadRowsError`.
        ValueError: as there.
    """
    return text_data(_open(Path(path), None, text_column=text_column), text_column, pair_column)


def text_data(records: Records, text_column: str | None, pair_column: str | None) -> TextData:
    """Texts, or pairs of texts, of `records`; arguments and errors as in `read_unlabelled_texts`."""
    texts: list[str] = []
    pairs: list[str] = []
    for text in usable(_texts(records, text_column, pair_column)):
        first, *second = [text] if isinstance(text, str) else text
        texts.append(first)
        pairs.extend(second)
    return TextData(texts, pairs or None)


def _texts_per_row(choice: ColumnChoice) -> int:
    assert choice.chosen is not None
    return 1 if choice.chosen.pair is None else 2


def _clean_texts(place: Place, choice: ColumnChoice, values: list[Any]) -> list[str]:
    """The text and, for pairs, the second text of a row."""
    assert choice.chosen is not None
    texts = []
    for column, value in zip(choice.chosen, values, strict=False):
        assert column is not None
        if value is None:
            raise place.error(f"{column} is null", "fill it in as a string or delete the sample", EmptyTextError)
        if not isinstance(value, str):
            problem = f"{column} is {quoted(value)}, not a string"
            raise place.error(problem, "fill it in as a string or delete the sample")
        if not value.strip():
            raise place.error(f"empty {column}", "fill it in or delete the line", EmptyTextError)
        texts.append(clean(place, column, value))
    return texts


def _no_samples(records: Records) -> DataFileError:
    return records.whole.error("no samples", "add some")
