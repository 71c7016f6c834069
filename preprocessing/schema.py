"""The Schema: which columns a click log has, what each one is, and where its values live in the shared table.

A user writes a schema without `rows` and `offset`; preprocessing fills them in and writes the resolved schema into the
data folder. Everything that needs to know what a field is asks here.
"""

import hashlib
import json
import keyword
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as Setting

from preprocessing.errors import UserError
from preprocessing.settings import read_mapping, require_mapping, validate

MISSING_ROW = 0
UNKNOWN_ROW = 1
SPECIAL_ROWS = 2
SPLITS = ("train", "valid", "test")
RESERVED_NAMES = frozenset({"ids", "values", "label", "group", "timestamp", "examples", "inputs"})
UNSERVABLE_NAMES = frozenset({"self", *keyword.kwlist})  # a SavedModel signature refuses them as names of its inputs
SCHEMA_FILE = "schema.yaml"
MANIFEST_FILE = "manifest.json"
VOCABULARIES = "vocabularies"
BUCKETS_FILE = "buckets.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Field(_Frozen):
    """What every field has: a name for tensors and files, and the column it is read from (default: its name)."""

    name: str = Setting(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")
    column: str | None = None
    rows: int | None = Setting(default=None, ge=SPECIAL_ROWS, description="Rows in the shared table, special rows included.")
    offset: int | None = Setting(default=None, ge=0, description="First row of the field in the shared table.")

    @model_validator(mode="after")
    def _name_is_free(self) -> "_Field":
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


class CategoricalField(_Field):
    """A field whose values are names: row 0 missing, row 1 unknown, rows 2.. the values by falling training count.

    Attributes:
      min_count: a value seen fewer times in the training split trains the unknown row.
      max_size: keep at most this many values, the most frequent.
    """

    kind: Literal["categorical"] = "categorical"
    min_count: int = Setting(default=1, ge=1)
    max_size: int | None = Setting(default=None, ge=1)


class NumericField(_Field):
    """A field whose values are numbers: row 0 missing, row 1 unknown (never trained), rows 2.. its quantile buckets.

    Attributes:
      buckets: number of quantile buckets over the training split; fewer where quantiles coincide.
    """

    kind: Literal["numeric"] = "numeric"
    buckets: int = Setting(default=32, ge=2, le=4096)


AnyField = Annotated[CategoricalField | NumericField, Setting(discriminator="kind")]


class Label(_Frozen):
    """The click column and the texts that mean click and no click; any other text makes the row malformed."""

    column: str
    positive: tuple[str, ...] = ("1",)
    negative: tuple[str, ...] = ("0",)

    @model_validator(mode="after")
    def _values_differ(self) -> "Label":
        both = set(self.positive) & set(self.negative)
        if not self.positive or not self.negative or both:
            raise ValueError(f"label needs at least one positive and one negative value and none in both, received both={sorted(both)}")
        return self


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
    def _leaves_training_rows(self) -> "HashSplit":
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test must leave rows for training, received {self.valid} + {self.test}")
        return self


class TimeSplit(_Frozen):
    """Rows before `valid_from` train, rows before `test_from` validate, the rest test (units of the column)."""

    by: Literal["time"] = "time"
    column: str
    valid_from: float
    test_from: float

    @model_validator(mode="after")
    def _in_order(self) -> "TimeSplit":
        if not self.valid_from < self.test_from:
            raise ValueError(f"valid_from must be before test_from, received {self.valid_from} and {self.test_from}")
        return self


class ColumnSplit(_Frozen):
    """Rows name their split in a column."""

    by: Literal["column"] = "column"
    column: str
    train: tuple[str, ...] = ("train",)
    valid: tuple[str, ...] = ("valid",)
    test: tuple[str, ...] = ("test",)


AnySplit = Annotated[FilesSplit | HashSplit | TimeSplit | ColumnSplit, Setting(discriminator="by")]


class Schema(_Frozen):
    """A click log: how its files are written, its label, its fields, and how its rows are split.

    Attributes:
      separator: "," or a tab.
      header: column names in file order where the files have no header line of their own.
      missing: texts that mean "no value", beside the empty text.
      group: the column within which GAUC ranks (usually the user).
      timestamp: the column of event time; kept in the records, never a feature unless also listed under `fields`.
    """

    name: str = Setting(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")
    separator: Literal[",", "\t"] = ","
    header: tuple[str, ...] | None = None
    missing: tuple[str, ...] = ()
    label: Label
    group: str | None = None
    timestamp: str | None = None
    split: AnySplit
    fields: tuple[AnyField, ...] = Setting(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> "Schema":
        names = [field.name.lower() for field in self.fields]  # SavedModel inputs and files of vocabularies ignore case
        twice = sorted({field.name for field in self.fields if names.count(field.name.lower()) > 1})
        if twice:
            raise ValueError(f"field names must differ in more than upper and lower case, received {twice}")
        forbidden = {self.label.column} | ({self.split.column} if isinstance(self.split, ColumnSplit) else set())
        leaks = [field.name for field in self.fields if field.source in forbidden]
        if leaks:
            raise ValueError(f"fields {leaks} read the label or split column, which would leak the answer")
        if self.header is not None:
            absent = [column for column in self.columns if column not in self.header]
            if absent:
                raise ValueError(f"columns {absent} are not in `header`, which lists {list(self.header)}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the log that preprocessing reads, each once, in a fixed order."""
        wanted = [self.label.column, *(field.source for field in self.fields)]
        wanted += [column for column in (self.group, self.timestamp) if column]
        if isinstance(self.split, HashSplit):
            wanted += self.split.key
        elif isinstance(self.split, TimeSplit | ColumnSplit):
            wanted.append(self.split.column)
        return tuple(dict.fromkeys(wanted))

    @property
    def numeric_fields(self) -> tuple[NumericField, ...]:
        return tuple(field for field in self.fields if isinstance(field, NumericField))

    @property
    def field_rows(self) -> tuple[int, ...]:
        """Rows of each field, in field order. Only for a resolved schema."""
        if any(field.rows is None for field in self.fields):
            raise UserError(
                f"schema {self.name!r} is not resolved: fields have no `rows` yet; use the {SCHEMA_FILE} of a data folder "
                "written by `python -m preprocessing.task`"
            )
        return tuple(field.rows for field in self.fields)

    @property
    def table_rows(self) -> int:
        """Rows of the shared embedding table: the sum of all fields' rows."""
        return sum(self.field_rows)

    def resolve(self, field_rows: dict[str, int]) -> "Schema":
        """Returns the schema with each field's rows and offset filled in; fields stand behind one another in order."""
        fields, offset = [], 0
        for field in self.fields:
            rows = field_rows[field.name]
            fields.append(field.model_copy(update={"rows": rows, "offset": offset}))
            offset += rows
        return self.model_copy(update={"fields": tuple(fields)})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


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


def train_checksum(data_dir: str | Path) -> str:
    """Identifies what a model of a finished data folder has learnt from: schema, training rows, vocabularies, buckets."""
    data_dir = Path(data_dir)
    manifest = json.loads((data_dir / MANIFEST_FILE).read_text(encoding="utf-8"))
    digest = hashlib.sha256(json.dumps(manifest["splits"]["train"], sort_keys=True).encode())
    for path in [data_dir / SCHEMA_FILE, *sorted(data_dir.glob(BUCKETS_FILE)), *sorted(data_dir.glob(f"{VOCABULARIES}/*"))]:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
