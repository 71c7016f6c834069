"""The notes at the end of preprocessing."""

from preprocessing.report import _warnings


def split(rows: int, positives: int, unlabelled: int = 0) -> dict:
    return {"rows": rows, "positives": positives, "unlabelled": unlabelled}


def test_sound_splits_need_no_note():
    assert _warnings({"train": split(9, 3), "valid": split(3, 1, 1), "test": split(3, 0, 3)}) == []


def test_splits_that_training_would_stumble_over():
    notes = _warnings({"train": split(9, 0, 2), "valid": split(3, 3), "test": split(0, 0)})
    assert notes[0].startswith("no rows in test")
    assert [note.split(":")[0] for note in notes[1:]] == [
        "no row with a label in train is a click", "every row with a label in valid is a click"]
