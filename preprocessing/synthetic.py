"""Generated click logs whose true click probability is known: `python -m preprocessing.synthetic --output DIR`.

The log resembles a real one: users and items with Zipf frequencies, latent factors that decide both what a user is
shown and what the user clicks, rare and missing values, heavy-tailed numbers, three scenarios, drift. The true logit
of a row is

    b + user + item + scenario + scenario x position + affinity(user, item) + category x hour
      + device x daypart x category + membership x price + recency + freshness + history match + category x time

with the intercept b solved so that the mean probability is the requested click rate. Fields that the logit does not
name (age, gender, city, brand, advertiser) matter through the latent factors they share with users and items, so the
features predict one another, as they do in a real log.

Files: `log-*.csv` (what a model may see), `truth-*.csv` (row_id and true probability, row by row as in the log) and
`schema.yaml`. Shard s depends only on the settings of the population, s and its number of rows, and is written block
by block.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preprocessing import errors
from preprocessing.errors import UserError
from preprocessing.schema import (
    SCHEMA_FILE,
    CategoricalField,
    DriftLimits,
    FieldDriftLimits,
    Label,
    NumericField,
    Schema,
    TimeSplit,
)

START = 1_767_225_600  # 2026-01-01 00:00 UTC, a Thursday
START_WEEKDAY = 3
DAY = 86_400
BLOCK_ROWS = 65_536
PILOT_ROWS = 50_000
CANDIDATES = 8
HISTORY_LENGTH = 10
HISTORY_MATCH = 3
FACTORS = 8
CITIES, DEVICES, DAYPARTS, TIERS = 120, 4, 4, 3
SCENARIOS = ("feed", "search", "detail")
POSITIONS = 20

# Seeds of independent random streams: [seed, stream, ...] never collide.
POPULATION_STREAM, PILOT_STREAM, SHARD_STREAM, HISTORY_STREAM = range(4)

AGES = ("18-24", "25-34", "35-44", "45-54", "55+")
GENDERS = ("female", "male")
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HOUR_ACTIVITY = np.array([3, 2, 1, 1, 1, 2, 3, 5, 6, 6, 6, 7, 8, 7, 6, 6, 6, 7, 9, 11, 12, 12, 9, 6], float)
SCENARIO_BASE = np.array([0.0, 0.7, -0.7])
SCENARIO_BY_DEVICE = np.array([[0.7, 0.2, 0.1], [0.5, 0.35, 0.15], [0.3, 0.5, 0.2], [0.4, 0.2, 0.4]])
POSITION_SLOPE = np.array([0.25, 0.55, 0.1])
POSITION_REACH = np.array([0.12, 0.3, 0.2])
PRICE_SENSITIVITY = np.array([0.7, 0.3, -0.1])
MISSING_SHARE = {"age_band": 0.05, "gender": 0.08, "city": 0.05, "brand": 0.03, "price": 0.02, "days_since_visit": 0.10}


@dataclass(frozen=True)
class Settings:
    """What to generate.

    Attributes:
      rows: rows in all; shards share them as evenly as possible.
      click_rate: expected mean of the true probability, in (0, 0.5].
      days: length of the log in days; the last 10% of it is the test split, the 10% before it the validation split.
    """

    rows: int = 200_000
    seed: int = 1
    click_rate: float = 0.03
    shards: int = 4
    users: int = 2_000
    items: int = 1_000
    days: int = 14

    def __post_init__(self) -> None:
        for name in ("rows", "shards", "users", "items", "days"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}: expected at least 1, received {getattr(self, name)}; give a larger number")
        if self.seed < 0:
            raise UserError(f"--seed: expected 0 or more, received {self.seed}; give another seed")
        if not 0 < self.click_rate <= 0.5:
            raise UserError(
                f"--click_rate: expected above 0 and at most 0.5, received {self.click_rate}; a usual one is 0.03"
            )
        if self.shards > self.rows:
            raise UserError(
                f"--shards: expected at most one a row ({self.rows} rows), received {self.shards}; give fewer shards"
            )

    def shard_rows(self, shard: int) -> int:
        return self.rows * (shard + 1) // self.shards - self.rows * shard // self.shards


@dataclass(frozen=True)
class Population:
    """Users (U), items (I) and the tables of the true model; a function of the seed and the sizes only."""

    age: np.ndarray  # [U]
    gender: np.ndarray  # [U]
    city: np.ndarray  # [U]
    tier: np.ndarray  # [U]
    device: np.ndarray  # [U]
    taste: np.ndarray  # [U, FACTORS]
    user_bias: np.ndarray  # [U]
    visit_rate: np.ndarray  # [U], interactions a day
    user_cdf: np.ndarray  # [U]
    category: np.ndarray  # [I]
    brand: np.ndarray  # [I]
    advertiser: np.ndarray  # [I]
    vector: np.ndarray  # [I, FACTORS]
    quality: np.ndarray  # [I]
    log_price: np.ndarray  # [I], natural logarithm of the list price
    category_log_price: np.ndarray  # [I], mean of the item's category
    launched: np.ndarray  # [I], days before the log begins
    item_cdf: np.ndarray  # [I]
    category_hour: np.ndarray  # [C, 24]
    device_daypart_category: np.ndarray  # [DEVICES, DAYPARTS, C]
    category_drift: np.ndarray  # [C], change of the logit from the first to the last day


@dataclass(frozen=True)
class Rows:
    """One block of generated rows [n]: indices into the population, context, numbers, history, logit without b."""

    user: np.ndarray
    item: np.ndarray
    seconds: np.ndarray  # since START, rising
    scenario: np.ndarray
    position: np.ndarray
    price: np.ndarray
    days_since_visit: np.ndarray
    user_visits: np.ndarray
    item_age_days: np.ndarray
    history: np.ndarray  # [n, HISTORY_LENGTH] item indices, most recent last; -1 before the user's first
    logit: np.ndarray


def _zipf(size: int, exponent: float) -> np.ndarray:
    weights = np.arange(1, size + 1, dtype=float) ** -exponent
    return weights / weights.sum()


def _draw(cdf: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Inverse-CDF sampling; the clip covers a last entry of `cdf` rounded below 1."""
    return np.searchsorted(cdf, uniform, side="right").clip(max=len(cdf) - 1)


def make_population(settings: Settings) -> Population:
    """Draws users, items and the tables of the true model."""
    rng = np.random.default_rng([settings.seed, POPULATION_STREAM])
    users, items = settings.users, settings.items
    categories = int(np.clip(items // 60, 2, 40))
    brands = max(categories, items // 12)

    activity = _zipf(users, 0.7)
    city_factor = rng.normal(0, 0.45, (CITIES, FACTORS))
    segment_factor = rng.normal(0, 0.6, (len(AGES), len(GENDERS), FACTORS))
    age = rng.choice(len(AGES), users, p=(0.2, 0.3, 0.22, 0.16, 0.12))
    gender = rng.integers(len(GENDERS), size=users)
    city = _draw(np.cumsum(_zipf(CITIES, 1.0)), rng.random(users))
    tier = (rng.random(users) < 0.25 + 0.1 * age).astype(int) + (rng.random(users) < 0.15)
    device = np.where(rng.random(users) < 0.6, age % DEVICES, rng.integers(DEVICES, size=users))
    taste = segment_factor[age, gender] + city_factor[city] + rng.normal(0, 0.65, (users, FACTORS))

    category_factor = rng.normal(0, 0.8, (categories, FACTORS))
    brand_category = np.concatenate([np.arange(categories), rng.integers(categories, size=brands - categories)])
    brand_factor = category_factor[brand_category] + rng.normal(0, 0.5, (brands, FACTORS))
    brand_quality = rng.normal(0, 0.25, brands)
    brand_advertiser = rng.integers(max(1, brands // 4), size=brands)
    brand = _draw(np.cumsum(_zipf(brands, 0.6)), rng.random(items))
    category = brand_category[brand]
    category_log_price = rng.normal(3.5, 0.9, categories)[category]

    hours = np.arange(24)
    peak = rng.uniform(0, 24, (categories, 1))
    return Population(
        age=age, gender=gender, city=city, tier=tier, device=device, taste=taste,
        user_bias=rng.normal(0, 0.2, users) + 0.15 * tier + np.linspace(-0.2, 0.2, len(AGES))[age],
        visit_rate=0.6 * np.sqrt(activity / activity.mean()) * rng.lognormal(0, 0.5, users),
        user_cdf=np.cumsum(activity),
        category=category, brand=brand, advertiser=brand_advertiser[brand],
        vector=brand_factor[brand] + rng.normal(0, 0.3, (items, FACTORS)),
        quality=brand_quality[brand] + rng.normal(0, 0.25, items),
        log_price=category_log_price + rng.normal(0, 0.5, items),
        category_log_price=category_log_price,
        launched=rng.exponential(90, items),
        item_cdf=np.cumsum(_zipf(items, 0.8)),
        category_hour=0.35 * np.cos((hours - peak) * (2 * np.pi / 24)),
        device_daypart_category=rng.normal(0, 0.35, (DEVICES, DAYPARTS, categories)),
        category_drift=rng.normal(-0.1, 0.3, categories),
    )


def _event_times(settings: Settings, share: np.ndarray) -> np.ndarray:
    """Maps shares of the log [0, 1) to seconds since START; busy hours get more rows, and order is kept."""
    day, within = np.divmod(share * settings.days, 1.0)
    cdf = np.concatenate([[0.0], np.cumsum(HOUR_ACTIVITY / HOUR_ACTIVITY.sum())])
    return np.floor(day * DAY + np.interp(within, cdf, np.arange(25) * 3600.0)).astype(np.int64)


def _mix(state: np.ndarray) -> np.ndarray:
    """The splitmix64 finalizer: a well-mixed hash of 64-bit integers."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _hashed_uniform(seed: int, *parts: np.ndarray) -> np.ndarray:
    """Uniforms in (0, 1) that are a pure function of the seed and the broadcast integer parts."""
    state = _mix(np.array([seed, HISTORY_STREAM], np.uint64)).sum(keepdims=True)
    for part in parts:
        state = _mix((state + np.uint64(0x9E3779B97F4A7C15)) ^ part.astype(np.uint64))
    return ((state >> np.uint64(12)).astype(float) + 0.5) * 2.0**-52


def _preferred(population: Population, user: np.ndarray, pick: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Picks one of CANDIDATES popular items with probability softmax(affinity), by the Gumbel-max trick.

    Args:
      user: [n] user indices.
      pick: [n, ..., CANDIDATES] uniforms that choose the candidates by popularity.
      noise: uniforms of the same shape that choose among them.

    Returns:
      [n, ...] item indices.
    """
    candidates = _draw(population.item_cdf, pick)
    affinity = np.einsum("nk,n...k->n...", population.taste[user], population.vector[candidates])
    best = np.argmax(0.8 * affinity - np.log(-np.log(noise)), axis=-1)
    return np.take_along_axis(candidates, best[..., None], axis=-1)[..., 0]


def _histories(population: Population, settings: Settings, user: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """The last items each user turned to before each row: [n, HISTORY_LENGTH], most recent last, -1 where none.

    Interaction j of user u is a pure function of (seed, u, j), and the number of interactions grows with time, so the
    histories of one user agree across rows, blocks and shards.
    """
    happened = np.floor((seconds / DAY + 4.0) * population.visit_rate[user]).astype(np.int64)
    order = happened[:, None] - HISTORY_LENGTH + np.arange(HISTORY_LENGTH)  # [n, H]
    keys = (user[:, None, None], order.clip(0)[..., None])
    choice = np.arange(CANDIDATES)
    pick = _hashed_uniform(settings.seed, *keys, choice)
    noise = _hashed_uniform(settings.seed, *keys, choice + CANDIDATES)
    return np.where(order >= 0, _preferred(population, user, pick, noise), -1)


def draw_rows(population: Population, settings: Settings, rng: np.random.Generator, seconds: np.ndarray) -> Rows:
    """Draws one block: who was shown what, where and when, and the true logit without the intercept."""
    n = len(seconds)
    user = _draw(population.user_cdf, rng.random(n))
    item = _preferred(population, user, rng.random((n, CANDIDATES)), rng.random((n, CANDIDATES)))
    scenario_cdf = SCENARIO_BY_DEVICE.cumsum(axis=1)[population.device[user]]
    scenario = (rng.random(n)[:, None] > scenario_cdf).sum(axis=1).clip(max=len(SCENARIOS) - 1)
    position = rng.geometric(POSITION_REACH[scenario]).clip(max=POSITIONS)
    price = np.exp(population.log_price[item] + rng.normal(0, 0.15, n))
    days_since_visit = rng.pareto(1.3, n) / population.visit_rate[user]
    history = _histories(population, settings, user, seconds)
    item_age_days = population.launched[item] + seconds / DAY
    rows = {"user": user, "item": item, "seconds": seconds, "scenario": scenario, "position": position,
            "price": price, "days_since_visit": days_since_visit, "item_age_days": item_age_days, "history": history}
    return Rows(**rows, user_visits=rng.poisson(30 * population.visit_rate[user]),
                logit=_true_logit(population, settings, **rows))


def _true_logit(population: Population, settings: Settings, *, user, item, seconds, scenario, position, price,
                days_since_visit, item_age_days, history) -> np.ndarray:
    category, device = population.category[item], population.device[user]
    hour = seconds // 3600 % 24
    affinity = np.einsum("nk,nk->n", population.taste[user], population.vector[item])
    relative_price = np.log(price) - population.category_log_price[item]
    recent = history[:, -HISTORY_MATCH:]  # [n, HISTORY_MATCH]
    match = ((population.category[recent] == category[:, None]) & (recent >= 0)).any(axis=1)
    return (
        population.user_bias[user]
        + population.quality[item]
        + SCENARIO_BASE[scenario]
        - POSITION_SLOPE[scenario] * np.log(position)
        + 0.4 * affinity
        + population.category_hour[category, hour]
        + population.device_daypart_category[device, hour * DAYPARTS // 24, category]
        - PRICE_SENSITIVITY[population.tier[user]] * relative_price
        - 0.12 * np.log1p(days_since_visit)
        + 0.4 * np.exp(-item_age_days / 30)
        + 0.3 * match
        + population.category_drift[category] * seconds / (settings.days * DAY)
    )


def solve_intercept(logits: np.ndarray, click_rate: float) -> float:
    """The b with mean(sigmoid(logits + b)) = click_rate, by bisection."""
    low, high = -40.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _sigmoid(logits + middle).mean() > click_rate else (middle, high)
    return (low + high) / 2


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def pilot_intercept(population: Population, settings: Settings) -> float:
    """Solves the intercept on a pilot sample that covers the whole time range and is no part of the log."""
    rng = np.random.default_rng([settings.seed, PILOT_STREAM])
    seconds = _event_times(settings, np.sort(rng.random(PILOT_ROWS)))
    return solve_intercept(draw_rows(population, settings, rng, seconds).logit, settings.click_rate)


def _names(prefix: str, size: int) -> pa.Array:
    return pa.array([f"{prefix}{number}" for number in range(size)])


def _text(values: Sequence[str] | pa.Array, indices: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    values = values if isinstance(values, pa.Array) else pa.array(values)
    return values.take(pa.array(indices, mask=missing))


def _with_outliers(rng: np.random.Generator, numbers: np.ndarray, share: float, factor: float) -> np.ndarray:
    return np.where(rng.random(len(numbers)) < share, numbers * factor, numbers)


def to_tables(population: Population, rows: Rows, intercept: float, rng: np.random.Generator,
              first_row_id: int) -> tuple[pa.Table, pa.Table]:
    """Renders a block as the log that a model may see and the truth beside it.

    Missing values and outliers are put into the log after the truth was computed: they hide it, they do not change it.
    """
    n = len(rows.user)
    probability = _sigmoid(rows.logit + intercept)
    gone = {name: rng.random(n) < share for name, share in MISSING_SHARE.items()}
    row_id = pa.array(np.arange(first_row_id, first_row_id + n))
    items = _names("i", len(population.category))
    brand, advertiser = population.brand[rows.item], population.advertiser[rows.item]
    user, hour = rows.user, rows.seconds // 3600 % 24
    price = np.round(_with_outliers(rng, rows.price, 0.001, 100), 2)
    visits = _with_outliers(rng, rows.user_visits, 0.0005, 1000)
    log = {
        "row_id": row_id,
        "click": pa.array((rng.random(n) < probability).astype(np.int8)),
        "timestamp": pa.array(rows.seconds + START),
        "scenario": _text(SCENARIOS, rows.scenario),
        "user_id": _text(_names("u", len(population.age)), user),
        "age_band": _text(AGES, population.age[user], gone["age_band"]),
        "gender": _text(GENDERS, population.gender[user], gone["gender"]),
        "city": _text(_names("city", CITIES), population.city[user], gone["city"]),
        "membership": _text(("basic", "plus", "gold"), population.tier[user]),
        "item_id": _text(items, rows.item),
        "category": _text(_names("c", population.category.max() + 1), population.category[rows.item]),
        "brand": _text(_names("b", brand.max() + 1), brand, gone["brand"]),
        "advertiser": _text(_names("a", advertiser.max() + 1), advertiser),
        "device": _text(("android", "ios", "desktop", "tablet"), population.device[user]),
        "hour": pa.array(hour),
        "weekday": _text(WEEKDAYS, (rows.seconds // DAY + START_WEEKDAY) % 7),
        "position": pa.array(rows.position),
        "price": pa.array(price, mask=gone["price"]),
        "days_since_visit": pa.array(np.round(rows.days_since_visit, 2), mask=gone["days_since_visit"]),
        "user_visits": pa.array(visits),
        "item_age_days": pa.array(np.round(rows.item_age_days, 1)),
        "history": _join_history(items, rows.history),
    }
    return pa.table(log), pa.table({"row_id": row_id, "probability": pa.array(probability)})


def _join_history(items: pa.Array, history: np.ndarray) -> pa.Array:
    present = history >= 0
    offsets = np.concatenate([[0], present.sum(axis=1).cumsum()]).astype(np.int32)
    names = items.take(pa.array(history[present]))
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), names), "|")


def make_schema(settings: Settings) -> Schema:
    """The schema of the log: split by time at 80% and 90% of its days; neither row_id nor the truth is a field."""
    categorical = ("scenario", "user_id", "age_band", "gender", "city", "membership", "item_id", "category", "brand",
                   "advertiser", "device", "hour", "weekday", "position")
    numeric = ("price", "days_since_visit", "user_visits", "item_age_days")
    rare = {"user_id": 3, "item_id": 3, "city": 3, "brand": 3, "advertiser": 3}
    return Schema(
        name="synthetic",
        label=Label(column="click"),
        group="user_id",
        timestamp="timestamp",
        split=TimeSplit(
            column="timestamp",
            valid_from=START + 0.8 * settings.days * DAY,
            test_from=START + 0.9 * settings.days * DAY,
        ),
        fields=(
            *(CategoricalField(name=name, min_count=rare.get(name, 1)) for name in categorical),
            *(NumericField(name=name, buckets=16) for name in numeric),
        ),
        # Every day differs from the days before in its weekday.
        drift=DriftLimits(fields={"weekday": FieldDriftLimits(infinity_norm=1)}),
    )


def shard_blocks(population: Population, settings: Settings, intercept: float,
                 shard: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yields the blocks of a shard in time order, each as (log, truth); every shard spans the whole time range."""
    size = settings.shard_rows(shard)
    first_row_id = settings.rows * shard // settings.shards
    for block, start in enumerate(range(0, size, BLOCK_ROWS)):
        n = min(BLOCK_ROWS, size - start)
        rng = np.random.default_rng([settings.seed, SHARD_STREAM, shard, block])
        share = (start + np.sort(rng.random(n)) * n) / size
        rows = draw_rows(population, settings, rng, _event_times(settings, share))
        yield to_tables(population, rows, intercept, rng, first_row_id + start)


@contextmanager
def _durable_file(path: Path) -> Iterator:
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write_table(file, table: pa.Table, header: bool) -> None:
    if header:
        file.write((",".join(table.column_names) + "\n").encode())
    pa_csv.write_csv(table, file, pa_csv.WriteOptions(include_header=False, quoting_style="none"))


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A sibling folder that becomes `output` by one rename if the block succeeds, and is removed if it does not."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(
            f"--output {output}: expected a new or empty folder, and something is there; give another or remove it"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    try:
        partial.chmod(0o755)
        yield partial
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Rate:
    """Rows written so far: a bar on a terminal; elsewhere one line every ten seconds, with rate and time left."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar, self._total, self._done = bar, total, 0
        self._task = bar.add_task("rows", total=total)
        self._begin = self._last_line = time.monotonic()

    def advance(self, rows: int) -> None:
        self._done += rows
        self._bar.advance(self._task, rows)
        now = time.monotonic()
        if self._bar.disable and now - self._last_line > 10:
            self._last_line = now
            rate = self._done / (now - self._begin)
            print(f"{self._done:,} of {self._total:,} rows, {rate:,.0f} rows/s, "
                  f"{(self._total - self._done) / rate:.0f} s left", file=sys.stderr)


def generate(settings: Settings, output: Path) -> float:
    """Writes the log, the truth and the schema into the new folder `output`.

    Returns:
      The mean true probability of the rows written.

    Raises:
      UserError: `output` exists and is not an empty folder.
    """
    population = make_population(settings)
    intercept = pilot_intercept(population, settings)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TextColumn("{task.speed:,.0f} rows/s"), TimeRemainingColumn())
    total = 0.0
    with _new_folder(output) as folder, Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        rate = _Rate(bar, settings.rows)
        for shard in range(settings.shards):
            suffix = f"{shard:05d}-of-{settings.shards:05d}.csv"
            log_path, truth_path = folder / f"log-{suffix}", folder / f"truth-{suffix}"
            with _durable_file(log_path) as log_file, _durable_file(truth_path) as truth_file:
                for number, (log, truth) in enumerate(shard_blocks(population, settings, intercept, shard)):
                    _write_table(log_file, log, header=number == 0)
                    _write_table(truth_file, truth, header=number == 0)
                    total += pc.sum(truth["probability"]).as_py()
                    rate.advance(log.num_rows)
        with _durable_file(folder / SCHEMA_FILE) as file:
            file.write(make_schema(settings).to_yaml().encode())
    return total / settings.rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m preprocessing.synthetic",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Generate a click log that behaves like a real one and whose true click probability is known.\n\n"
            "The new folder holds log-*.csv (one row an impression), truth-*.csv (row_id and true probability,\n"
            "the same rows in the same order; never give it to a model) and schema.yaml (label, fields, split by time)."
        ),
        epilog=(
            "examples:\n"
            "  python -m preprocessing.synthetic --output my_log\n"
            "  python -m preprocessing.synthetic --output big_log --rows 10000000 --shards 64 --users 200000\n"
            "then:\n"
            "  python -m preprocessing.task --input 'my_log/log-*.csv' --schema my_log/schema.yaml --output my_data"
        ),
    )
    numbers = {
        "rows": "rows in all",
        "seed": "the same seed and sizes give the same bytes",
        "click_rate": "mean true click probability, above 0 and at most 0.5",
        "shards": "pairs of files",
        "users": "users to draw from",
        "items": "items to draw from",
        "days": "days the log spans; the last tenth is for testing, the tenth before it for validation",
    }
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must be new or empty")
    for name, meaning in numbers.items():
        default = getattr(Settings, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{meaning} (default %(default)s)")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error that you can mend")
    return parser


def _generate_from_flags(argv: Sequence[str]) -> None:
    flags = vars(_parser().parse_args(argv))
    output = flags.pop("output")
    flags.pop("traceback")
    settings = Settings(**flags)
    begin = time.monotonic()
    mean = generate(settings, output)
    seconds = time.monotonic() - begin
    print(f"{settings.rows:,} rows, mean true click probability {mean:.4f}, in {output} "
          f"({seconds:.1f} s, {settings.rows / seconds:,.0f} rows/s)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return errors.run(_generate_from_flags, argv)


if __name__ == "__main__":
    sys.exit(main())
