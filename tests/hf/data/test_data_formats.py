"""JSON lines and Parquet, types of labels, several labels per text; and that all formats read the same."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path

import datasets
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from fastbert_hf.data import ClassificationData, DataFileError, read_classification_file, read_unlabelled_texts


def write_json(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(lines))
    return path


def write_parquet(tmp_path: Path, **columns: list) -> Path:
    path = tmp_path / "d.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_json_lines_with_numbers_strings_blank_lines_and_other_keys(tmp_path: Path) -> None:
    path = write_json(
        tmp_path,
        '{"text": " x\\n", "label": 10, "id": 1}',
        "",
        '{"label": 9.0, "text": "y"}',
        '{"label": "9", "text": "z"}',
    )
    data = read_classification_file(path)
    assert (data.texts, data.label_ids, data.label_names) == (["x", "y", "z"], [1, 0, 0], ["9", "10"])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "x", "label": }', r"line 2: not JSON \(.*\); write one JSON object per line"),
        ('{"text": "x", "label": 1', r"line 2: not JSON"),
        ('{"text": "x", "text": "y", "label": 1}', r"line 2: not JSON \(a key appears twice\)"),
        ("[" * 100_000, "line 2: not JSON"),
        ('["x", 1]', "line 2: not a JSON object"),
        ('{"text": "x"}', "line 2: no column label among: text; every line needs it"),
        ('{"txt": "x", "label": 1}', r"line 2: no column text \(or text_a and text_b\) among: txt, label; every line"),
        ('{"text": null, "label": 1}', "line 2: text is null; fill it in"),
        ('{"text": ["x"], "label": 1}', r"line 2: text is \['x'\], not a string"),
        ('{"text": "x \\ud800", "label": 1}', r"line 2: half of a character \(a lone \\u escape\) in text"),
        ('{"text": "x", "label": null}', "line 2: label is null; fill it in"),
        ('{"text": "x", "label": ""}', "line 2: empty label"),
        ('{"text": "x", "label": 1.5}', "line 2: label is 1.5, neither an integer nor a string; write one"),
        ('{"text": "x", "label": NaN}', "line 2: label is nan, neither"),
        ('{"text": "x", "label": 1.5}', "line 2: label is 1.5, neither"),
        ('{"text": "x", "label": [1]}', r"line 2: label is \[1\], neither .*; several labels need multi_label"),
        ('{"text": "x", "label": {"a": 1}}', r"line 2: label is \{'a': 1\}, neither"),
    ],
)
def test_broken_json_lines(tmp_path: Path, line: str, problem: str) -> None:
    path = write_json(tmp_path, '{"text": "x", "label": 0}', line, '{"text": "y", "label": 1}')
    with pytest.raises(DataFileError, match=problem) as caught:
        read_classification_file(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_second_text_in_some_json_lines_only(tmp_path: Path, backwards: bool) -> None:
    lines = ['{"text_a": "x", "text_b": "y", "label": 0}', '{"text_a": "x", "label": 1}']
    with pytest.raises(DataFileError, match="line 2: would be read from text_a.*, but the lines before from text_a"):
        read_classification_file(write_json(tmp_path, *(reversed(lines) if backwards else lines)))
    lines = ['{"p": "x", "q": "y"}', '{"p": "x"}']
    with pytest.raises(DataFileError, match="line 2: no column q among: p; check"):
        read_unlabelled_texts(write_json(tmp_path, *lines), "p", "q")


def test_empty_json_file(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="d.jsonl: no samples; add some"):
        read_classification_file(write_json(tmp_path, "", ""))


def test_parquet_of_many_row_groups_and_integer_types(tmp_path: Path) -> None:
    size = 2500
    path = tmp_path / "d.parquet"
    table = pyarrow.table(
        {
            "noise": [{"nested": [1.5]}] * size,
            "label": pyarrow.array([number % 3 for number in range(size)], pyarrow.int8()),
            "text": pyarrow.array([f"t{number}" for number in range(size)]).dictionary_encode(),
        }
    )
    parquet.write_table(table, path, row_group_size=700)
    data = read_classification_file(path)
    assert data.texts == [f"t{number}" for number in range(size)]
    assert data.label_ids == [number % 3 for number in range(size)] and data.label_names == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (dict(text=["x", None], label=[0, 1]), "row 2: text is null; fill it in"),
        (dict(text=["x", "y"], label=[0, None]), "row 2: label is null"),
        (dict(text=["x", " "], label=[0, 1]), "row 2: empty text"),
        (dict(text=["x", "y"], label=["a", ""]), "row 2: empty label"),
        (dict(text=["x", "y"], label=[1.0, 1.5]), "row 2: label is 1.5, neither an integer nor a string"),
        (dict(text=["x", "y"], label=[1.5, 0.5]), "row 1: label is 1.5"),
        (dict(text=["x", "y"], label=[[1], [0]]), r"row 1: label is \[1\], neither .* need multi_label"),
        (dict(text=[b"x", b"y"], label=[0, 1]), "row 1: text is b'x', not a string"),
        (dict(text=["x", "y"], klass=[0, 1]), "d.parquet: no column label among: text, klass; rename a column"),
        (dict(body=["x", "y"], label=[0, 1]), "d.parquet: no column text .* among: body, label; rename a column"),
        (dict(text=["x", "y"], label=[1, 1]), "only one class, '1'"),
        (dict(text=[], label=[]), "d.parquet: no samples"),
    ],
)
def test_parquet_that_cannot_be_used(tmp_path: Path, columns: dict, problem: str) -> None:
    with pytest.raises(DataFileError, match=problem):
        read_classification_file(write_parquet(tmp_path, **columns))


def test_parquet_with_a_column_twice(tmp_path: Path) -> None:
    arrays = [pyarrow.array(["x"]), pyarrow.array(["y"]), pyarrow.array([1])]
    parquet.write_table(pyarrow.Table.from_arrays(arrays, ["text", "text", "label"]), tmp_path / "d.parquet")
    with pytest.raises(DataFileError, match="column text is there twice; give each its own name"):
        read_classification_file(tmp_path / "d.parquet")


def test_truncated_or_garbled_parquet(tmp_path: Path) -> None:
    size = 5000
    path = write_parquet(tmp_path, text=[f"text {number}" for number in range(size)], label=[0, 1] * (size // 2))
    whole = path.read_bytes()
    assert len(read_classification_file(path)) == size
    garbled = bytearray(whole)
    garbled[4:400] = b"\xa5" * 396  # the first pages; the footer with the columns stays
    for content in (b"", b"PAR1", whole[: len(whole) // 2], whole[: len(whole) - 9], b"label,text\n0,x\n", garbled):
        path.write_bytes(content)
        with pytest.raises(DataFileError, match=r"d.parquet: not readable as Parquet \(.*\); check that") as caught:
            read_classification_file(path)
        assert "\n" not in str(caught.value)


def test_parquet_keeps_the_class_names_that_datasets_wrote(tmp_path: Path) -> None:
    names = ["zero", "one", "never"]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    path = tmp_path / "d.parquet"
    datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features).to_parquet(path)
    data = read_classification_file(path)
    assert (data.label_ids, data.label_names) == ([1, 0], names)
    assert read_classification_file(path, ["one", "zero"]).label_ids == [0, 1]
    schema = pyarrow.schema([("text", pyarrow.string()), ("label", pyarrow.int64())], {"huggingface": "{"})
    parquet.write_table(pyarrow.table({"text": ["x"], "label": [0]}, schema), path)
    with pytest.raises(DataFileError, match="the description of its columns by datasets is broken"):
        read_classification_file(path)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path, text=["x", "y"], label=[0, 1])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataFileError, match="reading Parquet needs pyarrow; pip install pyarrow"):
        read_classification_file(path)


def test_several_labels_in_every_format(tmp_path: Path) -> None:
    lists = [["b", "a"], [], ["c"]]
    tsv, comma = tmp_path / "d.tsv", tmp_path / "d.csv"
    tsv.write_text("text\tlabel\nx\tb| a\ny\t\nz\tc\n")
    comma.write_text('label,text\n"b|a",x\n,y\nc,z\n')
    lines = write_json(
        tmp_path, *(json.dumps({"text": text, "labels": names}) for text, names in zip("xyz", lists, strict=True))
    )
    for path in (tsv, comma, lines, write_parquet(tmp_path, text=list("xyz"), label=lists)):
        data = read_classification_file(path, multi_label=True)
        assert data == ClassificationData(["x", "y", "z"], None, [[0, 1], [], [2]], ["a", "b", "c"], multi_label=True)
    assert read_classification_file(tsv, ["c", "b", "a"], multi_label=True).label_ids == [[1, 2], [], [0]]


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ('"a"', "line 2: label is 'a', not a list of labels; write a list, empty for no label"),
        ("null", "line 2: label is null; write an empty list"),
        ('["a", null]', "line 2: label is null"),
        ('["a", [1]]', r"line 2: label is \[1\], neither"),
        ('["a", ""]', "line 2: empty label"),
        ('["a", "b", "a"]', "line 2: label has 'a' twice; name every label once"),
        ('["a", "q"]', r"line 2: unknown label 'q'; use one of the training labels \(a, b\)"),
    ],
)
def test_several_labels_that_cannot_be_used(tmp_path: Path, label: str, problem: str) -> None:
    path = write_json(tmp_path, '{"text": "x", "label": ["a", "b"]}', f'{{"text": "y", "label": {label}}}')
    with pytest.raises(DataFileError, match=problem):
        read_classification_file(path, ["a", "b"], multi_label=True)


def test_several_labels_in_a_table_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    for label, problem in (("a||b", "line 2: empty label"), ("|", "line 2: empty label"), ("a|a", "'a' twice")):
        path.write_text(f"label\ttext\n{label}\tx\n")
        with pytest.raises(DataFileError, match=problem):
            read_classification_file(path, multi_label=True)
    for label, problem in (("", "no class at all; a classifier needs"), ("a", "only one class, 'a'")):
        path.write_text(f"label\ttext\n{label}\tx\n")
        with pytest.raises(DataFileError, match=problem):
            read_classification_file(path, multi_label=True)


plain_text = (
    st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=30).map(str.strip).filter(bool)
)
# In a table, "|" parts labels.
label_text = plain_text.map(lambda text: text.replace("|", "-"))


def write_everywhere(folder: Path, columns: dict[str, list], joined: dict[str, list]) -> list[Path]:
    """The same columns in every format; `joined` replaces columns of lists in tables."""
    paths = [folder / f"d{suffix}" for suffix in (".tsv", ".csv", ".jsonl", ".parquet")]
    table = columns | joined
    rows = list(zip(*table.values(), strict=True))
    with paths[0].open("w", encoding="utf-8", newline="\n") as file:
        file.writelines("\t".join(row) + "\n" for row in [tuple(table), *rows])
    with paths[1].open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([tuple(table), *rows])
    with paths[2].open("w", encoding="utf-8", newline="\n") as file:
        for number, row in enumerate(zip(*columns.values(), strict=True)):
            record = dict(zip(columns, row, strict=True))
            file.write(json.dumps(record, ensure_ascii=number % 2 == 0) + "\n")
    parquet.write_table(pyarrow.table(columns), paths[3])
    return paths


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(plain_text, plain_text, plain_text), min_size=1, max_size=6), pairs=st.booleans())
def test_what_is_written_is_read_back_the_same(rows: list[tuple[str, str, str]], pairs: bool) -> None:
    texts, seconds, labels = (list(column) for column in zip(*rows, strict=True))
    columns = {"text_a": texts} | ({"text_b": seconds} if pairs else {}) | {"label": labels}
    names = sorted({*labels, "another class"})
    with tempfile.TemporaryDirectory() as folder:
        for path in write_everywhere(Path(folder), columns, {}):
            data = read_classification_file(path, names)
            assert (data.texts, data.pairs) == (texts, seconds if pairs else None), path.suffix
            assert [names[index] for index in data.label_ids] == labels, path.suffix
            unlabelled = read_unlabelled_texts(path)
            assert (unlabelled.texts, unlabelled.pairs) == (data.texts, data.pairs), path.suffix


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(plain_text, st.sets(label_text, max_size=3)), min_size=1, max_size=6))
def test_several_labels_are_read_back_the_same(rows: list[tuple[str, set[str]]]) -> None:
    texts, labels = [text for text, _ in rows], [sorted(names) for _, names in rows]
    names = sorted({"another class", *(name for sample in labels for name in sample)})
    columns = {"text": texts, "label": pyarrow.array(labels, pyarrow.list_(pyarrow.string())).to_pylist()}
    with tempfile.TemporaryDirectory() as folder:
        for path in write_everywhere(Path(folder), columns, {"label": ["|".join(sample) for sample in labels]}):
            data = read_classification_file(path, names, multi_label=True)
            assert data.texts == texts, path.suffix
            assert [[names[index] for index in sample] for sample in data.label_ids] == labels, path.suffix
