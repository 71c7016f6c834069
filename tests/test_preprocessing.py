"""The whole command: a log in, a data folder out, the same whatever the order of files and the number of workers."""

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from click_logs import (
    HEADER,
    ROWS,
    checksums,
    failed,
    make_rows,
    manifest,
    preprocess,
    read_records,
    write_log,
    write_schema,
)

from preprocessing.schema import SPLITS, load_data_folder_schema
from preprocessing.transform import raw_feature_spec

ROOT = Path(__file__).resolve().parent.parent
FRAPPE = ROOT.parent / "shared" / "data" / "frappe"
@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("preprocessing")


@pytest.fixture(scope="module")
def data_dir(work):
    """The data folder of 3000 good rows and 3 malformed ones in 3 files."""
    rows = make_rows()
    rows[7:7] = ["1,1,short\n", "1,maybe,u1,1,i1,\n", "1,1,u1,cheap,i1,\n"]
    log = write_log(work / "log", rows, 3)
    output = work / "data"
    assert preprocess("--input", log, "--schema", write_schema(work / "schema.yaml"), "--output", output) == 0
    return output


def test_the_folder_holds_what_the_architecture_names(data_dir):
    names = {path.name for path in data_dir.iterdir()}
    assert names == {
        "schema.yaml", "transform_fn", "transformed_metadata", "metadata", "vocabularies", "buckets.json",
        "frequencies.npy", "tally.npz", "statistics.json", "train", "valid", "test", "samples", "rejected", "manifest.json",
    }
    assert not list(data_dir.rglob(".*"))
    assert not list(data_dir.parent.glob(".data.*"))


def test_every_row_arrives_once(data_dir):
    counts = manifest(data_dir)["splits"]
    times = np.concatenate([read_records(data_dir, split)["timestamp"][:, 0] for split in SPLITS])
    assert sorted(times) == list(range(0, ROWS * 1_000_000, 1_000_000))
    assert sum(counts[split]["positives"] for split in SPLITS) == ROWS // 5
    assert 0.55 < counts["train"]["rows"] / ROWS < 0.65


def test_the_manifest_describes_the_shards(data_dir):
    for split in SPLITS:
        files = manifest(data_dir)["splits"][split]["files"]
        assert [one["path"] for one in files] == [f"{split}/part-0000{n}-of-00003.tfrecord" for n in range(3)]
        assert sum(one["rows"] for one in files) == manifest(data_dir)["splits"][split]["rows"]
        for one in files:
            content = (data_dir / one["path"]).read_bytes()
            assert (one["bytes"], one["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    schema_text = (data_dir / "schema.yaml").read_bytes()
    assert manifest(data_dir)["schema_sha256"] == hashlib.sha256(schema_text).hexdigest()


def test_ids_and_values_are_those_of_the_rows(data_dir):
    """Recomputes every record from the rows by the rules of the documentation, in plain Python."""
    schema = load_data_folder_schema(data_dir)
    vocabularies = {name: (data_dir / "vocabularies" / f"{name}.txt").read_text().split("\n")[:-1]
                    for name in ("user", "item", "note")}
    scale = json.loads((data_dir / "buckets.json").read_text())["price"]
    texts = {"": "", "NULL": "NULL", '"a, b"': "a, b", '"said ""hi"""': 'said "hi"'}
    rows = make_rows()
    assert [field.rows for field in schema.fields] == [
        42, len(scale["boundaries"]) + 3, len(vocabularies["item"]) + 2, 6]
    for split in SPLITS:
        records = read_records(data_dir, split)
        for place, row in enumerate(records["timestamp"][:, 0] // 1_000_000):
            ids, values, label = records["ids"][place], records["values"][place], records["label"][place]
            _, click, user, price, item, note = rows[row].rstrip("\n").split(",", 5)
            note = texts.get(note, note)
            for field, (name, text) in {0: ("user", user), 2: ("item", item), 3: ("note", note)}.items():
                vocabulary = vocabularies[name]
                expected = 0 if text in ("", "NULL") else vocabulary.index(text) + 2 if text in vocabulary else 1
                assert ids[field] == expected, (row, name)
            number = np.float32("nan" if price in ("", "NULL") else price)
            bucket = np.searchsorted(np.float32(scale["boundaries"]), number, side="right")
            assert ids[1] == (0 if np.isnan(number) else bucket + 2)
            scaled = np.clip((np.float64(number) - scale["mean"]) / scale["standard_deviation"], -5, 5)
            assert values[0] == pytest.approx(np.nan_to_num(scaled), rel=1e-6)
            assert label[0] == int(click)


def test_vocabularies_come_from_the_training_split_only(data_dir):
    rows = make_rows()
    train = read_records(data_dir, "train")["timestamp"][:, 0] // 1_000_000
    items, counts = np.unique([rows[row].split(",")[4] for row in train], return_counts=True)
    kept = sorted((-count, item) for item, count in zip(items, counts, strict=True) if count >= 3)
    assert (data_dir / "vocabularies" / "item.txt").read_text().split() == [item for _, item in kept]


def test_frequencies_count_the_training_records(data_dir):
    schema = load_data_folder_schema(data_dir)
    offsets = np.array([field.offset for field in schema.fields])
    ids = read_records(data_dir, "train")["ids"] + offsets
    np.testing.assert_array_equal(np.load(data_dir / "frequencies.npy"),
                                  np.bincount(ids.ravel(), minlength=schema.table_rows))


def test_statistics_agree_with_the_records(data_dir):
    statistics = json.loads((data_dir / "statistics.json").read_text())
    for split in SPLITS:
        records = read_records(data_dir, split)
        found = statistics["splits"][split]
        assert found["rows"] == len(records["label"])
        assert found["label_rate"] == pytest.approx(records["label"].mean())
        assert found["fields"]["note"]["missing_share"] == pytest.approx((records["ids"][:, 3] == 0).mean())
        assert found["fields"]["item"]["unknown_share"] == pytest.approx((records["ids"][:, 2] == 1).mean())
    in_train = statistics["splits"]["train"]["fields"]["item"]
    assert statistics["fields"]["item"]["unknown_share"] == in_train["unknown_share"] > 0
    assert statistics["fields"]["user"]["kind"] == "categorical"


def test_malformed_rows_are_listed(data_dir):
    lines = [json.loads(line) for path in sorted((data_dir / "rejected").glob("*.jsonl"))
             for line in path.read_text().splitlines()]
    assert [(Path(line["file"]).name, line["text"], line["reason"].split(":")[0]) for line in lines] == [
        ("log-0.csv", "1,1,u1,cheap,i1,", "field 'price' (column 'price') is not a number"),
        ("log-1.csv.gz", "1,1,short", "wrong number of columns"),
        ("log-2.csv", "1,maybe,u1,1,i1,", "label (column 'click') is neither positive ['1'] nor negative ['0']"),
    ]
    for line in lines:
        path = Path(line["file"])
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert text.decode().split("\n")[line["line"] - 1] == line["text"]
    assert manifest(data_dir)["rejected"] == 3


def test_samples_are_the_same_rows_raw_and_transformed(data_dir):
    schema = load_data_folder_schema(data_dir)
    raw = [record.numpy() for record in tf.data.TFRecordDataset(str(data_dir / "samples" / "raw.tfrecord"))]
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(data_dir / "samples" / "records.tfrecord"))]
    assert len(raw) == len(records) == manifest(data_dir)["splits"]["valid"]["rows"]
    assert set(tf.train.Example.FromString(raw[0]).features.feature) <= {"user", "price", "item", "note"}
    layer = tft.TFTransformOutput(str(data_dir)).transform_features_layer()
    outputs = layer(tf.io.parse_example(raw, raw_feature_spec(schema)))
    parsed = tf.io.parse_example(records, {"ids": tf.io.FixedLenFeature([4], tf.int64),
                                           "values": tf.io.FixedLenFeature([1], tf.float32)})
    np.testing.assert_array_equal(outputs["ids"], parsed["ids"])
    np.testing.assert_array_equal(outputs["values"], parsed["values"])


def test_the_graph_never_sees_label_group_or_time(data_dir):
    assert tft.TFTransformOutput(str(data_dir)).raw_feature_spec().keys() == {"user", "price", "item", "note"}


@pytest.mark.parametrize(("mode", "workers"), [("in_memory", 1), ("multi_processing", 2)])
def test_workers_and_runs_change_nothing(work, data_dir, mode, workers):
    again = work / mode
    assert preprocess("--input", work / "log" / "log-*", "--schema", work / "schema.yaml", "--output", again,
                      f"--direct_running_mode={mode}", f"--direct_num_workers={workers}") == 0
    assert checksums(again) == checksums(data_dir)
    for key in ("splits", "checksums", "rejected_reasons"):
        assert manifest(again)[key] == manifest(data_dir)[key]


def test_the_order_of_files_and_rows_changes_no_id(work, data_dir):
    log = write_log(work / "reversed", make_rows()[::-1], 2)
    output = work / "reversed_data"
    assert preprocess("--input", log, "--schema", work / "schema.yaml", "--output", output, "--compression=gzip") == 0
    for name in ("schema.yaml", "buckets.json", "frequencies.npy", "vocabularies/item.txt"):
        assert (output / name).read_bytes() == (data_dir / name).read_bytes()
    assert [one["path"] for one in manifest(output)["splits"]["test"]["files"]] == [
        "test/part-00000-of-00002.tfrecord.gz", "test/part-00001-of-00002.tfrecord.gz"]
    for split in SPLITS:
        ours, theirs = read_records(output, split), read_records(data_dir, split)
        for name in ours:
            np.testing.assert_array_equal(ours[name][ours["timestamp"][:, 0].argsort()],
                                          theirs[name][theirs["timestamp"][:, 0].argsort()])


def test_hostile_columns(tmp_path):
    """Columns named like features of a record, columns without any value, numbers beyond float32."""
    numbers = ["inf", "-inf", "1e308", "-1e308", "1.5", "2.5"]
    lines = [f"{row},{row % 2},a{row % 3},b,,,{numbers[row % 6]}" for row in range(60)]
    (tmp_path / "log.csv").write_text("\n".join(["time,click,label,class,empty,void,huge", *lines, ""]))
    fields = [
        {"name": "about", "column": "label", "kind": "categorical"},
        {"name": "kind_of", "column": "class", "kind": "categorical"},
        {"name": "empty", "kind": "categorical"},
        {"name": "void", "kind": "numeric"},
        {"name": "huge", "kind": "numeric", "buckets": 4},
    ]
    schema = write_schema(tmp_path / "schema.yaml", fields=fields, group=None)
    assert preprocess("--input", tmp_path / "log.csv", "--schema", schema, "--output", tmp_path / "data") == 0
    resolved = load_data_folder_schema(tmp_path / "data")
    assert [field.rows for field in resolved.fields[:4]] == [5, 3, 2, 3]  # the row of an empty number has one bucket
    records = read_records(tmp_path / "data", "train")
    assert sorted(np.unique(records["ids"][:, 0])) == [2, 3, 4] and set(records["ids"][:, 1]) == {2}
    assert not records["ids"][:, 2:4].any() and not records["values"][:, 0].any()
    huge = dict(zip((numbers[row % 6] for row in records["timestamp"][:, 0] // 1_000_000),
                    zip(records["ids"][:, 4], records["values"][:, 1], strict=True), strict=True))
    assert huge["-inf"] == huge["-1e308"] == (2, -5) and huge["inf"] == huge["1e308"] == (resolved.fields[4].rows - 1, 5)
    assert 2 <= huge["1.5"][0] <= huge["2.5"][0]


# ---- Recipes ----


def write_frappe(folder: Path, end: str = "\n") -> None:
    folder.mkdir()
    for split, rows in {"train": 30, "valid": 10, "test": 10}.items():
        lines = ["label,user,item,daytime,weekday,isweekend,homework,cost,weather,country,city"]
        lines += [f"{row % 2},{row % 3},{row % 7},1,2,3,4,5,6,7,8" for row in range(rows)]
        (folder / f"{split}.csv").write_text(end.join([*lines, ""]), newline="")


def test_frappe_files_in_the_publishers_format(tmp_path):
    write_frappe(tmp_path / "frappe", "\r\n")
    assert preprocess("--dataset=frappe", f"--input={tmp_path / 'frappe'}", f"--output={tmp_path / 'data'}") == 0
    records = read_records(tmp_path / "data", "valid")
    assert records["ids"][:, 0].tolist() == [2, 3, 4] * 3 + [2]  # users 0, 1, 2 are seen equally often
    assert records["label"][:, 0].tolist() == [0, 1] * 5
    assert load_data_folder_schema(tmp_path / "data").group == "user"


@pytest.mark.skipif(not FRAPPE.is_dir(), reason="the publisher's Frappe files are not in ../shared/data/frappe")
def test_frappe_real_files(work):
    output = work / "frappe_data"
    assert preprocess("--dataset=frappe", f"--input={FRAPPE}", f"--output={output}") == 0
    assert [manifest(output)["splits"][split]["rows"] for split in SPLITS] == [202_027, 57_722, 28_860]
    assert manifest(output)["rejected"] == 0
    assert load_data_folder_schema(output).table_rows == 5399  # 5379 values in train, 2 special rows a field


def test_frappe_says_what_to_download(tmp_path, capsys):
    write_frappe(tmp_path / "frappe")
    (tmp_path / "frappe" / "valid.csv").unlink()
    arguments = ("--dataset=frappe", f"--input={tmp_path / 'frappe'}", f"--output={tmp_path / 'data'}")
    assert "expected one of valid.csv and valid.csv.gz" in failed(capsys, *arguments)
    columns = "label,item,user,daytime,weekday,isweekend,homework,cost,weather,country,city\n"
    (tmp_path / "frappe" / "valid.csv").write_text(columns)
    assert "does not look like the publisher's file" in failed(capsys, *arguments)
    message = failed(capsys, "--dataset=frappe", "--input=nowhere", "--output=x")
    assert "expected a folder with the publisher's files" in message


# ---- Errors ----


@pytest.fixture
def one_file(tmp_path):
    """Writes a log of the given rows and returns the command's arguments."""
    def write(rows: str, *flags, header: str = HEADER, **schema_changes):
        (tmp_path / "log.csv").write_text(header + rows)
        schema = write_schema(tmp_path / "schema.yaml", **schema_changes)
        return ("--input", tmp_path / "log.csv", "--schema", schema, "--output", tmp_path / "data", *flags)
    yield write
    assert not list(tmp_path.glob("*data*")) and not list(tmp_path.glob(".data*"))


GOOD = "".join(f"{row},{row % 2},u,1,i,n\n" for row in range(60))


def test_a_missing_file(one_file, capsys, tmp_path):
    arguments = one_file(GOOD)
    (tmp_path / "log.csv").unlink()
    assert "no file matches" in failed(capsys, *arguments)


def test_an_empty_file_and_one_without_rows(one_file, capsys):
    assert "log.csv is empty" in failed(capsys, *one_file("", header=""))
    assert "has a header (6 columns) but no rows" in failed(capsys, *one_file(""))


def test_a_missing_column(one_file, capsys):
    assert "no column 'click'" in failed(capsys, *one_file(GOOD, header=HEADER.replace("click", "clicked")))


def test_only_malformed_rows(one_file, capsys):
    message = failed(capsys, *one_file("1,1\n" * 3 + "1,1,u,cheap,i,n\n"))
    assert "4 of 4 rows (100.00%) are malformed, more than --max_rejected_share 0.01 allows" in message
    assert "3 x wrong number of columns: expected 6, received 2 (first:" in message
    assert "log.csv, line 2)" in message and "line 5)" in message


def test_the_budget_for_malformed_rows(one_file, capsys):
    message = failed(capsys, *one_file(GOOD + "1,1,u,cheap,i,n\n"))
    assert "1 of 61 rows (1.64%) are malformed" in message


def test_times_in_another_unit(one_file, capsys):
    rows = "".join(f"17000000{row:02d}000,{row % 2},u,1,i,n\n" for row in range(60))
    message = failed(capsys, *one_file(rows))
    assert "60 of 60 rows (100.00%) are malformed" in message
    assert "timestamp (column 'time') is not within the years 1 to 9999 in seconds, as it would be in milliseconds" in message


def test_a_split_without_rows(one_file, capsys):
    split = {"by": "time", "column": "time", "valid_from": 50, "test_from": 1000}
    assert "the test split has no rows" in failed(capsys, *one_file(GOOD, split=split))
    split = {"by": "time", "column": "time", "valid_from": -2, "test_from": -1}
    assert "the train split has no rows" in failed(capsys, *one_file(GOOD, split=split))


def test_a_truncated_file(one_file, capsys, tmp_path):
    arguments = one_file(GOOD)
    noise = "".join(f"1,1,u,1,{value},n\n" for value in np.random.default_rng(0).random(400_000))
    (tmp_path / "log.csv").write_bytes(gzip.compress((HEADER + noise).encode(), 1)[:-1000])
    assert "truncated or damaged" in failed(capsys, *arguments)


def test_an_unknown_kind_and_an_unknown_key(one_file, capsys):
    assert "'picture'" in failed(capsys, *one_file(GOOD, fields=[{"name": "item", "kind": "picture"}]))
    assert "spilt" in failed(capsys, *one_file(GOOD, spilt=1))


def test_a_flag_that_nobody_knows(one_file, capsys):
    assert "unknown argument '--compresion=gzip'" in failed(capsys, *one_file(GOOD, "--compresion=gzip"))
    assert "expected a share from 0 to 1" in failed(capsys, *one_file(GOOD, "--max_rejected_share=2"))


def test_a_finished_folder_is_kept_unless_told_otherwise(work, data_dir, capsys):
    output = work / "kept"
    shutil.copytree(data_dir, output)
    schema = write_schema(work / "other.yaml", name="other")
    assert "is a finished data folder, made from other files" in failed(
        capsys, "--input", work / "log" / "log-*", "--schema", schema, "--output", output)
    arguments = ("--input", work / "log" / "log-*", "--schema", work / "schema.yaml", "--output", output)
    before = (output / "manifest.json").stat().st_mtime_ns
    assert preprocess(*arguments) == 0
    assert "nothing to do" in " ".join(capsys.readouterr().out.split())
    assert (output / "manifest.json").stat().st_mtime_ns == before
    (output / "statistics.json").write_text("old")
    assert preprocess(*arguments, "--overwrite") == 0
    assert checksums(output) == checksums(data_dir)
    assert not list(work.glob(".kept*"))


def test_a_finished_folder_with_more_malformed_rows_than_allowed_is_no_success(work, data_dir, capsys):
    arguments = ("--input", work / "log" / "log-*", "--schema", work / "schema.yaml", "--output", data_dir)
    message = failed(capsys, *arguments, "--max_rejected_share=0.0005")
    assert f"data folder {data_dir}: 3 of 3,003 rows (0.10%) are malformed, more than --max_rejected_share 0.0005 allows: 1 x " in message
    assert "1 x wrong number of columns" in message
    assert preprocess(*arguments, "--max_rejected_share=0.001") == 0


def test_another_folder_is_never_replaced(work, data_dir, capsys, tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_text("precious")
    message = failed(capsys, "--input", work / "log" / "log-*", "--schema", work / "schema.yaml",
                     "--output", tmp_path / "holiday", "--overwrite")
    assert "is not a data folder" in message
    assert (tmp_path / "holiday" / "photo.jpg").read_text() == "precious"


def test_a_killed_run_leaves_nothing_whole_and_the_next_one_cleans_up(work, data_dir, tmp_path, capsys):
    output = tmp_path / "data"
    arguments = [f"--input={work / 'log' / 'log-*'}", f"--schema={work / 'schema.yaml'}", f"--output={output}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    log = work / "killed.log"
    with log.open("w") as stream:
        process = subprocess.Popen([sys.executable, "-m", "preprocessing.task", *arguments], env=environment,
                                   stdout=stream, stderr=stream)
    while not list(tmp_path.glob(".data.partial-*/schema.yaml")):
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    assert "is being written by another run" in failed(capsys, *arguments)
    process.kill()
    process.wait()
    assert not output.exists() and len(list(tmp_path.glob(".data.partial-*"))) == 1
    assert preprocess(*arguments) == 0
    assert checksums(output) == checksums(data_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_set_aside_by_a_killed_replacement_comes_back(data_dir, tmp_path, capsys):
    aside = tmp_path / ".data.replaced-x"
    shutil.copytree(data_dir, aside)
    schema = write_schema(tmp_path / "other.yaml", name="other")
    message = failed(capsys, "--input", data_dir.parent / "log" / "log-*", "--schema", schema, "--output", tmp_path / "data")
    assert "is a finished data folder, made from other files" in message
    assert checksums(tmp_path / "data") == checksums(data_dir) and not aside.exists()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as caught:
        preprocess("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "minimal schema.yaml" in shown and "--dataset=frappe" in shown
