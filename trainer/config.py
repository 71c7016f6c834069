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


class DcnConfig(_Section):
    """DCN-V2, cross layers beside a deep tower, on the concatenated tokens (arXiv 2008.13535)."""

    cross_layers: int = Setting(3, ge=0)
    hidden_units: tuple[Annotated[int, Setting(ge=1)], ...] = (400, 400, 400)
    batch_norm: bool = True

    @model_validator(mode="after")
    def _has_a_tower(self) -> "DcnConfig":
        if not self.cross_layers and not self.hidden_units:
            raise ValueError("dcn needs cross_layers or hidden_units")
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


class ScoringConfig(_Section):
    """How a field's query vector is scored against the shared table.

    Attributes:
      prior: "frequency" adds log p(v) over the training split to every score, so that embeddings need not spell out how
        popular a value is; "none" leaves that to them.
    """

    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: float = Setting(0.1, gt=0, description="Start value where learned, constant otherwise; cosine only.")
    learn_temperature: bool = True
    prior: Literal["frequency", "none"] = "frequency"
    full_softmax_rows: int = Setting(4096, ge=2, description="Fields up to this many rows use the full softmax.")
    sampled_candidates: int = Setting(512, ge=1, description="Candidates a larger field draws from the batch.")


class ModelConfig(_Section):
    embedding_dim: int = Setting(16, ge=1)
    embedding_init: float = Setting(0.01, gt=0, description="Standard deviation of the table's first values.")
    backbone: Literal["dcn", "hstu"] = "dcn"
    dcn: DcnConfig = DcnConfig()
    hstu: HstuConfig = HstuConfig()
    scoring: ScoringConfig = ScoringConfig()


class DiffusionConfig(_Section):
    """The corruption process of pre-training: masking rate lambda(t) and the distribution of t."""

    schedule: Literal["linear", "cosine", "fixed"] = "linear"
    time: Literal["discrete", "continuous"] = "discrete"
    fixed_rate: float = Setting(0.3, gt=0, lt=1, description="The masking rate of schedule `fixed`.")


class StageConfig(_Section):
    """One training stage.

    Attributes:
      min_steps: where the training split is so small that an epoch would have fewer steps, the batch is made smaller, but
        not below 32 rows.
      table_decay: L2 coefficient of the rows that a step looks up (see `trainer.optimizers.LazyAdam`).
      learning_rate_schedule: "cosine" falls to a hundredth over `epochs`; "plateau" multiplies the rate by
        `learning_rate_factor` after every epoch that does not improve the monitor. A finished cosine run that is
        continued with more `epochs` continues on the longer cosine, so its rate rises once.
      patience: training stops after so many epochs in a row that do not improve the monitor.
      new_rows: with --init_from, where a table row starts whose value the earlier model did not know: at the mask embedding
        of its field, or at the field's row of unknown values.
    """

    epochs: int = Setting(ge=1)
    batch_size: int = Setting(4096, ge=2)
    min_steps: int = Setting(20, ge=1)
    dropout: float = Setting(0.0, ge=0, lt=1, description="Dropout inside the backbone during this stage.")
    learning_rate: float = Setting(1e-3, gt=0)
    table_decay: float = Setting(0.0, ge=0)
    gradient_norm: float = Setting(10.0, gt=0, description="Gradients are scaled down to this global norm.")
    learning_rate_schedule: Literal["cosine", "plateau"] = "cosine"
    learning_rate_factor: float = Setting(0.1, gt=0, le=1)
    patience: int = Setting(4, ge=1)
    new_rows: Literal["mask", "unknown"] = "mask"


class PretrainConfig(StageConfig):
    epochs: int = Setting(10, ge=1)
    monitor: Literal["loss"] = "loss"


class FinetuneConfig(StageConfig):
    epochs: int = Setting(30, ge=1)
    dropout: float = Setting(0.2, ge=0, lt=1)
    feature_mask_rate: float = Setting(0.0, ge=0, lt=1, description="Share of features masked at random in training.")
    monitor: Literal["auc", "logloss"] = "auc"


class InputConfig(_Section):
    """How TFRecords are read (see `trainer.input`).

    Attributes:
      window_rows: rows that are shuffled at once. A split of so many rows or fewer is decoded once and stays in memory:
        4 (F + 1) bytes a row for F fields, 8 more with a group, 4 with a weight; a larger one is read anew every epoch,
        with up to three windows in memory.
      corrupt_records: share of a split's records that may be damaged and left out. At 0 damage ends the run where it is
        met; above, every file is checked before the first step.
    """

    window_rows: int = Setting(1_000_000, ge=1)
    corrupt_records: float = Setting(0.0, ge=0, lt=1)


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

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


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
