"""The order of training rows, resuming inside it, workers' shares, and damaged records."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from data_folders import UNLABELLED, counted, write_data_folder, write_records

from preprocessing.errors import UserError
from trainer import damaged_records
from trainer import input as input_module
from trainer.data_folder import DataFolder
from trainer.input import EvaluationSplit, TrainingSplit

BATCH = 8
# 100 rows. Windows of 24 rows are 3 batches; they start inside files and span several.
FILES = (30, 10, 45, 15)
STREAMED, RESIDENT = 20, 100  # window_rows
HEADER, CHECKSUM = 12, 4  # bytes around a record


def write_split(path, split, file_rows, compression="", without_label=()):
    """Replaces a split of a data folder by rows numbered from 0, number and group being the number, label its parity.

    Rows with the numbers `without_label` have none.
    """
    entries, first = [], 0
    for part, rows in enumerate(file_rows):
        name = f"{split}/numbered-{part}.tfrecord{'.gz' if compression else ''}"
        numbers = np.arange(first, first + rows)
        first += rows
        ids = np.stack([numbers, np.full(rows, 1), np.full(rows, 2)], axis=1)
        labels = np.where(np.isin(numbers, without_label), UNLABELLED, numbers % 2)
        write_records(path / name, ids, labels, {"group": numbers}, compression)
        entries.append(counted({"path": name, "rows": rows, "bytes": (path / name).stat().st_size}, labels))
    manifest = json.loads((path / "manifest.json").read_text())
    unlabelled = sum(entry.get("unlabelled", 0) for entry in entries)
    manifest["splits"][split] = {"rows": first, "positives": first // 2, "unlabelled": unlabelled, "files": entries}
    (path / "manifest.json").write_text(json.dumps(manifest))


def write_folder(path, file_rows=FILES, compression="", without_label=()):
    write_data_folder(path, rows=4)
    write_split(path, "train", file_rows, compression, without_label)
    write_split(path, "valid", (20, 10), compression, without_label)
    return DataFolder.open(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "plain")


@pytest.fixture(scope="module")
def gzipped(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "gzip", compression="GZIP")


def split_of(folder, window_rows=STREAMED, batch_size=BATCH, seed=1, **options):
    return TrainingSplit(folder, batch_size, seed, window_rows, **options)


def numbers(batches):
    """Row numbers [steps, B] of batches, after a check that every row is whole."""
    read = list(batches)
    for batch in read:
        assert (batch["ids"].dtype, batch["label"].dtype, batch["group"].dtype) == (tf.int32, tf.float32, tf.int64)
        rows = batch["group"].numpy()
        np.testing.assert_array_equal(batch["ids"], np.stack([rows, np.full(len(rows), 1), np.full(len(rows), 2)], axis=1))
        labels = batch["label"].numpy()
        np.testing.assert_array_equal(labels[labels != UNLABELLED], rows[labels != UNLABELLED] % 2)
    return [batch["group"].numpy().tolist() for batch in read]


def flat(batches):
    return [number for batch in numbers(batches) for number in batch]


@pytest.mark.parametrize("window_rows", [STREAMED, RESIDENT])
def test_the_order_is_a_function_of_seed_and_epoch(folder, window_rows):
    first = numbers(split_of(folder, window_rows).epoch(0))
    assert numbers(split_of(folder, window_rows).epoch(0)) == first
    assert numbers(split_of(folder, window_rows).epoch(1)) != first
    assert numbers(split_of(folder, window_rows, seed=2).epoch(0)) != first


@pytest.mark.parametrize("window_rows", [STREAMED, RESIDENT])
def test_an_epoch_holds_no_row_twice_and_drops_less_than_a_batch(folder, window_rows):
    split = split_of(folder, window_rows)
    rows = flat(split.epoch(0))
    assert split.steps == 12 and len(rows) == 96 and len(set(rows)) == 96


@pytest.mark.parametrize("window_rows", [STREAMED, RESIDENT])
def test_an_epoch_holds_every_row_where_the_batch_divides_the_split(folder, window_rows):
    assert sorted(flat(split_of(folder, window_rows, batch_size=10).epoch(3))) == list(range(100))


@pytest.mark.parametrize("window_rows", [STREAMED, RESIDENT])
def test_no_row_is_always_dropped(folder, window_rows):
    split = split_of(folder, window_rows, batch_size=30)
    epochs = [set(flat(split.epoch(epoch))) for epoch in range(8)]
    assert set.union(*epochs) == set(range(100)) and all(len(epoch) == 90 for epoch in epochs)


@pytest.mark.parametrize("kind", ["folder", "gzipped"])
@pytest.mark.parametrize("window_rows", [STREAMED, RESIDENT])
def test_an_epoch_continues_at_any_step(request, kind, window_rows):
    split = split_of(request.getfixturevalue(kind), window_rows)
    whole = numbers(split.epoch(5))
    for step in range(split.steps + 1):
        assert numbers(split.epoch(5, first_step=step)) == whole[step:]


def test_rows_are_shuffled_within_windows_of_whole_batches(folder):
    split = split_of(folder)
    order = np.random.default_rng([1, 4]).permutation(len(FILES))
    starts = np.cumsum((0, *FILES))
    stream = [row for file in order for row in range(starts[file], starts[file + 1])]
    rows = flat(split.epoch(4))
    for window in range(4):  # 20 rows are rounded up to 3 batches
        read, written = rows[24 * window:24 * window + 24], stream[24 * window:24 * window + 24]
        assert sorted(read) == sorted(written) and read != written


def test_windows_of_an_epoch_are_shuffled_differently(tmp_path):
    split = split_of(write_folder(tmp_path / "data", (48,)), window_rows=24)
    rows = np.array(flat(split.epoch(0)))
    assert (rows[:24] != rows[24:] - 24).any()


def test_files_that_end_before_the_first_step_are_not_opened(tmp_path):
    folder = write_folder(tmp_path / "data", (24, 24, 24))
    split = split_of(folder)
    whole = numbers(split.epoch(0))
    for file in np.random.default_rng([1, 0]).permutation(3)[:2]:
        (folder.path / "train" / f"numbered-{file}.tfrecord").unlink()
    assert numbers(split.epoch(0, first_step=6)) == whole[6:]
    assert numbers(split.epoch(0, first_step=9)) == []


def test_a_small_split_stays_in_memory(tmp_path):
    folder = write_folder(tmp_path / "data")
    split, streamed = split_of(folder, RESIDENT), split_of(folder)
    before = numbers(split.epoch(0))
    for path in (folder.path / "train").iterdir():
        path.unlink()
    assert split.is_resident and numbers(split.epoch(0)) == before
    assert not streamed.is_resident
    with pytest.raises(tf.errors.NotFoundError):
        numbers(streamed.epoch(0))


def test_batches_have_static_shapes(folder):
    for window_rows in (STREAMED, RESIDENT):
        assert split_of(folder, window_rows).epoch(0).element_spec["ids"].shape == (BATCH, 3)


def test_a_split_smaller_than_a_batch_is_one_batch(folder):
    for window_rows in (STREAMED, RESIDENT):
        split = split_of(folder, window_rows, batch_size=1000)
        assert (split.steps, split.batch_size) == (1, 100)
        assert sorted(flat(split.epoch(0))) == list(range(100))


@pytest.mark.parametrize("window_rows", [10, STREAMED, RESIDENT])
def test_workers_read_files_of_their_own_for_the_same_number_of_steps(folder, window_rows):
    # Dealt out from the largest: 45 + 10 rows and 30 + 15, so five batches each.
    rows = []
    for worker in (0, 1):
        split = split_of(folder, window_rows, worker=worker, workers=2)
        assert split.steps == 5
        rows.append(flat(split.epoch(2)))
        assert len(set(rows[worker])) == 40
        assert numbers(split.epoch(2, first_step=3)) == numbers(split.epoch(2))[3:]
    assert set(rows[0]) <= {*range(30, 85)} and set(rows[1]) <= {*range(30), *range(85, 100)}


def test_workers_agree_on_a_batch_that_fits_the_smallest_share(folder):
    for worker in range(4):
        split = split_of(folder, batch_size=64, worker=worker, workers=4)
        assert (split.steps, split.batch_size) == (1, 10)


def test_more_workers_than_files_are_refused(folder):
    with pytest.raises(UserError, match="training split has 4 files for 5 workers.*cut the log into at least 5 files"):
        split_of(folder, workers=5)


@pytest.mark.parametrize("window_rows", [10, 30])
def test_evaluation_reads_every_row_once_in_file_order(folder, window_rows):
    split = EvaluationSplit(folder, "valid", window_rows)
    for _ in range(2):
        assert [len(batch) for batch in numbers(split.batches(7))] == [7, 7, 7, 7, 2]
        assert flat(split.batches(7)) == list(range(30))


def test_an_evaluation_split_stays_in_memory(tmp_path):
    folder = write_folder(tmp_path / "data")
    split = EvaluationSplit(folder, "valid", 30)
    assert flat(split.batches()) == list(range(30))
    for path in (folder.path / "valid").iterdir():
        path.unlink()
    assert flat(split.batches(9)) == list(range(30))


# Rows without label.

# Of file 0 every second row, of file 1 all, of file 2 none, of file 3 all but the last: 15, 0, 45 and 1 labelled rows.
WITHOUT_LABEL = (*range(0, 30, 2), *range(30, 40), *range(85, 99))
LABELLED = sorted({*range(100)} - {*WITHOUT_LABEL})


@pytest.fixture(scope="module")
def partly_labelled(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "partly", without_label=WITHOUT_LABEL)


def test_rows_are_counted_with_and_without_label(partly_labelled):
    assert (partly_labelled.rows("train"), partly_labelled.unlabelled("train"), partly_labelled.labelled("train")) == (100, 39, 61)
    assert partly_labelled.rows_read("pretrain") == {"train": 100, "valid": 15, "test": 2}
    assert partly_labelled.rows_read("finetune") == {"train": 61, "valid": 15, "test": 2}


@pytest.mark.parametrize("window_rows", [10, RESIDENT])
def test_rows_without_label_are_left_out(partly_labelled, window_rows):
    split = split_of(partly_labelled, window_rows, labelled_only=True)
    rows = flat(split.epoch(0))
    assert (split.rows, split.steps) == (61, 7) and len({*rows}) == 56 and {*rows} < {*LABELLED}
    assert sorted(flat(split_of(partly_labelled, window_rows, 61, labelled_only=True).epoch(1))) == LABELLED


@pytest.mark.parametrize("window_rows", [10, RESIDENT])
def test_an_epoch_of_the_labelled_rows_continues_at_any_step(partly_labelled, window_rows):
    split = split_of(partly_labelled, window_rows, labelled_only=True)
    whole = numbers(split.epoch(0))
    for step in range(1, split.steps + 1):
        assert numbers(split.epoch(0, first_step=step)) == whole[step:]


def test_chunks_without_a_labelled_row_are_passed(tmp_path, monkeypatch):
    monkeypatch.setattr(input_module, "CHUNK_ROWS", 4)
    folder = write_folder(tmp_path / "data", without_label=tuple({*range(100)} - {3, 50, 51, 99}))
    split = split_of(folder, window_rows=2, batch_size=2, labelled_only=True)
    assert sorted(flat(split.epoch(0))) == [3, 50, 51, 99]
    assert flat(split.epoch(0, first_step=1)) == flat(split.epoch(0))[2:]


@pytest.mark.parametrize("window_rows", [STREAMED, RESIDENT])
def test_pretraining_reads_rows_without_label_and_knows_them(partly_labelled, window_rows):
    batches = list(split_of(partly_labelled, window_rows, batch_size=10).epoch(0))
    rows = {int(row): float(label) for batch in batches for row, label in zip(batch["group"], batch["label"], strict=True)}
    assert rows == {row: UNLABELLED if row in WITHOUT_LABEL else row % 2 for row in range(100)}


@pytest.mark.parametrize("window_rows", [10, 30])
def test_evaluation_leaves_out_rows_without_label(partly_labelled, window_rows):
    split = EvaluationSplit(partly_labelled, "valid", window_rows)
    assert split.rows == 15 and numbers(split.batches(7)) == [[*range(1, 15, 2)], [*range(15, 29, 2)], [29]]


def test_labels_cost_nothing_where_no_row_lacks_one(folder):
    # The same order and the same graph: nothing is left out, and a record without label is an error.
    assert numbers(split_of(folder, labelled_only=True).epoch(0)) == numbers(split_of(folder).epoch(0))
    assert not split_of(folder, labelled_only=True)._leaves_out


def test_workers_share_the_labelled_rows(partly_labelled):
    # 45 rows of file 2 and 1 of file 3 for one, 15 of file 0 for the other: file 1 has none, so it is nobody's.
    splits = [split_of(partly_labelled, batch_size=5, worker=worker, workers=2, labelled_only=True) for worker in (0, 1)]
    assert [(split.rows, split.steps) for split in splits] == [(45, 3), (16, 3)]
    rows = [flat(split.epoch(0)) for split in splits]
    assert len({*rows[0], *rows[1]}) == 30 and {*rows[0], *rows[1]} < {*LABELLED}
    assert "has 3 files with labels for 4 workers" in message_of(lambda: split_of(partly_labelled, workers=4, labelled_only=True))


def test_sound_records_of_a_damaged_file_are_left_out_without_label(tmp_path):
    folder = write_folder(tmp_path / "data", without_label=WITHOUT_LABEL)
    path = damaged(folder.path, part=2)
    truncate(path, path.stat().st_size * 2 // 3)  # rows 70 to 84 are lost
    path = damaged(folder.path)
    flip_bit(path, HEADER + 5)  # row 0, which has no label
    split = split_of(folder, batch_size=1, corrupt_records=0.2, labelled_only=True)
    assert sorted(flat(split.epoch(0))) == [row for row in LABELLED if not 70 <= row < 85]


def test_a_split_without_labels_is_refused(tmp_path):
    folder = write_folder(tmp_path / "data", without_label=range(100))
    for split in (lambda: EvaluationSplit(folder, "valid", 10), lambda: split_of(folder, labelled_only=True)):
        assert re.search("split '(valid|train)' has no rows with a label; change `label` or `split`", message_of(split))
    assert split_of(folder).rows == 100


def test_a_manifest_that_counts_labels_otherwise_than_its_files_is_refused(tmp_path):
    path = write_folder(tmp_path / "data", without_label=WITHOUT_LABEL).path
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["splits"]["train"]["unlabelled"] = 40
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert "has 40 rows without label in split 'train' and 39 in its files" in message_of(lambda: DataFolder.open(path))


@pytest.mark.parametrize("window_rows", [10, 30])
def test_files_that_hold_other_labels_than_the_manifest_says_are_refused(tmp_path, window_rows):
    folder = write_folder(tmp_path / "data", without_label=WITHOUT_LABEL)
    folder.manifest["splits"]["valid"]["files"][0]["unlabelled"] += 1
    message = message_of(lambda: flat(EvaluationSplit(folder, "valid", window_rows).batches()))
    assert "valid: 15 rows with a label were found where manifest.json says 14" in message


def test_rows_that_may_lack_a_label_are_counted_as_rows(tmp_path):
    split = split_of(write_folder(tmp_path / "data", without_label=WITHOUT_LABEL))
    message = message_of(lambda: split._require_all(99))
    assert "train: 99 rows were found where manifest.json says 100" in message


# Damage. A file's records are of equal length as long as the numbers have one byte.


def damaged(path, split="train", part=0):
    return next((path / split).glob(f"numbered-{part}.*"))


def flip_bit(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def record_bytes(folder):
    """Length of a record of the first file, framing included."""
    return damaged(folder.path).stat().st_size // FILES[0]


def read_all(split):
    return numbers(split.iterate(split.epoch(0)))


def message_of(action):
    with pytest.raises(UserError) as caught:
        action()
    return str(caught.value)


@pytest.mark.parametrize("window_rows", [STREAMED, RESIDENT])
@pytest.mark.parametrize(("byte", "reason"), [(HEADER + 5, "its checksum"), (0, "the checksum of its length")])
def test_one_flipped_bit_is_named_with_file_and_byte(tmp_path, window_rows, byte, reason):
    folder = write_folder(tmp_path / "data")
    offset = 17 * record_bytes(folder)
    flip_bit(damaged(folder.path), offset + byte)
    message = message_of(lambda: read_all(split_of(folder, window_rows)))
    assert f"{damaged(folder.path)} is damaged at byte {offset:,} (record 17): {reason} does not match" in message
    assert "manifest.json has its sha256" in message and "--set input.corrupt_records=0.001" in message


@pytest.mark.parametrize("window_rows", [10, 30])
def test_a_flipped_bit_is_named_in_evaluation(tmp_path, window_rows):
    folder = write_folder(tmp_path / "data")
    flip_bit(damaged(folder.path, "valid", 1), HEADER + 5)
    message = message_of(lambda: flat(EvaluationSplit(folder, "valid", window_rows).batches()))
    assert f"{damaged(folder.path, 'valid', 1)} is damaged at byte 0 (record 0)" in message


def test_a_flipped_bit_of_a_gzip_file_is_named(tmp_path):
    folder = write_folder(tmp_path / "data", compression="GZIP")
    path = damaged(folder.path, part=2)
    flip_bit(path, path.stat().st_size // 2)
    message = message_of(lambda: read_all(split_of(folder)))
    assert re.search(rf"{path} is damaged at byte [\d,]+ of its uncompressed records \(record \d+\)", message)


def test_a_wrong_gzip_checksum_is_named(tmp_path):
    folder = write_folder(tmp_path / "data", compression="GZIP")
    path = damaged(folder.path)
    flip_bit(path, path.stat().st_size - 8)
    assert "(record 30): its gzip checksum does not match" in message_of(lambda: read_all(split_of(folder)))


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def test_a_truncated_file_is_named_before_the_first_step(tmp_path):
    folder = write_folder(tmp_path / "data")
    size = record_bytes(folder)
    truncate(damaged(folder.path), 3 * size + 7)
    message = message_of(lambda: split_of(folder))
    assert f"is damaged at byte {3 * size} (record 3): the file ends inside a record" in message


def test_a_file_that_lost_whole_records_is_named(tmp_path):
    folder = write_folder(tmp_path / "data")
    truncate(damaged(folder.path), 3 * record_bytes(folder))
    message = message_of(lambda: split_of(folder))
    assert "(record 3): it ends after 3 records, where manifest.json says 30" in message


def test_a_file_that_is_cut_while_training_runs_is_named(tmp_path):
    folder = write_folder(tmp_path / "data")
    for window_rows, options in ((STREAMED, {"batch_size": 10}), (RESIDENT, {})):
        split = split_of(folder, window_rows, **options)
        content = damaged(folder.path).read_bytes()
        truncate(damaged(folder.path), 3 * record_bytes(folder))
        assert "it ends after 3 records" in message_of(lambda split=split: read_all(split))
        damaged(folder.path).write_bytes(content)


def test_a_file_that_is_cut_while_an_evaluation_runs_is_named(tmp_path):
    folder = write_folder(tmp_path / "data")
    split = EvaluationSplit(folder, "valid", window_rows=10)
    path = damaged(folder.path, "valid", 1)
    truncate(path, path.stat().st_size // 2)
    assert "it ends after 5 records, where manifest.json says 10" in message_of(lambda: flat(split.batches(30)))


def test_another_size_without_damage_is_named(tmp_path):
    folder = write_folder(tmp_path / "data")
    folder.manifest["splits"]["train"]["files"][1]["bytes"] += 1
    assert re.search("numbered-1.tfrecord has .* bytes, but manifest.json says", message_of(lambda: split_of(folder)))


def test_an_unrelated_error_stays_as_it_is(folder):
    def batches():
        raise tf.errors.DataLossError(None, None, "of something else")
        yield

    with pytest.raises(tf.errors.DataLossError, match="of something else"):
        list(split_of(folder).iterate(batches()))


@pytest.mark.parametrize("window_rows", [STREAMED, RESIDENT])
def test_sound_records_of_damaged_files_are_kept_within_the_budget(tmp_path, capsys, window_rows):
    folder = write_folder(tmp_path / "data")
    size = record_bytes(folder)
    flip_bit(damaged(folder.path), 4 * size + HEADER + 5)  # the data of record 4
    flip_bit(damaged(folder.path), 9 * size + 1)  # the length of record 9
    truncate(damaged(folder.path, part=1), 8 * size + 7)  # of ten records, numbers 30 to 39
    split = split_of(folder, window_rows, batch_size=12, corrupt_records=0.04)
    assert capsys.readouterr().out.splitlines() == [
        "train: checking every record of 4 files",
        f"{damaged(folder.path, part=0)}: 2 of 30 records are damaged and left out",
        f"{damaged(folder.path, part=1)}: 2 of 10 records are damaged and left out"]
    assert split.steps == 8
    whole = read_all(split)
    assert sorted(row for batch in whole for row in batch) == sorted({*range(100)} - {4, 9, 38, 39})
    assert numbers(split.epoch(0, first_step=5)) == whole[5:]
    again = split_of(folder, window_rows, batch_size=12, corrupt_records=0.04)
    assert read_all(again) == whole


def test_copies_of_damaged_files_go_with_the_split(tmp_path, monkeypatch):
    monkeypatch.setattr(damaged_records.tempfile, "tempdir", str(tmp_path))
    folder = write_folder(tmp_path / "data")
    flip_bit(damaged(folder.path), HEADER + 5)
    split = split_of(folder, corrupt_records=0.5)
    assert len(list(tmp_path.glob("salvaged-records-*/*"))) == 1
    del split
    assert not list(tmp_path.glob("salvaged-records-*"))


def test_more_damage_than_the_budget_is_refused_with_the_worst_files(tmp_path):
    folder = write_folder(tmp_path / "data", (10, 10, 10, 10, 10, 10, 10))
    for part in range(7):
        size = damaged(folder.path, part=part).stat().st_size
        truncate(damaged(folder.path, part=part), size * (part + 3) // 10 - 1)
    message = message_of(lambda: split_of(folder, corrupt_records=0.1))
    assert "split 'train' has 35 damaged records of 70, a share of 0.5 where input.corrupt_records allows 0.1" in message
    assert [int(part) for part in re.findall(r"numbered-(\d)", message)] == [0, 1, 2, 3, 4]
    assert "numbered-0.tfrecord: 8 of 10 records are damaged; " in message


def test_a_gzip_file_loses_what_follows_the_damage(tmp_path, capsys):
    folder = write_folder(tmp_path / "data", compression="GZIP")
    path = damaged(folder.path, part=2)
    truncate(path, path.stat().st_size * 2 // 3)
    split = split_of(folder, batch_size=1, corrupt_records=0.45)
    lost = int(re.search(r"(\d+) of 45 records", capsys.readouterr().out).group(1))
    assert 0 < lost < 45 and split.steps == 100 - lost
    assert sorted(flat(split.epoch(0))) == [*range(85 - lost), *range(85, 100)]


def test_a_file_without_a_sound_record_is_left_out(tmp_path):
    folder = write_folder(tmp_path / "data")
    damaged(folder.path, part=1).write_bytes(b"")
    assert {*flat(split_of(folder, batch_size=10, corrupt_records=0.1).epoch(0))} == {*range(30), *range(40, 100)}


def test_more_records_than_were_written_are_refused(tmp_path):
    folder = write_folder(tmp_path / "data")
    damaged(folder.path).write_bytes(2 * damaged(folder.path).read_bytes())
    assert "holds 60 records, but manifest.json says 30" in message_of(lambda: split_of(folder, corrupt_records=0.5))
    assert "it ends after 60 records, where manifest.json says 30" in message_of(lambda: split_of(folder))


def test_workers_salvage_their_own_files_and_agree_on_the_steps(tmp_path):
    folder = write_folder(tmp_path / "data")
    flip_bit(damaged(folder.path, part=0), HEADER + 5)
    splits = [split_of(folder, batch_size=1, worker=worker, workers=2, corrupt_records=0.1) for worker in (0, 1)]
    rows = [flat(split.epoch(0)) for split in splits]
    assert [split.steps for split in splits] == [45, 45]  # of 45 rows, and of 29 + 15 + 10
    assert not {*rows[0]} & {*rows[1]} and 0 not in {*rows[0]} | {*rows[1]}


def test_a_search_for_the_next_record_passes_zeros_and_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(damaged_records, "_SEARCH_BYTES", 16)
    folder = write_folder(tmp_path / "data")
    size, path = record_bytes(folder), damaged(folder.path)
    content = bytearray(path.read_bytes())
    content[2 * size:5 * size + 3] = bytes(3 * size + 3)  # a hole of zeros, as a disk leaves them
    path.write_bytes(content)
    split = split_of(folder, batch_size=1, corrupt_records=0.1)
    assert {*range(100)} - {*flat(split.epoch(0))} == {2, 3, 4, 5}
