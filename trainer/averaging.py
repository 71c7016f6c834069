"""An exponential moving average of the weights: what is validated, saved as the model and exported, if a stage keeps one."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from trainer.click_model import ClickModel
from trainer.optimizers import lazy_optimizers, log_kept


class WeightAverage:
    """The bias-corrected average of the weights W^1, ..., W^t after each of the steps of a stage so far.

        A^t = sum_{j=1..t} (1 - d_j) (D_t / D_j) W^j / (1 - D_t)        d_j = min(d, (1 + j) / (10 + j)),  D_t = d_1 d_2 ... d_t

    Tables are averaged by their optimizers, row by row as they are looked up (`trainer.optimizers.LazyAdam`), so that a step
    costs no more on a larger table. Everything else that the stage changes, batch normalisation's moving moments included, is averaged as
    a whole,

        A^t = A^(t-1) + (1 - d_t) / (1 - D_t) (W^t - A^(t-1)).

    While embeddings grow from their random start, averaged moments lag behind the activations and spoil the calibration; after these
    epochs they fit the averaged weights better than the last ones, which belong to other weights (docs/decisions.md).

    Args:
      model: with the optimizer of its stage, built with the same factor.
      factor: d in (0, 1).

    Source: arXiv 1803.05407 (there with equal weights, and moments computed anew by a pass over the data); the correction is
    Adam's, arXiv 1412.6980, section 3, and the growing factors are those of TensorFlow's `tf.train.ExponentialMovingAverage`.
    """

    def __init__(self, model: ClickModel, factor: float):
        self._optimizer = model.optimizer
        self._factor = factor
        trained = {id(variable) for variable in model.stage_variables} - {id(table) for table in model.tables.values()}
        self._variables = {name: variable for name, variable in model.named_variables().items()
                           if id(variable) in trained or _is_moving_moment(variable)}
        self.averages = {name: tf.Variable(tf.zeros_like(variable), trainable=False)
                         for name, variable in self._variables.items()}
        self._raw: list[tuple[tf.Variable, tf.Tensor]] = []

    def update(self) -> None:
        """Adds the weights after a step, which the optimizer has just taken."""
        steps = self._optimizer.optimizers[-1].iterations
        before, now = log_kept(steps - 1, self._factor), log_kept(steps, self._factor)
        share = tf.cast(tf.math.expm1(now - before) / tf.math.expm1(now), tf.float32)
        for name, variable in self._variables.items():
            self.averages[name].assign_add(share * (variable - self.averages[name]))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside this block, and afterwards its own, to the bit."""
        try:
            self._take_place()
            yield
        finally:
            self.give_back()

    def _take_place(self) -> None:
        lazies = lazy_optimizers(self._optimizer)
        replaced = [*self._variables.values(), *(part for lazy in lazies for part in lazy.parts)]
        self._raw = [(variable, variable.read_value()) for variable in replaced]
        if not self.steps:
            return
        for name, variable in self._variables.items():
            variable.assign(self.averages[name])
        for lazy in lazies:
            lazy.assign_averages()

    @property
    def steps(self) -> int:
        """How many steps the average is of; the weights themselves stand in for that of none."""
        return int(self._optimizer.optimizers[-1].iterations)

    def give_back(self) -> None:
        """Ends what `in_place` began, as often as it is called: a signal may have ended the block at any point."""
        for variable, value in self._raw:
            variable.assign(value)
        self._raw = []


def _is_moving_moment(variable: tf.Variable) -> bool:
    return not variable.trainable and variable.dtype.is_floating
