"""What a user wants to be drawn: as typed, and in ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from preprocessing.errors import UserError
from preprocessing.schema import ListField, Schema
from trainer.data_folder import DataFolder
from trainer.sample.values import FieldValues


@dataclass(frozen=True)
class Request:
    """What to draw and what to compare it with.

    Attributes:
      given: texts FIELD=VALUE, or FIELD=VALUE|VALUE of a list with the separator "|"; label: 0, 1 or None; steps: see `Sampler`.
      split: whose rows are the real ones.
    """

    samples: int = 20_000
    given: tuple[str, ...] = ()
    label: int | None = None
    steps: int | None = None
    seed: int = 1
    split: Literal["valid", "train"] = "valid"


@dataclass(frozen=True)
class Given:
    """What is fixed in every sample: ids and lists by the name of their field, and the label.

    Attributes:
      lists: int32 [max_length], -1 where there is no value.
    """

    ids: Mapping[str, int]
    label: int | None = None
    lists: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def parse(cls, assignments: Sequence[str], label: int | None, data: DataFolder, values: FieldValues) -> "Given":
        """Reads texts FIELD=VALUE.

        Raises:
          UserError: another form, an unknown field, a field twice, or a value that no training row has.
        """
        fields = {field.name: (field, counts) for field, counts in zip(data.schema.token_fields, data.field_frequencies, strict=True)}
        ids: dict[str, int] = {}
        lists: dict[str, np.ndarray] = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise UserError(f"--given {assignment}: expected FIELD=VALUE, for example --given {next(iter(fields))}=VALUE")
            if name not in fields:
                raise UserError(f"--given {assignment}: {name!r} is no field that the model reads; expected one of {', '.join(fields)}")
            if name in ids or name in lists:
                raise UserError(f"--given fixes {name} twice: give one value")
            field, counts = fields[name]
            if isinstance(field, ListField):
                lists[name] = values.list_of(field, text, counts)
            else:
                ids[name] = values.id_of(field, text, counts)
        return cls(ids, label, lists)

    def mask(self, schema: Schema) -> np.ndarray:
        """bool [N+1], True for what is fixed, the label last."""
        return np.array([*(field.name in self.ids for field in schema.id_fields), self.label is not None])

    def row(self, schema: Schema) -> np.ndarray:
        """int32 [N+1]: the fixed values, 0 elsewhere."""
        return np.array([*(self.ids.get(field.name, 0) for field in schema.id_fields), self.label or 0], np.int32)
