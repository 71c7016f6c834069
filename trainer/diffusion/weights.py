"""How the losses of masked tokens are weighted in their sum."""

import tensorflow as tf

from trainer.config import DiffusionConfig
from trainer.diffusion.schedule import mean_masking_rate


def inverse_rate_weights(config: DiffusionConfig, rates: tf.Tensor, tokens: int) -> tf.Tensor:
    """Weight of the losses of a sample's masked tokens, float [B]: the more of them there are, the less each counts.

        w = E[lambda] / max(lambda(t), 1 / T),   T tokens

    so that the masked tokens of a sample weigh as much together whatever t is, and a masked token weighs 1 on average, as with
    equal weights. Below 1/T a sample has one masked token all the same, hence the bound.

    With the linear schedule in continuous time, 1 / lambda(t) makes the loss a bound of the likelihood (arXiv 2406.07524).

    Args:
      rates: lambda(t), float [B].
      tokens: T.
    """
    return mean_masking_rate(config, tokens) / tf.maximum(rates, 1.0 / tokens)


class LearnedWeights(tf.keras.layers.Layer):
    """One learned c_k a token, the label's last: the loss l_ik of a masked token k of sample i becomes

        learned            exp(-c_k) l_ik + c_k / 2
        learned_queries    the same, and a network that attends scales the query of token k by exp(-c_k / 2)
        learned_reversed   w_k l_ik + (exp(-c_k) sg(l_ik) + c_k / 2 - sg(...)),   w_k = sg(T exp(c_k) / sum_j exp(c_j))

    where sg is constant under differentiation, so that in brackets nothing is added to the loss. Either way c_k approaches
    log 2 l_k of the field's mean loss l_k, and a field of large loss then weighs 1 / (2 l_k), or in proportion to l_k (with mean 1
    over the fields; exp(c_k) in place of exp(-c_k) alone would have no minimum).

    The scales of queries do not train c_k. Fine-tuning takes c_k over with the network (where `finetune.transfer` leaves it out, all
    scales are 1) and trains it beside `auxiliary_diffusion` alone.

    Args:
      tokens: N + 1.
      reversed: whether it is `learned_reversed`.

    Source: arXiv 2605.24986, where queries are always scaled.
    """

    def __init__(self, tokens: int, reversed: bool, **kwargs):
        super().__init__(**kwargs)
        self._tokens = tokens
        self._reversed = reversed
        self.log_scales = self.add_weight("log_scales", (tokens,), initializer="zeros")
        self.built = True

    def call(self, sums: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        """The weighted loss of a batch, scalar, from each token's sum of losses [N+1] and number of masked samples [N+1]."""
        learned = tf.exp(-self.log_scales) * (tf.stop_gradient(sums) if self._reversed else sums) + 0.5 * counts * self.log_scales
        if not self._reversed:
            return tf.reduce_sum(learned)
        weights = tf.stop_gradient(self._tokens * tf.nn.softmax(self.log_scales))
        return tf.reduce_sum(weights * sums + learned - tf.stop_gradient(learned))

    def query_scales(self, tokens: int) -> tf.Tensor:
        """exp(-c_k / 2) of each of `tokens` tokens, float [tokens]: 1 for a label that has no c, as it is never predicted."""
        scales = tf.stop_gradient(tf.exp(-0.5 * self.log_scales))
        return tf.pad(scales, [[0, tokens - self._tokens]], constant_values=1.0)
