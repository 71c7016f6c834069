"""MovieLens-1M: the publisher's three files (or the same as one table) to rows with each user's earlier liked films.

Where item_features.npz lies beside them, films also have its vectors: `movie_id` [films], and for each of visual (the poster),
text (the plot) and people an array [films, size], whose rows of zeros are films without.

The history of a row is the films that its user rated 4 or 5 before it, in the user's own order of time: neither the row's
film nor a later one. A row without a place in that order has no history and is in nobody's.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from preprocessing.datasets.recipe import Log, Recipe
from preprocessing.schema import SPLITS, Schema, VectorField, VectorTable
from preprocessing.sources.blocks import opened

HISTORY_LENGTH = 50
UNORDERED = -1
_LIKED = 4
_TABLE = "ml1m_ctr.csv"
_TABLE_COLUMNS = ("split", "label", "rating", "domain", "user_id", "gender", "age", "occupation", "zip3", "movie_id", "year",
                  "genres", "chrono_rank")
_RATINGS, _USERS, _MOVIES = "ratings.dat", "users.dat", "movies.dat"
_FILE_COLUMNS = {
    _RATINGS: ("user_id", "movie_id", "rating", "time"),
    _USERS: ("user_id", "gender", "age", "occupation", "zip"),
    _MOVIES: ("movie_id", "title", "genres"),
}
_VECTORS_FILE, _VECTORS = "item_features.npz", ("visual", "text", "people")
_BATCH_ROWS = 65_536


def find(recipe: Recipe, folder: Path) -> Callable[[Path], Log]:
    if any((folder / name).is_file() for name in (_TABLE, f"{_TABLE}.gz")):
        paths = (recipe.file(folder, _TABLE),)
        recipe.check_columns(paths[0], _TABLE_COLUMNS)
        read = _read_table
    else:
        paths = tuple(recipe.file(folder, name) for name in _FILE_COLUMNS)
        read = _read_publishers_files
    vectors = folder / _VECTORS_FILE
    return partial(_write, recipe, paths, read, vectors if vectors.is_file() else None)


def _write(recipe: Recipe, paths: tuple[Path, ...], read: Callable[..., pa.Table], vectors: Path | None, scratch: Path) -> Log:
    """Writes `ratings.parquet` and the side tables of vectors."""
    schema = recipe.schema()
    ratings = _write_ratings(read(recipe, paths), schema, scratch)
    if vectors:
        schema = schema.model_copy(update={"fields": (*schema.fields, *_write_vectors(recipe, vectors, scratch))})
    return Log(schema, [str(ratings)], tuple(map(str, (*paths, vectors) if vectors else paths)), scratch)


def _write_vectors(recipe: Recipe, path: Path, scratch: Path) -> list[VectorField]:
    """Writes a side table a vector field, of the films that have a vector; returns the fields."""
    fields = []
    with np.load(path) as arrays:
        if not {"movie_id", *_VECTORS} <= set(arrays.files):
            raise recipe.error(f"{path} has the arrays {arrays.files}, expected movie_id, {', '.join(_VECTORS)}; correct or "
                               "remove it")
        movies = arrays["movie_id"]
        for name in _VECTORS:
            values = arrays[name]
            there = values.any(axis=1)
            np.savez(scratch / f"{name}.npz", key=movies[there], values=values[there])
            table = VectorTable(file=f"{name}.npz", key="key", values="values")
            fields.append(VectorField(name=f"movie_{name}", column="movie_id", size=values.shape[1], table=table))
    return fields


def _write_ratings(table: pa.Table, schema: Schema, scratch: Path) -> Path:
    """Writes the rows with their histories, a batch at a time."""
    histories = Histories(_codes(table["user_id"]), table["chrono_rank"].to_numpy(), table["rating"].to_numpy() >= _LIKED,
                          HISTORY_LENGTH)
    movies = table["movie_id"].combine_chunks()
    path = scratch / "ratings.parquet"
    plain = table.select([column for column in schema.columns if column != "history"])
    genres = plain.schema.get_field_index("genres")
    plain = plain.set_column(genres, "genres", pc.split_pattern(plain["genres"], "|"))
    layout = plain.schema.append(pa.field("history", pa.list_(pa.string())))
    with pq.ParquetWriter(path, layout) as writer:
        for start in range(0, len(plain), _BATCH_ROWS):
            batch = plain.slice(start, _BATCH_ROWS)
            rows, lengths = histories.of(start, start + len(batch))
            offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
            writer.write_table(batch.append_column("history", pa.ListArray.from_arrays(offsets, movies.take(pa.array(rows)))))
    return path


class Histories:
    """Which earlier rows of its user each row remembers."""

    def __init__(self, user: np.ndarray, rank: np.ndarray, liked: np.ndarray, length: int):
        """Args, each [rows]:

        user: whose row it is; rank: its place among the user's rows, different for each, or below 0: unknown.
        liked: whether later rows remember it; length: how many rows are remembered at most.
        """
        order = np.lexsort((rank, user))
        order = order[rank[order] >= 0]
        liked_before = np.cumsum(liked[order]) - liked[order]
        begins = np.flatnonzero(np.diff(user[order], prepend=-1))  # of each user
        lengths = np.minimum(liked_before - np.repeat(liked_before[begins], np.diff(begins, append=len(order))), length)
        self._liked_rows = order[liked[order]]
        self._lengths = np.zeros(len(user), np.int64)
        self._lengths[order] = lengths
        self._starts = np.zeros(len(user), np.int64)  # in `_liked_rows`
        self._starts[order] = liked_before - lengths

    def of(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """What the rows from `first` to before `end` remember, oldest first, row after row; and how much each remembers."""
        lengths, starts = self._lengths[first:end], self._starts[first:end]
        shift = starts - (np.cumsum(lengths) - lengths)
        return self._liked_rows[np.arange(lengths.sum()) + np.repeat(shift, lengths)], lengths


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)


# ---- The ratings as one table ----


def _read_table(recipe: Recipe, paths: tuple[Path, ...]) -> pa.Table:
    table = _to_numbers(recipe, paths[0], _parse(recipe, paths[0], ",", None, _TABLE_COLUMNS), ("rating", "chrono_rank"))
    if pc.max(_ratings_a_place(table)).as_py() > 1:
        raise recipe.error(f"{paths[0]} gives two ratings of a user the same chrono_rank, expected each its own or -1")
    return table


def _ratings_a_place(table: pa.Table) -> pa.ChunkedArray:
    ordered = table.filter(pc.not_equal(table["chrono_rank"], UNORDERED))
    counted = ordered.group_by(["user_id", "chrono_rank"]).aggregate([([], "count_all")])
    return counted["count_all"] if len(counted) else pa.chunked_array([[0]])


# ---- The publisher's files ----


def _read_publishers_files(recipe: Recipe, paths: tuple[Path, ...]) -> pa.Table:
    """The columns of the table from ratings.dat, users.dat and movies.dat."""
    ratings, users, movies = (_parse(recipe, path, "::", columns, columns)
                              for path, columns in zip(paths, _FILE_COLUMNS.values(), strict=True))
    ratings = _to_numbers(recipe, paths[0], ratings, ("rating", "time"))
    users = _to_numbers(recipe, paths[1], users, ("age",))
    of_user = _joined(recipe, ratings["user_id"], users, paths[1])
    of_movie = _joined(recipe, ratings["movie_id"], movies, paths[2])
    rank, count = _places(_codes(ratings["user_id"]), ratings["time"].to_numpy())
    liked = ratings["rating"].to_numpy() >= _LIKED
    return pa.table({
        "split": np.array(SPLITS)[_split_codes(rank, count)],
        "label": liked.astype(int),
        "rating": ratings["rating"],
        "domain": np.digitize(of_user["age"].to_numpy(), [25, 35]),
        "user_id": ratings["user_id"],
        "gender": of_user["gender"], "age": of_user["age"], "occupation": of_user["occupation"],
        "zip3": pc.utf8_slice_codeunits(of_user["zip"], 0, 3),
        "movie_id": ratings["movie_id"],
        "year": pc.struct_field(pc.extract_regex(of_movie["title"], r"\((?P<year>[0-9]{4})\)\s*$"), "year"),
        "genres": of_movie["genres"],
        "chrono_rank": rank,
    })


def _places(user: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each rating's place among its user's, by time and then by line, and how many the user has."""
    order = np.lexsort((time, user))  # keeps the order of lines
    counts = np.bincount(user)
    begins = np.cumsum(counts) - counts
    rank = np.empty(len(user), np.int64)
    rank[order] = np.arange(len(user)) - begins[user[order]]
    return rank, counts[user]


def _split_codes(rank: np.ndarray, count: np.ndarray) -> np.ndarray:
    """0 (train) where the middle of a rating's place, (rank + 1/2) / count, lies below 0.8, 1 below 0.9, else 2."""
    middle = 10 * (2 * rank + 1)
    return (middle >= 16 * count).astype(int) + (middle >= 18 * count)


def _joined(recipe: Recipe, keys: pa.ChunkedArray, table: pa.Table, path: Path) -> pa.Table:
    """The rows of `table` whose first column has these keys, one a key."""
    place = pc.index_in(keys, value_set=table[0].combine_chunks())
    if place.null_count:
        absent = keys.filter(place.is_null())[0].as_py()
        raise recipe.error(f"{path} has no {table.column_names[0]} {absent!r}, which a rating names")
    return table.take(place)


def _to_numbers(recipe: Recipe, path: Path, table: pa.Table, columns: tuple[str, ...]) -> pa.Table:
    """The table with whole numbers in these columns."""
    for name in columns:
        try:
            table = table.set_column(table.schema.get_field_index(name), name, pc.cast(table[name], pa.int64()))
        except pa.ArrowInvalid as error:
            raise recipe.error(f"{path} does not look like the publisher's file: column {name}: {error}") from error
    return table


def _parse(recipe: Recipe, path: Path, separator: str, header: tuple[str, ...] | None, columns: tuple[str, ...]) -> pa.Table:
    """A file of texts; `header` None: the file has its own."""
    with opened(str(path)) as (stream, _):
        data = stream.read()
    if len(separator) > 1:
        data, separator = data.replace(separator.encode(), b"\t"), "\t"
    try:
        return pa_csv.read_csv(
            pa.BufferReader(data),
            pa_csv.ReadOptions(column_names=header, encoding="latin1"),
            pa_csv.ParseOptions(delimiter=separator, quote_char='"' if header is None else False),
            pa_csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise recipe.error(f"{path} does not look like the publisher's file: expected {len(columns)} values a line "
                           f"({', '.join(columns)}): {error}") from error
