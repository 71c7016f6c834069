"""Recipes for public data sets: small files in the publishers' formats, and the real ones where they are there."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from preprocessing import task
from preprocessing.datasets import RECIPES, Recipe, avazu
from preprocessing.datasets.movielens import Histories
from preprocessing.errors import UserError
from preprocessing.rows import Rows, read_rows
from preprocessing.schema import SPLITS
from preprocessing.sources import blocks, find_files

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def rows_of(recipe: Recipe, folder: Path, output: Path) -> list[Rows]:
    """The rows that preprocessing reads, none of them malformed."""
    with recipe.opened(folder, output) as log:
        found = [rows for one in find_files(log.patterns, log.schema) for rows in read_rows(one, log.schema)]
    assert not any(rows.rejections for rows in found)
    return found


def table_of(recipe: Recipe, folder: Path, output: Path) -> pa.Table:
    """The rows that a recipe writes."""
    with recipe.opened(folder, output) as log:
        paths = [one.path for one in find_files(log.patterns, log.schema)]
        return pa.concat_tables([pq.read_table(path) for path in paths])


def refused(recipe: Recipe, folder: Path, output: Path) -> str:
    with pytest.raises(UserError) as caught, recipe.opened(folder, output):
        pass
    assert not list(output.parent.glob(".*")) and f"--dataset={recipe.name}" in str(caught.value)
    assert recipe.how_to_get in str(caught.value)
    return str(caught.value)


def split_counts(found: list[Rows]) -> dict[str, int]:
    codes = np.concatenate([rows.split for rows in found])
    return dict(zip(SPLITS, np.bincount(codes, minlength=len(SPLITS)).tolist(), strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_schema_and_tells_what_to_get(name, tmp_path):
    recipe = RECIPES[name]
    assert recipe.schema().name == name
    assert "expected a folder with the publisher's files" in refused(recipe, tmp_path / "nowhere", tmp_path / "data")


# ---- Criteo ----


def criteo_row(label: str, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [label, *(str(number) if number % 5 else "" for number in rng.integers(0, 1000, 13)),
            *(f"{text:08x}" for text in rng.integers(0, 1 << 32, 26))]


def test_criteo_in_the_publishers_format(tmp_path):
    lines = ["\t".join(criteo_row("01"[row % 4 == 0], row)) + "\n" for row in range(2000)]
    (tmp_path / "criteo").mkdir()
    (tmp_path / "criteo" / "train.txt.gz").write_bytes(gzip.compress("".join(lines).encode()))
    found = rows_of(RECIPES["criteo"], tmp_path / "criteo", tmp_path / "data")
    counts = split_counts(found)
    assert sum(counts.values()) == 2000 and 150 < counts["valid"] < 250 and 150 < counts["test"] < 250
    assert sum(rows.label.sum() for rows in found) == 500
    first = dict(zip(RECIPES["criteo"].schema().header, criteo_row("1", 0), strict=True))
    assert found[0].features["C26"][0].as_py() == first["C26"]
    np.testing.assert_equal(found[0].features["I13"][0], np.float32(first["I13"] or "nan"))


def test_criteo_says_what_is_wrong(tmp_path):
    recipe, folder = RECIPES["criteo"], tmp_path / "criteo"
    folder.mkdir()
    assert "expected one of train.txt and train.txt.gz" in refused(recipe, folder, tmp_path / "data")
    (folder / "train.txt").write_text("\t".join(criteo_row("1", 0)[1:]) + "\n")  # as the publisher's test.txt
    assert "expected 40 values a line" in refused(recipe, folder, tmp_path / "data")
    (folder / "train.txt.gz").write_bytes(b"")
    assert "received train.txt and train.txt.gz" in refused(recipe, folder, tmp_path / "data")


@pytest.mark.skipif(not (DATA / "criteo_10k").is_dir(), reason="no Criteo rows in ../shared/data/criteo_10k")
def test_criteo_real_rows(tmp_path):
    (tmp_path / "criteo").mkdir()
    (tmp_path / "criteo" / "train.txt.gz").symlink_to(DATA / "criteo_10k" / "labelled.tsv.gz")
    counts = split_counts(rows_of(RECIPES["criteo"], tmp_path / "criteo", tmp_path / "data"))
    assert sum(counts.values()) == 10_000 and 900 < counts["valid"] < 1100 and 900 < counts["test"] < 1100


# ---- Avazu ----

AVAZU_HEADER = ("id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
                "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21\n")


def avazu_row(number: int, click: int, hour: str) -> str:
    return f"{number},{click},{hour},1005,0," + ",".join(f"{number:08x}" for _ in range(9)) + ",1,2" + ",3" * 8 + "\n"


def test_avazu_in_the_publishers_format(tmp_path):
    folder = tmp_path / "avazu"
    folder.mkdir()
    rows = [avazu_row(1, 0, "14102100"), avazu_row(2, 1, "14102923"), avazu_row(3, 0, "14103005")]
    (folder / "train.gz").write_bytes(gzip.compress((AVAZU_HEADER + "".join(rows)).encode()))
    (found,) = rows_of(RECIPES["avazu"], folder, tmp_path / "data")
    assert split_counts([found]) == {"train": 1, "valid": 1, "test": 1}
    assert found.features["hour_of_day"].to_pylist() == ["0", "23", "5"]
    assert found.features["weekday"].to_pylist() == ["1", "2", "3"]  # October 21, 2014 was a Tuesday
    assert found.timestamp.tolist() == [1_413_849_600 * 10**6, 1_414_623_600 * 10**6, 1_414_645_200 * 10**6]
    assert found.key.to_pylist() == ["1", "2", "3"] and found.label.tolist() == [0, 1, 0]


def test_avazu_writes_several_files_of_a_long_log(tmp_path, monkeypatch):
    folder = tmp_path / "avazu"
    folder.mkdir()
    (folder / "train.csv").write_text(AVAZU_HEADER + "".join(avazu_row(row, row % 2, "14102100") for row in range(9)))
    monkeypatch.setattr(avazu, "_FILE_ROWS", 4)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 400)  # of about three rows
    found = rows_of(RECIPES["avazu"], folder, tmp_path / "data")
    assert len(found) > 1
    assert [key for rows in found for key in rows.key.to_pylist()] == [str(row) for row in range(9)]


def test_avazu_says_what_is_wrong(tmp_path):
    recipe, folder, output = RECIPES["avazu"], tmp_path / "avazu", tmp_path / "data"
    folder.mkdir()
    assert "expected one of train.csv and train.csv.gz and train.gz" in refused(recipe, folder, output)
    (folder / "train.csv").write_text("id,hour\n1,14102100\n")
    assert "does not look like the publisher's file" in refused(recipe, folder, output)
    (folder / "train.csv").write_text(AVAZU_HEADER + avazu_row(1, 0, "2014-10-21"))
    assert "not written YYMMDDHH" in refused(recipe, folder, output)


# ---- MovieLens-1M ----


def test_a_history_is_what_was_liked_before():
    # User 7's rows in their order: 3 (liked), 0, 5 (liked), 1 (liked); row 4 has no place. User 8: 2 (liked), 6.
    user = np.array([7, 7, 8, 7, 7, 7, 8])
    rank = np.array([1, 3, 0, 0, -1, 2, 1])
    liked = np.array([False, True, True, True, True, True, False])
    rows, lengths = Histories(user, rank, liked, 50).of(0, 7)
    histories = np.split(rows, np.cumsum(lengths)[:-1])
    assert [history.tolist() for history in histories] == [[3], [3, 5], [], [], [], [3], [2]]
    rows, lengths = Histories(user, rank, liked, 1).of(1, 3)
    assert (rows.tolist(), lengths.tolist()) == ([5], [1, 0])  # the most recent one


RATINGS = [  # user, film, stars, time
    (1, 10, 5, 100), (1, 20, 3, 300), (1, 30, 4, 200), (1, 40, 5, 300), (1, 50, 1, 400),
    (2, 10, 2, 100), (2, 30, 4, 100), (2, 20, 4, 90), (2, 40, 5, 500), (2, 50, 5, 600),
]
USERS = ["1::F::1::10::48067", "2::M::25::16::70072-1234"]
MOVIES = ["10::Toy Story (1995)::Animation|Children's|Comedy", "20::Ça va (1999)::Drama", "30::GoldenEye (1995)::Action",
          "40::2001: A Space Odyssey (1968)::Sci-Fi", "50::Heat: Part (2) (1995)::Action|Crime"]


def write_movielens(folder: Path, ratings: list[tuple]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in ratings))
    (folder / "users.dat").write_text("\n".join(USERS) + "\n")
    (folder / "movies.dat").write_text("\n".join(MOVIES) + "\n", encoding="latin1")
    return folder


def test_movielens_in_the_publishers_format(tmp_path):
    table = table_of(RECIPES["movielens_1m"], write_movielens(tmp_path / "ml-1m", RATINGS), tmp_path / "data")
    rows = {(int(row["user_id"]), int(row["movie_id"])): row for row in table.to_pylist()}
    assert len(rows) == len(RATINGS)
    histories = {key: row["history"] for key, row in rows.items()}
    assert histories == {
        (1, 10): [], (1, 30): ["10"], (1, 20): ["10", "30"], (1, 40): ["10", "30"], (1, 50): ["10", "30", "40"],
        (2, 20): [], (2, 10): ["20"], (2, 30): ["20"], (2, 40): ["20", "30"], (2, 50): ["20", "30", "40"],
    }
    # Five ratings a user, whose middles are 0.1, 0.3, 0.5, 0.7 and 0.9: four train, none validates and the last tests.
    assert {key for key, row in rows.items() if row["split"] == "test"} == {(1, 50), (2, 50)}
    names = ("label", "domain", "zip3", "year", "genres")
    assert [rows[2, 50][name] for name in names] == [1, 1, "700", "1995", ["Action", "Crime"]]
    assert "rating" not in table.column_names and "chrono_rank" not in table.column_names
    assert not list(tmp_path.glob(".*"))


def test_movielens_as_one_table(tmp_path):
    folder = tmp_path / "ml"
    folder.mkdir()
    header = "split,label,rating,domain,user_id,gender,age,occupation,zip3,movie_id,year,genres,chrono_rank\n"
    rows = ["train,1,5,0,1,F,1,10,021,10,1995,Drama|War,0\n", "train,1,4,0,1,F,1,10,021,20,1995,Drama,-1\n",
            "valid,0,2,0,1,F,1,10,021,30,1995,Drama,1\n", "test,1,5,0,1,F,1,10,021,40,1995,Drama,2\n"]
    (folder / "ml1m_ctr.csv").write_text(header + "".join(rows))
    table = table_of(RECIPES["movielens_1m"], folder, tmp_path / "data")
    assert table["history"].to_pylist() == [[], [], ["10"], ["10"]]
    assert table["zip3"][0].as_py() == "021"
    (folder / "ml1m_ctr.csv").write_text(header + rows[0] + rows[0])
    assert "the same chrono_rank" in refused(RECIPES["movielens_1m"], folder, tmp_path / "data")
    (folder / "ml1m_ctr.csv").write_text(header.replace("rating,", "") + rows[0])
    assert "does not look like the publisher's file" in refused(RECIPES["movielens_1m"], folder, tmp_path / "data")


@pytest.mark.parametrize(("file", "content", "expected"), [
    ("users.dat", USERS[0] + "\n", "users.dat has no user_id '2'"),
    ("movies.dat", MOVIES[0] + "\n", "movies.dat has no movie_id '20'"),
    ("ratings.dat", "1::10::5\n", "expected 4 values a line (user_id, movie_id, rating, time)"),
    ("ratings.dat", "1::10::five::100\n", "column rating"),
    ("movies.dat", None, "expected one of movies.dat and movies.dat.gz"),
    ("item_features.npz", {"movie_id": [1]}, "expected movie_id, visual, text, people"),
])
def test_movielens_says_what_is_wrong(tmp_path, file, content, expected):
    folder = write_movielens(tmp_path / "ml-1m", RATINGS)
    if content is None:
        (folder / file).unlink()
    elif isinstance(content, dict):
        np.savez(folder / file, **content)
    else:
        (folder / file).write_text(content)
    assert expected in refused(RECIPES["movielens_1m"], folder, tmp_path / "data")


@pytest.fixture(scope="module")
def real_movielens() -> pa.Table:
    """The ratings of the first users of the real data set."""
    path = DATA / "movielens_1m" / "ml1m_ctr.csv.gz"
    if not path.is_file():
        pytest.skip("no MovieLens ratings in ../shared/data/movielens_1m")
    with gzip.open(path) as stream:
        head = b"".join(line for _, line in zip(range(30_000), stream, strict=False))
    table = pa_csv.read_csv(pa.BufferReader(head), convert_options=pa_csv.ConvertOptions(
        column_types={"user_id": pa.string(), "movie_id": pa.string(), "zip3": pa.string(), "year": pa.string()}))
    return table.filter(pa.compute.not_equal(table["user_id"], table["user_id"][-1]))  # whose ratings are cut off


def test_movielens_real_rows(tmp_path, real_movielens):
    folder = tmp_path / "ml"
    folder.mkdir()
    pa_csv.write_csv(real_movielens, folder / "ml1m_ctr.csv", pa_csv.WriteOptions(quoting_style="none"))
    histories = table_of(RECIPES["movielens_1m"], folder, tmp_path / "data")["history"].to_pylist()
    rows = real_movielens.to_pylist()
    for place in range(0, len(rows), 97):
        row = rows[place]
        earlier = sorted((one["chrono_rank"], one["movie_id"]) for one in rows if one["user_id"] == row["user_id"]
                         and 0 <= one["chrono_rank"] < row["chrono_rank"] and one["rating"] >= 4)
        assert histories[place] == [movie for _, movie in earlier][-50:]


def test_the_publishers_files_give_the_same_rows_as_the_table(tmp_path, real_movielens):
    known = real_movielens.filter(pa.compute.greater_equal(real_movielens["chrono_rank"], 0))
    by_user = known.group_by("user_id").aggregate([("chrono_rank", "max"), ("chrono_rank", "count")]).to_pylist()
    whole = {one["user_id"] for one in by_user if one["chrono_rank_max"] + 1 == one["chrono_rank_count"]}
    rows = [row for row in known.to_pylist() if row["user_id"] in whole]
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    lines = {"ratings": [f"{row['user_id']}::{row['movie_id']}::{row['rating']}::{row['chrono_rank']}" for row in rows]}
    lines["users"] = {f"{row['user_id']}::{row['gender']}::{row['age']}::{row['occupation']}::{row['zip3']}00" for row in rows}
    lines["movies"] = {f"{row['movie_id']}::A film ({row['year']})::{row['genres']}" for row in rows}
    for name, content in lines.items():
        (folder / f"{name}.dat").write_text("\n".join(content) + "\n")
    found = table_of(RECIPES["movielens_1m"], folder, tmp_path / "data").to_pylist()
    for name in ("split", "label", "domain", "gender", "zip3", "year"):
        assert [str(row[name]) for row in found] == [str(row[name]) for row in rows], name
    assert [row["genres"] for row in found] == [row["genres"].split("|") for row in rows]


# ---- Open Bandit ----

OBD_HEADER = ["", "timestamp", "item_id", "position", "click", "propensity_score",
              *(f"user_feature_{number}" for number in range(4))]


def write_campaign(folder: Path, campaign: str, rows: list[list], items: list[list], affinities: int) -> None:
    folder.mkdir(parents=True)
    with (folder / f"{campaign}.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([OBD_HEADER + [f"user-item_affinity_{item}" for item in range(affinities)], *rows])
    with (folder / "item_context.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["", "item_id", *(f"item_feature_{number}" for number in range(4))], *items])


ITEMS = [[0, 0, 0.5, "a", "b", "c"], [1, 1, -1.5, "d", "e", "f"]]


def obd_row(number: int, day: int, item: int, click: int, affinities: list[float]) -> list:
    return [number, f"2019-11-{day} 10:00:00.123456+00:00", item, 1 + number % 3, click, 0.5, "u0", "u1", "u2", "u3", *affinities]


def test_open_bandit_in_the_publishers_format(tmp_path):
    folder = tmp_path / "obd"
    write_campaign(folder / "bts" / "men", "men", [obd_row(0, 24, 1, 0, [2.0, 3.0]), obd_row(1, 29, 0, 1, [0.0, 4.0])], ITEMS, 2)
    write_campaign(folder / "random" / "all", "all", [obd_row(0, 30, 0, 0, [7.0, 0.0])], ITEMS, 2)
    found = rows_of(RECIPES["zozo_obd"], folder, tmp_path / "data")
    assert split_counts(found) == {"train": 1, "valid": 1, "test": 1}
    men, everyone = found  # in the order of their policies
    assert men.features["item_id"].to_pylist() == ["men-1", "men-0"] and everyone.features["item_id"].to_pylist() == ["all-0"]
    assert men.features["campaign"].to_pylist() == ["men", "men"]
    assert men.features["aff_shown"].tolist() == [3, 0] and men.features["aff_sum"].tolist() == [5, 4]
    assert men.features["item_feature_0"].tolist() == [-1.5, 0.5] and men.features["item_feature_3"].to_pylist() == ["f", "c"]
    assert men.label.tolist() == [0, 1]
    assert not list(tmp_path.glob(".*"))


def test_open_bandit_says_what_is_wrong(tmp_path):
    recipe, folder, output = RECIPES["zozo_obd"], tmp_path / "obd", tmp_path / "data"
    folder.mkdir()
    assert "expected at least one of ['bts/all'" in refused(recipe, folder, output)
    part = folder / "bts" / "all"
    write_campaign(part, "all", [obd_row(0, 24, 2, 0, [1.0, 1.0])], ITEMS, 2)
    assert "item_context.csv has no item '2'" in refused(recipe, folder, output)
    (part / "all.csv").write_text((part / "all.csv").read_text() + "1,2\n")
    assert "line 3: wrong number of columns" in refused(recipe, folder, output)
    (part / "all.csv").write_text("timestamp,item_id,click\n1,2,3\n")
    assert "does not look like the publisher's file" in refused(recipe, folder, output)
    (part / "item_context.csv").unlink()
    assert "expected one of item_context.csv" in refused(recipe, folder, output)


@pytest.mark.skipif(not (DATA / "zozo_obd").is_dir(), reason="no Open Bandit rows in ../shared/data/zozo_obd")
def test_open_bandit_real_rows(tmp_path):
    found = rows_of(RECIPES["zozo_obd"], DATA / "zozo_obd", tmp_path / "data")
    assert split_counts(found) == {"train": 43_569, "valid": 8_425, "test": 8_006}
    assert sum(rows.label.sum() for rows in found) == 287
    assert sum(len(set(rows.features["item_id"].to_pylist())) for rows in found) >= 160


# ---- The command ----


def test_what_a_killed_run_wrote_is_removed(tmp_path):
    stale = tmp_path / ".data.input-killed"
    stale.mkdir()
    (stale / "ratings.parquet").write_text("half")
    with RECIPES["movielens_1m"].opened(write_movielens(tmp_path / "ml-1m", RATINGS), tmp_path / "data") as log:
        assert not stale.exists()
        written = Path(log.patterns[0]).parent
        with RECIPES["movielens_1m"].opened(tmp_path / "ml-1m", tmp_path / "data"):
            assert written.is_dir()  # another run's that is alive stays
    assert not list(tmp_path.glob(".*"))


def test_movielens_from_end_to_end(tmp_path, capsys):
    ratings = [(user, 10 * (1 + (user + place) % 5), 1 + (user * place) % 5, place) for user in (1, 2) for place in range(20)]
    folder = write_movielens(tmp_path / "ml-1m", ratings)
    arguments = ["--dataset=movielens_1m", f"--input={folder}", f"--output={tmp_path / 'data'}"]
    visual = np.float16([[1, 2], [0, 0], [3, 4]])  # film 20 has none
    np.savez(folder / "item_features.npz", movie_id=[10, 20, 30], visual=visual, text=visual[:, :1], people=visual)
    assert task.main(arguments) == 0
    assert (tmp_path / "data" / "vectors" / "movie_visual.txt").read_text() == "10\n30\n"
    np.testing.assert_equal(np.load(tmp_path / "data" / "vectors" / "movie_visual.npy"), [[0, 0], [1, 2], [3, 4]])
    assert (tmp_path / "data" / "vocabularies" / "movie_id.txt").read_text().split()
    capsys.readouterr()
    assert task.main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "ml-1m"]
