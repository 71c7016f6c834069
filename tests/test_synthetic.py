"""The generated click log: its files, its truth, and that it resembles a real log."""

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from preprocessing import synthetic
from preprocessing.errors import UserError
from preprocessing.schema import load_schema

ROWS = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("synthetic") / "log"
    synthetic.generate(synthetic.Settings(rows=ROWS, shards=3, users=1000, items=500, click_rate=0.05), output)
    return output


@pytest.fixture(scope="module")
def log(folder) -> pd.DataFrame:
    return pd.concat([pd.read_csv(path) for path in sorted(folder.glob("log-*.csv"))], ignore_index=True)


@pytest.fixture(scope="module")
def truth(folder) -> pd.DataFrame:
    return pd.concat([pd.read_csv(path) for path in sorted(folder.glob("truth-*.csv"))], ignore_index=True)


def _checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_files_and_alignment(folder, log, truth):
    suffixes = [f"{shard:05d}-of-00003.csv" for shard in range(3)]
    expected = [f"log-{suffix}" for suffix in suffixes] + ["schema.yaml"] + [f"truth-{suffix}" for suffix in suffixes]
    assert sorted(path.name for path in folder.iterdir()) == expected
    assert len(log) == ROWS
    assert log["row_id"].tolist() == truth["row_id"].tolist() == list(range(ROWS))


def test_truth_is_no_column_of_the_log_and_no_field(folder, log):
    schema = load_schema(folder / "schema.yaml")
    assert "probability" not in log.columns
    assert set(schema.columns) <= set(log.columns)
    assert not {"row_id", "probability", "click"} & {field.source for field in schema.fields}


def test_split_boundaries_leave_a_tenth_each(folder, log):
    split = load_schema(folder / "schema.yaml").split
    assert (log["timestamp"] < split.valid_from).mean() == pytest.approx(0.8, abs=0.02)
    assert (log["timestamp"] >= split.test_from).mean() == pytest.approx(0.1, abs=0.02)


def test_click_rate_is_the_requested_one_and_labels_follow_the_truth(log, truth):
    assert truth["probability"].mean() == pytest.approx(0.05, abs=0.003)
    deviation = np.sqrt((truth["probability"] * (1 - truth["probability"])).sum())
    assert abs(log["click"].sum() - truth["probability"].sum()) < 4 * deviation
    deciles = pd.qcut(truth["probability"], 10)
    by_decile = pd.DataFrame({"click": log["click"], "probability": truth["probability"]}).groupby(
        deciles, observed=True).agg(["mean", "size"])
    expected, size = by_decile["probability"]["mean"], by_decile["click"]["size"]
    error = (by_decile["click"]["mean"] - expected).abs() / np.sqrt(expected * (1 - expected) / size)
    assert (error < 4.5).all()


def test_frequencies_are_zipf_like_with_a_rare_tail(log):
    for column in ("user_id", "item_id"):
        counts = log[column].value_counts().to_numpy()
        head = counts[:50]
        slope = np.polyfit(np.log(np.arange(1, 51)), np.log(head), 1)[0]
        assert -1.2 < slope < -0.4
    assert (log["city"].value_counts() < 100).sum() >= 20


def test_missing_values_outliers_and_scenarios(log):
    for column, share in synthetic.MISSING_SHARE.items():
        assert log[column].isna().mean() == pytest.approx(share, abs=0.01)
    assert log["price"].max() > 20 * log["price"].quantile(0.99)
    assert log["days_since_visit"].max() > 20 * log["days_since_visit"].quantile(0.99)
    rates = log.groupby("scenario")["click"].mean()
    assert rates["search"] > 1.2 * rates["feed"] > 1.2 * rates["detail"]


def test_features_predict_one_another(log):
    known = log.dropna(subset=["brand"])
    assert (known.groupby("brand")["category"].nunique() == 1).all()
    assert (known.groupby("item_id")["brand"].nunique() == 1).all()
    assert (log.groupby("user_id")["city"].nunique() <= 1).all()
    users = log["user_id"].value_counts().index[:20]
    shown = pd.crosstab(log["user_id"], log["category"], normalize="index").loc[users]
    overall = log["category"].value_counts(normalize=True)[shown.columns]
    distance = (shown - overall).abs().sum(axis=1) / 2
    assert distance.median() > 0.15  # total variation: users are shown what they like, not what everyone is


def test_truth_drifts(log, truth):
    late = log["timestamp"] > log["timestamp"].median()
    odds = np.log(truth["probability"] / (1 - truth["probability"]))
    by_category = pd.DataFrame({"odds": odds, "late": late, "category": log["category"]}).pivot_table(
        index="category", columns="late", values="odds")
    assert (by_category[True] - by_category[False]).std() > 0.05


def test_best_auc_is_high_and_main_effects_fall_clearly_short(log, truth):
    split = int(ROWS * 0.8)
    order = np.argsort(log["timestamp"].to_numpy(), kind="stable")
    train, test = order[:split], order[split:]
    columns = ["scenario", "user_id", "item_id", "category", "brand", "device", "hour", "position", "city", "age_band"]
    tokens = [[f"{name}={value}" for name, value in zip(columns, row, strict=True)] for row in log[columns].to_numpy()]
    hashed = FeatureHasher(2**14, input_type="string").transform(tokens)
    clicks = log["click"].to_numpy()
    model = LogisticRegression(C=0.1, max_iter=100).fit(hashed[train], clicks[train])
    best = roc_auc_score(clicks[test], truth["probability"].to_numpy()[test])
    main_effects = roc_auc_score(clicks[test], model.predict_proba(hashed[test])[:, 1])
    assert 0.78 < best < 0.88
    assert 0.6 < main_effects < best - 0.05


def _shift(before: list[str], after: list[str]) -> int:
    """How many items left the window between two histories of one user."""
    return next(shift for shift in range(len(before) + 1) if after[:len(before) - shift] == before[shift:])


def test_histories_of_a_user_slide_through_one_sequence_in_all_shards(log):
    for user in log["user_id"].value_counts().index[:10]:
        rows = log[log["user_id"] == user].sort_values("timestamp", kind="stable")
        histories = [text.split("|") for text in rows["history"].dropna()]
        assert len(histories) > 300
        assert max(len(history) for history in histories) == synthetic.HISTORY_LENGTH
        shifts = [_shift(before, after) for before, after in itertools.pairwise(histories)]
        assert max(shifts) <= 3 and sum(shifts) > 5


def test_history_shows_the_users_taste(log):
    category = log.drop_duplicates("item_id").set_index("item_id")["category"]
    recent = log["history"].str.split("|").str[-1].map(category)
    shown = log["category"]
    same = (recent == shown)[recent.notna()].mean()
    chance = (recent.value_counts(normalize=True) * shown.value_counts(normalize=True)).sum()
    assert same > 1.3 * chance


def test_same_seed_same_bytes_and_other_seed_other_rows(tmp_path):
    settings = synthetic.Settings(rows=500, shards=2, users=50, items=40)
    synthetic.generate(settings, tmp_path / "a")
    synthetic.generate(settings, tmp_path / "b")
    synthetic.generate(synthetic.Settings(rows=500, shards=2, users=50, items=40, seed=2), tmp_path / "c")
    assert _checksums(tmp_path / "a") == _checksums(tmp_path / "b")
    assert _checksums(tmp_path / "a")["log-00000-of-00002.csv"] != _checksums(tmp_path / "c")["log-00000-of-00002.csv"]


def test_a_shard_depends_on_seed_and_number_only():
    few, many = (synthetic.Settings(rows=200 * shards, shards=shards, users=50, items=40) for shards in (2, 5))
    population = synthetic.make_population(few)
    (first, _), (second, _) = (next(synthetic.shard_blocks(population, settings, -3.0, 0)) for settings in (few, many))
    assert first.equals(second)


def test_shards_are_written_block_by_block(monkeypatch):
    monkeypatch.setattr(synthetic, "BLOCK_ROWS", 64)
    settings = synthetic.Settings(rows=200, shards=1, users=50, items=40)
    blocks = list(synthetic.shard_blocks(synthetic.make_population(settings), settings, -3.0, 0))
    assert [log.num_rows for log, _ in blocks] == [64, 64, 64, 8]
    seconds = np.concatenate([log["timestamp"].to_numpy() for log, _ in blocks])
    assert (np.diff(seconds) >= 0).all()


def test_smallest_log(tmp_path):
    synthetic.generate(synthetic.Settings(rows=1, shards=1, users=1, items=1, days=1), tmp_path / "one")
    assert len(pd.read_csv(tmp_path / "one/log-00000-of-00001.csv")) == 1


def test_intercept_by_hand():
    assert synthetic.solve_intercept(np.zeros(3), 0.5) == pytest.approx(0.0, abs=1e-9)
    assert synthetic.solve_intercept(np.full(3, 2.0), 0.1) == pytest.approx(np.log(1 / 9) - 2.0)


@pytest.mark.parametrize(("flag", "value", "message"), [
    ("rows", 0, "--rows: expected at least 1, received 0"),
    ("shards", 11, "--shards: expected at most one a row (10 rows), received 11"),
    ("click_rate", 0.7, "--click_rate: expected above 0 and at most 0.5, received 0.7"),
    ("seed", -1, "--seed: expected 0 or more, received -1"),
])
def test_wrong_settings_are_named(flag, value, message):
    with pytest.raises(UserError) as error:
        synthetic.Settings(**{"rows": 10, "shards": 1, flag: value})
    assert message in str(error.value)


def test_a_folder_with_files_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert synthetic.main(["--output", str(tmp_path), "--rows", "10"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "expected a new or empty folder" in message and "Traceback" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failed_run_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic, "_write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        synthetic.generate(synthetic.Settings(rows=10, shards=1, users=5, items=5), tmp_path / "log")
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path):
    command = [sys.executable, "-m", "preprocessing.synthetic", "--output", str(tmp_path / "log"), "--rows", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("100 rows, mean true click probability 0.")
    assert len(list((tmp_path / "log").glob("log-*-of-00004.csv"))) == 4
