"""Publishing: whole or not at all, no number twice, whoever else publishes and whenever a process is killed."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from published_versions import published, write

from preprocessing.errors import UserError
from serving.versions import publishing
from serving.versions.checksums import CHECKSUM_FILE, damage
from serving.versions.folders import MAX_VERSION, exported_versions, find_versions
from serving.versions.labels import read_register, remove_pin, set_label, set_pin
from serving.versions.publishing import keep_highest, publish, remove, roll_back, staged_version

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 120


def contents(base_path: Path) -> dict[int, str]:
    return {version: (folder / "saved_model.pb").read_text() for version, folder in exported_versions(base_path).items()}


@pytest.fixture
def three(tmp_path):
    for content in ("one", "two", "three"):
        published(tmp_path, content)
    return tmp_path


# Publishing.


def test_what_is_written_is_seen_only_when_it_is_whole(tmp_path):
    with staged_version(tmp_path / "base") as version:
        write(version)
        assert find_versions(tmp_path / "base") == {}
        folder = publish(version, tmp_path / "base")
    assert find_versions(tmp_path / "base") == {1: folder}
    assert damage(folder) is None
    assert sorted(path.name for path in folder.parent.iterdir()) == [".lock", "1", "versions.json"]


def test_what_fails_is_not_published(tmp_path):
    with pytest.raises(ZeroDivisionError), staged_version(tmp_path) as version:
        write(version)
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert published(tmp_path) == 1


def test_the_next_number_is_above_all_names_that_are_numbers(tmp_path):
    (tmp_path / "0007").mkdir()
    (tmp_path / "8").write_text("a file")
    (tmp_path / "11").symlink_to(tmp_path / "gone")
    (tmp_path / "12x").mkdir()
    assert published(tmp_path) == 12


def test_a_number_is_not_used_again_after_its_folder_is_gone(three):
    remove(three, [2])
    roll_back(three)
    for folder in find_versions(three).values():
        subprocess.run(["rm", "-r", folder], check=True)
    assert published(three) == 5


def test_a_base_path_that_is_full_of_numbers_is_refused(tmp_path):
    (tmp_path / str(MAX_VERSION)).mkdir()
    with pytest.raises(UserError, match=f"has a version {MAX_VERSION}, the highest number there is, .*publish to a new base path"):
        published(tmp_path)


def test_a_base_path_that_is_none_is_refused(three):
    with pytest.raises(UserError, match="versions.json is a file: give the folder"):
        published(three / "versions.json")
    with pytest.raises(UserError, match=r"3 is a version itself \(it has a saved_model.pb\): give its parent folder"):
        published(three / "3")


def test_everything_is_on_the_disk_before_the_rename_and_the_rename_after_it(tmp_path, monkeypatch):
    events = []
    flush, rename = publishing.flush, Path.rename
    monkeypatch.setattr(publishing, "flush", lambda path: (events.append(Path(path)), flush(path)))
    monkeypatch.setattr(Path, "rename", lambda path, target: (events.append("rename"), rename(path, target))[1])
    with staged_version(tmp_path) as version:
        write(version)
        publish(version, tmp_path)
    before = set(events[: events.index("rename")])
    assert before == {version, *(version / name for name in (
        "saved_model.pb", "variables", "variables/values", "assets.extra", str(CHECKSUM_FILE)))}  # fmt: skip
    assert events[events.index("rename") + 1 :] == [tmp_path]


def test_a_version_is_published_with_a_label(three):
    assert published(three, label="canary") == 4
    assert read_register(three).labels == {"canary": 4}


@pytest.mark.parametrize(("label", "message"), [("canary", "cannot name a new version while version 2 is pinned"),
                                                ("9 lives", "label '9 lives' is not a name")])  # fmt: skip
def test_a_label_that_cannot_be_given_keeps_the_version_back(three, label, message):
    set_pin(three, 2)
    with pytest.raises(UserError, match=message):
        published(three, label=label)
    assert list(find_versions(three)) == [1, 2, 3]


# Others at the same time, and kills.


def test_leftovers_go_and_what_is_alive_or_foreign_stays(tmp_path):
    base_path, elsewhere = tmp_path / "base", tmp_path / "elsewhere"
    write(elsewhere)
    for name in (".export-dead/version", ".removed-dead", "mine"):
        write(base_path / name)
    (base_path / ".export-file").write_text("")
    for name in (".export-link", ".removed-link"):
        (base_path / name).symlink_to(elsewhere)
    with staged_version(base_path) as first:
        write(first)
        assert published(base_path) == 1
        assert first.is_dir(), "a publisher that is still at work must be left alone"
        assert publish(first, base_path).name == "2"
    assert sorted(path.name for path in base_path.iterdir()) == [
        ".export-file", ".export-link", ".lock", ".removed-link", "1", "2", "mine", "versions.json"]  # fmt: skip
    assert (elsewhere / "saved_model.pb").is_file()


def test_what_another_user_left_is_not_in_the_way(tmp_path, monkeypatch):
    write(tmp_path / ".export-theirs" / "version")
    (tmp_path / ".export-theirs" / "lock").write_text("")
    locked_file = publishing.locked_file

    def refuse_theirs(path, *rest):
        if path.parent.name == ".export-theirs":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return locked_file(path, *rest)

    monkeypatch.setattr(publishing, "locked_file", refuse_theirs)
    assert published(tmp_path) == 1
    assert (tmp_path / ".export-theirs").is_dir()


PUBLISHER = """
import sys
sys.path.insert(0, {tests!r})
from published_versions import published
from pathlib import Path
print(*(published(Path({base!r})) for _ in range({count})))
"""


def test_publishers_at_the_same_time_get_numbers_of_their_own(tmp_path):
    program = PUBLISHER.format(tests=str(REPOSITORY / "tests"), base=str(tmp_path), count=10)
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    numbers = [list(map(int, process.communicate(timeout=SECONDS)[0].split())) for process in processes]
    assert sorted(number for own in numbers for number in own) == list(range(1, 31))
    assert all(own == sorted(own) for own in numbers)
    assert all(damage(folder) is None for folder in find_versions(tmp_path).values())


KILLED = """
import os, shutil, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from serving.versions import publishing
from published_versions import published, write
base = Path({base!r})

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def kill_at_call(owner, name, number):
    original, calls = getattr(owner, name), []
    def counted(*arguments, **keywords):
        calls.append(name)
        return kill() if len(calls) == number else original(*arguments, **keywords)
    setattr(owner, name, counted)

{what}
"""
PUBLISH = "published(base, 'three', label='canary')"
# What is killed where, the versions that are left, and the next number.
MOMENTS = {
    "while the model is written": (f"publishing.publish = kill\nwith publishing.staged_version(base) as v:\n    write(v)\n    {PUBLISH}; kill()",
                                   {1: "one", 2: "two", 3: "three"}, 4),
    "staging folder just made": ("publishing.locked_file = kill\n" + PUBLISH, {1: "one", 2: "two"}, 3),
    "while it is synced": ("publishing.flush = kill\n" + PUBLISH, {1: "one", 2: "two"}, 3),
    "while the number is noted": ("from preprocessing import files\nfiles.os.replace = kill\n" + PUBLISH, {1: "one", 2: "two"}, 3),
    "numbered, not renamed": ("Path.rename = kill\n" + PUBLISH, {1: "one", 2: "two"}, 4),
    "renamed, not labelled": ("kill_at_call(publishing, 'write_register', 2)\n" + PUBLISH, {1: "one", 2: "two", 3: "three"}, 4),
    "half linked back": ("kill_at_call(os, 'link', 2)\npublishing.roll_back(base)", {1: "one", 2: "two"}, 3),
    "noted, not hidden": ("Path.rename = kill\npublishing.remove(base, [1])", {1: "one", 2: "two"}, 3),
    "half removed": ("kill_at_call(os, 'unlink', 2)\npublishing.remove(base, [1])", {2: "two"}, 3),
}  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_nothing_half_and_nothing_in_the_way(tmp_path, moment):
    what, left, next_number = MOMENTS[moment]
    published(tmp_path, "one")
    published(tmp_path, "two")
    program = KILLED.format(tests=str(REPOSITORY / "tests"), base=str(tmp_path), what=what)
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert contents(tmp_path) == left
    assert all(damage(folder) is None for folder in find_versions(tmp_path).values())
    assert set(read_register(tmp_path).labels.values()) <= set(left)

    assert published(tmp_path, "next") == next_number
    assert contents(tmp_path) == {**left, next_number: "next"}
    numbers = [str(number) for number in (*left, next_number)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", *numbers, "versions.json"]


# Rolling back.


def test_a_roll_back_publishes_the_version_before_as_the_highest(three):
    done = roll_back(three)
    assert (done.version, done.source, done.replaced, done.moved_labels) == (4, 2, 3, ())
    assert contents(three) == {1: "one", 2: "two", 3: "three", 4: "two"}
    assert (three / "4" / "saved_model.pb").samefile(three / "2" / "saved_model.pb"), "linked, not copied"
    remove(three, [2])
    assert damage(three / "4") is None
    assert read_register(three).copies == {4: 2}


def test_a_further_roll_back_goes_further_back_and_a_new_version_begins_anew(three):
    assert [roll_back(three).source for _ in range(2)] == [2, 1]
    assert contents(three) == {1: "one", 2: "two", 3: "three", 4: "two", 5: "one"}
    with pytest.raises(UserError, match="has no version before 1 to roll back to: name one of 1, 2, 3, 4 by --to"):
        roll_back(three)
    assert published(three, "six") == 6
    assert roll_back(three).source == 1  # 5, which answered before 6
    assert roll_back(three, to=6).version == 8
    assert contents(three)[8] == "six"


def test_labels_of_the_replaced_version_move_and_others_stay(three):
    set_label(three, "canary", 3)
    set_label(three, "stable", 2)
    assert roll_back(three).moved_labels == ("canary",)
    assert read_register(three).labels == {"canary": 4, "stable": 2}


def test_a_foreign_highest_folder_is_rolled_back_too(three):
    (three / "2026").mkdir()
    assert roll_back(three).version == 2027
    assert contents(three)[2027] == "three"


@pytest.mark.parametrize(("error", "copied"), [(errno.EXDEV, True), (errno.EPERM, True), (errno.ENOSPC, False)])
def test_files_that_cannot_be_linked_are_copied(three, monkeypatch, error, copied):
    def refuse(source, target):
        raise OSError(error, os.strerror(error), source)

    monkeypatch.setattr(os, "link", refuse)
    if copied:
        roll_back(three)
        assert contents(three)[4] == "two"
        assert not (three / "4" / "saved_model.pb").samefile(three / "2" / "saved_model.pb")
    else:
        with pytest.raises(UserError, match="version 2 could not be copied .*No space left on device.*so nothing was rolled back"):
            roll_back(three)
        assert list(find_versions(three)) == [1, 2, 3]


@pytest.mark.parametrize(("harm", "message"), [
    (lambda file: file.write_text("TWO"), "saved_model.pb does not have the checksum it was published with"),
    (lambda file: file.write_text("tw"), "saved_model.pb has 2 bytes and was published with 3"),
    (lambda file: (file.parent / "variables" / "values").unlink(), "variables/values is absent"),
    (lambda file: (file.parent / CHECKSUM_FILE).write_text("[]"), "checksums.json is not readable"),
])  # fmt: skip
def test_a_damaged_version_is_not_gone_back_to(three, harm, message):
    harm(three / "2" / "saved_model.pb")
    with pytest.raises(UserError, match=f"2 is damaged: {message}|2 is damaged: assets.extra/{message}"):
        roll_back(three)
    assert roll_back(three, to=1).version == 4


def test_impossible_roll_backs_are_refused(three):
    with pytest.raises(UserError, match="version 3 is the highest already, .*: name one of 1, 2 by --to"):
        roll_back(three, to=3)
    with pytest.raises(UserError, match="has no version 9 with a SavedModel: the versions are 1, 2, 3"):
        roll_back(three, to=9)
    set_pin(three, 2)
    with pytest.raises(UserError, match="version 2 is pinned, so servers would not follow a roll-back: `pin` the version to go back to"):
        roll_back(three)
    remove_pin(three)
    assert roll_back(three).version == 4


def test_the_only_version_has_none_to_go_back_to(tmp_path):
    published(tmp_path, "one")
    with pytest.raises(UserError, match="has no version before 1 to roll back to: it is the only version, so export another model"):
        roll_back(tmp_path)


def test_a_version_published_meanwhile_is_not_rolled_back_unseen(three, monkeypatch):
    sync = publishing._sync_to_disk
    monkeypatch.setattr(publishing, "_sync_to_disk", lambda folder: (monkeypatch.undo(), sync(folder), published(three, "four")))
    with pytest.raises(UserError, match="version 4 was published while version 2 was being copied, so nothing was rolled back"):
        roll_back(three)
    assert contents(three) == {1: "one", 2: "two", 3: "three", 4: "four"}


# Removing.


def test_the_highest_are_kept_and_those_that_are_named(three):
    for content in ("four", "five"):
        published(three, content)
    set_label(three, "stable", 1)
    assert keep_highest(three, 2) == [2, 3]
    assert keep_highest(three, 2) == []
    set_pin(three, 1)
    assert keep_highest(three, 1) == [4]
    assert sorted(path.name for path in three.iterdir()) == [".lock", "1", "5", "versions.json"]


def test_what_was_not_exported_is_neither_counted_nor_removed(three):
    (three / "20261122").mkdir()
    (three / "20261122" / "notes.txt").write_text("somebody's")
    assert keep_highest(three, 1) == [1, 2]
    with pytest.raises(UserError, match="has no version 20261122 with a SavedModel: the versions are 3; a numeric folder without one"):
        remove(three, [20261122])
    assert (three / "20261122" / "notes.txt").is_file()


def test_of_a_link_the_link_alone_is_removed(three, tmp_path_factory):
    target = tmp_path_factory.mktemp("elsewhere") / "model"
    write(target)
    (three / "2").rename(three / "mine")
    (three / "2").symlink_to(target)
    remove(three, [2])
    assert list(find_versions(three)) == [1, 3] and not (three / "2").is_symlink()
    assert (target / "saved_model.pb").is_file() and (three / "mine").is_dir()


@pytest.mark.parametrize(("prepare", "message"), [
    (lambda base: None, "version 3 stays, because it answers requests: publish another version or roll back first"),
    (lambda base: set_label(base, "canary", 3), "version 3 stays, because of label canary: move or remove that first"),
    (lambda base: (set_pin(base, 3), set_label(base, "a", 3)), "version 3 stays, because of label a and the pin: move or remove that first"),
])  # fmt: skip
def test_a_version_in_use_is_not_removed_nor_any_other_of_the_call(three, prepare, message):
    prepare(three)
    with pytest.raises(UserError, match=message):
        remove(three, [1, 3])
    assert list(find_versions(three)) == [1, 2, 3]


def test_none_cannot_be_kept(three):
    with pytest.raises(UserError, match="cannot keep 0 versions: expected at least 1"):
        keep_highest(three, 0)
