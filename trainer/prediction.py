"""What a model says of a whole split: click logits and, in pre-training, diffusion losses."""

from functools import partial

import numpy as np
import tensorflow as tf

from trainer.batch import features_of
from trainer.click_model import ClickModel
from trainer.data_folder import DataFolder
from trainer.distribute.distribution import Distribution
from trainer.input import EvaluationSplit
from trainer.metrics import Predictions, click_metrics, platt_scaling

DIFFUSION_BATCH = 4096
MASK_SEED = 7


class Predictor:
    """A model and a data folder, with the model's functions compiled once for all calls.

    Args:
      model: the model.
      data: the data folder.
      distribution: what the model was built in the scope of.
    """

    def __init__(self, model: ClickModel, data: DataFolder, distribution: Distribution | None = None):
        distribution = distribution or Distribution()
        self._model = model
        self._data = data.without(model.run_config.model.ignored_fields)
        self._splits: dict[str, EvaluationSplit] = {}
        self._click_logits = distribution.compile(model.click_logits)
        self._loss_parts = distribution.compile(partial(model.loss_parts, training=False))

    def _split(self, name: str) -> EvaluationSplit:
        if name not in self._splits:
            settings = self._model.run_config.input
            self._splits[name] = EvaluationSplit(self._data, name, settings.window_rows, settings.corrupt_records)
        return self._splits[name]

    def predict(self, split: str, with_ids: bool = False) -> Predictions:
        """Click logits of the rows of a split that have a label, in file order; `with_ids`, their ids beside them."""
        found: dict[str, list[np.ndarray]] = {"label": [], "logit": [], "group": [], "weight": []} | ({"ids": []} if with_ids else {})
        for batch in self._split(split).batches():
            for name in batch.keys() & found.keys():
                found[name].append(batch[name].numpy())
            found["logit"].append(self._click_logits(features_of(batch)).numpy())
        whole = {name: np.concatenate(parts) for name, parts in found.items() if parts}
        return Predictions(whole["label"], whole["logit"], whole.get("group"), whole.get("weight"), whole.get("ids"))

    def diffusion_losses(self, split: str) -> dict[str, float]:
        """Loss parts of pre-training over the rows of a split that have a label, averaged by rows; the same masks every time."""
        sums: dict[str, float] = {}
        rows = 0
        for number, batch in enumerate(self._split(split).batches(DIFFUSION_BATCH)):
            batch["seed"] = tf.constant([MASK_SEED, number])
            size = int(batch["label"].shape[0])
            rows += size
            for name, value in self._loss_parts(batch).items():
                sums[name] = sums.get(name, 0.0) + float(value) * size
        return {name: total / rows for name, total in sums.items()}

    def validate(self) -> dict[str, float | int | None]:
        """Click metrics on the validation split where the stage predicts clicks, and in pre-training the diffusion losses beside them."""
        metrics: dict[str, float | int | None] = {}
        if self._model.predicts_clicks:
            predictions = self.predict("valid")
            metrics |= click_metrics(predictions)
            if self._model.stage == "finetune" and self._model.run_config.finetune.calibration == "platt":
                metrics |= platt_scaling(predictions).as_metrics
        if self._model.stage == "pretrain":
            metrics |= self.diffusion_losses("valid")
        return metrics
