"""An earlier model onto data whose values have grown or moved: every row of the table goes to its place by value.

A row of a field that owns rows (`Schema.owners`) is carried from the earlier row that stands for the same thing:

    0 missing, 1 unknown     the same row
    a value                  the row of the same text
    a hash bucket            the same bucket where there are as many as before, otherwise none
    a numeric bucket         the same bucket where the boundaries are equal, otherwise the earlier bucket that holds the new
                             one's midpoint; the outermost buckets come from the outermost ones

A value that the earlier model did not know starts from the mask embedding of its field or from the field's unknown row
(`new_rows` of the stage). Where several fields share the rows, the mask embedding is that of the first that has a token;
rows that only lists use start from the unknown row, as the mask embedding of a list stands for no single value. Every
other variable is taken over by name and must have its shape. Optimizer moments stay behind: those of the best checkpoint
belong to the small steps at the end of its schedule, and a new schedule begins here.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import (
    SCHEMA_FILE,
    SPECIAL_ROWS,
    UNKNOWN_ROW,
    NamedField,
    NumericField,
    Schema,
    TableField,
    load_schema,
)
from trainer.checkpoints import CONFIG_FILE, StageCheckpoints, network_differences, open_checkpoint
from trainer.click_model import ClickModel, Stage
from trainer.config import ATTENDING, Config
from trainer.data_folder import DataFolder
from trainer.progress import print_table
from trainer.vocabularies import kept_folder, read_boundaries, read_vocabulary

NEW = -1
ORIGIN_PREFIX = "an earlier model,"
LEFT_SHOWN = 5
BLOCK_ROWS = 1 << 20


@dataclass(frozen=True)
class RowSources:
    """Where the rows of an owner come from.

    Attributes:
      source: int64 [rows now]: the earlier row that each row is carried from, `NEW` where there is none.
      left: how many earlier values are gone.
      left_values: the first of them, which are the most frequent.
      remark: what else a person should know.
    """

    source: np.ndarray
    left: int = 0
    left_values: tuple[str, ...] = ()
    remark: str = ""

    @property
    def new(self) -> int:
        """How many rows stand for what the earlier model did not know."""
        return int((self.source == NEW).sum())


def categorical_sources(earlier: pa.LargeBinaryArray, now: pa.LargeBinaryArray) -> RowSources:
    """Matches two vocabularies, each in the order of its rows from 2 on (see `read_vocabulary`).

    Only values behind the common beginning are looked up: a vocabulary that has merely grown costs a comparison.
    """
    both = min(len(earlier), len(now))
    differs = pc.not_equal(earlier.slice(0, both), now.slice(0, both)).to_numpy(zero_copy_only=False)
    common = int(np.argmax(differs)) if differs.any() else both
    places = pc.index_in(now.slice(common), value_set=earlier.slice(common))
    source = np.arange(SPECIAL_ROWS + len(now))
    source[SPECIAL_ROWS + common:] = pc.fill_null(pc.add(places, SPECIAL_ROWS + common), NEW)
    gone = np.ones(SPECIAL_ROWS + len(earlier), bool)
    gone[source[source != NEW]] = False
    left = np.flatnonzero(gone) - SPECIAL_ROWS
    shown = earlier.take(pa.array(left[:LEFT_SHOWN])).to_pylist()
    return RowSources(source, len(left), tuple(value.decode().rstrip("\n") for value in shown))


def numeric_sources(earlier: np.ndarray, now: np.ndarray) -> RowSources:
    """Matches buckets by their boundaries; bucket i holds boundaries[i-1] <= x < boundaries[i]."""
    if np.array_equal(earlier, now):
        return RowSources(np.arange(len(now) + 1 + SPECIAL_ROWS))
    inside = np.concatenate([[-np.inf], (now[:-1] + now[1:]) / 2, [np.inf]])[:len(now) + 1]  # a number in each bucket
    buckets = np.searchsorted(earlier, inside, side="right")
    return RowSources(np.concatenate([np.arange(SPECIAL_ROWS), buckets + SPECIAL_ROWS]),
                      remark="its bucket boundaries moved; each bucket starts from the earlier one around its midpoint")


def hashed_sources(earlier: NamedField, now: NamedField) -> RowSources:
    """Matches the buckets of two fields of which at least one is hashed: one to one, or not at all."""
    if earlier.hash_buckets == now.hash_buckets:
        return RowSources(np.arange(now.rows))
    before, after = (f"{field.hash_buckets} hash buckets" if field.hash_buckets else "a vocabulary" for field in (earlier, now))
    source = np.full(now.rows, NEW)
    source[:SPECIAL_ROWS] = np.arange(SPECIAL_ROWS)
    return RowSources(source, remark=f"it had {before} and has {after} now, so every value starts anew")


def match_fields(earlier: Schema, now: Schema, backbone: str) -> list[int]:
    """The place of every one of `now.token_fields` among those of `earlier`, `NEW` for a field that was not there.

    Raises:
      UserError: names have become numbers or numbers names; the list fields differ; or the backbone concatenates the tokens, so
        that its weights belong to places, and the fields or their order differ.
    """
    before = {field.name: field for field in _table_fields(earlier)}
    for field in _table_fields(now):
        if field.name in before and isinstance(before[field.name], NumericField) != isinstance(field, NumericField):
            raise UserError(f"--init_from: field {field.name!r} was {before[field.name].kind} and is {field.kind} now, so its rows "
                            "stand for other things: give the field another name, or train anew without --init_from")
    lists, old_lists = ([f"{field.name} ({field.kind})" for field in schema.list_fields] for schema in (now, earlier))
    if lists != old_lists:
        raise UserError("--init_from: fields with several values a row must be as before, as what makes a token of each is carried over: "
                        f"expected {', '.join(old_lists) or 'none'}; received {', '.join(lists) or 'none'}: preprocess with these fields in "
                        "that order, or train anew without --init_from")
    names, old_names = ([field.name for field in schema.token_fields] for schema in (now, earlier))
    if names != old_names and backbone not in ATTENDING:
        raise UserError(f"--init_from: backbone {backbone!r} reads the fields at fixed places, so their names and order must be "
                        f"as before: expected {', '.join(old_names)}; received {', '.join(names)}: preprocess with the fields "
                        f"in that order, or train anew without --init_from (backbone {ATTENDING[0]!r} could "
                        "have been carried over)")
    return [old_names.index(name) if name in old_names else NEW for name in names]


def _table_fields(schema: Schema) -> list[TableField]:
    return [field for field in schema.fields if isinstance(field, TableField)]


def _users(schema: Schema, owner: TableField) -> list[TableField]:
    """The fields whose rows are those of `owner`, itself first."""
    return [owner, *(field for field in _table_fields(schema) if field is not owner and schema.owner(field) is owner)]


class EarlierModel:
    """The model folder that a run starts from, at the best checkpoint of the run's stage.

    Raises:
      UserError: the folder has no checkpoint of the stage.
    """

    def __init__(self, model_dir: str | Path, stage: Stage):
        self.model_dir = Path(model_dir)
        self._stage = stage
        self._checkpoints = StageCheckpoints(self.model_dir, stage)
        self.best = self._checkpoints.best()
        if self.best is None:
            raise UserError(f"--init_from {model_dir} has no checkpoint of stage {stage}: give the model folder of a finished "
                            f"`python -m trainer.task --stage={stage}`")

    @property
    def origin(self) -> str:
        """Identifies what the run starts from; a run that is resumed must give the same."""
        return f"{ORIGIN_PREFIX} {self._checkpoints.fingerprint()}"

    @property
    def masks_known(self) -> bool:
        """Whether it has learnt from masked features."""
        config = self._checkpoints.config(self.best)
        if self._stage == "pretrain":
            return config.pretrain.masks_features
        return self._checkpoints.state(self.best).masks_known or config.finetune.masks_features

    def vocabularies(self) -> Path:
        """The folder that says what the rows of the checkpoint stand for."""
        folder = kept_folder(self.model_dir, self._checkpoints.state(self.best).data)
        if not folder.is_dir():
            raise UserError(
                f"--init_from {self.model_dir} does not hold the vocabularies that it was trained with ({folder} is not there), "
                f"so its rows cannot be carried over by value: call `python -m trainer.task --stage={self._stage} --model_dir "
                f"{self.model_dir}` once more with its own --data_dir and configuration, which adds them")
        return folder

    def schema(self) -> Schema:
        """The schema of `vocabularies`, as the model reads it."""
        return load_schema(self.vocabularies() / SCHEMA_FILE).without(self._checkpoints.config(self.best).model.ignored_fields)

    def require_network(self, config: Config) -> None:
        """Refuses another network; which fields are ignored is seen from the fields that are read (`match_fields`)."""
        stored = self._checkpoints.config(self.best)
        changed = [line for line in network_differences(stored, config, self._stage) if "ignored_fields" not in line]
        if changed:
            raise UserError(f"--init_from {self.model_dir} has another network ({'; '.join(changed)}): give its configuration "
                            f"with --config {self.best / CONFIG_FILE}")


@dataclass(frozen=True)
class _Move:
    """Rows that both models have.

    Attributes:
      before, now: their owners.
      token: the earlier token whose mask embedding new values may start from; None where no field of these rows had one.
      rows: where each row comes from.
      merged: other earlier owners, whose fields now use these rows.
    """

    before: TableField
    now: TableField
    token: int | None
    rows: RowSources
    merged: tuple[str, ...]


def _moves(earlier: Schema, now: Schema, folder_before: Path, folder_now: Path) -> list[_Move]:
    """One for each of `now.owners` of which some field was there before."""
    before = {field.name: field for field in _table_fields(earlier)}
    tokens = {field.name: place for place, field in enumerate(earlier.id_fields)}
    moves = []
    for owner in now.owners:
        names = [field.name for field in _users(now, owner)]
        known = [before[name] for name in names if name in before]
        if known:
            source = earlier.owner(known[0])
            token = next((tokens[name] for name in [source.name, *names] if name in tokens), None)
            merged = tuple(dict.fromkeys(earlier.owner(field).name for field in known if earlier.owner(field) is not source))
            moves.append(_Move(source, owner, token, _sources(source, owner, folder_before, folder_now), merged))
    return moves


@dataclass(frozen=True)
class Plan:
    """What is carried where, as the configuration, the earlier model folder and the data folder tell.

    Attributes:
      before: the earlier schema.
      places: of the tokens (`match_fields`).
      moves: of the rows.
    """

    before: Schema
    places: list[int]
    moves: list[_Move]


def plan(earlier: EarlierModel, config: Config, data: DataFolder) -> Plan:
    """Finds out what could be carried over, without reading a variable.

    Raises:
      UserError: another network, fields that do not match (`match_fields`), or vocabularies that are missing or broken.
    """
    earlier.require_network(config)
    folder, schema = earlier.vocabularies(), earlier.schema()
    places = match_fields(schema, data.schema, config.model.backbone)
    return Plan(schema, places, _moves(schema, data.schema, folder, data.path))


def carry_over(model: ClickModel, earlier: EarlierModel, config: Config, data: DataFolder) -> None:
    """Loads every variable of the earlier model into `model`, the rows of fields and values at their new places.

    A field that the earlier model did not have keeps its random start.

    Raises:
      UserError: as `plan`, or a checkpoint whose variables do not fit. Nothing is loaded then.
    """
    planned = plan(earlier, config, data)
    variables = model.named_variables()
    stored = open_checkpoint(earlier.best, {name: _earlier_shape(model, variable, planned.before) for name, variable in variables.items()})
    names = {id(variable): name for name, variable in variables.items()}
    table = names[id(model.embedding.table)]
    masks = stored(names[id(own)]) if (own := model.embedding.mask_variable) is not None else np.zeros((1, model.embedding.dim), np.float32)

    _carry_table(model, planned.moves, stored(table), masks if getattr(config, model.stage).new_rows == "mask" else None)
    tokens = np.array([*planned.places, len(planned.before.token_fields)])  # the label's token is the last one
    for name in variables.keys() - {table}:
        variable = variables[name]
        if variable is model.embedding.rare_rows:
            continue  # counted in the data of this run
        if _is_per_token(model, variable):
            known = np.flatnonzero(tokens[:variable.shape[0]] != NEW)
            variable.scatter_update(tf.IndexedSlices(stored(name)[tokens[known]], known))
        else:
            variable.assign(stored(name))
    _report(earlier, planned.before, data.schema, planned.moves)


def _sources(before: TableField, now: TableField, folder_before: Path, folder_now: Path) -> RowSources:
    if isinstance(now, NumericField):
        return numeric_sources(read_boundaries(folder_before, before), read_boundaries(folder_now, now))
    if before.hash_buckets or now.hash_buckets:
        return hashed_sources(before, now)
    return categorical_sources(read_vocabulary(folder_before, before), read_vocabulary(folder_now, now))


def _is_per_token(model: ClickModel, variable: tf.Variable) -> bool:
    """Whether the first axis counts tokens: fields, and in the embedding layer the label."""
    per_token = model.embedding.per_token_variables + model.field_scoring.per_field_variables
    per_token += model.loss_weights.weights if model.loss_weights else []
    return any(variable is one for one in per_token)


def _earlier_shape(model: ClickModel, variable: tf.Variable, earlier: Schema) -> list[int]:
    first, *others = variable.shape.as_list() or [None]
    if variable is model.embedding.table or variable is model.embedding.rare_rows:
        return [earlier.table_rows, *others]
    if _is_per_token(model, variable):
        return [first + len(earlier.token_fields) - len(model.schema.token_fields), *others]
    return variable.shape.as_list()


def _carry_table(model: ClickModel, moves: list[_Move], table: np.ndarray, masks: np.ndarray | None) -> None:
    """Fills the rows that were there before, block by block, since a table may be most of the memory.

    Args:
      table: the earlier table [rows, d].
      masks: the earlier mask embeddings [tokens, d], or the one of all tokens [1, d], if new rows start there, None if they start
        from the unknown row.
    """
    for move in moves:
        at_unknown = masks is None or move.token is None
        start = table[move.before.offset + UNKNOWN_ROW] if at_unknown else masks[move.token if len(masks) > 1 else 0]  # (d,)
        for first in range(0, move.now.rows, BLOCK_ROWS):
            source = move.rows.source[first:first + BLOCK_ROWS, np.newaxis]  # (R, 1)
            values = np.where(source == NEW, start, table[move.before.offset + source[:, 0].clip(0)])  # (R, d)
            rows = np.arange(first, first + len(source)) + move.now.offset
            model.embedding.table.scatter_update(tf.IndexedSlices(values, rows))


def _report(earlier: EarlierModel, before: Schema, now: Schema, moves: list[_Move]) -> None:
    counts = [(move.before.rows, move.now.rows, move.now.rows - move.rows.new, move.rows.new, move.rows.left) for move in moves]
    users = [", ".join(field.name for field in _users(now, move.now)) for move in moves]
    lines = [(name, *(f"{count:,}" for count in row)) for name, row in zip(users, counts, strict=True)]
    print_table(f"carried over from {earlier.best}", lines, ("fields", "rows before", "rows now", "carried", "new", "gone"))
    for move in moves:
        if move.rows.left:
            shown = ", ".join(move.rows.left_values) + (", ..." if move.rows.left > LEFT_SHOWN else "")
            print(f"{move.now.name}: {move.rows.left:,} values left the vocabulary: {shown}")
        if move.rows.remark:
            print(f"{move.now.name}: {move.rows.remark}")
        for name in move.merged:
            print(f"{move.now.name}: {name} uses these rows now; those it had of its own were left behind")
    old_names, names = ([field.name for field in _table_fields(schema)] for schema in (before, now))
    for name in names:
        if name not in old_names:
            print(f"{name}: the earlier model did not have this field; what is its own starts from random parameters")
    for name in old_names:
        if name not in names:
            print(f"{name}: the data no longer have this field; its parameters were left behind")
