"""The Schema: which columns a click log has, what each one is, and where its values live in the shared table.

A user writes a schema without `rows` and `offset`; preprocessing fills them in and writes the resolved schema into the
data folder. Everything that needs to know what a field is asks here.
"""

import hashlib
import json
import keyword
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, PrivateAttr, field_validator, model_validator
from pydantic import Field as Setting

from preprocessing.errors import UserError
from preprocessing.settings import read_mapping, require_mapping, validate

MISSING_ROW = 0
UNKNOWN_ROW = 1
SPECIAL_ROWS = 2
SPLITS = ("train", "valid", "test")
RESERVED_NAMES = frozenset({"ids", "values", "label", "group", "timestamp", "key", "weight", "examples", "inputs",
                            "candidate_count", "shared_fields"})
UNSERVABLE_NAMES = frozenset({"self", *keyword.kwlist})  # a SavedModel signature refuses them as names of its inputs
SCHEMA_FILE = "schema.yaml"
MANIFEST_FILE = "manifest.json"
VOCABULARIES = "vocabularies"
VECTORS = "vectors"
BUCKETS_FILE = "buckets.json"
FREQUENCIES_FILE = "frequencies.npy"
TALLY_FILE = "tally.npz"
STATISTICS_FILE = "statistics.json"

Format = Literal["csv", "parquet", "tfrecord", "libsvm", "libfm", "libffm"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Field(_Frozen):
    """What every field has: a name for tensors and files, and the column it is read from (default: its name)."""

    name: str = Setting(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")
    column: str | None = None

    @model_validator(mode="after")
    def _name_is_free(self) -> Self:
        if self.name in RESERVED_NAMES:
            raise ValueError(
                f"field name {self.name!r} is reserved for the records; choose another name and give `column: {self.name}`"
            )
        if self.name in UNSERVABLE_NAMES:
            raise ValueError(
                f"field name {self.name!r} cannot name a served tensor; choose another name and give `column: {self.name}`"
            )
        return self

    @property
    def source(self) -> str:
        """The column of the log that the field is read from."""
        return self.column or self.name


class _TableField(_Field):
    """A field whose values have rows in the shared embedding table."""

    rows: int | None = Setting(default=None, ge=SPECIAL_ROWS, description="Rows in the shared table, special rows included.")
    offset: int | None = Setting(default=None, ge=0, description="First row of the field in the shared table.")


class _NamedValues(_TableField):
    """A field whose values are names: row 0 missing, row 1 unknown, rows 2.. its values.

    Attributes:
      min_count: a value seen fewer times in the training split trains the unknown row.
      max_size: keep at most this many values, the most frequent.
      vocabulary: the field whose vocabulary, and rows, this one shares. It is built from the values of all that share it.
      hash_buckets: no vocabulary: value v has row 2 + fingerprint(v) mod hash_buckets, and nothing is unknown.
    """

    min_count: int = Setting(default=1, ge=1)
    max_size: int | None = Setting(default=None, ge=1)
    vocabulary: str | None = None
    hash_buckets: int | None = Setting(default=None, ge=1)

    @model_validator(mode="after")
    def _one_kind_of_vocabulary(self) -> Self:
        if self.vocabulary and self.hash_buckets:
            raise ValueError("give `vocabulary` (another field's) or `hash_buckets`, not both")
        if (self.vocabulary or self.hash_buckets) and (self.min_count > 1 or self.max_size):
            taken = "`vocabulary`: the other field's" if self.vocabulary else "`hash_buckets`: hashing keeps no counts, so no"
            raise ValueError(f"`min_count` and `max_size` have no effect beside {taken} limits apply")
        return self


class CategoricalField(_NamedValues):
    """A field with one name a row."""

    kind: Literal["categorical"] = "categorical"


class MultivaluedField(_NamedValues):
    """A field with a set of names a row, such as genres.

    Attributes:
      separator: between the values of a cell, where the log is text.
      max_length: keep the first so many values.
    """

    kind: Literal["multivalued"] = "multivalued"
    separator: str = Setting(default="|", min_length=1, max_length=1)
    max_length: int = Setting(default=16, ge=1)


class SequenceField(_NamedValues):
    """A field with an ordered list of names a row, oldest first, such as the items a user clicked before.

    Attributes:
      separator: between the values of a cell, where the log is text.
      max_length: keep the last so many values, the most recent.
    """

    kind: Literal["sequence"] = "sequence"
    separator: str = Setting(default="|", min_length=1, max_length=1)
    max_length: int = Setting(default=50, ge=1)


class NumericField(_TableField):
    """A field whose values are numbers: row 0 missing, row 1 unknown (never trained), rows 2.. its buckets.

    Attributes:
      bucketing: "quantile": buckets of equal training counts; "log_square": bucket floor(ln(x)^2) above 2, one bucket an
        integer from -2 to 2, mirrored below; as far as the training numbers reach.
      buckets: number of quantile buckets; fewer where quantiles coincide.
    """

    kind: Literal["numeric"] = "numeric"
    bucketing: Literal["quantile", "log_square"] = "quantile"
    buckets: int = Setting(default=32, ge=2, le=4096)


class VectorTable(_Frozen):
    """A side table with one vector a key.

    Attributes:
      file: `.npz` (arrays `key` and `values` of equal length) or `.parquet` (a column `key`, a list column `values`);
        relative to the schema's file.
      key, values: names of the arrays or columns.
    """

    file: str
    key: str
    values: str


class VectorField(_Field):
    """A field with a vector of numbers a row, such as an image's embedding.

    Attributes:
      size: numbers in a vector.
      separator: between the numbers of a cell, where the log is text.
      table: the column holds a key, and the vector stands in this side table.
      rows: of the data folder's copy of the side table, row 0 (no vector) included.
    """

    kind: Literal["vector"] = "vector"
    size: int = Setting(ge=1, le=65536)
    separator: str = Setting(default="|", min_length=1, max_length=1)
    table: VectorTable | None = None
    rows: int | None = Setting(default=None, ge=1)


ListField = MultivaluedField | SequenceField
NamedField = CategoricalField | ListField
IdField = CategoricalField | NumericField
TableField = NamedField | NumericField
AnyField = Annotated[CategoricalField | NumericField | MultivaluedField | SequenceField | VectorField, Setting(discriminator="kind")]


class Label(_Frozen):
    """The click column and the texts that mean click and no click; any other text makes the row malformed.

    Attributes:
      unlabelled: what becomes of a row without label (the text is missing, or its file has no such column): "keep" marks
        it, so that it can be pre-trained on, "reject" makes it malformed.
    """

    column: str
    positive: tuple[str, ...] = ("1",)
    negative: tuple[str, ...] = ("0",)
    unlabelled: Literal["keep", "reject"] = "keep"

    @model_validator(mode="after")
    def _values_differ(self) -> Self:
        both = set(self.positive) & set(self.negative)
        if not self.positive or not self.negative or both:
            raise ValueError(f"label needs at least one positive and one negative value and none in both, received both={sorted(both)}")
        return self


class Timestamp(_Frozen):
    """The column of event time, and what its numbers count; "iso": texts such as 2026-01-31T12:00:00Z (UTC unless they say)."""

    column: str
    unit: Literal["seconds", "milliseconds", "microseconds", "nanoseconds", "iso"] = "seconds"


class FilesSplit(_Frozen):
    """Each split is its own set of files: glob patterns relative to the input folder."""

    by: Literal["files"] = "files"
    train: str
    valid: str
    test: str


class HashSplit(_Frozen):
    """Rows go to a split by a hash of the key columns, so equal keys stay together whatever the runner."""

    by: Literal["hash"] = "hash"
    key: tuple[str, ...] = Setting(min_length=1)
    valid: float = Setting(default=0.1, gt=0, lt=1)
    test: float = Setting(default=0.1, gt=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test must leave rows for training, received {self.valid} + {self.test}")
        return self


class TimeSplit(_Frozen):
    """Rows before `valid_from` train, rows before `test_from` validate, the rest test.

    Both are numbers in the units of the column, or dates (UTC unless they say); a column compared with dates holds ISO 8601
    texts or the log's own time stamps.
    """

    by: Literal["time"] = "time"
    column: str
    valid_from: float | datetime
    test_from: float | datetime

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if isinstance(self.valid_from, datetime) != isinstance(self.test_from, datetime):
            raise ValueError(f"give two numbers or two dates, received {self.valid_from} and {self.test_from}")
        if not self.limits[0] < self.limits[1]:
            raise ValueError(f"valid_from must be before test_from, received {self.valid_from} and {self.test_from}")
        return self

    @property
    def dated(self) -> bool:
        return isinstance(self.valid_from, datetime)

    @property
    def limits(self) -> tuple[float, float]:
        """`valid_from` and `test_from`; dates as microseconds since 1970."""
        return tuple(_microseconds(limit) if self.dated else limit for limit in (self.valid_from, self.test_from))


def _microseconds(date: datetime) -> float:
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1e6


class ColumnSplit(_Frozen):
    """Rows name their split in a column."""

    by: Literal["column"] = "column"
    column: str
    train: tuple[str, ...] = ("train",)
    valid: tuple[str, ...] = ("valid",)
    test: tuple[str, ...] = ("test",)


AnySplit = Annotated[FilesSplit | HashSplit | TimeSplit | ColumnSplit, Setting(discriminator="by")]


_Limit = Annotated[float, Setting(gt=0, allow_inf_nan=False)]


class FieldDriftLimits(_Frozen):
    """Limits of one field, where they differ from those of all (`DriftLimits`)."""

    new_share: _Limit | None = None
    missing_share: _Limit | None = None
    infinity_norm: _Limit | None = None
    jensen_shannon_divergence: _Limit | None = None
    length_divergence: _Limit | None = None


class DriftLimits(_Frozen):
    """How far a new log may differ from the training split before `--compare` calls it drift.

    What they limit is at most 1 (but for `label_rate`), so a limit of 1 is never exceeded.

    Attributes:
      new_share: of a field's values, the share that the vocabulary lacks, less the validation split's share.
      missing_share: difference, up or down, of the share of rows that have no value (lists: no values).
      infinity_norm: of a categorical field or the values of a list: the largest difference of one value's share.
      jensen_shannon_divergence: of a numeric field's buckets; base 2, from 0 to 1.
      length_divergence: the same of the numbers of values in lists that are not empty.
      label_rate: relative change, up or down.
      rejected_share: of malformed rows, more than there were when the data folder was written.
      unlabelled_share: of rows without label, more than the training split has.
      fields: by field name, limits of its own.
    """

    new_share: _Limit = 0.1
    missing_share: _Limit = 0.05
    infinity_norm: _Limit = 0.1
    jensen_shannon_divergence: _Limit = 0.1
    length_divergence: _Limit = 0.1
    label_rate: _Limit = 0.25
    rejected_share: _Limit = 0.01
    unlabelled_share: _Limit = 0.05
    fields: dict[str, FieldDriftLimits] = {}

    def of(self, measure: str, field: str) -> float:
        """The limit of a measure of a field."""
        own = getattr(self.fields[field], measure) if field in self.fields else None
        return getattr(self, measure) if own is None else own


class Schema(_Frozen):
    """A click log: how its files are written, its label, its fields, and how its rows are split.

    Attributes:
      format: of the files; by default what their names say (`.parquet`, `.tfrecord`, `.libsvm`, `.libfm`, `.libffm`), else text.
      separator: "," or a tab, in text files.
      quoted: whether values of text files may stand in quotes; false: quotes are characters like any other.
      header: column names in file order where text files have no header line of their own.
      missing: texts that mean "no value", beside the empty text; one that is a number (-1) means every equal number too.
      group: the column within which GAUC ranks (usually the user).
      timestamp: the column of event time (seconds, unless it says); kept in the records, never a feature unless also
        listed under `fields`.
      key: a column that identifies the row; kept in the records as text.
      weight: a column with the row's weight in training, finite and not negative.
      scenario: the categorical field that says in which scenario (page, channel) the row arose.
      drift: how far a new log may differ from the training split.
    """

    name: str = Setting(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")
    format: Format | None = None
    separator: Literal[",", "\t"] = ","
    quoted: bool = True
    header: tuple[str, ...] | None = None
    missing: tuple[str, ...] = ()
    label: Label
    group: str | None = None
    timestamp: Timestamp | None = None
    key: str | None = None
    weight: str | None = None
    scenario: str | None = None
    split: AnySplit
    fields: tuple[AnyField, ...] = Setting(min_length=1)
    drift: DriftLimits = DriftLimits()

    _left_out: frozenset[str] = PrivateAttr(frozenset())

    @field_validator("timestamp", mode="before")
    @classmethod
    def _column_is_enough(cls, timestamp: Any) -> Any:
        return {"column": timestamp} if isinstance(timestamp, str) else timestamp

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [field.name.lower() for field in self.fields]  # SavedModel inputs and files of vocabularies ignore case
        names += [f"{field.name}_missing".lower() for field in self.vector_fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"field names must differ in more than upper and lower case (a vector field takes NAME_missing "
                             f"too), received {twice} more than once")
        return self

    @model_validator(mode="after")
    def _no_leak(self) -> Self:
        forbidden = {self.label.column, self.weight} | ({self.split.column} if isinstance(self.split, ColumnSplit) else set())
        leaks = [field.name for field in self.fields if field.source in forbidden]
        if leaks:
            raise ValueError(f"fields {leaks} read the label, weight or split column, which would leak the answer")
        return self

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        by_name = {field.name: field for field in self.fields}
        for field in self.fields:
            owner = by_name.get(field.vocabulary) if isinstance(field, NamedField) and field.vocabulary else field
            if owner is None or owner is not field and (not isinstance(owner, NamedField) or owner.vocabulary or owner.hash_buckets):
                raise ValueError(f"field {field.name!r}: `vocabulary: {field.vocabulary}` must name a field with a vocabulary of "
                                 "its own")
        if self.scenario and not isinstance(by_name.get(self.scenario), CategoricalField):
            raise ValueError(f"`scenario: {self.scenario}` must name a categorical field")
        if not self.id_fields:
            raise ValueError("`fields` needs at least one categorical or numeric field")
        return self

    @model_validator(mode="after")
    def _drift_limits_apply(self) -> Self:
        measures = {field.name: drift_measures(field) for field in self.fields}
        for name, limits in self.drift.fields.items():
            if name not in measures:
                raise ValueError(f"`drift.fields` names {name!r}, which is not a field: expected some of {list(measures)}")
            unknown = sorted(limits.model_fields_set - set(measures[name]))
            if unknown:
                raise ValueError(f"`drift.fields.{name}`: {unknown} are not measured of this kind of field, only {list(measures[name])}")
        return self

    @model_validator(mode="after")
    def _header_has_all(self) -> Self:
        if self.header is not None:
            absent = [column for column in self.columns if column not in self.header and column not in self.optional_columns]
            if absent:
                raise ValueError(f"columns {absent} are not in `header`, which lists {list(self.header)}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the log that preprocessing reads, each once, in a fixed order."""
        wanted = [self.label.column, *(field.source for field in self.fields)]
        wanted += [self.group, self.timestamp and self.timestamp.column, self.key, self.weight]
        if isinstance(self.split, HashSplit):
            wanted += self.split.key
        elif isinstance(self.split, TimeSplit | ColumnSplit):
            wanted.append(self.split.column)
        return tuple(dict.fromkeys(column for column in wanted if column))

    @property
    def optional_columns(self) -> frozenset[str]:
        """Columns that a file may lack: the label's, where rows without label are kept."""
        return frozenset({self.label.column} if self.label.unlabelled == "keep" else ())

    def without(self, names: Iterable[str]) -> Self:
        """This schema for a model that does not read these fields: `id_fields` and `list_fields` lack them, and no others.

        `fields`, the rows of the table and the records stay as they are, since the data folder does. `without(())` undoes it.

        Raises:
          UserError: a name is not that of an id or list field, or no id field is left.
        """
        left_out, whole = frozenset(names), self.model_copy()
        whole._left_out = frozenset()
        known = [field.name for field in whole.token_fields]
        if unknown := sorted(left_out - set(known)):
            raise UserError(f"`model.ignored_fields` names {', '.join(unknown)}, which schema {self.name!r} does not have as fields that a "
                            f"model reads: expected some of {', '.join(known)}")
        whole._left_out = left_out
        if not whole.id_fields:
            raise UserError(f"`model.ignored_fields` names every categorical and numeric field of schema {self.name!r}: leave at least one")
        return whole

    @property
    def record_id_fields(self) -> tuple[IdField, ...]:
        """The fields with one id a row, in the order in which the records pack them into `ids`."""
        return tuple(field for field in self.fields if isinstance(field, IdField))

    @property
    def id_fields(self) -> tuple[IdField, ...]:
        """Those of `record_id_fields` that are read."""
        return tuple(field for field in self.record_id_fields if field.name not in self._left_out)

    @property
    def places(self) -> tuple[int, ...]:
        """The places of `id_fields` among `record_id_fields`."""
        return tuple(place for place, field in enumerate(self.record_id_fields) if field.name not in self._left_out)

    @property
    def numeric_fields(self) -> tuple[NumericField, ...]:
        return tuple(field for field in self.fields if isinstance(field, NumericField))

    @property
    def list_fields(self) -> tuple[ListField, ...]:
        """The fields with several ids a row that are read."""
        return tuple(field for field in self.fields if isinstance(field, ListField) and field.name not in self._left_out)

    @property
    def token_fields(self) -> tuple[NamedField | NumericField, ...]:
        """The fields that are tokens of a model, in the order of the tokens: id fields, then list fields."""
        return self.id_fields + self.list_fields

    def target(self, sequence: SequenceField) -> IdField | None:
        """The id field of whose values a sequence is the history: the owner of its vocabulary, or the first that shares it."""
        sharing = [field for field in self.id_fields if self.owner(field) is self.owner(sequence)]
        return next((field for field in sharing if field is self.owner(field)), sharing[0] if sharing else None)

    @property
    def vector_fields(self) -> tuple[VectorField, ...]:
        return tuple(field for field in self.fields if isinstance(field, VectorField))

    @property
    def owners(self) -> tuple[TableField, ...]:
        """The fields that have rows of their own in the shared table, in the order of their rows."""
        return tuple(field for field in self.fields if isinstance(field, TableField) and self.owner(field) is field)

    @property
    def sharing_fields(self) -> tuple[NamedField, ...]:
        """The fields that use the rows of another one."""
        return tuple(field for field in self.fields if isinstance(field, TableField) and self.owner(field) is not field)

    @property
    def vocabulary_fields(self) -> tuple[NamedField, ...]:
        """The fields that have a vocabulary of their own."""
        return tuple(field for field in self.owners if isinstance(field, NamedField) and not field.hash_buckets)

    def owner(self, field: TableField) -> TableField:
        """The field whose rows `field` uses: itself, or the one whose vocabulary it shares."""
        if isinstance(field, NamedField) and field.vocabulary:
            return next(other for other in self.fields if other.name == field.vocabulary)
        return field

    @property
    def field_rows(self) -> tuple[int, ...]:
        """Rows of each of `id_fields`. Only for a resolved schema."""
        if any(field.rows is None for field in self.id_fields):
            raise UserError(
                f"schema {self.name!r} is not resolved: fields have no `rows` yet; use the {SCHEMA_FILE} of a data folder "
                "written by `python -m preprocessing.task`"
            )
        return tuple(field.rows for field in self.id_fields)

    @property
    def table_rows(self) -> int:
        """Rows of the shared embedding table: the sum over the fields that have rows of their own."""
        _ = self.field_rows
        return sum(field.rows for field in self.owners)

    def resolve(self, rows: dict[str, int]) -> "Schema":
        """Returns the schema with rows and offsets filled in; the rows of `owners` stand behind one another in order.

        Args:
          rows: by the name of each of `owners`, and of each vector field with a side table.
        """
        offsets, offset = {}, 0
        for owner in self.owners:
            offsets[owner.name] = offset
            offset += rows[owner.name]
        fields = []
        for field in self.fields:
            place = {}
            if isinstance(field, TableField):
                owner = self.owner(field).name
                place = {"rows": rows[owner], "offset": offsets[owner]}
            elif field.table:
                place = {"rows": rows[field.name]}
            fields.append(field.model_copy(update=place))
        return self.model_copy(update={"fields": tuple(fields)})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def drift_measures(field: AnyField) -> tuple[str, ...]:
    """What `--compare` measures of a field, by the names of their limits."""
    if isinstance(field, VectorField):
        return ("missing_share",)
    if isinstance(field, NumericField):
        return ("missing_share", "jensen_shannon_divergence")
    new = () if field.hash_buckets else ("new_share",)
    lengths = ("length_divergence",) if isinstance(field, ListField) else ()
    return (*new, "missing_share", "infinity_norm", *lengths)


def parse_schema(content: Any, origin: str) -> Schema:
    """Builds a Schema from parsed YAML, or raises a `UserError` that names `origin` and each wrong key."""
    return validate(Schema, require_mapping(content, f"schema {origin}"), f"schema {origin}")


def load_schema(path: str | Path) -> Schema:
    """Reads a schema from a YAML file."""
    return parse_schema(read_mapping(path, "schema"), str(path))


def load_data_folder_schema(data_dir: str | Path) -> Schema:
    """Reads the resolved schema of a finished data folder; an unfinished folder (no manifest) is refused."""
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise UserError(f"data folder {data_dir} does not exist: write it with `python -m preprocessing.task --output {data_dir}`")
    if not (data_dir / MANIFEST_FILE).is_file():
        raise UserError(
            f"data folder {data_dir} has no {MANIFEST_FILE}, so it is unfinished or not a data folder: "
            f"write it with `python -m preprocessing.task --output {data_dir}`"
        )
    schema = load_schema(data_dir / SCHEMA_FILE)
    _ = schema.field_rows
    return schema


def read_manifest(data_dir: str | Path) -> dict:
    """Reads the manifest of a finished data folder: what has been written of every split.

    Raises:
      UserError: it is damaged.
    """
    path = Path(data_dir) / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for split in (manifest["splits"][name] for name in SPLITS):
            _ = split["rows"], split["positives"], [(file["path"], file["rows"]) for file in split["files"]]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} is damaged ({reason}): restore it from a copy, or remove {data_dir} and write it again with "
                        f"`python -m preprocessing.task --output {data_dir}`") from error
    return manifest


def train_checksum(data_dir: str | Path) -> str:
    """Identifies what a model of a finished data folder has learnt from: schema, training rows, vocabularies, buckets."""
    data_dir = Path(data_dir)
    digest = hashlib.sha256(json.dumps(read_manifest(data_dir)["splits"]["train"], sort_keys=True).encode())
    for path in [data_dir / SCHEMA_FILE, *sorted(data_dir.glob(BUCKETS_FILE)), *sorted(data_dir.glob(f"{VOCABULARIES}/*"))]:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
