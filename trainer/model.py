"""DGenCTR: one network that denoises whole samples in pre-training and predicts clicks in fine-tuning."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from preprocessing.errors import UserError
from preprocessing.schema import Schema
from trainer.backbones import build_backbone
from trainer.config import Config
from trainer.diffusion.corruption import corrupt
from trainer.diffusion.loss import full_cross_entropy, inclusion_log_probability, log_shares, sampled_cross_entropy
from trainer.distribute import average_over_replicas, own_name, replica_seed
from trainer.embedding import SharedEmbedding
from trainer.input import UNLABELLED
from trainer.norms import touched_values, update_norms
from trainer.optimizers import scaled_to_norm
from trainer.products import bfloat16_products
from trainer.scoring import FieldScoring, LabelScoring

Stage = Literal["pretrain", "finetune"]
LABEL = "label"
FIELD = "field/"  # before the names of fields among the loss parts, as a field may be called "loss"
OBSERVED_EVERY = 10


class DGenCTR(tfrs.Model):
    """Discrete diffusion over a sample X = {f_1, ..., f_N, y}, and click prediction with the same parameters.

        pretrain   L = mean over samples of  sum_{k masked} -log p(x_k | visible tokens),   M_k ~ Bernoulli(lambda(t))
                   p(x_k = v | visible tokens) = softmax over v of s_k(v) + log p_k(v)
        finetune   L = sum_i w_i l_i / sum_i w_i,   l_i the binary cross-entropy of sigmoid(logit_y), features clean, y masked

    s_k is the field's scoring function, p_k(v) the training share of value v (`scoring.prior`; not in the paper). Fields of
    more than `scoring.full_softmax_rows` rows are normalised over candidates from the batch, whose scores are corrected by
    -log q(v), the probability that v is among them; with the prior the two nearly cancel for rare values.

    Fields that share a vocabulary share its embeddings. Scoring function, p and q are each field's own: how a value is
    distributed over them is no property of the value.

    A sample without label has its label masked in pre-training and nothing to score there: its features alone count. With
    weights w, the label's part of the pre-training loss, sum over n samples of l_i, becomes n sum_i w_i l_i / sum_i w_i; the
    features' parts know no weights.

    Both stages own the same variables, so every parameter of the first is loaded into the second.

    Args:
      schema: a resolved schema.
      config: the run's configuration.
      stage: which loss `compute_loss` and `train_step` use, and which dropout the backbone has.
      frequencies: of each id field the training count of every value, int64 [rows]; needed to pre-train.
      click_rate: training click rate; where the click logit's bias starts.

    Source: arXiv 2508.14500.
    """

    def __init__(self, schema: Schema, config: Config, stage: Stage = "finetune",
                 frequencies: Sequence[np.ndarray] | None = None, click_rate: float = 0.5):
        super().__init__()
        self.schema = schema
        self.run_config = config
        self.stage = stage
        scoring, dim = config.model.scoring, config.model.embedding_dim
        stage_config = config.pretrain if stage == "pretrain" else config.finetune
        self.embedding = SharedEmbedding(schema, dim, config.model.embedding_init, name="embedding")
        self.backbone = build_backbone(config.model, stage_config.dropout)
        self._compiled_backbone = tf.function(self.backbone, jit_compile=True)
        self.field_scoring = FieldScoring(scoring, len(schema.id_fields), dim, name="field_scoring")
        self.label_scoring = LabelScoring(dim, min(max(click_rate, 1e-6), 1 - 1e-6), name="label_scoring")
        self.click_task = tfrs.tasks.Ranking(loss=tf.keras.losses.BinaryCrossentropy(
            from_logits=True, reduction=tf.keras.losses.Reduction.NONE))
        self._full = [k for k, rows in enumerate(schema.field_rows) if rows <= scoring.full_softmax_rows]
        if stage == "pretrain" and frequencies is None:
            raise UserError("pre-training needs the training frequencies of the data folder")
        if stage == "pretrain":
            self._log_shares = [tf.constant(log_shares(counts)) for counts in frequencies]
        self._build_variables()

    def _build_variables(self) -> None:
        """Creates every variable of both stages, so that a restored checkpoint always finds its place."""
        nothing = tf.zeros((1, len(self.schema.id_fields)), tf.int32)
        hidden = self.backbone(self.embedding.click_tokens(nothing))
        self.field_scoring(hidden)
        self.label_scoring(hidden, self.embedding.label_embeddings)

    @property
    def parts(self) -> tuple[tf.keras.layers.Layer, ...]:
        return self.embedding, self.backbone, self.field_scoring, self.label_scoring

    def named_variables(self) -> dict[str, tf.Variable]:
        """Every variable under a name that is the same in both stages and in every process."""
        return {
            f"{part.name}:{number:02d}:{own_name(variable)}": variable
            for part in self.parts
            for number, variable in enumerate(part.whole_variables if part is self.embedding else part.weights)
        }

    # Click prediction.

    def click_logits(self, ids: tf.Tensor) -> tf.Tensor:
        """logit of p(click | features), float [B], for local ids int [B, N]; the label token is always masked."""
        return self._click_logits_of(self.embedding.click_tokens(ids))

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Click probability, float [B], for local ids int [B, N]."""
        return tf.sigmoid(self.click_logits(ids))

    def _click_logits_of(self, tokens: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        return self.label_scoring(self._hidden(tokens, training, seed), self.embedding.label_embeddings)

    def _hidden(self, tokens: tf.Tensor, training: bool, seed: tf.Tensor | None) -> tf.Tensor:
        compiled = training and self.run_config.runtime.xla
        return (self._compiled_backbone if compiled else self.backbone)(tokens, training=training, seed=seed)

    # Losses.

    def loss_parts(self, batch: dict[str, tf.Tensor], training: bool) -> dict[str, tf.Tensor]:
        """The stage's loss under "loss", and in pre-training each field's own under "field/NAME" and the label's under "label".

        Args:
          batch: "ids" int [B, N]; "label" float [B], in pre-training -1 where there is none; "weight" float [B] where the
            schema has one; and in training or pre-training "seed" int [2], from which the masks and dropout are drawn.
          training: whether dropout, feature masks and the batch's own moments are used.
        """
        with bfloat16_products(training and self.run_config.runtime.matmul == "bfloat16"):
            return self._diffusion_loss_parts(batch, training) if self.stage == "pretrain" else self._click_loss(batch, training)

    def _click_loss(self, batch: dict[str, tf.Tensor], training: bool) -> dict[str, tf.Tensor]:
        logits = self._training_click_logits(batch) if training else self.click_logits(batch["ids"])
        losses = self.click_task(labels=batch["label"][:, tf.newaxis], predictions=logits[:, tf.newaxis])  # (B,)
        if "weight" not in batch:
            return {"loss": tf.reduce_mean(losses)}
        total = tf.reduce_sum(batch["weight"])
        if training:
            total = average_over_replicas(total)  # so that the mean over replicas is the weighted mean of the whole batch
        return {"loss": tf.math.divide_no_nan(tf.reduce_sum(batch["weight"] * losses), total)}

    def _training_click_logits(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """Click logits [B] with dropout, each feature masked with probability `finetune.feature_mask_rate`."""
        mask_seed, dropout_seed = tf.unstack(tf.random.split(batch["seed"], 2))
        rate = self.run_config.finetune.feature_mask_rate
        if not rate:
            tokens = self.embedding.click_tokens(batch["ids"])
        else:
            uniform = tf.random.stateless_uniform(tf.shape(batch["ids"]), mask_seed)  # (B, N)
            mask = tf.concat([uniform < rate, tf.ones_like(uniform[:, :1], tf.bool)], axis=1)  # (B, N+1)
            tokens = self.embedding(batch["ids"], batch["label"], mask)
        return self._click_logits_of(tokens, training=True, seed=dropout_seed)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return self.loss_parts(inputs, training)["loss"]

    def _diffusion_loss_parts(self, batch: dict[str, tf.Tensor], training: bool) -> dict[str, tf.Tensor]:
        ids, size = batch["ids"], tf.shape(batch["ids"])[0]
        labelled = tf.not_equal(batch["label"], UNLABELLED)  # (B,)
        labels = tf.where(labelled, batch["label"], 0.0)  # a label that is not there is masked, whatever it is
        mask_seed, dropout_seed = tf.unstack(tf.random.split(batch["seed"], 2))
        scored = corrupt(self.run_config.diffusion, labelled, len(self.schema.id_fields) + 1, mask_seed)  # (B, N+1)
        mask = tf.concat([scored[:, :-1], scored[:, -1:] | ~labelled[:, tf.newaxis]], axis=1)
        tokens = self.embedding(ids, labels, mask)
        hidden = self._hidden(tokens, training, dropout_seed if training else None)

        counts = tf.reduce_sum(tf.cast(scored, tf.float32), axis=0)  # (N+1,)
        sums = self._field_losses(ids, scored[:, :-1], self.field_scoring(hidden))
        clicks = tf.nn.sigmoid_cross_entropy_with_logits(
            labels, self.label_scoring(hidden, self.embedding.label_embeddings))  # (B,)
        sums[LABEL] = self._label_loss(tf.where(scored[:, -1], clicks, 0.0), scored[:, -1], counts[-1], batch.get("weight"))
        parts = {name: tf.math.divide_no_nan(total, counts[k]) for k, (name, total) in enumerate(sums.items())}
        return {"loss": tf.add_n(list(sums.values())) / tf.cast(size, tf.float32), **parts}

    @staticmethod
    def _label_loss(losses: tf.Tensor, scored: tf.Tensor, count: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
        """Sum of the losses [B] of `count` scored samples; with weights, as many times their weighted mean."""
        if weights is None:
            return tf.reduce_sum(losses)
        total = tf.reduce_sum(tf.where(scored, weights, 0.0))
        return count * tf.math.divide_no_nan(tf.reduce_sum(weights * losses), total)

    def _field_losses(self, ids: tf.Tensor, mask: tf.Tensor, queries: tf.Tensor) -> dict[str, tf.Tensor]:
        """Summed cross-entropy of each field over the samples in which it is masked, in field order.

        Args:
          ids: int [B, N]; mask: bool [B, N]; queries: float [N, B, d].
        """
        mask = tf.stack(tf.unstack(mask, axis=1))  # (N, B); oneDNN prints a warning for a transpose of truth values
        counts = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)  # (N,)
        cells = tf.where(mask)  # (M, 2), field by field
        masked_queries = tf.split(self.field_scoring.as_queries(tf.gather_nd(queries, cells)), counts, num=len(self.schema.id_fields))
        masked_ids = tf.split(tf.gather_nd(ids, tf.reverse(cells, [1])), counts, num=len(self.schema.id_fields))

        keys = self._keys_of_full_fields()
        losses = {}
        for k, (field, query, true) in enumerate(zip(self.schema.id_fields, masked_queries, masked_ids, strict=True)):
            if k in keys:
                losses[FIELD + field.name] = full_cross_entropy(query, keys[k], self._log_prior(k), true)
            else:
                losses[FIELD + field.name] = tf.reduce_sum(self._sampled_loss(k, query, true, ids[:, k]))
        return losses

    def _log_prior(self, k: int) -> tf.Tensor:
        """What is added to the scores of field k's values, float [V_k]."""
        log_shares = self._log_shares[k]
        return log_shares if self.run_config.model.scoring.prior == "frequency" else tf.zeros_like(log_shares)

    def _keys_of_full_fields(self) -> dict[int, tf.Tensor]:
        """Keys [V_k, d] of every field with a full softmax, from a single lookup, in which shared rows stand once."""
        if not self._full:
            return {}
        offsets = {k: self.schema.id_fields[k].offset for k in self._full}
        sizes = {offsets[k]: self.schema.id_fields[k].rows for k in self._full}
        rows = np.concatenate([np.arange(offset, offset + size, dtype=np.int32) for offset, size in sizes.items()])
        keys = self.field_scoring.as_keys(self.embedding.lookup(tf.constant(rows)))
        by_offset = dict(zip(sizes, tf.split(keys, list(sizes.values())), strict=True))
        return {k: by_offset[offset] for k, offset in offsets.items()}

    def _sampled_loss(self, k: int, query: tf.Tensor, true: tf.Tensor, in_batch: tf.Tensor) -> tf.Tensor:
        """Cross-entropy [M] of field k against the distinct values of the batch's first rows."""
        offset = self.schema.id_fields[k].offset
        drawn = in_batch[: self.run_config.model.scoring.sampled_candidates]
        candidates, _ = tf.unique(drawn)  # (C,)

        def keys(values):
            return self.field_scoring.as_keys(self.embedding.lookup(values + offset))

        def log_weight(values):
            log_q = inclusion_log_probability(tf.gather(self._log_shares[k], values), tf.size(drawn))
            return tf.gather(self._log_prior(k), values) - log_q

        return sampled_cross_entropy(
            tf.reduce_sum(query * keys(true), axis=1) + log_weight(true), true,
            tf.matmul(query, keys(candidates), transpose_b=True) + log_weight(candidates), candidates)

    # Training.

    @property
    def stage_variables(self) -> list[tf.Variable]:
        """What the stage trains, in a fixed order: fine-tuning has no loss that reaches the field scorers."""
        idle = {id(v) for v in self.field_scoring.variables} if self.stage == "finetune" else set()
        return [variable for variable in self.trainable_variables if id(variable) not in idle]

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One optimizer step. Returns the loss parts, the global norm of the gradient before clipping, and update norms.

        Update norms are computed in every `OBSERVED_EVERY`-th step and zero in others. A gradient that is not finite is
        replaced by zeros, so that what it came from can still be found (`explain_non_finite`).
        """
        variables = self.stage_variables
        with tf.GradientTape() as tape:
            parts = self.loss_parts({**batch, "seed": replica_seed(batch["seed"])}, training=True)
        gradients, parts = average_over_replicas((tape.gradient(parts["loss"], variables), parts))
        norm = tf.linalg.global_norm(gradients)
        gradients = scaled_to_norm(gradients, norm, getattr(self.run_config, self.stage).gradient_norm)
        observed = tf.equal((batch["seed"][1] + 1) % OBSERVED_EVERY, 0)
        before = touched_values(observed, gradients, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True), experimental_aggregate_gradients=False)
        return {**parts, "gradient_norm": norm, **update_norms(observed, before, gradients, variables)}

    def explain_non_finite(self, batch: dict[str, tf.Tensor]) -> list[str]:
        """What is not finite in a step on this batch: loss parts, fields and variables. Empty where nothing is found."""
        owners = self.schema.owners
        with tf.GradientTape() as tape:
            parts = self.loss_parts(batch, training=True)
        variables = self.stage_variables
        found = [f"loss part {name.removeprefix(FIELD)}" for name, value in parts.items() if not np.isfinite(value)]
        for variable, gradient in zip(variables, tape.gradient(parts["loss"], variables), strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                rows = tf.boolean_mask(gradient.indices, ~tf.reduce_all(tf.math.is_finite(gradient.values), axis=1)).numpy()
                places = np.searchsorted([owner.offset for owner in owners], rows, side="right") - 1
                found += [f"gradient of field {owners[k].name}" for k in np.unique(places)]
            elif not np.all(np.isfinite(gradient)):
                found.append(f"gradient of {variable.name.removesuffix(':0')}")
        return found
