"""Output folders: what may be replaced, by which names they are known, and what is left beside them."""

import json

import pytest

from preprocessing.errors import UserError
from preprocessing.folder import DATA, is_finished, new_data_folder, prepare_output

OURS = {"splits": {}, "made_from": "abc"}
SCORES = {"kind": "scores", "signature": "predict", "keys": ["row"]}


def write_folder(folder, manifest: bytes):
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "photo.jpg").write_text("precious")
    return folder


def publish(output, content: str, overwrite: bool = False) -> None:
    with new_data_folder(output, overwrite) as folder:
        (folder / "content").write_text(content)
        (folder / "manifest.json").write_text(json.dumps(OURS))


@pytest.mark.parametrize("manifest", [
    b"[]", b"{}", b'"splits made_from"', b'{"name": "app", "icons": []}', b'{"splits": {}}', b"{broken", b"", b"\xff\xfe\xfd", b"null",
])
def test_a_folder_with_another_programs_manifest_is_left_alone(tmp_path, manifest):
    folder = write_folder(tmp_path / "app", manifest)
    assert not is_finished(folder, "abc")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"app exists and is not a data folder \(its manifest\.json is absent, or not this command's"):
            prepare_output(folder, overwrite)
    assert (folder / "photo.jpg").read_text() == "precious"


def test_a_file_is_left_alone(tmp_path):
    (tmp_path / "data").write_text("precious")
    assert not is_finished(tmp_path / "data", "abc")
    with pytest.raises(UserError, match="is not a data folder"):
        prepare_output(tmp_path / "data", overwrite=True)


def test_a_data_folder_is_replaced_only_when_told(tmp_path):
    folder = write_folder(tmp_path / "data", json.dumps(OURS).encode())
    assert is_finished(folder, "abc") and not is_finished(folder, "abd")
    prepare_output(folder, overwrite=True)
    with pytest.raises(UserError, match="is a finished data folder, made from other files"):
        prepare_output(folder, overwrite=False)


def test_scores_are_replaced_by_scores_only(tmp_path):
    folder = write_folder(tmp_path / "scores", json.dumps(SCORES).encode())
    prepare_output(folder, overwrite=True)
    with pytest.raises(UserError, match="is not a data folder"):
        prepare_output(folder, overwrite=True, kinds=(DATA,))


def test_a_symbolic_link_stays_and_its_folder_is_written(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    link = tmp_path / "data"
    link.symlink_to(disk / "big")  # not there yet
    publish(link, "first")
    with pytest.raises(UserError, match="is a finished data folder"):
        publish(link, "second")
    publish(link, "third", overwrite=True)
    assert link.is_symlink() and (disk / "big" / "content").read_text() == "third"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["big", "content", "data", "disk", "manifest.json"]


def test_a_symbolic_link_to_an_empty_folder(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "data").symlink_to("big")
    publish(tmp_path / "data", "first")
    assert (tmp_path / "data").is_symlink() and (tmp_path / "big" / "content").read_text() == "first"


def test_what_a_killed_replacement_set_aside_comes_back_behind_a_link(tmp_path):
    (tmp_path / "data").symlink_to("big")
    write_folder(tmp_path / ".big.replaced-x", json.dumps(OURS).encode())
    (tmp_path / ".big.partial-x").mkdir()
    prepare_output(tmp_path / "data", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "data"]
    assert (tmp_path / "data" / "photo.jpg").read_text() == "precious"


def test_two_names_of_a_folder_are_one_output(tmp_path):
    (tmp_path / "data").symlink_to("big")
    with new_data_folder(tmp_path / "big", overwrite=False), pytest.raises(UserError, match="is being written by another run"):
        prepare_output(tmp_path / "data", overwrite=False)
