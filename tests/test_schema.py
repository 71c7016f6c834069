"""The schema: what is refused, and where fields live in the shared table."""

import pytest

from preprocessing.errors import UserError
from preprocessing.schema import load_data_folder_schema, load_schema, parse_schema


def content(**changes) -> dict:
    base = {
        "name": "shop",
        "label": {"column": "click"},
        "split": {"by": "hash", "key": ["user"]},
        "fields": [{"name": "user", "kind": "categorical"}, {"name": "price", "kind": "numeric"}],
    }
    return base | changes


def refused(**changes) -> str:
    with pytest.raises(UserError) as caught:
        parse_schema(content(**changes), "shop.yaml")
    message = str(caught.value)
    assert "shop.yaml" in message and "\n" not in message
    return message


def test_fields_stand_behind_one_another_in_the_table():
    resolved = parse_schema(content(), "shop.yaml").resolve({"user": 5, "price": 4})
    assert [(field.rows, field.offset) for field in resolved.fields] == [(5, 0), (4, 5)]
    assert resolved.table_rows == 9
    assert resolved.numeric_fields == resolved.fields[1:]


def test_a_resolved_schema_survives_its_file(tmp_path):
    resolved = parse_schema(content(group="user", missing=["NULL"]), "shop.yaml").resolve({"user": 5, "price": 4})
    path = tmp_path / "schema.yaml"
    path.write_text(resolved.to_yaml())
    assert load_schema(path) == resolved


def test_columns_are_listed_once_in_a_fixed_order():
    split = {"by": "hash", "key": ["session", "user"]}
    schema = parse_schema(content(group="user", timestamp="time", split=split), "shop.yaml")
    assert schema.columns == ("click", "user", "price", "time", "session")


def test_an_unresolved_schema_has_no_table():
    with pytest.raises(UserError, match="not resolved"):
        _ = parse_schema(content(), "shop.yaml").table_rows


@pytest.mark.parametrize(("fields", "expected"), [
    ([{"name": "user", "kind": "scalar"}], "'scalar'"),
    ([{"name": "user"}], "fields.0: needs the key 'kind'"),
    ([{"name": "user", "kind": "categorical", "mincount": 2}], "mincount: unknown key (received 2)"),
    ([{"name": "user", "kind": "categorical", "min_count": 0}], "min_count"),
    ([{"name": "label", "kind": "categorical"}], "reserved"),
    ([{"name": "click", "kind": "categorical"}], "leak"),
    ([{"name": "user", "kind": "categorical"}] * 2, "must differ"),
    ([], "fields"),
    ([{"name": "user", "kind": "categorical", "vocabulary": "item"}], "must name a field with a vocabulary of its own"),
    ([{"name": "user", "kind": "categorical", "vocabulary": "item", "hash_buckets": 9}], "not both"),
    ([{"name": "user", "kind": "categorical", "hash_buckets": 9, "min_count": 2}], "hashing keeps no counts"),
    ([{"name": "image", "kind": "vector", "size": 4}], "at least one categorical or numeric"),
    ([{"name": "image", "kind": "vector", "size": 4}, {"name": "image_missing", "kind": "categorical"}], "image_missing"),
])
def test_wrong_fields_are_named(fields, expected):
    assert expected in refused(fields=fields)


@pytest.mark.parametrize(("changes", "expected"), [
    ({"spilt": {}}, "spilt"),
    ({"separator": ";"}, "separator"),
    ({"header": ["user", "click"]}, "['price']"),
    ({"label": {"column": "click", "positive": ["1"], "negative": ["1"]}}, "both=['1']"),
    ({"split": {"by": "hash", "key": ["user"], "valid": 0.5, "test": 0.5}}, "leave rows for training"),
    ({"split": {"by": "time", "column": "t", "valid_from": 2, "test_from": 1}}, "valid_from must be before"),
    ({"split": {"by": "coin"}}, "'coin'"),
    ({"split": {"by": "time", "column": "t", "valid_from": "2026-01-02", "test_from": 3}}, "two numbers or two dates"),
    ({"scenario": "price"}, "must name a categorical field"),
    ({"weight": "price"}, "['price'] read the label, weight or split column"),
])
def test_wrong_settings_are_named(changes, expected):
    assert expected in refused(**changes)


def test_a_missing_schema_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml does not exist"):
        load_schema(tmp_path / "nowhere.yaml")


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    path = tmp_path / "schema.yaml"
    path.write_text("fields: [")
    with pytest.raises(UserError, match="is not YAML"):
        load_schema(path)
    path.write_text("- a list")
    with pytest.raises(UserError, match="expected a mapping"):
        load_schema(path)


def test_a_data_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_data_folder_schema(tmp_path / "data")
    (tmp_path / "schema.yaml").write_text(parse_schema(content(), "s").to_yaml())
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        load_data_folder_schema(tmp_path)


def test_a_shared_vocabulary_shares_rows():
    fields = [
        {"name": "history", "kind": "sequence", "vocabulary": "item"},
        {"name": "user", "kind": "categorical"},
        {"name": "item", "kind": "categorical"},
        {"name": "device", "kind": "categorical", "hash_buckets": 3},
    ]
    schema = parse_schema(content(fields=fields), "shop.yaml")
    assert [field.name for field in schema.owners] == ["user", "item", "device"]
    assert [field.name for field in schema.vocabulary_fields] == ["user", "item"]
    resolved = schema.resolve({"user": 5, "item": 4, "device": 5})
    assert [(field.rows, field.offset) for field in resolved.fields] == [(4, 5), (5, 0), (4, 5), (5, 9)]
    assert resolved.field_rows == (5, 4, 5)
    assert resolved.table_rows == 14


def test_dates_split_in_microseconds():
    split = {"by": "time", "column": "t", "valid_from": "1970-01-02", "test_from": "1970-01-03T00:00:00+00:00"}
    assert parse_schema(content(split=split), "shop.yaml").split.limits == (86_400e6, 172_800e6)
