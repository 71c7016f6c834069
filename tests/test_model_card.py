"""The model card: what it says comes from the model folder and the data folder, and nothing else does."""

import json
from dataclasses import asdict, replace

import pytest

from preprocessing.schema import parse_schema
from serving.export.card_limits import calibration, limits
from serving.export.card_text import code, date, split_rule, table
from serving.export.model_card import MODEL_CARD_FILE, Facts, model_card, read_facts, write_model_card
from trainer.checkpoints import StageCheckpoints, TrainingState, seal
from trainer.config import load_config

VALID = {"rows": 400, "positives": 10, "click_rate": 0.025, "auc": 0.75, "gauc": None, "logloss": 0.1234, "calibration_bias": 0.2,
         "ece": 0.0056, "normalized_entropy": 0.9}  # fmt: skip
TEST = {**VALID, "split": "test", "rows": 500, "positives": 20, "auc": 0.7, "calibration_bias": -0.001}
STATE = TrainingState(origin="random parameters", data="d", learning_rate=0.1, epoch=2, step=40, best_epoch=2,
                      history=[{"epoch": 1, "step": 20, "valid": {**VALID, "auc": 0.6}}, {"epoch": 2, "step": 40, "valid": VALID}])  # fmt: skip
STATISTICS = {
    "fields": {"user": {"missing_share": 0.125, "unknown_share": 0.0}, "price": {"missing_share": 0.0, "unknown_share": 0.0, "min": -1.0, "max": 99.5},
               "page": {"missing_share": 0.0, "collision_rate": 0.03}},
    "splits": {"valid": {"fields": {"user": {"unknown_share": 0.0625}, "price": {"unknown_share": 0.0}, "page": {}}}},
}  # fmt: skip
MANIFEST = {
    "splits": {
        "train": {"rows": 1000, "unlabelled": 200, "positives": 40, "times": [0, 86_400_000_000]},
        "valid": {"rows": 400, "unlabelled": 0, "positives": 10, "times": []},
        "test": {"rows": 0, "unlabelled": 0, "positives": 0, "times": []},
    },
    "rejected": 3,
    "command": "python -m preprocessing.task --input /home/somebody/log.csv",
}


def schema(**changes):
    content = {
        "name": "tiny",
        "label": {"column": "click|ed", "positive": ["yes"], "negative": ["no"]},
        "group": "uid",
        "split": {"by": "hash", "key": ["uid"], "valid": 0.1, "test": 0.2},
        "fields": [
            {"name": "user", "kind": "categorical", "column": "uid"},
            {"name": "price", "kind": "numeric"},
            {"name": "page", "kind": "categorical", "hash_buckets": 16},
            {"name": "history", "kind": "sequence", "vocabulary": "user", "max_length": 7},
            {"name": "image", "kind": "vector", "size": 3},
        ],
    }
    return parse_schema({**content, **changes}, "test").resolve({"user": 6, "price": 4, "page": 18})


def facts(**changes) -> Facts:
    content = {
        "schema": schema(), "manifest": MANIFEST, "statistics": STATISTICS, "config": load_config(), "state": STATE, "pretraining": [],
        "environment": {"python": "3.0", "packages": {"numpy": "1.0"}, "train_checksum": "abc", "data_folder": "/home/somebody/data"},
        "weights": "finetune 0123", "evaluation": None,
    }  # fmt: skip
    return Facts(**{**content, **changes})


def card(**changes) -> str:
    return model_card(facts(**changes), rows=12, difference=2.5e-7)


def line(text: str, start: str) -> str:
    [found] = [line for line in text.splitlines() if line.startswith(start)]
    return found


# The data.


def test_the_data_are_counted_by_split():
    text = card()
    assert line(text, "| split") == "| split | rows | with a label | clicks | click rate | first | last |"
    assert line(text, "| train") == "| train | 1,000 | 800 | 40 | 5.00% | 1970-01-01 00:00 | 1970-01-02 00:00 |"
    assert line(text, "| test") == "| test | 0 | 0 | 0 |  |  |  |"
    assert "- Malformed rows that were left out: 3." in text
    assert "column `click\\|ed` being `yes` and not `no`, from 5 features" in text


def test_features_are_described_by_their_shares():
    text = card()
    assert line(text, "| user") == "| user | categorical | yes | 6 | 12.50% | 0.00% | 6.25% |"
    assert line(text, "| image").startswith("| image | vector | no |")
    ignored = card(config=load_config(assignments=["model.ignored_fields=[price]"]))
    assert line(ignored, "| price").startswith("| price | numeric | no |")


def test_a_data_folder_without_statistics_is_said_to_have_none():
    assert "The data folder holds no statistics of its fields." in card(statistics={})


@pytest.mark.parametrize(("split", "rule"), [
    ({"by": "hash", "key": ["uid", "day"], "valid": 0.1, "test": 0.2, "seed": 3},
     "by a hash of `uid`, `day` (seed 3): 0.1 of the keys to valid, 0.2 to test, the rest to train"),
    ({"by": "time", "column": "when", "valid_from": 10, "test_from": 20},
     "by column `when`: before 10.0 to train, before 20.0 to valid, the rest to test"),
    ({"by": "column", "column": "part"}, "as column `part` says"),
    ({"by": "files", "train": "/home/a", "valid": "/home/b", "test": "/home/c"}, "each split has files of its own"),
])  # fmt: skip
def test_the_rule_of_the_split_is_put_in_words(split, rule):
    assert split_rule(schema(split=split).split) == rule


@pytest.mark.parametrize(("microseconds", "shown"), [
    ("", ""), (-1, "1969-12-31 23:59"), (253_402_300_799_999_999, "9999-12-31 23:59"), (-62_135_596_800_000_000, "0001-01-01 00:00"),
    (253_402_300_800_000_000, "about the year 9,999"), (1_700_000_000_000_000_000, "about the year 55,840"),
    (-(2**63), "about the year -290,308"), (10**30, "about the year 31,688,738,506,813,400"),
])  # fmt: skip
def test_any_time_has_a_date(microseconds, shown):
    assert date(microseconds) == shown


# Training and metrics.


def test_the_exported_epoch_is_described():
    text = card()
    assert "- No pre-training of its own; started from random parameters." in text
    assert "- Fine-tuning: the weights after epoch 2 and 40 steps, the best by validation auc; seed 1." in text
    assert "\nseed: 1\n" in text
    pretrained = card(pretraining=[{"step": 7}, {"step": 14}], state=replace(STATE, changes=[{"step": 25, "differences": []}]))
    assert "- Pre-training: 2 epochs, 14 steps." in pretrained
    assert "- Settings were changed at step 25 of fine-tuning." in pretrained


def test_metrics_of_the_validation_split_alone_are_said_to_be_just_that():
    text = card()
    assert line(text, "| measure") == "| measure | valid |"
    assert line(text, "| AUC") == "| AUC: how often a random click is ranked above a random non-click | 0.7500 |"
    assert line(text, "| GAUC").endswith("|  |")
    assert "The model folder holds no evaluation of these weights on the test split (`python -m trainer.task --stage=evaluate`)." in text


def test_metrics_of_the_test_split_stand_beside():
    text = card(evaluation=TEST)
    assert line(text, "| measure") == "| measure | valid | test |"
    assert line(text, "| AUC").endswith("| 0.7500 | 0.7000 |")
    assert line(text, "| clicks") == "| clicks | 10 | 20 |"
    assert "holds no evaluation" not in text


def test_calibration_is_told_in_clicks():
    assert calibration(VALID, TEST) == [
        "Probabilities are the network's own: nothing was fitted to correct them.",
        "On valid, it predicts 20.0% too many clicks, of 10; ECE 0.0056.",
        "On test, it predicts as many clicks as there were, of 20; ECE 0.0056.",
    ]
    platt = {**VALID, "platt_slope": 0.5, "platt_intercept": -0.25, "calibration_bias": -0.1}
    assert calibration(platt, None) == [
        "Logits are calibrated by Platt scaling, fitted on the validation split: 0.5000 times the network's logit, plus -0.2500.",
        "On valid, it predicts 10.0% too few clicks, of 10; ECE 0.0056.",
    ]
    assert len(calibration({**VALID, "calibration_bias": None}, None)) == 1  # a split without a click defines no bias


def test_limits_come_from_what_was_counted():
    _, *found = limits(schema(), MANIFEST, STATISTICS, ["price"])
    assert found == [
        "Values that the vocabulary lacks, most in validation: user 6.25%.",
        "Numbers beyond the training range count as its outermost bucket: price -1 to 99.5.",
        "Of longer lists it reads the last 7 of history.",
        "Hashed fields, and the share of their values that are taken for another: page (3.0%).",
        "Fields that are asked for but change no answer: price, image.",
        "Training rows end at 1970-01-02 00:00 UTC: of values and habits that came later it knows nothing.",
    ]


def test_nothing_counted_means_nothing_claimed():
    bare = schema(fields=[{"name": "user", "kind": "categorical"}])
    manifest = {"splits": {"train": {"rows": 1, "positives": 0}}}
    assert len(limits(bare, manifest, {}, [])) == 1


def test_the_check_and_the_versions_are_noted():
    text = card()
    assert "- Answers 12 rows as the trainer does: the largest difference is 2.5e-07." in text
    assert line(text, "| numpy").startswith("| numpy | 1.0 | ")
    assert "- Weights: `finetune 0123`." in text and "`abc`" in text


def test_no_path_of_the_machine_and_no_value_of_the_log_is_told():
    assert "somebody" not in card()


def test_texts_of_a_log_cannot_break_the_tables():
    assert code("a|b`c\nd") == "`a\\|b'c d`"
    assert table(["a", "empty", "b"], [["1", "", "2"], ["3", "", ""]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 |  |"


# From folders.


@pytest.fixture
def folders(tmp_path):
    """A model folder with one checkpoint of two epochs, as far as a card reads it, and its data folder."""
    data_dir, model_dir = tmp_path / "data", tmp_path / "model"
    checkpoint = model_dir / "finetune" / "checkpoints" / "epoch-0002"
    for folder in (data_dir, checkpoint, model_dir / "report"):
        folder.mkdir(parents=True)
    (data_dir / "schema.yaml").write_text(schema().to_yaml())
    (data_dir / "manifest.json").write_text(json.dumps(MANIFEST))
    (checkpoint / "state.json").write_text(json.dumps(asdict(STATE)))
    (checkpoint / "config.yaml").write_text(load_config(assignments=["seed=7"]).to_yaml())
    (checkpoint / "model.data-00000-of-00001").write_bytes(b"weights")
    seal(checkpoint)
    (model_dir / "environment.json").write_text(json.dumps(facts().environment))
    return model_dir, data_dir


def test_a_card_is_written_from_the_folders(folders, tmp_path):
    model_dir, data_dir = folders
    found = read_facts(model_dir, data_dir)
    assert (found.config.seed, found.validation["auc"], found.pretraining, found.statistics) == (7, 0.75, [], {})
    (tmp_path / "version").mkdir()
    write_model_card(tmp_path / "version", found, 12, 0.0)
    text = (tmp_path / "version" / MODEL_CARD_FILE).read_text()
    assert text.startswith("# Model card: tiny\n") and str(tmp_path) not in text


@pytest.mark.parametrize(("of_these_weights", "shown"), [(True, True), (False, False)])
def test_a_report_counts_only_if_it_is_of_these_weights(folders, of_these_weights, shown):
    model_dir, data_dir = folders
    fingerprint = StageCheckpoints(model_dir, "finetune").fingerprint() if of_these_weights else "finetune of another day"
    (model_dir / "report" / "metrics.json").write_text(json.dumps({**TEST, "model": fingerprint}))
    assert (read_facts(model_dir, data_dir).evaluation is not None) == shown


def test_a_report_that_does_not_name_its_weights_does_not_count(folders):
    (folders[0] / "report" / "metrics.json").write_text(json.dumps(TEST))
    assert read_facts(*folders).evaluation is None
