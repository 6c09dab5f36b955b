"""Results on disk: the old file or the new one, never half of one."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from fastbert_hf import files
from fastbert_hf.files import (
    OutputInUseError,
    file_written_atomically,
    files_replaced,
    folder_written_atomically,
    write_atomically,
)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, "old")
    write_atomically(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    monkeypatch.setattr(files.os, "replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
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


@pytest.fixture(params=["exchange", "renames"])
def either_way(request, monkeypatch):
    """With the system's exchange of names, and on a system that has none."""
    if request.param == "renames":
        monkeypatch.setattr(files.ctypes, "CDLL", lambda *args, **options: object())


def test_an_old_folder_is_there_until_the_new_one_is(tmp_path, either_way, monkeypatch):
    path = tmp_path / "model"
    with folder_written_atomically(path) as folder:
        (folder / "weights").write_text("old")
    monkeypatch.setattr(files.shutil, "rmtree", lambda *args, **options: None)  # killed before anything is removed
    with folder_written_atomically(path) as folder:
        (folder / "weights").write_text("new")
        assert (path / "weights").read_text() == "old"
    assert (path / "weights").read_text() == "new"
    (left,) = (entry for entry in tmp_path.iterdir() if entry != path)
    assert (left / "weights").read_text() == "old"
    monkeypatch.undo()
    with folder_written_atomically(path):
        assert not left.exists()  # the next run cleans up


def test_a_folder_that_cannot_be_exchanged_stays(tmp_path, either_way, monkeypatch):
    path = tmp_path / "model"
    with folder_written_atomically(path) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(OSError), folder_written_atomically(path) as folder:
        folder.rmdir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert (path / "weights").read_text() == "old"


def test_links_in_the_way_are_not_followed(tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    folder.mkdir()
    for name in (".x.tsv.partial", ".x.json.partial", ".x.tsv.lock"):
        (folder / name).symlink_to(victim)
    with pytest.raises(OSError), file_written_atomically(folder / "x.tsv"):
        pass  # the lock is a link
    (folder / ".x.tsv.lock").unlink()
    with file_written_atomically(folder / "x.tsv") as file:
        file.write("rows")
    write_atomically(folder / "x.json", "{}")
    assert victim.read_text() == "precious" and (folder / "x.tsv").read_text() == "rows"


def test_temporary_names_cannot_be_foreseen(tmp_path):
    names = set()
    for _ in range(3):
        with file_written_atomically(tmp_path / "x"):
            names |= {entry.name for entry in tmp_path.iterdir() if entry.name.endswith(".partial")}
    assert len(names) == 3


@pytest.mark.parametrize("written", [file_written_atomically, folder_written_atomically, files_replaced])
def test_two_runs_do_not_write_one_output(tmp_path, written):
    path = tmp_path / "out"
    if written is files_replaced:
        path.mkdir()
    with written(path):
        with pytest.raises(OutputInUseError, match="another run is writing"), written(path):
            pass
        with written(tmp_path / "other") if written is not files_replaced else nullcontext():
            pass
    with written(path):
        pass
    assert not list(tmp_path.rglob(".*"))


def test_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("")
    write_atomically(tmp_path / "mine", "")
    with file_written_atomically(tmp_path / "rows"):
        pass
    assert len({entry.stat().st_mode for entry in tmp_path.iterdir()}) == 1
