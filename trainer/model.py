"""DGenCTR: one network that denoises whole samples in pre-training and predicts clicks in fine-tuning."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import Schema
from trainer.backbones import build_backbone
from trainer.batch import Batch, blank_features
from trainer.click_model import ClickModel, Features, Stage
from trainer.config import LEARNED_WEIGHTS, Config, DiffusionConfig, uses_labels
from trainer.diffusion.objective import DiffusionObjective
from trainer.diffusion.time import TimeInput, masked_share
from trainer.diffusion.weights import LearnedWeights
from trainer.embedding import SharedEmbedding
from trainer.layers import layer_seed, moving_moments_kept
from trainer.loss_parts import CLICK
from trainer.map_pretraining import HEADS, MapObjective, build_heads
from trainer.scoring import FieldScoring, LabelScoring

AUXILIARY_DRAWS = 3  # what a step's seed is folded with for the diffusion loss of fine-tuning
Objective = DiffusionObjective | MapObjective


class DGenCTR(ClickModel):
    """Discrete diffusion over a sample X = {f_1, ..., f_N, y}, and click prediction with the same parameters.

        tokens h = embedding(X, M)    state H = backbone(h)    z_k = G_k(H) scored against e(v)    logit_y from z_y

        pretrain   `trainer.diffusion.objective`: every masked token is predicted from the visible ones
        finetune   the click loss of `ClickModel`, features clean, y masked

    Both stages own the same variables, so every parameter of the first is loaded into the second.

    Args:
      schema: a resolved schema.
      config: the run's configuration.
      stage: which loss `loss_parts` and `train_step` use, and which dropout the backbone has.
      frequencies: of each id field the training count of every value, int64 [rows]; needed to pre-train.
      click_rate: training click rate; where the click logit's bias starts.

    Source: arXiv 2508.14500.
    """

    def __init__(self, schema: Schema, config: Config, stage: Stage = "finetune",
                 frequencies: Sequence[np.ndarray] | None = None, click_rate: float = 0.5):
        super().__init__(schema, config, stage)
        dim = config.model.embedding_dim
        self.embedding = SharedEmbedding(
            schema, dim, config.model.embedding_init, config.model.mask_embedding, config.model.unknown, config.model.rare_count,
            config.model.interest, in_order=not config.model.attends, name="embedding")
        self.backbone = build_backbone(config.model, getattr(config, stage).dropout)
        self._compiled_backbone = tf.function(self.backbone, jit_compile=True)
        self.field_scoring = FieldScoring(config.model.scoring, self.embedding.num_fields, dim, name="field_scoring")
        self.label_scoring = LabelScoring(dim, min(max(click_rate, 1e-6), 1 - 1e-6), name="label_scoring")
        self.time_input = TimeInput(dim, name="time_input") if config.model.time_input == "sinusoidal" else None
        self.loss_weights = _learned_weights(config.diffusion, self.embedding.num_fields)
        if frequencies is not None:
            self.embedding.set_rare_rows(frequencies)
        if stage == "pretrain" and frequencies is None:
            raise UserError("pre-training needs the training frequencies of the data folder")
        replaced = stage == "pretrain" and config.pretrain.objective != "diffusion"
        self.heads = build_heads(config.pretrain, schema, name=HEADS) if replaced else None
        self._build_variables()
        self.objective: Objective | None = None
        if self.heads:
            self.objective = MapObjective(self, frequencies)
        elif frequencies is not None and (stage == "pretrain" or config.finetune.auxiliary_diffusion):
            self.objective = DiffusionObjective(self, frequencies)

    def _build_variables(self) -> None:
        """Creates every variable of both stages, so that a restored checkpoint always finds its place."""
        hidden = self.hidden(self.embedding.click_tokens(blank_features(self.schema)))
        self.field_scoring(hidden)
        self.label_scoring(hidden, self.embedding.label_embeddings)
        if self.heads:
            self.heads(hidden)

    @property
    def parts(self) -> tuple[tf.keras.layers.Layer, ...]:
        optional = [part for part in (self.time_input, self.loss_weights, self.heads) if part is not None]
        return self.embedding, self.backbone, self.field_scoring, self.label_scoring, *optional

    def hidden(self, tokens: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None,
               rates: tf.Tensor | None = None) -> tf.Tensor:
        """The backbone's state.

        Args:
          tokens: [B, N+1, d].
          training: whether batch normalisation takes the moments of the batch.
          seed: int [2], from which dropout is drawn, if any.
          rates: masking rate of each sample, float [B], for a network with time input; by default 1 / (N+1), that of a
            sample in which only the label is masked.

        Returns:
          [B, h] or [B, N+1, h].
        """
        if self.time_input:
            times = self.time_input(tf.constant([1.0 / tokens.shape[1]]) if rates is None else rates)  # (1, d) or (B, d)
            tokens += times[:, tf.newaxis]
        scales = {}
        if self.run_config.scales_queries:
            scales["query_scales"] = self.loss_weights.query_scales(tokens.shape[1])
        compiled = training and self.run_config.runtime.xla
        return (self._compiled_backbone if compiled else self.backbone)(tokens, training=training, seed=seed, **scales)

    def raw_click_logits(self, features: Features) -> tf.Tensor:
        """logit of p(click | features), float [B]; the label token is always masked."""
        return self._click_logits_of(self.embedding.click_tokens(features))

    def masked_click_logits(self, features: Features, mask: tf.Tensor) -> tf.Tensor:
        """Click logits [B] of features that are known where `mask`, bool [B, F] in the order of `token_fields`, is not set."""
        return self.calibrated(self._masked_click_logits(features, mask))

    def _masked_click_logits(self, features: Features, mask: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        with_label = tf.concat([mask, tf.ones_like(mask[:, :1])], axis=1)  # (B, F+1)
        return self._click_logits_of(self.embedding.click_tokens(features, mask), training, seed, masked_share(with_label))

    def _click_logits_of(self, tokens: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None,
                         rates: tf.Tensor | None = None) -> tf.Tensor:
        return self.label_scoring(self.hidden(tokens, training, seed, rates), self.embedding.label_embeddings)

    def training_click_logits(self, batch: Batch) -> tf.Tensor:
        """Click logits [B] with dropout, each feature masked with probability `finetune.feature_mask_rate`."""
        mask_seed, dropout_seed = tf.unstack(tf.random.split(batch["seed"], 2))
        rate = self.run_config.finetune.feature_mask_rate
        if not rate:
            return self._click_logits_of(self.embedding.click_tokens(batch), training=True, seed=dropout_seed)
        shape = tf.shape(batch["ids"])[0], self.embedding.num_fields
        mask = tf.random.stateless_uniform(shape, mask_seed) < rate  # (B, F)
        return self._masked_click_logits(batch, mask, training=True, seed=dropout_seed)

    def pretraining_loss_parts(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        return self.objective.loss_parts(batch, training)

    def finetuning_loss_parts(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The click loss and, in training, the diffusion loss with the weight `finetune.auxiliary_diffusion`.

        What is masked for the latter passes through the network a second time, normalised by its own moments; the moving ones, by
        which clicks are predicted, are those of clean features alone.
        """
        parts, weight = super().finetuning_loss_parts(batch, training), self.run_config.finetune.auxiliary_diffusion
        if not (weight and training):
            return parts
        if self.objective is None:
            raise UserError("fine-tuning with auxiliary_diffusion needs the training frequencies of the data folder")
        with moving_moments_kept():
            auxiliary = self.objective.loss_parts(batch | {"seed": layer_seed(batch["seed"], AUXILIARY_DRAWS)}, training)
        return {**auxiliary, CLICK: parts["loss"], "loss": parts["loss"] + weight * auxiliary["loss"]}

    @property
    def predicts_clicks(self) -> bool:
        """Whether the stage trains the label's scoring function."""
        return self.stage == "finetune" or uses_labels(self.run_config)

    @property
    def knows_masks(self) -> bool:
        """Whether its mask embeddings were trained, so that a prediction from masked features means something."""
        return self.masks_known_at_start or self.run_config.finetune.masks_features

    @property
    def denoises(self) -> bool:
        """Whether the stage has a diffusion loss, which trains the fields' scoring functions."""
        return self.run_config.finetune.auxiliary_diffusion > 0 if self.stage == "finetune" else self.heads is None

    @property
    def tables(self) -> dict[str, tf.Variable]:
        return {**super().tables, **(self.heads.tables if self.heads else {})}

    @property
    def stage_variables(self) -> list[tf.Variable]:
        """What the stage trains, in a fixed order: no click loss reaches the field scorers, and without one nothing the label's."""
        unused = self.frozen_variables
        if not self.predicts_clicks:
            unused += [*self.label_scoring.variables, self.embedding.label_embeddings]
        if not self.denoises:
            unused += [*self.field_scoring.variables, *(self.loss_weights.variables if self.loss_weights else [])]
        idle = {id(variable) for variable in unused}
        return [variable for variable in self.trainable_variables if id(variable) not in idle]


def _learned_weights(config: DiffusionConfig, num_fields: int) -> LearnedWeights | None:
    if config.loss_weights not in LEARNED_WEIGHTS:
        return None
    return LearnedWeights(num_fields + (config.label == "token"), config.loss_weights == "learned_reversed", name="loss_weights")
