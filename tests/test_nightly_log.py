"""A second log under the vocabularies of a first: the same ids, new values behind the old ones, and runs repeated."""

import json
import os
import shutil

import numpy as np
import pytest
from click_logs import checksums, failed, manifest, preprocess, read_records, write_schema

from preprocessing.schema import SPLITS, load_data_folder_schema

HEADER = "time,click,user,price,item\n"
SCHEMA = {
    "group": "user",
    "split": {"by": "time", "column": "time", "valid_from": 60, "test_from": 80},
    "fields": [
        {"name": "user", "kind": "categorical"},
        {"name": "price", "kind": "numeric", "buckets": 4},
        {"name": "item", "kind": "categorical", "min_count": 2},
        {"name": "last", "column": "user", "kind": "categorical", "hash_buckets": 7},
        {"name": "image", "column": "item", "kind": "vector", "size": 2,
         "table": {"file": "images.npz", "key": "item", "values": "image"}},
    ],
}


def row(time: int, user: str, item: str, click: str = "1") -> str:
    return f"{time},{click},{user},{time % 10},{item}\n"


def write(path, rows) -> str:
    path.write_text(HEADER + "".join(rows))
    return str(path)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("nightly")


@pytest.fixture(scope="module")
def schema_file(work):
    return write_schema(work / "schema.yaml", **SCHEMA)


def write_images(work, images: dict[str, list[float]]) -> None:
    np.savez(work / "images.npz", item=list(images), image=np.array(list(images.values()), np.float32))


@pytest.fixture(scope="module")
def first(work, schema_file):
    """Users u0 (half of the rows), u1, u2; items i0 to i3 equally often in the training rows."""
    rows = [row(time, f"u{(time % 4) // 2 * (time % 3)}", f"i{time % 4}", str(time % 2)) for time in range(100)]
    output = work / "first"
    write_images(work, {"i0": [0, 1], "i3": [3, 1]})
    assert preprocess("--input", write(work / "first.csv", rows), "--schema", schema_file, "--output", output) == 0
    return output


@pytest.fixture(scope="module")
def night(work):
    """One training row of a new item n1, two of n2, three of n3 by a new user; a validation and a test row."""
    items = ["i3", "n1", "n2", "n3", "n2", "n3", "n3", "i0"]
    rows = [row(time, "u9" if item == "n3" else "u1", item) for time, item in enumerate(items)]
    return write(work / "night.csv", [*rows, row(70, "u1", "n3"), row(90, "u1", "n1")])


@pytest.fixture(scope="module")
def applied(work, first, night):
    assert preprocess("--input", night, "--transform_from", first, "--output", work / "applied") == 0
    return work / "applied"


@pytest.fixture(scope="module")
def grown(work, first, night):
    assert preprocess("--input", night, "--transform_from", first, "--grow_vocabulary", "--output", work / "grown") == 0
    return work / "grown"


def lines(data_dir, name: str) -> list[str]:
    return (data_dir / "vocabularies" / f"{name}.txt").read_text().splitlines()


def ids(data_dir, split: str, field: int) -> list[int]:
    return read_records(data_dir, split)["ids"][:, field].tolist()


def test_a_new_log_keeps_vocabularies_and_buckets(first, applied):
    for name in ("schema.yaml", "buckets.json", "vocabularies/user.txt", "vocabularies/item.txt"):
        assert (applied / name).read_bytes() == (first / name).read_bytes()
    place = {value: number + 2 for number, value in enumerate(lines(first, "item"))}
    assert ids(applied, "train", 2) == [place["i3"], 1, 1, 1, 1, 1, 1, place["i0"]]
    assert ids(applied, "test", 2) == [1]
    statistics = json.loads((applied / "statistics.json").read_text())
    assert statistics["fields"]["item"]["unknown_share"] == 6 / 8
    assert statistics["fields"]["item"]["distinct"] == 4  # of what the vocabulary was learnt from


def test_new_frequent_values_stand_behind_the_old_ones(first, grown):
    old = lines(first, "item")
    assert lines(grown, "item") == [*old, "n3", "n2"]  # n1 is seen once, min_count is 2
    assert lines(grown, "user") == [*lines(first, "user"), "u9"]
    place = {value: number + 2 for number, value in enumerate([*old, "n3", "n2"])} | {"n1": 1}
    assert ids(grown, "train", 2) == [place[item] for item in ["i3", "n1", "n2", "n3", "n2", "n3", "n3", "i0"]]
    assert ids(grown, "valid", 2) == [place["n3"]]
    assert (grown / "buckets.json").read_bytes() == (first / "buckets.json").read_bytes()


def test_a_grown_schema_has_more_rows_and_moved_offsets(first, grown):
    before, now = load_data_folder_schema(first), load_data_folder_schema(grown)
    assert [field.rows for field in now.fields] == [before.fields[0].rows + 1, before.fields[1].rows, before.fields[2].rows + 2, 9, 3]
    assert now.fields[1].offset == before.fields[1].offset + 1


def test_frequencies_are_those_of_the_new_training_rows(grown):
    schema, frequencies = load_data_folder_schema(grown), np.load(grown / "frequencies.npy")
    item = schema.fields[2]
    counts = dict(zip(["missing", "unknown", *lines(grown, "item")], frequencies[item.offset:item.offset + item.rows], strict=True))
    assert {value: count for value, count in counts.items() if count} == {"unknown": 1, "i0": 1, "i3": 1, "n2": 2, "n3": 3}


def test_growing_again_by_the_same_log_changes_nothing(work, grown, night):
    again = work / "again"
    assert preprocess("--input", night, "--transform_from", grown, "--grow_vocabulary", "--output", again) == 0
    assert lines(again, "item") == lines(grown, "item")
    assert [entry["sha256"] for split in SPLITS for entry in manifest(again)["splits"][split]["files"]] == [
        entry["sha256"] for split in SPLITS for entry in manifest(grown)["splits"][split]["files"]]


def test_a_grown_side_table_keeps_rows_and_takes_newer_vectors(work, first, night, schema_file):
    newer, output = work / "newer", work / "images"  # beside the table that `first` was made from
    newer.mkdir()
    shutil.copy(schema_file, newer)
    write_images(newer, {"n3": [9, 3], "i3": [3, 2]})
    arguments = ("--input", night, "--transform_from", first, "--schema", newer / schema_file.name, "--grow_vocabulary")
    assert preprocess(*arguments, "--output", output) == 0
    assert (output / "vectors" / "image.txt").read_text().split() == ["i0", "i3", "n3"]
    assert np.load(output / "vectors" / "image.npy").tolist() == [[0, 0], [0, 1], [3, 2], [9, 3]]


def test_side_tables_that_cannot_be_found_stay(work, first, night, capsys):
    arguments = ("--input", night, "--transform_from", first, "--grow_vocabulary", "--output", work / "tables_stay")
    assert preprocess(*arguments) == 0
    assert "side tables stay as they are" in capsys.readouterr().out
    assert (work / "tables_stay" / "vectors" / "image.npy").read_bytes() == (first / "vectors" / "image.npy").read_bytes()


def test_a_log_without_labels_can_be_written(work, first):
    log = work / "unlabelled.csv"
    log.write_text("time,user,price,item\n1,u1,3,i2\n2,u1,,i3\n")
    assert preprocess("--input", log, "--transform_from", first, "--output", work / "unlabelled") == 0
    assert read_records(work / "unlabelled", "train")["label"].tolist() == [[-1], [-1]]
    counts = manifest(work / "unlabelled")["splits"]["train"]
    assert (counts["rows"], counts["positives"], counts["unlabelled"]) == (2, 0, 2)


def test_another_split_may_be_given(work, first, night):
    other = write_schema(work / "other.yaml", **SCHEMA | {"split": {"by": "time", "column": "time", "valid_from": 2, "test_from": 4}})
    output = work / "other_split"
    assert preprocess("--input", night, "--transform_from", first, "--schema", other, "--output", output) == 0
    assert [manifest(output)["splits"][split]["rows"] for split in SPLITS] == [2, 2, 6]


def test_a_day_behind_the_limits_of_the_split(work, first, capsys):
    """The folder's split by time puts a later day into the test split as a whole."""
    log = write(work / "late.csv", [row(time, "u7", "n9") for time in range(100, 120)])
    message = failed(capsys, "--input", log, "--transform_from", first, "--grow_vocabulary", "--output", work / "late")
    assert "no row of the log is in the training split" in message and "give --split, such as '{by: hash" in message
    assert preprocess("--input", log, "--transform_from", first, "--output", work / "late") == 0
    assert "note: no rows in train, valid" in capsys.readouterr().out
    split = "{by: hash, key: [time], valid: 0.2, test: 0.2}"
    assert preprocess("--input", log, "--transform_from", first, "--grow_vocabulary", "--split", split, "--output", work / "split") == 0
    assert all(manifest(work / "split")["splits"][name]["rows"] for name in SPLITS)
    assert lines(work / "split", "item")[-1] == "n9"


def test_a_damaged_folder_is_not_applied(work, first, night, capsys):
    damaged = work / "damaged"
    shutil.copytree(first, damaged)
    (damaged / "vocabularies" / "user.txt").write_text("u9999\n")
    arguments = ("--input", night, "--transform_from", damaged, "--output", work / "refused")
    assert "vocabularies/user.txt is not as it was written" in failed(capsys, *arguments)
    (damaged / "vocabularies" / "user.txt").unlink()
    assert "vocabularies/user.txt is in manifest.json but not on disk" in failed(capsys, *arguments)
    compare = ("--input", night, "--compare", damaged)
    assert "vocabularies/user.txt is in manifest.json" in failed(capsys, *compare)
    (damaged / "manifest.json").write_text('{"splits":')
    for command in (arguments, compare):
        assert f"{damaged}/manifest.json is damaged" in failed(capsys, *command)


def test_other_fields_are_refused(work, first, night, capsys):
    fields = [*SCHEMA["fields"][:2], SCHEMA["fields"][2] | {"min_count": 3}, *SCHEMA["fields"][3:]]
    other = write_schema(work / "fields.yaml", **SCHEMA | {"fields": fields})
    message = failed(capsys, "--input", night, "--transform_from", first, "--schema", other, "--output", work / "refused")
    assert "has other fields than schema 'shop': 'item' is" in message and "'min_count': 3" in message
    turned = write_schema(work / "turned.yaml", **SCHEMA | {"fields": SCHEMA["fields"][::-1]})
    message = failed(capsys, "--input", night, "--transform_from", first, "--schema", turned, "--output", work / "refused")
    assert "their order is ['user', 'price', 'item', 'last', 'image', 'missing'] there" in message


def test_flags_that_need_one_another(work, first, night, schema_file, capsys):
    assert "one of --schema, --dataset and --transform_from is needed" in failed(capsys, "--input", night, "--output", work / "no")
    assert "--grow_vocabulary needs --transform_from DIR" in failed(
        capsys, "--input", night, "--schema", schema_file, "--grow_vocabulary", "--output", work / "no")
    assert "--split needs --transform_from DIR" in failed(
        capsys, "--input", night, "--schema", schema_file, "--split", "{by: files}", "--output", work / "no")
    message = failed(capsys, "--input", night, "--transform_from", first, "--split", "{by: coin}", "--output", work / "no")
    assert "with --split: split" in message and "'coin'" in message
    assert "is not YAML" in failed(capsys, "--input", night, "--transform_from", first, "--split", "{by", "--output", work / "no")
    assert "has no manifest.json" in failed(capsys, "--input", night, "--transform_from", work, "--output", work / "no")


def test_a_repeated_run_says_so_and_does_nothing(work, first, schema_file, capsys):
    before, made = checksums(first), (first / "manifest.json").stat().st_mtime_ns
    capsys.readouterr()
    assert preprocess("--input", work / "first.csv", "--schema", schema_file, "--output", first) == 0
    assert "was made from the same files, schema and flags: nothing to do" in " ".join(capsys.readouterr().out.split())
    assert checksums(first) == before and (first / "manifest.json").stat().st_mtime_ns == made


def test_a_changed_file_is_not_taken_for_the_same(work, first, schema_file, capsys):
    stat = (work / "first.csv").stat()
    os.utime(work / "first.csv", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    message = failed(capsys, "--input", work / "first.csv", "--schema", schema_file, "--output", first)
    os.utime(work / "first.csv", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "is a finished data folder, made from other files" in message


def test_the_manifest_has_a_checksum_of_every_file_that_decides_ids(first):
    named = {path: checksum for path, checksum in checksums(first).items() if path.split("/")[0] not in (*SPLITS, "metadata", "transformed_metadata")}
    assert manifest(first)["checksums"] == named
