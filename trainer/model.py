"""DGenCTR: one network that denoises whole samples in pre-training and predicts clicks in fine-tuning."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import Schema
from trainer.backbones import build_backbone
from trainer.click_model import ClickModel, Features, Stage
from trainer.config import Config
from trainer.diffusion.objective import DiffusionObjective
from trainer.embedding import SharedEmbedding
from trainer.scoring import FieldScoring, LabelScoring


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
        self.embedding = SharedEmbedding(schema, dim, config.model.embedding_init, name="embedding")
        self.backbone = build_backbone(config.model, getattr(config, stage).dropout)
        self._compiled_backbone = tf.function(self.backbone, jit_compile=True)
        self.field_scoring = FieldScoring(config.model.scoring, len(schema.id_fields), dim, name="field_scoring")
        self.label_scoring = LabelScoring(dim, min(max(click_rate, 1e-6), 1 - 1e-6), name="label_scoring")
        if stage == "pretrain" and frequencies is None:
            raise UserError("pre-training needs the training frequencies of the data folder")
        if stage == "pretrain":
            self.objective = DiffusionObjective(self, frequencies)
        self._build_variables()

    def _build_variables(self) -> None:
        """Creates every variable of both stages, so that a restored checkpoint always finds its place."""
        hidden = self.backbone(self.embedding.click_tokens({"ids": tf.zeros((1, len(self.schema.id_fields)), tf.int32)}))
        self.field_scoring(hidden)
        self.label_scoring(hidden, self.embedding.label_embeddings)

    @property
    def parts(self) -> tuple[tf.keras.layers.Layer, ...]:
        return self.embedding, self.backbone, self.field_scoring, self.label_scoring

    def hidden(self, tokens: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        """The backbone's state, [B, h] or [B, N+1, h], of tokens [B, N+1, d]; dropout is drawn from `seed`, int [2], if any."""
        compiled = training and self.run_config.runtime.xla
        return (self._compiled_backbone if compiled else self.backbone)(tokens, training=training, seed=seed)

    def click_logits(self, features: Features) -> tf.Tensor:
        """logit of p(click | features), float [B]; the label token is always masked."""
        return self._click_logits_of(self.embedding.click_tokens(features))

    def _click_logits_of(self, tokens: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        return self.label_scoring(self.hidden(tokens, training, seed), self.embedding.label_embeddings)

    def training_click_logits(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """Click logits [B] with dropout, each feature masked with probability `finetune.feature_mask_rate`."""
        mask_seed, dropout_seed = tf.unstack(tf.random.split(batch["seed"], 2))
        rate = self.run_config.finetune.feature_mask_rate
        if not rate:
            tokens = self.embedding.click_tokens(batch)
        else:
            uniform = tf.random.stateless_uniform(tf.shape(batch["ids"]), mask_seed)  # (B, N)
            mask = tf.concat([uniform < rate, tf.ones_like(uniform[:, :1], tf.bool)], axis=1)  # (B, N+1)
            tokens = self.embedding(batch, batch["label"], mask)
        return self._click_logits_of(tokens, training=True, seed=dropout_seed)

    def pretraining_loss_parts(self, batch: dict[str, tf.Tensor], training: bool) -> dict[str, tf.Tensor]:
        return self.objective.loss_parts(batch, training)

    @property
    def stage_variables(self) -> list[tf.Variable]:
        """What the stage trains, in a fixed order: fine-tuning has no loss that reaches the field scorers."""
        idle = {id(v) for v in self.field_scoring.variables} if self.stage == "finetune" else set()
        return [variable for variable in self.trainable_variables if id(variable) not in idle]
