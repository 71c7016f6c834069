"""The configuration: defaults, file, overrides, and what it refuses."""

from pathlib import Path

import pytest

from preprocessing.errors import UserError
from trainer import task
from trainer.config import load_config


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("seed: 5\nfinetune: {epochs: 3, patience: 4}\n")
    config = load_config(path, ["finetune.epochs=7", "model.dcn.hidden_units=[8, 4]"])
    assert (config.seed, config.finetune.epochs, config.finetune.patience) == (5, 7, 4)
    assert config.model.dcn.hidden_units == (8, 4)
    assert config.pretrain.batch_size == 4096


CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_configuration_of_the_project_is_valid(path):
    load_config(path)


def test_overrides_stand_behind_one_flag_or_several():
    arguments = task.build_parser().parse_args(["--stage=all", "--set", "seed=1", "finetune.epochs=2", "--set", "model.backbone=hstu"])
    assert arguments.assignments == ["seed=1", "finetune.epochs=2", "model.backbone=hstu"]


def test_resolved_configuration_reads_back_equal(tmp_path):
    config = load_config(None, ["model.backbone=hstu", "pretrain.table_decay=0.5"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(("assignment", "message"), [
    ("finetune.epoch=3", r"finetune\.epoch: unknown key \(received 3\)"),
    ("model.backbone=resnet", r"model\.backbone: Input should be .*'hstu'.* \(received 'resnet'\)"),
    ("finetune.dropout=1.5", r"finetune\.dropout: Input should be less than 1 \(received 1\.5\)"),
    ("model.dcn.hidden_units=[-5]", r"hidden_units\.0: Input should be greater than or equal to 1 \(received -5\)"),
    ("seed=5000000000", r"seed: Input should be less than 2147483648"),
    ("model.hstu.heads=3", "hstu.width must be a multiple of hstu.heads, received 64 and 3"),
    ("finetune.epochs", r"expected KEY=VALUE"),
    ("seed.x.y=1", r"'x' holds a value|seed: Input should be a valid integer"),
    ("seed=[", r"the value is not YAML"),
])
def test_bad_override_is_named(assignment, message):
    with pytest.raises(UserError, match=message):
        load_config(None, [assignment])


def test_a_backbone_without_towers_is_refused():
    with pytest.raises(UserError, match="dcn needs cross_layers or hidden_units"):
        load_config(None, ["model.dcn.cross_layers=0", "model.dcn.hidden_units=[]"])


def test_a_value_cannot_be_used_as_a_section(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("seed: 5\n")
    with pytest.raises(UserError, match="'seed' holds a value, not a section"):
        load_config(path, ["seed.x=1"])


@pytest.mark.parametrize(("text", "message"), [
    ("a: [", "is not YAML"),
    ("- 1", "expected a mapping of keys to values, received list"),
    ("unknown: 1", "unknown: unknown key"),
])
def test_bad_file_is_named(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_config(path)
    assert str(path) in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="absent.yaml does not exist"):
        load_config(tmp_path / "absent.yaml")


def test_an_empty_file_means_defaults(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    assert load_config(tmp_path / "config.yaml") == load_config()
