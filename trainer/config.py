"""The one configuration of a run: typed, frozen, resolved from defaults, a YAML file and `--set a.b=c`, in that order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as Setting

from preprocessing.errors import UserError
from preprocessing.settings import read_mapping, validate


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def _refuse_idle(self, reason: str, *names: str) -> None:
        """Refuses settings that were changed from their defaults where they have no effect, for `reason`."""
        for name in names:
            received, default = getattr(self, name), type(self).model_fields[name].default
            if received != default:
                known = "" if isinstance(default, BaseModel) else f" (its default is {default})"
                raise ValueError(f"`{name}` has no effect {reason}: leave it out{known}, received {received}")


class DcnConfig(_Section):
    """DCN-V2, cross layers beside a deep tower, on the concatenated tokens (arXiv 2008.13535).

    Attributes:
      layer_norm: whether each sample's tokens are normalised before they are crossed; the published network does not.
      batch_norm: whether the tower's layers are normalised over the batch.
    """

    cross_layers: int = Setting(3, ge=0)
    layer_norm: bool = True
    hidden_units: tuple[Annotated[int, Setting(ge=1)], ...] = (400, 400, 400)
    batch_norm: bool = True

    @model_validator(mode="after")
    def _has_a_tower(self) -> "DcnConfig":
        if not self.cross_layers and not self.hidden_units:
            raise ValueError("dcn needs cross_layers or hidden_units")
        if not self.cross_layers:
            self._refuse_idle("with `cross_layers: 0`", "layer_norm")
        if not self.hidden_units:
            self._refuse_idle("with `hidden_units: []`", "batch_norm")
        return self


class HstuConfig(_Section):
    """Pointwise-attention blocks over the set of tokens (arXiv 2402.17152), without causal mask or positions."""

    layers: int = Setting(2, ge=1)
    heads: int = Setting(2, ge=1)
    width: int = Setting(64, ge=1, description="Width of the token stream inside the backbone.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "HstuConfig":
        if self.width % self.heads:
            raise ValueError(f"hstu.width must be a multiple of hstu.heads, received {self.width} and {self.heads}")
        return self


class TransformerConfig(_Section):
    """Pre-norm transformer blocks over the set of tokens (arXiv 1706.03762, 2002.04745), without causal mask or positions."""

    layers: int = Setting(2, ge=1)
    heads: int = Setting(2, ge=1)
    width: int = Setting(64, ge=1, description="Width of the token stream inside the backbone.")
    feed_forward: int = Setting(256, ge=1, description="Width inside a block's feed-forward network.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "TransformerConfig":
        if self.width % self.heads:
            raise ValueError(f"transformer.width must be a multiple of transformer.heads, received {self.width} and {self.heads}")
        return self


class MlpConfig(_Section):
    """A multi-layer perceptron on the concatenated tokens."""

    hidden_units: tuple[Annotated[int, Setting(ge=1)], ...] = Setting((400, 400, 400), min_length=1)
    batch_norm: bool = True


class StreamConfig(MlpConfig):
    """One of FinalMLP's two streams; its dropout is that of fine-tuning.

    Attributes:
      gate_fields: names of the fields whose embeddings decide how much each feature counts in this stream; where there are
        none, it is the same for all samples.
    """

    gate_fields: tuple[str, ...] = ()


class FinalMlpConfig(_Section):
    """FinalMLP (see `trainer.baselines.finalmlp`).

    Attributes:
      gate_hidden_units: hidden layers of both gates.
      heads: groups of the streams' outputs within which the fusion is bilinear.
    """

    first: StreamConfig = StreamConfig()
    second: StreamConfig = StreamConfig()
    gate_hidden_units: tuple[Annotated[int, Setting(ge=1)], ...] = (64,)
    heads: int = Setting(10, ge=1)

    @model_validator(mode="after")
    def _heads_divide_both_streams(self) -> "FinalMlpConfig":
        widths = self.first.hidden_units[-1], self.second.hidden_units[-1]
        if any(width % self.heads for width in widths):
            raise ValueError(f"finalmlp.heads must divide the last hidden units of both streams, received {self.heads} heads and "
                             f"{widths[0]} and {widths[1]} units")
        return self


class ScoringConfig(_Section):
    """How a field's query vector is scored against the shared table (see `trainer.scoring.FieldScoring`).

    Attributes:
      function: "field": each field has a scoring function G_k of its own; "shared": one G for all, whose result differs by a
        learned vector of the field alone.
      hidden_units: width of the hidden layer of each scoring function; 0: a linear map.
      prior: "frequency" adds log p(v) over the training split to every score, so that embeddings need not spell out how
        popular a value is; "none" leaves that to them.
      candidates: what a score is normalised over. "full": all values of the field; "batch": those of the batch's first
        `sampled_candidates` rows; "auto": all values of fields of up to `full_softmax_rows` rows, the batch's of larger ones.
    """

    function: Literal["field", "shared"] = "field"
    hidden_units: int = Setting(0, ge=0)
    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: float = Setting(0.1, gt=0, description="Start value where learned, constant otherwise; cosine only.")
    learn_temperature: bool = True
    prior: Literal["frequency", "none"] = "frequency"
    candidates: Literal["auto", "full", "batch"] = "auto"
    full_softmax_rows: int = Setting(4096, ge=2, description="Fields up to this many rows use the full softmax.")
    sampled_candidates: int = Setting(512, ge=1, description="Candidates a larger field draws from the batch.")

    @model_validator(mode="after")
    def _every_setting_counts(self) -> "ScoringConfig":
        if self.similarity == "dot":
            self._refuse_idle("with `similarity: dot`, whose scores have no temperature", "temperature", "learn_temperature")
        if self.candidates == "full":
            self._refuse_idle("with `candidates: full`", "full_softmax_rows", "sampled_candidates")
        if self.candidates == "batch":
            self._refuse_idle("with `candidates: batch`", "full_softmax_rows")
        return self

    def is_full(self, rows: int) -> bool:
        """Whether a field of so many rows is normalised over all its values."""
        return self.candidates == "full" or self.candidates == "auto" and rows <= self.full_softmax_rows


class InterestConfig(_Section):
    """What a sequence is in the network: one token, made of its values with the target in view (see `trainer.interest`).

    Attributes:
      attention: "dot": scaled dot product; "mlp": an activation unit of `hidden_units`; "mean": all values alike, whatever the
        target.
    """

    attention: Literal["dot", "mlp", "mean"] = "dot"
    hidden_units: int = Setting(32, ge=1)

    @model_validator(mode="after")
    def _every_setting_counts(self) -> "InterestConfig":
        if self.attention != "mlp":
            self._refuse_idle(f"with `attention: {self.attention}`", "hidden_units")
        return self


ATTENDING = ("hstu", "transformer")  # backbones


class ModelConfig(_Section):
    """The network.

    Attributes:
      kind: "dgenctr", or one of the discriminative models of `trainer.baselines` to compare it with. The section of a network
        that is not chosen is not read: `lr` and `fm` have none, `deepfm` and `mlp` read `mlp`, `dcn_v2` reads `dcn`.
      ignored_fields: names of fields of the data folder that the model does not read: they are no tokens, and not predicted.
      mask_embedding: what a masked token holds: a learned vector of its field, one learned vector that all fields share, or
        zeros.
      unknown: "row": a value that the vocabulary lacks has the embedding of its field's unknown row, which the rare values of
        the training split trained. "mask": it is masked, as is every value with fewer than `rare_count` training
        occurrences: in pre-training (where it is never predicted either), fine-tuning, evaluation and serving.
      time_input: "sinusoidal" tells the network the masking rate of the sample (see `trainer.diffusion.time.TimeInput`).
    """

    kind: Literal["dgenctr", "lr", "fm", "deepfm", "dcn_v2", "finalmlp", "mlp"] = "dgenctr"
    embedding_dim: int = Setting(16, ge=1)
    embedding_init: float = Setting(0.01, gt=0, description="Standard deviation of the table's first values.")
    backbone: Literal["dcn", "hstu", "transformer", "mlp"] = "dcn"
    dcn: DcnConfig = DcnConfig()
    hstu: HstuConfig = HstuConfig()
    transformer: TransformerConfig = TransformerConfig()
    mlp: MlpConfig = MlpConfig()
    finalmlp: FinalMlpConfig = FinalMlpConfig()
    scoring: ScoringConfig = ScoringConfig()
    interest: InterestConfig = InterestConfig()
    ignored_fields: tuple[str, ...] = ()
    mask_embedding: Literal["field", "shared", "zero"] = "field"
    unknown: Literal["row", "mask"] = "row"
    rare_count: int = Setting(0, ge=0)
    time_input: Literal["none", "sinusoidal"] = "none"

    @property
    def table_width(self) -> int:
        """Columns of the shared table: the embedding, and for some baselines the value's own weight."""
        return {"lr": 1, "fm": self.embedding_dim + 1, "deepfm": self.embedding_dim + 1}.get(self.kind, self.embedding_dim)

    @property
    def attends(self) -> bool:
        """Whether the backbone reads the tokens as a set; the others know a token's field by its place."""
        return self.backbone in ATTENDING

    @model_validator(mode="after")
    def _baselines_read_their_settings(self) -> "ModelConfig":
        if self.kind != "dgenctr":
            self._refuse_idle(f"with `kind: {self.kind}`, which has a network of its own and neither masks nor generated values",
                              "backbone", "scoring", "mask_embedding", "unknown", "rare_count", "time_input")
        if self.kind == "dcn_v2":
            self.dcn._refuse_idle("with `kind: dcn_v2`, which is the published network", "layer_norm")
        if self.kind == "lr":
            self._refuse_idle("with `kind: lr`, which has no embeddings", "embedding_dim")
        return self

    @model_validator(mode="after")
    def _rare_values_are_masked(self) -> "ModelConfig":
        if self.unknown == "row":
            self._refuse_idle("with `unknown: row`", "rare_count")
        return self


LEARNED_WEIGHTS = ("learned", "learned_reversed", "learned_queries")


class DiffusionConfig(_Section):
    """The corruption process of pre-training, and how the losses of masked tokens are added up.

    Attributes:
      schedule: masking rate lambda(t) (see `trainer.diffusion.schedule.masking_rate`).
      time: t over {1/T, ..., 1} for T tokens, or over (0, 1].
      stratified: the times of a batch of B samples lie one in each of B equal parts of (0, 1], in random order.
      label: "token": the label is a token like the others; "absent": it is always masked and never predicted, so that
        pre-training knows no labels and the click's scoring function starts untrained.
      loss_weights: of a masked token's loss (see `trainer.diffusion.weights`). "learned_queries" scales attention queries, too.
      held_out: how a sequence is pre-trained. "item": one of its items, drawn at random, is hidden and predicted from the rest;
        "history": it is masked as a whole and one item predicted; "none": it is never masked.
    """

    schedule: Literal["linear", "cosine", "fixed"] = "linear"
    time: Literal["discrete", "continuous"] = "discrete"
    stratified: bool = False
    fixed_rate: float = Setting(0.3, gt=0, lt=1, description="The masking rate of schedule `fixed`.")
    label: Literal["token", "absent"] = "token"
    loss_weights: Literal["equal", "inverse_rate", "learned", "learned_reversed", "learned_queries"] = "equal"
    held_out: Literal["item", "history", "none"] = "item"

    @model_validator(mode="after")
    def _every_setting_counts(self) -> "DiffusionConfig":
        if self.schedule != "fixed":
            self._refuse_idle(f"with `schedule: {self.schedule}`", "fixed_rate")
        else:
            self._refuse_idle("with `schedule: fixed`, whose masking rate does not depend on the time", "time", "stratified")
        if self.schedule == "fixed" and self.loss_weights == "inverse_rate":
            raise ValueError("`loss_weights: inverse_rate` has no effect with `schedule: fixed`, as all samples have the same masking rate: "
                             "use another schedule or `loss_weights: equal`")
        return self


class StageConfig(_Section):
    """One training stage.

    Attributes:
      min_steps: where the training split is so small that an epoch would have fewer steps, the batch is made smaller, but
        not below 32 rows.
      table_decay: L2 coefficient of the rows that a step looks up (see `trainer.optimizers.LazyAdam`).
      learning_rate_schedule: "cosine" falls to a hundredth over `epochs`; "plateau" multiplies the rate by
        `learning_rate_factor` after every epoch that does not improve the monitor; "constant" leaves it alone, which goes with
        `averaging`. A finished cosine run that is continued with more `epochs` continues on the longer cosine, so its rate
        rises once.
      patience: training stops after so many epochs in a row that do not improve the monitor.
      new_rows: with --init_from, where a table row starts whose value the earlier model did not know: at the mask embedding
        of its field, or at the field's row of unknown values.
      averaging: factor d of an exponential moving average of all weights, a step; the averaged weights are what is validated,
        saved as the model and exported. What counts is on average a tenth of the t steps so far old, at most. 0: none (see
        `trainer.averaging`).
    """

    epochs: int = Setting(ge=1)
    batch_size: int = Setting(4096, ge=2)
    min_steps: int = Setting(20, ge=1)
    dropout: float = Setting(0.0, ge=0, lt=1, description="Dropout inside the backbone during this stage.")
    learning_rate: float = Setting(1e-3, gt=0)
    table_decay: float = Setting(0.0, ge=0)
    gradient_norm: float = Setting(10.0, gt=0, description="Gradients are scaled down to this global norm, as `gradient_norm` measures it.")
    learning_rate_schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    learning_rate_factor: float = Setting(0.1, gt=0, le=1)
    patience: int = Setting(4, ge=1)
    new_rows: Literal["mask", "unknown"] = "mask"
    averaging: float = Setting(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _the_factor_is_of_a_plateau(self) -> "StageConfig":
        if self.learning_rate_schedule != "plateau":
            self._refuse_idle(f"with `learning_rate_schedule: {self.learning_rate_schedule}`", "learning_rate_factor")
        return self


class MapConfig(_Section):
    """MAP's masked-feature and replaced-feature pre-training (see `trainer.map_pretraining`)."""

    rate: float = Setting(0.3, gt=0, lt=1, description="Share of a sample's fields that are masked or replaced.")
    width: int = Setting(32, ge=1, description="Width of each field's vector in the head.")
    noise_samples: int = Setting(512, ge=1, description="Values a batch draws as noise; masked features only.")


class PretrainConfig(StageConfig):
    """Pre-training.

    Attributes:
      objective: "diffusion" (`trainer.diffusion.objective`), or for comparison one of MAP's two, which use no label and whose
        heads are dropped (`trainer.map_pretraining`).
      map: their settings.
    """

    epochs: int = Setting(10, ge=1)
    monitor: Literal["loss"] = "loss"
    objective: Literal["diffusion", "masked_features", "replaced_features"] = "diffusion"
    map: MapConfig = MapConfig()

    @property
    def masks_features(self) -> bool:
        return self.objective != "replaced_features"

    @model_validator(mode="after")
    def _reads_its_settings(self) -> "PretrainConfig":
        if self.objective == "diffusion":
            self._refuse_idle("with `objective: diffusion`", "map")
        if self.objective == "replaced_features":
            self.map._refuse_idle("with `objective: replaced_features`", "noise_samples")
        return self


class RegenerationConfig(_Section):
    """Fine-tuning on rows of which some fields are drawn anew in every step (see `trainer.regeneration.Regenerator`).

    Attributes:
      share: share of the rows concerned that get new values in a step. 0: none.
      fields: names of the fields that are drawn together, say an item and what describes it; a generator scores the first.
      labels: rows of which label are concerned.
      source: "batch": the fields of another row with the same label; "generator": a draw of the pre-trained model.
      unless_clicked: names of fields, say the user and the item: a draw for a non-click is refused, and the row stays as it is, where a
        training click has the same values in all of them. Right where the log's own non-clicks never are such rows.
    """

    share: float = Setting(0.0, ge=0, le=1)
    fields: tuple[str, ...] = ()
    labels: Literal["non_clicks", "clicks", "both"] = "non_clicks"
    source: Literal["batch", "generator"] = "batch"
    unless_clicked: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_its_fields(self) -> "RegenerationConfig":
        if not self.share:
            self._refuse_idle("with `share: 0`", "fields", "labels", "source", "unless_clicked")
        elif not self.fields:
            raise ValueError("regeneration needs `fields`: the names of those that are drawn together, for example [item]")
        return self

    @model_validator(mode="after")
    def _refuses_draws_only(self) -> "RegenerationConfig":
        if not self.unless_clicked:
            return self
        if self.labels == "clicks":
            raise ValueError("`unless_clicked` refuses draws for non-clicks, and with `labels: clicks` there are none: leave one of them out")
        if not set(self.unless_clicked) & set(self.fields):
            raise ValueError(f"`unless_clicked` refuses draws, so expected at least one of `fields` ({', '.join(self.fields)}) in it; "
                             f"received {', '.join(self.unless_clicked)}")
        return self


class FinetuneConfig(StageConfig):
    """Fine-tuning.

    Attributes:
      transfer: what is loaded from the pre-training (see `trainer.transfer`); the rest starts anew.
      train: "no_table" freezes the shared table at the values it is loaded with.
      decay_towards: what `table_decay` pulls looked-up rows towards: zero, or the values they had when the stage began.
      table_learning_rate: factor of the table's learning rate.
      auxiliary_diffusion: weight of the diffusion loss as an auxiliary term beside the click loss.
      regeneration: rows with values drawn anew.
      calibration: "platt" fits sigmoid(a logit + b) on the validation split after every epoch; evaluation and export use the best
        epoch's a and b. Ranking stays as it is.
    """

    epochs: int = Setting(30, ge=1)
    dropout: float = Setting(0.2, ge=0, lt=1)
    feature_mask_rate: float = Setting(0.0, ge=0, lt=1, description="Share of features masked at random in training.")
    monitor: Literal["auc", "logloss"] = "auc"
    transfer: Literal["all", "embeddings", "scorer"] = "all"
    train: Literal["all", "no_table"] = "all"
    decay_towards: Literal["zero", "pretrained"] = "zero"
    table_learning_rate: float = Setting(1.0, gt=0)
    auxiliary_diffusion: float = Setting(0.0, ge=0)
    regeneration: RegenerationConfig = RegenerationConfig()
    calibration: Literal["none", "platt"] = "none"

    @property
    def masks_features(self) -> bool:
        return self.feature_mask_rate > 0 or self.auxiliary_diffusion > 0

    @model_validator(mode="after")
    def _settings_of_the_table_agree(self) -> "FinetuneConfig":
        if self.train == "no_table" and self.decay_towards == "pretrained":
            raise ValueError("`train: no_table` keeps the table at its pre-trained values, so nothing decays towards them: leave out one of "
                             "`train` and `decay_towards`")
        if self.train == "no_table":
            self._refuse_idle("with `train: no_table`, which freezes the table", "table_decay", "table_learning_rate")
        if self.decay_towards == "pretrained" and not self.table_decay:
            raise ValueError("`decay_towards: pretrained` has no effect without `table_decay`: give it a value above 0")
        if self.transfer == "scorer" and (self.train == "no_table" or self.decay_towards == "pretrained"):
            raise ValueError("`transfer: scorer` leaves the table at random values, so there are none to keep: leave out "
                             "`train: no_table` and `decay_towards: pretrained`")
        return self


class InputConfig(_Section):
    """How TFRecords are read (see `trainer.input`).

    Attributes:
      window_rows: rows that are shuffled at once. A split of so many rows or fewer is decoded once and stays in memory:
        4 (F + 1) bytes a row for F fields, 8 more with a group, 4 with a weight, and `max_length` times 1, 2 or 4 for each list
        field; a larger one is read anew every epoch, with up to three windows in memory.
      corrupt_records: share of a split's records that may be damaged and left out. At 0 damage ends the run where it is
        met; above, every file is checked before the first step.
      label_share: share of the training rows whose label is used; the others count as rows without label. Which rows these
        are depends on their places in the split alone, and a smaller share is a part of a larger one.
    """

    window_rows: int = Setting(1_000_000, ge=1)
    corrupt_records: float = Setting(0.0, ge=0, lt=1)
    label_share: float = Setting(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _counts_rows_as_written(self) -> "InputConfig":
        if self.label_share < 1 and self.corrupt_records:
            raise ValueError("`label_share` below 1 chooses rows by their places, which `corrupt_records` above 0 would move: use one "
                             "of them")
        return self


class RuntimeConfig(_Section):
    """How TensorFlow computes training steps; evaluation and the exported model are always float32, without XLA.

    Attributes:
      matmul: "bfloat16" multiplies matrices in bfloat16 and adds up in float32; variables stay float32. A third less time
        where the processor has instructions for it (AVX512_BF16 or AMX), more time elsewhere. "auto" chooses by the
        processor when a run begins, and the run's configuration says what was chosen.
      xla: compiles the backbone by XLA. Slower on CPUs (docs/performance.md).
      deterministic: two runs with one seed are equal bit by bit. CPUs pay nothing for it; on a GPU it selects TensorFlow's
        deterministic kernels, some of which are slower.
    """

    matmul: Literal["auto", "float32", "bfloat16"] = "auto"
    xla: bool = False
    deterministic: bool = True


class Config(_Section):
    """A run: seed, network, corruption, the two stages, input, computation."""

    seed: int = Setting(1, ge=0, lt=2**31)
    checkpoint_minutes: float = Setting(10.0, gt=0, description="A checkpoint inside an epoch is written after so long.")
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    pretrain: PretrainConfig = PretrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    input: InputConfig = InputConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    memory_limit_gb: float | None = Setting(
        None, gt=0, description="A stage that would take more memory is refused; by default, what the machine or container has left.")

    @model_validator(mode="after")
    def _the_time_varies(self) -> "Config":
        if self.model.time_input != "none" and self.diffusion.schedule == "fixed":
            raise ValueError("`model.time_input` has no effect with `diffusion.schedule: fixed`, as all samples have the same masking "
                             "rate: use another schedule or `model.time_input: none`")
        if self.model.time_input != "none" and self.pretrain.objective != "diffusion":
            raise ValueError(f"`model.time_input` has no effect with `pretrain.objective: {self.pretrain.objective}`, which knows no time: use "
                             "`model.time_input: none`")
        return self

    @model_validator(mode="after")
    def _queries_are_there_to_scale(self) -> "Config":
        if self.model.kind == "dgenctr" and self.scales_queries and not self.model.attends:
            raise ValueError(f"`diffusion.loss_weights: learned_queries` scales attention queries, which `model.backbone: {self.model.backbone}` "
                             "does not have: use hstu or transformer, or `loss_weights: learned`")
        return self

    @model_validator(mode="after")
    def _auxiliary_pass_has_moments_of_its_own(self) -> "Config":
        if self.finetune.auxiliary_diffusion and self.runtime.xla:
            raise ValueError("`finetune.auxiliary_diffusion` needs `runtime.xla: false`: the compiled backbone cannot leave the "
                             "moving moments of batch normalisation alone")
        return self

    @model_validator(mode="after")
    def _trains_by_diffusion(self) -> "Config":
        if self.pretrain.objective != "diffusion" and self.finetune.regeneration.source == "generator":
            raise ValueError(f"`finetune.regeneration.source: generator` draws from a model of `pretrain.objective: diffusion`, not of "
                             f"{self.pretrain.objective}")
        if self.diffusion.label == "absent" and self.finetune.regeneration.source == "generator":
            raise ValueError("`finetune.regeneration.source: generator` draws features that fit the label, which a pre-training with "
                             "`diffusion.label: absent` has not seen: use `label: token` or `source: batch`")
        if self.pretrain.objective != "diffusion" and not self.finetune.auxiliary_diffusion:
            reason = f"with `pretrain.objective: {self.pretrain.objective}` (empty it with --set 'diffusion={{}}')"
            self._refuse_idle(reason, "diffusion")
            self.model._refuse_idle(f"with `pretrain.objective: {self.pretrain.objective}`, which scores no values", "scoring")
        return self

    @model_validator(mode="after")
    def _baselines_fine_tune_plainly(self) -> "Config":
        kind = self.model.kind
        if kind != "dgenctr":
            self.finetune._refuse_idle(f"with `model.kind: {kind}`, which is not pre-trained and masks nothing",
                                       "feature_mask_rate", "transfer", "auxiliary_diffusion")
            self.finetune.regeneration._refuse_idle(f"with `model.kind: {kind}`, which has no generator", "source")
        if kind in ("lr", "fm"):
            self.finetune._refuse_idle(f"with `model.kind: {kind}`, which has no hidden layers", "dropout")
        return self

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def settings_of(self, stage: Literal["pretrain", "finetune"]) -> dict[str, Any]:
        """What the result of a stage depends on, beside its data and its start: the seed, and sections as plain values."""
        diffuses = stage == "pretrain" or self.finetune.auxiliary_diffusion
        sections = ("seed", "model", "input", "runtime", stage) + (("diffusion",) if diffuses else ())
        settings = self.model_dump(mode="json", include=set(sections))
        if not diffuses and self.scales_queries:
            settings["diffusion"] = {"loss_weights": self.diffusion.loss_weights}
        return settings

    @property
    def scales_queries(self) -> bool:
        """Whether the network's attention depends on the learned weights of losses."""
        return self.diffusion.loss_weights == "learned_queries"


def uses_labels(config: Config) -> bool:
    """Whether pre-training learns from labels."""
    return config.pretrain.objective == "diffusion" and config.diffusion.label == "token"


def _assign(content: dict[str, Any], assignment: str) -> None:
    """Applies one `a.b=c` to nested mappings in place; c is read as YAML."""
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise UserError(f"--set {assignment!r}: expected KEY=VALUE, for example --set finetune.epochs=5")
    *sections, last = key.split(".")
    for section in sections:
        if content.get(section) is None:
            content[section] = {}
        content = content[section]
        if not isinstance(content, dict):
            raise UserError(f"--set {assignment!r}: {section!r} holds a value, not a section")
    try:
        content[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {assignment!r}: the value is not YAML: {' '.join(str(error).split())}") from error


def load_config(path: str | Path | None = None, assignments: Sequence[str] = ()) -> Config:
    """Resolves the configuration of a run.

    Args:
      path: a YAML file; keys left out keep their defaults.
      assignments: texts `a.b=c` that override the file.

    Raises:
      UserError: unknown key, wrong type or forbidden value, with the key, the value and the origin.
    """
    content = read_mapping(path, "configuration") if path else {}
    for assignment in assignments:
        _assign(content, assignment)
    origin = " and ".join(filter(None, [str(path) if path else "", "--set" if assignments else ""])) or "defaults"
    return validate(Config, content, f"configuration from {origin}")
