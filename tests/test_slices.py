"""Metrics by training occurrences: buckets and figures by hand, and the slices of an evaluated model."""

import numpy as np
import pytest
from data_folders import write_data_folder

from preprocessing.errors import UserError
from trainer import task
from trainer.data_folder import DataFolder
from trainer.metrics import Predictions
from trainer.slices import FieldOccurrences, bucket_names, field_place, sliced_metrics


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_data_folder(tmp_path_factory.mktemp("slices") / "data")


def occurrences(counts, present=None):
    return FieldOccurrences("item", np.array(counts), np.ones(len(counts), bool) if present is None else np.array(present))


def predictions(labels, logits, weights=None):
    return Predictions(np.array(labels), np.array(logits, np.float32), weights=weights)


def test_buckets_have_readable_names():
    assert bucket_names() == ("0", "1-3", "4-10", "11-30", "31-100", ">100")


def test_every_bound_falls_on_its_side():
    counts = [0, 1, 3, 4, 10, 11, 30, 31, 100, 101, 10**6]
    records = sliced_metrics(predictions([1] * len(counts), [0.0] * len(counts)), occurrences(counts))
    assert [(record["occurrences"], record["rows"]) for record in records] == [
        ("0", 1), ("1-3", 2), ("4-10", 2), ("11-30", 2), ("31-100", 2), (">100", 2)]


def test_metrics_of_each_slice_by_hand():
    # Cold: the click is ranked below the other row. Warm: above it. All logits 0 or +-log 3, so probabilities 1/2, 1/4, 3/4.
    third = np.log(3)
    cold, warm = sliced_metrics(predictions([1, 0, 1, 0], [-third, 0, third, 0]), occurrences([2, 2, 50, 50]))
    assert (cold["auc"], warm["auc"]) == (0.0, 1.0)
    assert cold["logloss"] == pytest.approx((np.log(4) + np.log(2)) / 2)
    assert warm["calibration_bias"] == pytest.approx((0.75 + 0.5) / 1 - 1)
    assert cold["positives"] == 1


def test_rows_without_a_value_are_a_slice_of_their_own_and_a_slice_of_one_class_has_no_auc():
    one, missing = sliced_metrics(predictions([0, 1], [0.0, 0.0]), occurrences([5, 5], [True, False]))
    assert (one["occurrences"], one["auc"]) == ("4-10", None)
    assert (missing["occurrences"], missing["rows"]) == ("missing", 1)


def test_weights_count_and_a_slice_without_weight_has_no_metrics():
    weighted, weightless = sliced_metrics(predictions([1, 0, 1], [0.0, 2.0, 0.0], np.array([3.0, 1.0, 0.0])), occurrences([1, 1, 9]))
    assert weighted["calibration_bias"] == pytest.approx((3 * 0.5 + 1 / (1 + np.exp(-2))) / 3 - 1, rel=1e-6)
    assert weightless == {"occurrences": "4-10", "rows": 0, "positives": 0, "auc": None, "logloss": None, "calibration_bias": None}


def test_unknown_values_have_no_occurrences_and_missing_ones_are_absent(data_dir):
    data = DataFolder.open(data_dir)
    ids = np.array([[0, 2, 2], [1, 2, 2], [5, 2, 2]])
    found = FieldOccurrences.of("user", ids, data)
    assert found.present.tolist() == [False, True, True]
    assert found.counts[1:].tolist() == [0, data.field_frequencies[0][5]] and found.counts[2] > 0


def test_an_unknown_field_is_refused_with_those_that_there_are(data_dir):
    with pytest.raises(UserError, match="no slices by field 'brand': .* has the single-valued fields user, item, hour; name some"):
        field_place("brand", DataFolder.open(data_dir).schema, data_dir)


def test_an_evaluated_model_reports_its_slices(data_dir, tmp_path, capsys):
    arguments = ["--data_dir", str(data_dir), "--model_dir", str(tmp_path)]
    small = ["--set", "finetune.epochs=1", "model.dcn.hidden_units=[8]", "model.embedding_dim=4"]
    assert task.main(["--stage=finetune", "--from_scratch", *arguments, *small]) == 0
    assert task.main(["--stage=evaluate", "--slices", "user,item", *arguments]) == 0
    report = (tmp_path / "report" / "REPORT.md").read_text()
    section = report.split("## By how often training has seen the row's item")[1].split("##")[0]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith(("| 11-30", "| 31-100"))]
    assert sum(int(cell.replace(",", "")) for cell in rows) == 320
    assert task.main(["--stage=evaluate", "--slices", "brand", *arguments]) == 2
    assert "no slices by field 'brand'" in " ".join(capsys.readouterr().err.split())
    assert task.main(["--stage=export", "--slices", "user", *arguments]) == 2
    assert "--stage=export does not use --slices, which is for --stage=evaluate" in " ".join(capsys.readouterr().err.split())
