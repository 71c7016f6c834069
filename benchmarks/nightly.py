"""What a night is worth: an earlier model carried over to a new day, against its alternatives. `python -m benchmarks.nightly`.

A generated log (`preprocessing.synthetic`) of some days. A share of its items is launched on the last day but one, the new
day: before, nobody was shown them. An earlier model has learnt from the days before it. Every arm is judged on the last
day, on all rows, on the rows of launched items and on the rows of the others:

    earlier model as it is           launched items are unknown to it
    carried over, start: mask        --init_from, fine-tuned on the new day only; new rows start from the mask embedding of
                                     their field
    carried over, start: unknown     the same, but new rows start from the unknown row of their field
    new day only                     fine-tuned on the new day from random parameters
    everything anew                  pre-trained and fine-tuned on all days with all items: what the nights save

The carried models learn at a lower rate (3e-4 instead of 1e-3), chosen on the validation rows of the new day among 1e-4,
3e-4, 1e-3 and 3e-3. The vocabularies of the new day are those of the earlier days, in their order, and behind them the new
values; buckets stay.
"""

import argparse
import json
import logging
import shlex
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import ttest_rel

from benchmarks.accuracy.statistics import probability
from preprocessing import errors
from preprocessing.environment import start_tensorflow
from preprocessing.errors import UserError
from preprocessing.files import write_atomically
from preprocessing.folder import new_data_folder
from preprocessing.records import serialize_features
from preprocessing.schema import (
    BUCKETS_FILE,
    MANIFEST_FILE,
    MISSING_ROW,
    SCHEMA_FILE,
    SPECIAL_ROWS,
    SPLITS,
    UNKNOWN_ROW,
    VOCABULARIES,
    CategoricalField,
    Schema,
)
from preprocessing.statistics import Buckets, NumberCounts, ValueCounts, Vocabulary
from preprocessing.synthetic import DAY, START, Settings, make_population, make_schema, pilot_intercept, shard_blocks
from trainer.checkpoints import load_trained
from trainer.config import Config, load_config
from trainer.data_folder import DataFolder
from trainer.loop import train
from trainer.metrics import auc
from trainer.prediction import Predictor
from trainer.progress import print_table

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "docs" / "results"
LAUNCH_STREAM, VALID_STREAM = 101, 102
VALID_SHARE = 0.1
FEWEST_DAYS = 3
GROUPS = ("all rows", "launched items", "other items")
NIGHT_LEARNING_RATE = 3e-4
EARLIER = "earlier model as it is"
HEADER = ("arm", *(f"AUC, {group}" for group in GROUPS), "launched - earlier model", "seconds")
SETTINGS = ["model.embedding_dim=16", "model.dcn.hidden_units=[128, 64]", "pretrain.batch_size=1024", "finetune.batch_size=1024",
            "pretrain.learning_rate=0.002", "finetune.learning_rate=0.001", "pretrain.epochs=2", "finetune.epochs=3", "finetune.table_decay=0.03"]


@dataclass(frozen=True)
class Log:
    """A generated log: one table, and for every row its day and whether its item was launched on the new day."""

    table: pa.Table
    day: np.ndarray
    launched: np.ndarray

    @classmethod
    def generate(cls, settings: Settings, launched_share: float) -> "Log":
        rng = np.random.default_rng([settings.seed, LAUNCH_STREAM])
        launched_items = pa.array([f"i{item}" for item in np.flatnonzero(rng.random(settings.items) < launched_share)])
        population = make_population(settings)
        intercept = pilot_intercept(population, settings)
        table = pa.concat_tables([log for log, _ in shard_blocks(population, settings, intercept, 0)])
        day = (table["timestamp"].to_numpy() - START) // DAY
        launched = pc.is_in(table["item_id"], value_set=launched_items).to_numpy()
        shown = ~launched | (day >= settings.days - 2)
        return cls(table.filter(pa.array(shown)), day[shown], launched[shown])


@dataclass(frozen=True)
class Encoding:
    """Vocabularies and bucket boundaries by field: what preprocessing learns from training rows."""

    vocabularies: dict[str, pa.Array]
    boundaries: dict[str, np.ndarray]

    @classmethod
    def learn(cls, table: pa.Table, schema: Schema) -> "Encoding":
        vocabularies, boundaries = {}, {}
        for field in schema.fields:
            if isinstance(field, CategoricalField):
                vocabularies[field.name] = Vocabulary.build([ValueCounts.of(_texts(table, field.name))], field).values
            else:
                boundaries[field.name] = Buckets.build(NumberCounts.of(_numbers(table, field.name)), field).boundaries
        return cls(vocabularies, boundaries)

    def grown(self, later: "Encoding") -> "Encoding":
        """These vocabularies with the values that only `later` has behind them, and these boundaries."""
        vocabularies = {
            name: pa.concat_arrays([values, later.vocabularies[name].filter(
                pc.invert(pc.is_in(later.vocabularies[name], value_set=values)))])
            for name, values in self.vocabularies.items()}
        return Encoding(vocabularies, self.boundaries)

    def resolve(self, schema: Schema) -> Schema:
        sizes = {name: len(values) for name, values in self.vocabularies.items()}
        sizes |= {name: len(boundaries) + 1 for name, boundaries in self.boundaries.items()}
        return schema.resolve({name: size + SPECIAL_ROWS for name, size in sizes.items()})

    def ids(self, table: pa.Table, schema: Schema) -> np.ndarray:
        """Ids int64 [rows, F], local to each field."""
        columns = []
        for field in schema.fields:
            if isinstance(field, CategoricalField):
                texts = _texts(table, field.name)
                places = pc.index_in(texts, value_set=self.vocabularies[field.name])
                known = pc.fill_null(pc.add(places, SPECIAL_ROWS), UNKNOWN_ROW).to_numpy()
                columns.append(np.where(pc.equal(texts, "").to_numpy(zero_copy_only=False), MISSING_ROW, known))
            else:
                numbers = _numbers(table, field.name)
                buckets = np.searchsorted(self.boundaries[field.name], numbers, side="right") + SPECIAL_ROWS
                columns.append(np.where(np.isnan(numbers), MISSING_ROW, buckets))
        return np.stack(columns, axis=1)


def _texts(table: pa.Table, name: str) -> pa.Array:
    return pc.fill_null(pc.cast(table[name].combine_chunks(), pa.string()), "")


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return pc.fill_null(pc.cast(table[name], pa.float32()), np.nan).to_numpy()


def write_data_folder(path: Path, schema: Schema, encoding: Encoding, splits: dict[str, pa.Table]) -> None:
    """Writes what the trainer reads of a data folder (docs/architecture.md)."""
    import tensorflow as tf

    schema = encoding.resolve(schema)
    ids = {split: encoding.ids(splits[split], schema) for split in SPLITS}
    offsets = np.array([field.offset for field in schema.fields])
    manifest = {"splits": {}}
    with new_data_folder(path, overwrite=False) as folder:
        for split in SPLITS:
            labels = splits[split]["click"].to_numpy().astype(np.int64)
            records = serialize_features({"ids": ids[split], "label": labels[:, None]})
            name = f"{split}/part-00000-of-00001.tfrecord"
            (folder / split).mkdir()
            with tf.io.TFRecordWriter(str(folder / name)) as writer:
                for record in records.to_pylist():
                    writer.write(record)
            entry = {"path": name, "rows": len(labels)}
            manifest["splits"][split] = {"rows": len(labels), "positives": int(labels.sum()), "files": [entry]}
        (folder / VOCABULARIES).mkdir()
        for name, values in encoding.vocabularies.items():
            (folder / VOCABULARIES / f"{name}.txt").write_text("".join(f"{value}\n" for value in values.to_pylist()), encoding="utf-8")
        buckets = {name: {"boundaries": boundaries.tolist()} for name, boundaries in encoding.boundaries.items()}
        (folder / BUCKETS_FILE).write_text(json.dumps(buckets))
        np.save(folder / "frequencies.npy", np.bincount((ids["train"] + offsets).ravel(), minlength=schema.table_rows))
        (folder / SCHEMA_FILE).write_text(schema.to_yaml(), encoding="utf-8")
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


class Night:
    """One seed: its log, its data folders and its arms."""

    def __init__(self, settings: Settings, launched_share: float, assignments: Sequence[str], folder: Path):
        self._folder = folder
        self._config = load_config(None, [*SETTINGS, *assignments, f"seed={settings.seed}"])
        log = Log.generate(settings, launched_share)
        new_day, last_day = settings.days - 2, settings.days - 1
        validation = np.random.default_rng([settings.seed, VALID_STREAM]).random(len(log.day)) < VALID_SHARE

        def rows(mask: np.ndarray) -> pa.Table:
            return log.table.filter(pa.array(mask))

        schema = make_schema(settings).model_copy(update={"group": None, "timestamp": None})
        before = {"train": rows((log.day < new_day) & ~validation), "valid": rows((log.day < new_day) & validation),
                  "test": rows(log.day == last_day)}
        night = {"train": rows((log.day == new_day) & ~validation), "valid": rows((log.day == new_day) & validation),
                 "test": before["test"]}
        everything = {**night, "train": pa.concat_tables([before["train"], night["train"]])}
        encoding = Encoding.learn(before["train"], schema)
        grown = encoding.grown(Encoding.learn(night["train"], schema))
        for name, values, splits in (("before", encoding, before), ("night", grown, night), ("everything", grown, everything)):
            write_data_folder(folder / name, schema, values, splits)
        self._launched = log.launched[log.day == last_day]
        print(f"seed {settings.seed}: {before['train'].num_rows:,} training rows before, {night['train'].num_rows:,} on the new day; "
              f"{self._launched.sum():,} of {len(self._launched):,} rows of the last day are of launched items", flush=True)

    def arms(self) -> list[dict]:
        """Trains every arm and returns a row for each."""
        rows = [self._arm(EARLIER, "before", self._pretrained)]
        earlier = self._folder / EARLIER
        for start in ("mask", "unknown"):
            rows.append(self._arm(f"carried over, start: {start}", "night", self._finetuned,
                                  config=self._night_config(start), init_from=earlier))
        rows.append(self._arm("new day only", "night", self._finetuned, from_scratch=True))
        rows.append(self._arm("everything anew", "everything", self._pretrained))
        return rows

    def _night_config(self, start: str) -> Config:
        finetune = self._config.finetune.model_copy(update={"new_rows": start, "learning_rate": NIGHT_LEARNING_RATE})
        return self._config.model_copy(update={"finetune": finetune})

    def _pretrained(self, data_dir: Path, model_dir: Path) -> None:
        for stage in ("pretrain", "finetune"):
            train(stage, self._config, data_dir, model_dir)

    def _finetuned(self, data_dir: Path, model_dir: Path, config: Config | None = None, **start) -> None:
        train("finetune", config or self._config, data_dir, model_dir, **start)

    def _arm(self, name: str, data: str, train_arm, **options) -> dict:
        model_dir, began = self._folder / name, time.monotonic()
        model_dir.mkdir()
        with open(model_dir / "log.txt", "w", encoding="utf-8") as log, redirect_stdout(log):
            train_arm(self._folder / data, model_dir, **options)
        seconds = time.monotonic() - began
        model = load_trained(model_dir)
        folder = DataFolder.open(self._folder / data)
        valid, last_day = (Predictor(model, folder).predict(split) for split in ("valid", "test"))
        groups = (np.ones_like(self._launched), self._launched, ~self._launched)
        areas = {group: auc(last_day.labels[mask], last_day.logits[mask]) for group, mask in zip(GROUPS, groups, strict=True)}
        print(f"{name}: " + ", ".join(f"{group} {area:.4f}" for group, area in areas.items()), flush=True)
        return {"arm": name, "seed": self._config.seed, "valid": auc(valid.labels, valid.logits), **areas, "seconds": round(seconds, 1)}


def summarise(rows: list[dict]) -> list[tuple[str, ...]]:
    """One line an arm: mean and sample standard deviation over seeds, and the paired difference on launched items."""
    lines = []
    for name in dict.fromkeys(row["arm"] for row in rows):
        runs = [row for row in rows if row["arm"] == name]
        cells = [_mean_and_spread([run[group] for run in runs]) for group in GROUPS]
        difference = "" if name == EARLIER else _difference(rows, name, EARLIER, GROUPS[1])
        lines.append((name, *cells, difference, f"{np.mean([run['seconds'] for run in runs]):.0f}"))
    return lines


def _mean_and_spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4f}" + (f" +- {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


def _difference(rows: list[dict], name: str, control: str, group: str) -> str:
    ours, theirs = ([row[group] for row in rows if row["arm"] == arm] for arm in (name, control))
    chance = f" ({probability(ttest_rel(ours, theirs).pvalue)})" if len(ours) > 1 else ""
    return f"{np.mean(np.subtract(ours, theirs)):+.4f}{chance}"


def write_results(rows: list[dict], command: str, description: str, output: Path) -> None:
    """Writes nightly.jsonl, one row a run, and nightly.md with the table."""
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "nightly.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    table = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    table += ["| " + " | ".join(line) + " |" for line in summarise(rows)]
    starts = [f"carried over, start: {start}" for start in ("mask", "unknown")]
    compared = "; ".join(f"{group} {_difference(rows, *starts, group)}" for group in GROUPS)
    write_atomically(output / "nightly.md", "\n".join([
        "# A night: an earlier model carried over to a new day", "", f"Command: `{command}`. {description}", "", *table, "",
        f"Start from the mask embedding minus start from the unknown row, paired by seed: {compared}.", ""]))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nightly", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N (default: 3)")
    parser.add_argument("--days", type=int, default=8, help="days of the log, at least 3; the last is for testing (default: 8)")
    parser.add_argument("--rows_per_day", type=int, default=40_000, help="default: 40000")
    parser.add_argument("--users", type=int, default=4000, help="default: 4000")
    parser.add_argument("--items", type=int, default=600, help="default: 600")
    parser.add_argument("--launched_share", type=float, default=0.2, help="share of items launched on the new day (default: 0.2)")
    parser.add_argument("--click_rate", type=float, default=0.2, help="mean click probability (default: 0.2)")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="A.B=C",
                        help="override one setting of the trainer in every arm; may be repeated")
    parser.add_argument("--work_dir", type=Path, default=Path("runs") / "nightly", help="new folder for data and models")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the table goes")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def _settings_of(arguments: argparse.Namespace) -> list[str]:
    """The flags that a reader needs in order to repeat the run."""
    numbers = ("seeds", "days", "rows_per_day", "users", "items", "launched_share", "click_rate")
    changed = [name for name in numbers if getattr(arguments, name) != build_parser().get_default(name)]
    flags = [text for name in changed for text in (f"--{name}", str(getattr(arguments, name)))]
    return flags + [text for assignment in arguments.assignments for text in ("--set", assignment)]


def run(argv: Sequence[str]) -> None:
    arguments = build_parser().parse_args(argv)
    if arguments.days < FEWEST_DAYS:
        raise UserError(f"--days: expected at least {FEWEST_DAYS} (earlier days, the new one and the day after), received {arguments.days}")
    if arguments.work_dir.exists():
        raise UserError(f"--work_dir {arguments.work_dir} exists: remove it or give another")
    start_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each arm traces its own functions, which is no defect here
    rows = []
    for seed in range(1, arguments.seeds + 1):
        settings = Settings(rows=arguments.days * arguments.rows_per_day, seed=seed, click_rate=arguments.click_rate, shards=1,
                            users=arguments.users, items=arguments.items, days=arguments.days)
        night = Night(settings, arguments.launched_share, arguments.assignments, arguments.work_dir / f"seed-{seed}")
        rows += night.arms()
    print_table("nightly", summarise(rows), HEADER)
    description = (
        f"A generated log of {arguments.days} days of {arguments.rows_per_day:,} rows, {arguments.users:,} users, "
        f"{arguments.items:,} items of which {arguments.launched_share:.0%} are launched on the new day, click rate "
        f"{arguments.click_rate:.0%}; AUC on the day after the new day, mean +- sample standard deviation over "
        f"{arguments.seeds} seeds; seconds of training with start-up. The arms are described by "
        "`python -m benchmarks.nightly --help`. Only the rate of the carried models was tuned; the other arms keep 1e-3, so "
        "they may be worth more than the table says.")
    command = shlex.join(["python", "-m", "benchmarks.nightly", *_settings_of(arguments)])
    write_results(rows, command, description, arguments.output)


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
