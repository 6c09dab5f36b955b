"""Results on disk: the old file or the new one, never half of one."""

from __future__ import annotations

import pytest

from fastbert_hf.files import file_written_atomically, folder_written_atomically, write_atomically


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, "old")
    write_atomically(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda self, data: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "größer"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_a_file_written_bit_by_bit_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "predictions.tsv"
    with file_written_atomically(path) as file:
        file.write("größer\n")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), file_written_atomically(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_bytes() == "größer\n".encode()
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.tsv"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    with folder_written_atomically(path) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(KeyboardInterrupt), folder_written_atomically(path) as folder:
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt
    assert (path / "weights").read_text() == "old"
    with folder_written_atomically(path) as folder:
        (folder / "other").write_text("new")
    assert [entry.name for entry in path.iterdir()] == ["other"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
