"""A new log under an earlier data folder's vocabularies: which schema then holds."""

from pathlib import Path

import yaml

from preprocessing.errors import UserError
from preprocessing.folder import require_unchanged
from preprocessing.schema import Schema, load_data_folder_schema, parse_schema


def nightly_schema(transform_from: Path, given: Schema | None) -> Schema:
    """The schema for a log that is to be written with the vocabularies and buckets of `transform_from`.

    Args:
      transform_from: a finished data folder.
      given: the user's schema, whose split, label and files may differ from the folder's, but not its fields; None: the
        folder's own.

    Raises:
      UserError: the folder is unfinished or damaged, or the fields differ.
    """
    earlier = load_data_folder_schema(transform_from)
    require_unchanged(transform_from)
    if given is None:
        return earlier
    before, now = _definitions(earlier), _definitions(given)
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing or list(before) != list(now):
        if differing:
            what = f"{differing[0]!r} is {before.get(differing[0])} there and {now.get(differing[0])} here"
        else:
            what = f"their order is {list(before)} there and {list(now)} here"
        raise UserError(
            f"data folder {transform_from} has other fields than schema {given.name!r}: {what}. Its vocabularies fit its own "
            "fields only: leave --schema out to use the folder's schema, or learn anew from the log, without the folder"
        )
    return given


def with_split(schema: Schema, split: str) -> Schema:
    """The schema with another `split`, given as YAML."""
    try:
        content = yaml.safe_load(split)
    except yaml.YAMLError as error:
        raise UserError(f"--split {split!r} is not YAML: {' '.join(str(error).split())}") from error
    return parse_schema(schema.model_dump(mode="json", exclude_none=True) | {"split": content}, "with --split")


def _definitions(schema: Schema) -> dict[str, object]:
    """What decides how raw values become ids: of each field, and the texts that mean missing."""
    fields = {field.name: field.model_dump(exclude={"rows", "offset", "column", "table"}) for field in schema.fields}
    return {**fields, "missing": sorted(schema.missing)}
