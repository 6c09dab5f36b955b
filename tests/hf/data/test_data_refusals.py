"""Tables that cannot be used: what is wrong, in which row, and what helps; all such rows at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastbert_hf.data import (
    FIRST_ROWS,
    BadRowsError,
    DataFileError,
    look_at_text_file,
    read_classification_file,
    read_texts,
    read_unlabelled_texts,
)
from fastbert_hf.data.errors import arguments_spelt
from fastbert_hf.data.reading import look_at_classification_file
from helpers.data_files import write


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (
            "d.txt",
            "label\ttext\n",
            "d.txt: unknown ending '.txt'; name it one of .tsv, .csv, .jsonl, .ndjson, .parquet",
        ),
        ("d.tsv", "", "line 1: no column label among: none; the first line must name the columns, separated by tabs"),
        (
            "d.tsv",
            "label,text\n0,x\n",
            "line 1: the header has commas between .* and .tsv has tabs; name the file .csv",
        ),
        ("d.csv", "label\ttext\n0\tx\n", "line 1: the header has tabs .* .csv has commas; name the file .tsv"),
        ("d.csv", "label;text\n0;x\n", "line 1: the header has semicolons .* .csv has commas; write it with commas"),
        ("d.tsv", "label\ttext\n0\tx\nLabel\tText\n1\ty\n", "line 3: the header again; delete the line"),
        ("d.csv", "label,body\n0,x\n", r"line 1: no column text \(or text_a and text_b\) among: label, body; "),
        ("d.tsv", "label\ttext\ttext\n0\tx\ty\n", "line 1: column text appears twice"),
        ("d.tsv", "label\ttext\n", "no samples; add some"),
        ("d.tsv", "label\ttext\n0\tx\n1\t  \n", "line 3: empty text; fill it in or delete"),
        ("d.tsv", "label\ttext\n0\tx\n\ty\n", "line 3: empty label"),
        ("d.tsv", "label\ttext\n0\tx\n\t\n1\ty\n", "line 3: empty text"),
        ("d.csv", "label,text\n0,x\n,\n1,y\n", "line 3: empty text"),
        ("d.tsv", "label\ttext_a\ttext_b\n0\tx\t\n", "line 2: empty text_b"),
        ("d.tsv", "label\ttext\n0\tx\ty\n", "line 2: 3 fields, but the header has 2"),
        ("d.tsv", "label\ttext\n0\tx\n1\n", "line 3: 1 fields, but the header has 2"),
        ("d.tsv", "label\ttext\n0\tx\ry\n1\tz\n", "line 3: 1 fields, but the header has 2"),
        ("d.csv", 'label,text\n0,x\n1,"never closed\n0,y\n', "line 3: broken line"),
        ("d.csv", 'label,text\n0,"x"y\n1,z\n', "line 2: broken line"),
        ("d.csv", 'label,text\n0,"two\nlines"\n1,\n', "line 4: empty text"),
        ("d.tsv", b"label\ttext\n0\tx\n1\tcaf\xe9\n", "line 3: not UTF-8 text; save the file as UTF-8"),
        ("d.jsonl", b'{"text": "caf\xe9", "label": 1}\n', "line 1: not UTF-8 text; save the file as UTF-8"),
        ("d.tsv", "label\ttext\n0\tx\n".encode("utf-16"), "line 1: not UTF-8 text"),
        ("d.tsv", "label\ttext\n0\tx\n".encode("utf-16-le"), "line 1: holds NUL"),
        ("d.tsv", "label\ttext\n0\tx\n0\ty\n", "only one class, '0'"),
    ],
)
def test_malformed_file_gets_one_line_with_place_and_remedy(
    tmp_path: Path, name: str, content: str | bytes, problem: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataFileError, match=problem) as caught:
        read_classification_file(path)
    message = str(caught.value)
    assert str(path) in message and ";" in message and "\n" not in message


def test_all_rows_that_cannot_be_used_in_one_report(tmp_path: Path) -> None:
    rows = ["0\tx", "1\ty", "1", "\tz", "0\t ", *["x\tw"] * 30]
    path = write(tmp_path, "d.tsv", "label\ttext\n" + "\n".join(rows))
    for read in (read_classification_file, look_at_classification_file):
        with pytest.raises(BadRowsError, match="33 rows cannot be used:") as caught:
            read(path, ["0", "1"])
        assert caught.value.headline == "33 rows cannot be used:"
        first = ["line 4: 1 fields", "line 5: empty label", "line 6: empty text", "line 7: unknown label 'x'"]
        assert [
            line.partition(", ")[2][: len(want)] for line, want in zip(caught.value.lines, first, strict=False)
        ] == first
        assert len(caught.value.lines) == 21 and caught.value.lines[-1] == "and 13 more"
        assert all(line in str(caught.value) for line in caught.value.lines), "Python shows it"
    texts = write(tmp_path, "t.jsonl", '{"text": "x"}\n{"text": 5}\n{\n\n{"text": ""}\n')
    for read_all in (read_unlabelled_texts, look_at_text_file):
        with pytest.raises(
            BadRowsError, match=r"3 rows cannot(.|\n)*line 2: text is 5(.|\n)*line 3: not JSON(.|\n)*line 5: empty"
        ):
            read_all(texts)
    stream = read_texts(texts)
    assert next(stream) == "x"
    with pytest.raises(DataFileError, match="line 2: text is 5"):
        next(stream)


def test_what_ends_the_reading_is_told_with_the_rows_before(tmp_path: Path) -> None:
    path = write(tmp_path, "d.tsv", b"label\ttext\n0\tx\n1\n1\tcaf\xe9\n0\n")
    with pytest.raises(BadRowsError, match=r"2 rows cannot(.|\n)*line 3: 1 fields(.|\n)*line 4: not UTF-8"):
        read_classification_file(path)


def test_a_look_at_the_first_rows_tells_those_behind_them_where_there_is_a_fault(tmp_path: Path) -> None:
    good, bad = ["0\tx", "1\ty"] * FIRST_ROWS, "1"
    path = write(tmp_path, "d.tsv", "label\ttext\n" + "\n".join([*good, bad]))
    look_at_classification_file(path)
    path = write(tmp_path, "d.tsv", "label\ttext\n" + "\n".join([*good[:10], bad, *good, bad]))
    with pytest.raises(BadRowsError, match="2 rows cannot be used"):
        look_at_classification_file(path)
    path = write(tmp_path, "d.tsv", "label\ttext\n" + "\n".join([bad, *good * 50, bad]))
    with pytest.raises(DataFileError, match="line 2: 1 fields"):  # so many are not looked at
        look_at_classification_file(path)
    path = write(tmp_path, "d.tsv", "label\ttext\n" + "\n".join([bad, bad, *good * 50, bad]))
    with pytest.raises(BadRowsError, match="2 of the first 100,000 rows cannot be used"):
        look_at_classification_file(path)


@pytest.mark.parametrize(("name", "separator"), [("d.tsv", "\t"), ("d.csv", ",")])
def test_a_header_within_a_table_is_no_text(tmp_path: Path, name: str, separator: str) -> None:
    rows = [("id", "Text "), ("1", "x"), ("ID", "text"), ("2", "text"), ("id", "y")]
    path = write(tmp_path, name, "".join(separator.join(row) + "\n" for row in rows))
    with pytest.raises(
        DataFileError, match="line 3: the header again; delete the line; files that were joined have it$"
    ):
        read_unlabelled_texts(path)
    path = write(tmp_path, name, "".join(separator.join(row) + "\n" for row in (*rows[:2], *rows[3:])))
    assert read_unlabelled_texts(path).texts == ["x", "text", "y"]
    with pytest.raises(
        DataFileError, match="line 3: the header again; delete the line; .*, or name the column otherwise"
    ):
        read_unlabelled_texts(write(tmp_path, name, "text\nx\ntext\n"))


def test_messages_name_arguments_as_the_caller_gives_them(tmp_path: Path) -> None:
    path = write(tmp_path, "d.csv", "body,klass\nx,0\n")
    with pytest.raises(DataFileError, match="if the label has another name, say so with label_column$"):
        read_classification_file(path, text_column="body")
    with arguments_spelt({"text_column": "--text"}.get):
        with pytest.raises(DataFileError, match="if the text has another name, say so with --text$"):
            read_unlabelled_texts(path)
        with pytest.raises(DataFileError, match="no column label among: body, klass; [^;]*, separated by commas$"):
            read_classification_file(path, text_column="body")
    with pytest.raises(DataFileError, match="with text_column$"):
        read_unlabelled_texts(path)
