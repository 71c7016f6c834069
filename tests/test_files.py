"""Files that are whole or not there have the mode that any new file has, and nobody's umask is touched for that."""

import os

import pytest

from preprocessing.files import replaced_file
from preprocessing.folder import new_data_folder


@pytest.fixture
def umask(monkeypatch):
    """A umask of 027, which nobody may set to another, not even for a moment."""
    before = os.umask(0o027)
    with monkeypatch.context() as patched:
        patched.delattr(os, "umask")
        yield
    os.umask(before)


def test_modes_are_those_of_any_new_file(tmp_path, umask):
    with replaced_file(tmp_path / "file") as path:
        path.write_text("content")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    with new_data_folder(tmp_path / "data", overwrite=False) as folder:
        (folder / "file").write_text("content")
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o750


def test_a_file_keeps_its_content_when_its_replacement_breaks(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(ZeroDivisionError), replaced_file(tmp_path / "file") as path:
        path.write_text("new")
        1 / 0  # noqa: B018
    assert (tmp_path / "file").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_writers_of_one_file_do_not_meet(tmp_path):
    with replaced_file(tmp_path / "file") as one, replaced_file(tmp_path / "file") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file").read_text() == "one"  # renamed last
