"""`fastbert predict`: from files of every kind to rows in their order, and its complaints."""

from __future__ import annotations

import csv
import json
from itertools import islice

import pyarrow
import pytest
import torch
from pyarrow import parquet
from transformers import AutoTokenizer, BertTokenizerFast
from typer.testing import CliRunner

from fastbert_cli.app import app
from fastbert_cli.predict import run
from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf import predict as predict_texts
from helpers.models import spread_model

WORDS = ["good", "bad", "fine", "film", "book", "the", "a", "very", "not", "is"]
TEXTS = [" ".join(WORDS[(number * k) % len(WORDS)] for k in range(1, 2 + number % 7)) for number in range(30)]
HEADER = "label\tprobability\tuncertainty\texit_layer"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    model = spread_model()
    model.config.id2label = {0: "no", 1: "per\thaps", 2: "ja, größer"}
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(model_dir):
    model = FastBertForSequenceClassification.from_pretrained(model_dir).eval()
    return predict_texts(model, AutoTokenizer.from_pretrained(model_dir), TEXTS, speed=0.5)


@pytest.fixture
def texts_file(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS))
    return path


def invoke(*arguments, text=None):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], input=text)


def rows_of(table):
    header, *lines = table.splitlines()
    assert header == HEADER
    return [line.split("\t") for line in lines]


def assert_rows(rows, expected):
    assert len(rows) == len(expected)
    columns = (expected.label_names, expected.probabilities.amax(-1), expected.uncertainty, expected.exit_layer)
    for (label, probability, uncertainty, layer), *want in zip(rows, *columns, strict=True):
        assert label == " ".join(want[0].split())
        assert float(probability) == pytest.approx(float(want[1]), abs=1e-5)
        assert float(uncertainty) == pytest.approx(float(want[2]), abs=1e-5)
        assert int(layer) == int(want[3])


@pytest.mark.parametrize("backend", ["auto", "reference", "none"])
def test_a_table_on_standard_output(model_dir, texts_file, expected, backend):
    result = invoke(model_dir, texts_file, "--speed", 0.5, "--backend", backend, "--max-tokens", 40)
    assert result.exit_code == 0, result.output
    assert_rows(rows_of(result.stdout), expected)
    assert "30 texts in " in result.stderr and f"{expected.exit_layer.double().mean():.2f} of 4" in result.stderr


def test_full_depth_and_precision(model_dir, texts_file):
    result = invoke(model_dir, texts_file, "--dtype", "bf16", "--progress")
    assert result.exit_code == 0, result.output
    assert {row[3] for row in rows_of(result.stdout)} == {"4"}
    assert "30/30" in result.stderr


def test_long_texts_in_passages(model_dir, texts_file):
    model = FastBertForSequenceClassification.from_pretrained(model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    want = predict_texts(model, tokenizer, TEXTS, speed=0.5, max_length=5, stride=1)
    cut = predict_texts(model, tokenizer, TEXTS, speed=0.5, max_length=5)
    assert cut.truncated.any() and not torch.allclose(want.probabilities, cut.probabilities, atol=1e-3)
    result = invoke(model_dir, texts_file, "--speed", 0.5, "--max-length", 5, "--stride", 1)
    assert result.exit_code == 0, result.output
    assert_rows(rows_of(result.stdout), want)
    assert "cut off" not in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("t.csv", "label,TEXT\n" + "".join(f'x,"{text}"\n\n' for text in TEXTS), ["--on-empty", "skip"]),
        ("t.tsv", "id\tBody\n" + "".join(f"7\t{text}\n" for text in TEXTS), ["--text-column", "body"]),
        ("t.jsonl", "\n".join(json.dumps({"text": text, "id": 7}) for text in TEXTS), []),
        (
            "t.ndjson",
            "\n\n".join(json.dumps({"Body": text}) for text in TEXTS),
            ["--text-column", "Body", "--on-empty", "skip"],
        ),
        ("t.txt", "\ufeff" + "".join(f"  {text}\r\n" for text in TEXTS), []),
    ],
)
def test_every_kind_of_file(model_dir, tmp_path, expected, name, content, options):
    (tmp_path / name).write_text(content, newline="")
    out = tmp_path / "out.tsv"
    result = invoke(model_dir, tmp_path / name, "--speed", 0.5, "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert_rows(rows_of(out.read_text(encoding="utf-8")), expected)
    assert result.stdout == "" and f"written: {out}" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {name, "out.tsv"}


def test_parquet(model_dir, tmp_path, expected):
    parquet.write_table(pyarrow.table({"id": range(len(TEXTS)), "text": TEXTS}), tmp_path / "t.parquet")
    result = invoke(model_dir, tmp_path / "t.parquet", "--speed", 0.5)
    assert result.exit_code == 0, result.output
    assert_rows(rows_of(result.stdout), expected)


def test_json_lines_out_and_pairs_in(model_dir, tmp_path):
    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    model = FastBertForSequenceClassification.from_pretrained(model_dir).eval()
    want = predict_texts(model, AutoTokenizer.from_pretrained(model_dir), pairs, speed=0.3)
    (tmp_path / "a.csv").write_text("text_b,text_a\n" + "".join(f"{second},{first}\n" for first, second in pairs))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(dict(p=first, q=second)) + "\n" for first, second in pairs))
    for name, options in (("a.csv", []), ("b.jsonl", ["--text-column", "p", "--pair-column", "q"])):
        out = tmp_path / "out.jsonl"
        result = invoke(model_dir, tmp_path / name, "--speed", 0.3, "--out", out, *options)
        assert result.exit_code == 0, result.output
        records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert all(list(record) == HEADER.split("\t") for record in records)
        assert [record["label"] for record in records] == want.label_names
        assert_rows(
            [list(record.values()) for record in [r | {"label": " ".join(r["label"].split())} for r in records]], want
        )


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("t.txt", "good\n\nbad\n", [], "t.txt, line 2: empty text (a blank line); fill it in or delete the line"),
        ("t.txt", "", [], "t.txt: no samples; add some"),
        ("t.txt", b"good\ncaf\xe9\n", [], "t.txt, line 2: not UTF-8 text"),
        ("t.txt", "good\n", ["--text-column", "x"], "a .txt file has no columns; leave --text-column out"),
        ("t.txt", "good\n", ["--keep", "id"], "a .txt file has no columns; leave --keep out"),
        ("t.tsv", "id\ttext\n1\tgood\nid\ttext\n2\tbad\n", [], "line 3: the header again; delete the line"),
        ("t.csv", "text\ngood\ntext\n", [], "line 3: the header again; delete the line"),
        ("t.xml", "good\n", [], "unknown ending '.xml'; name it one of .txt, .tsv, .csv, .jsonl, .ndjson, .parquet"),
        (
            "t.csv",
            "a,b\nx,y\n",
            [],
            "line 1: no column text (or text_a and text_b) among: a, b; the first line must name the columns",
        ),
        ("t.csv", "a,b\nx,y\n", ["--text-column", "c"], "no column c among: a, b; check the name of the column"),
        ("t.csv", "text\n", [], "t.csv: no samples"),
        ("t.tsv", "id\ttext\n1\tgood\n2\t \n", [], "line 3: empty text"),
        ("t.jsonl", '{"text": "good"}\n{"text": }\n', [], "line 2: not JSON ("),
        ("t.jsonl", '["good"]\n', [], "line 1: not a JSON object; write one object per line"),
        (
            "t.jsonl",
            '{"text": "good"}\n{"txt": "bad"}\n',
            [],
            "line 2: no column text (or text_a and text_b) among: txt; every line needs it",
        ),
        ("t.jsonl", '{"text": 5}\n', [], "line 1: text is 5, not a string"),
        ("t.jsonl", '{"text": "good \\ud800"}\n', [], "line 1: half of a character"),
        ("t.txt", "good\n", ["--pair-column", "x"], "--pair-column is for --text-column: "),
        (
            "t.csv",
            "a,b\nx,y\n",
            ["--text-column", "a", "--pair-column", "b", "--stride", 2],
            "--stride is for single texts, not for pairs; leave it or --pair-column out",
        ),
        ("t.txt", "good\n", ["--max-length", 5, "--stride", 3], "stride must be an integer of at least 0 and below 3"),
        ("t.txt", "good\n", ["--backend", "none", "--dtype", "bf16"], "--dtype and --backend none do not go together"),
        ("t.txt", "good\n", ["--backend", "abacus"], "unknown backend 'abacus'; choose one of auto, "),
        ("t.txt", "good\n", ["--max-length", 1000], "max_length must be above 2"),
        (
            "t.txt",
            "good\n",
            ["--out", "{folder}/out.xml"],
            "unknown ending; name it .tsv, .csv, .jsonl, .ndjson, .parquet",
        ),
        ("t.txt", "good\n", ["--out", "{folder}/no/out.tsv"], "no such folder; make it first"),
        ("t.tsv", "text\ngood\n", ["--out", "{folder}/t.tsv"], "that is what is read here; choose another name"),
        ("t.tsv", "text\ngood\n", ["--out", "{folder}/folder.tsv"], "not a file that can be replaced"),
    ],
)
def test_complaints_are_one_line_and_nothing_is_written(model_dir, tmp_path, name, content, options, message):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (tmp_path / "folder.tsv").mkdir()
    result = invoke(model_dir, tmp_path / name, *(str(option).format(folder=tmp_path) for option in options))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("fastbert predict: ") and message in result.stderr
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {name, "folder.tsv"}


def test_a_missing_file_and_folders_without_a_model(model_dir, texts_file, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for arguments, message in (
        ((model_dir, tmp_path / "absent.txt"), "absent.txt: cannot be read"),
        ((tmp_path / "absent", texts_file), "absent: no such folder; name a folder into which"),
        ((tmp_path, texts_file), "; name a folder into which a FastBERT and its tokenizer were saved"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("fastbert predict: ") and message in result.stderr


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (ValueError, 2)])
def test_a_run_that_stops_leaves_the_old_file(model_dir, texts_file, tmp_path, monkeypatch, error, code):
    def breaks_off(_, tokenizer, texts, **options):
        assert list(islice(texts, 4)) == TEXTS[:4]
        yield predict_texts(model, AutoTokenizer.from_pretrained(model_dir), TEXTS[:4])
        raise error("text 4 is odd")

    model = FastBertForSequenceClassification.from_pretrained(model_dir).eval()
    monkeypatch.setattr(run, "iter_predict", breaks_off)
    out = tmp_path / "out.tsv"
    out.write_text("old")
    result = invoke(model_dir, texts_file, "--out", out)
    assert result.exit_code == code
    assert ("out.tsv was not written" if code == 130 else "text 4 is odd") in result.stderr
    assert out.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"texts.txt", "out.tsv"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.txt", "good film\n\n  \nbad\n"),
        ("t.tsv", "id\ttext\n1\tgood film\n2\t\n3\t \n4\tbad\n"),
        ("t.csv", 'id,text\n1,good film\n2,\n3," "\n4,bad\n'),
        ("one.csv", "text\ngood film\n\n  \nbad\n"),
        ("blank.tsv", "id\ttext\n1\tgood film\n\n  \n4\tbad\n\n\n"),
        ("blank.jsonl", '{"text": "good film"}\n\n  \n{"text": "bad"}\n\n'),
        ("one.tsv", "\ntext\ngood film\n\n  \nbad\n"),
        ("t.jsonl", '{"text": "good film"}\n{"text": null}\n{"text": ""}\n{"text": "bad"}\n'),
    ],
)
@pytest.mark.parametrize("out", ["out.tsv", "out.jsonl"])
def test_empty_texts_are_marked_on_wish(model_dir, tmp_path, name, content, out):
    (tmp_path / name).write_text(content)
    model = FastBertForSequenceClassification.from_pretrained(model_dir).eval()
    want = predict_texts(model, AutoTokenizer.from_pretrained(model_dir), ["good film", "bad"], speed=0.5)
    options = ("--speed", 0.5, "--out", tmp_path / out, "--probabilities")
    refused = invoke(model_dir, tmp_path / name, *options)
    assert refused.exit_code == 2 and "--on-empty mark" in refused.stderr
    result = invoke(model_dir, tmp_path / name, *options, "--on-empty", "mark")
    assert result.exit_code == 0, result.output
    assert "2 of 4 texts are empty; their rows have no values" in result.stderr
    assert f"mean exit layer {want.exit_layer.double().mean():.2f} of 4" in result.stderr
    left_out = invoke(model_dir, tmp_path / name, "--speed", 0.5, "--on-empty", "skip")
    assert_rows(rows_of(left_out.stdout), want)
    assert "2 of 4 texts are empty; they have no rows" in left_out.stderr
    lines = (tmp_path / out).read_text(encoding="utf-8").splitlines()
    if out == "out.tsv":
        rows = [line.split("\t") for line in lines[1:]]
        assert rows[1] == rows[2] == [""] * 7
    else:
        rows = [list(json.loads(line).values()) for line in lines]
        assert rows[1] == rows[2] == [None] * 5
    filled = [row[:4] for row in (rows[0], rows[3])]
    assert_rows([[" ".join(row[0].split()), *row[1:]] for row in filled], want)


def test_a_pair_with_an_empty_half_and_nothing_but_empty_texts_are_marked(model_dir, tmp_path):
    (tmp_path / "pairs.csv").write_text("text_a,text_b\ngood,\n,bad\n")
    result = invoke(model_dir, tmp_path / "pairs.csv", "--on-empty", "mark")
    assert result.exit_code == 0, result.output
    assert result.stdout == HEADER + "\n" + "\t\t\t\n" * 2
    (tmp_path / "none.txt").write_text("")
    result = invoke(model_dir, tmp_path / "none.txt", "--on-empty", "mark")
    assert result.exit_code == 2 and "none.txt: no samples" in result.stderr


def test_standard_input(model_dir, expected):
    assert_rows(rows_of(invoke(model_dir, "-", "--speed", 0.5, text="\n".join(TEXTS)).stdout), expected)
    lines = "".join(json.dumps({"body": text, "n": number}) + "\n" for number, text in enumerate(TEXTS))
    words = ("-", "--input-format", "jsonl", "--text-column", "body", "--keep", "n", "--speed", 0.5)
    header, *rows = invoke(model_dir, *words, text=lines).stdout.splitlines()
    assert header == f"n\t{HEADER}" and [row.split("\t")[0] for row in rows] == list(map(str, range(30)))
    assert_rows([row.split("\t")[1:] for row in rows], expected)
    for arguments, message in (
        (("-", "t.txt"), "- (standard input) stands alone"),
        (("t.txt", "--input-format", "csv"), "--input-format is for standard input (-)"),
    ):
        assert message in invoke(model_dir, *arguments).stderr
    broken = invoke(model_dir, *words, text=lines + "{\n")
    assert broken.exit_code == 2 and "standard input, line 31: not JSON" in broken.stderr


def test_several_files_a_folder_and_columns_that_are_kept(model_dir, tmp_path, expected):
    folder = tmp_path / "folder"
    folder.mkdir()
    rows = [dict(id=number, label=f"-{number}", text=text) for number, text in enumerate(TEXTS)]
    parquet.write_table(pyarrow.Table.from_pylist(rows[:10]), folder / "a.parquet")
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[10:20]))
    (folder / "notes.md").write_text("no texts")
    lines = [f"{row['id']},{row['label']},{row['text']}\n" for row in rows[20:]]
    (tmp_path / "c.csv").write_text("ID,Label,text\n" + "".join(lines))
    names = [str(folder / "a.parquet"), str(folder / "b.jsonl"), str(tmp_path / "c.csv")]
    call = (model_dir, folder, tmp_path / "c.csv", "--keep", "id", "--keep", "label", "--speed", 0.5, "--out")
    for name in ("out.csv", "out.jsonl"):
        assert invoke(*call, tmp_path / name).exit_code == 0
    lines = list(csv.reader((tmp_path / "out.csv").open(newline="")))
    assert lines[0] == ["file", "id", "input_label", *HEADER.split("\t")]
    assert [line[:3] for line in lines[1:]] == [[names[n // 10], str(n), f"-{n}"] for n in range(30)]
    assert_rows([[" ".join(line[3].split()), *line[4:]] for line in lines[1:]], expected)
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(record["file"], record["id"]) for record in records[:20]] == [(names[n // 10], n) for n in range(20)]
    assert invoke(model_dir, tmp_path / "c.csv", "--keep", "x").stderr.endswith("check the name of the column\n")
    (folder / "a.parquet").unlink(), (folder / "b.jsonl").unlink()
    assert "no file of texts in this folder (.txt, .tsv" in invoke(model_dir, folder).stderr


def test_parquet_out(model_dir, tmp_path, expected):
    rows = [
        dict(id=number, weight=number / 2, mixed=text if number else number, text=text)
        for number, text in enumerate(TEXTS)
    ]
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"id": null, "weight": 1, "mixed": 1, "text": ""}\n'
    )
    out = tmp_path / "out.parquet"
    words = [word for name in ("id", "weight", "mixed") for word in ("--keep", name)]
    result = invoke(
        model_dir, tmp_path / "t.jsonl", "--speed", 0.5, "--out", out, "--probabilities", "--on-empty", "mark", *words
    )
    assert result.exit_code == 0, result.output
    table = parquet.read_table(out)
    assert [str(table.schema.field(name).type) for name in ("id", "weight", "mixed")] == ["int64", "double", "string"]
    columns = table.to_pydict()
    assert columns["id"] == [*range(30), None] and columns["mixed"][:2] == ["0", TEXTS[1]]
    assert columns["label"] == [*expected.label_names, None]
    assert columns["exit_layer"] == [*expected.exit_layer.tolist(), None]
    for index, name in enumerate(expected.id2label.values()):
        assert columns[f"probability of {name}"][:30] == pytest.approx(
            expected.probabilities[:, index].tolist(), abs=1e-5
        )


def test_all_bad_lines_in_one_report(model_dir, tmp_path):
    (tmp_path / "a.tsv").write_text("id\ttext\n1\tgood\n2\n3\t\n4\tbad\n")
    (tmp_path / "b.jsonl").write_text('{"text": "good"}\n{"text": 5}\n{\n{"txt": ""}\n' + "[]\n" * 30)
    result = invoke(model_dir, tmp_path / "a.tsv")
    first, *lines = result.stderr.splitlines()
    assert first == (
        "fastbert predict: 2 rows cannot be used; mark empty texts in the output with --on-empty mark, or leave them "
        "out with --on-empty skip:"
    )
    assert [line.partition("a.tsv, ")[2][:7] for line in lines] == ["line 3:", "line 4:"]
    result = invoke(model_dir, tmp_path / "b.jsonl")
    lines = result.stderr.splitlines()
    assert lines[0] == "fastbert predict: 33 rows cannot be used:" and lines[-1] == "  and 13 more" and len(lines) == 22
    assert "line 2: text is 5" in lines[1] and "line 3: not JSON" in lines[2] and "line 4: no column text" in lines[3]
    assert result.exit_code == 2 and result.stdout == ""
    (tmp_path / "c.txt").write_bytes(b"good\n" * 1500 + b"\n" + b"bad\n" * 10 + b"caf\xe9\n")
    result = invoke(model_dir, tmp_path / "a.tsv", tmp_path / "c.txt")
    assert "fastbert predict: 4 rows cannot be used" in result.stderr and "c.txt, line 1512: not UTF-8" in result.stderr
