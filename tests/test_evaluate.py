"""The losses of fields that a report draws."""

from types import SimpleNamespace

import numpy as np
import pytest
from data_folders import tiny_schema

from trainer.config import ScoringConfig
from trainer.evaluate import _field_losses


def data(rows: dict[str, int], counts: list[list[int]]) -> SimpleNamespace:
    return SimpleNamespace(schema=tiny_schema(rows), field_frequencies=list(map(np.array, counts)))


def test_losses_of_the_best_epoch_beside_the_entropy_of_training():
    history = [{"valid": {"loss": 3.0, "field/user": 2.0}}, {"valid": {"loss": 1.0, "field/user": 0.5}}]
    losses = _field_losses(history, data({"user": 4}, [[0, 0, 5, 5]]), ScoringConfig(full_softmax_rows=4))
    assert losses["user"] == (0.5, pytest.approx(np.log(2)))


def test_large_fields_and_fields_that_an_old_history_does_not_name_are_left_out():
    history = [{"valid": {"loss": 1.0, "user": 0.5, "field/item": 0.5}}]
    assert _field_losses(history, data({"user": 4, "item": 9}, [[0, 0, 5, 5], [1] * 9]), ScoringConfig(full_softmax_rows=4)) == {}


@pytest.mark.parametrize(("candidates", "drawn"), [("full", {"user", "item"}), ("batch", set())])
def test_only_losses_over_whole_fields_are_drawn(candidates, drawn):
    history = [{"valid": {"loss": 1.0, "field/user": 0.5, "field/item": 0.5}}]
    fields = data({"user": 4, "item": 9_000}, [[0, 0, 5, 5], [1] * 9_000])
    assert _field_losses(history, fields, ScoringConfig(candidates=candidates)).keys() == drawn
