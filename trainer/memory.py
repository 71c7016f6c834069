"""How much memory a training stage takes at its peak, known before anything is allocated.

Everything is counted from the schema, the configuration and the number of rows. How many tensors a layer leaves behind, and
what the process takes by itself, was measured with the versions of `requirements.lock`; `python -m benchmarks.memory` sets
predictions beside measured peaks (docs/results/memory.md).
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocessing.environment import available_cores
from preprocessing.errors import UserError
from preprocessing.schema import ListField, Schema, SequenceField
from trainer.batch import decoded_row_bytes
from trainer.config import LEARNED_WEIGHTS, Config, DcnConfig, MlpConfig, ModelConfig
from trainer.diffusion.time import WAVES
from trainer.input import fitting_batch_size
from trainer.interest import recency_buckets
from trainer.progress import print_table
from trainer.runtime import resolved

FLOAT_BYTES = 4
MOMENTS = 2  # of Adam, for every parameter
EVALUATION_BATCH = 8192
WINDOW_COPIES = 3
LIST_VALUE_FLOATS = {"training": 7.0, "evaluation": 3.5}  # for each value of a list, as often as its vectors are wide
# Of a baseline, for each column of its embedded features: these, what its network derives from them in their shape, gradients.
BASELINE_VALUE_FLOATS = {"lr": 7.0, "fm": 5.2, "deepfm": 5.8, "dcn_v2": 4.5, "finalmlp": 4.5, "mlp": 1.6}
BFLOAT16_SHARE = 0.88  # of what the network takes in float32
ORDER_BYTES = 24  # of a row, while a window is shuffled

# Python, TensorFlow and the libraries, with a model traced and compiled, but without its tensors.
PROCESS_BYTES = {"finetune": 800e6, "pretrain": 870e6}
PROCESS_BYTES_PER_FIELD = {"finetune": 0.1e6, "pretrain": 3.5e6}


@dataclass(frozen=True)
class Prediction:
    """Bytes at the peak of a stage, by what they are for.

    Attributes:
      stage: "pretrain" or "finetune".
      parts: name and bytes.
    """

    stage: str
    parts: tuple[tuple[str, float], ...]

    @property
    def peak(self) -> float:
        return sum(size for _, size in self.parts)

    def print(self, limit: float) -> None:
        rows = [*self.parts, ("predicted peak", self.peak), ("limit", limit)]
        print_table(f"{self.stage}: memory", [(name, f"{size / 1e6:,.0f} MB") for name, size in rows], ("for", "at the peak"))


# What may be used.


def limit_bytes(config: Config) -> float:
    """The configured limit, or what this process has and can still get."""
    return config.memory_limit_gb * 1e9 if config.memory_limit_gb else available_bytes()


def available_bytes(root: Path = Path("/")) -> float:
    """Memory of this process plus what the machine and the process's control groups (containers, batch systems) leave.

    Args:
      root: where `proc` and `sys` are.
    """
    try:
        free = [_kilobytes(root / "proc/meminfo", "MemAvailable"), *_left_in_groups(root)]
        return min(free) + _kilobytes(root / "proc/self/status", "VmRSS")
    except FileNotFoundError:  # not Linux: no notion of available memory, so all of it
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _kilobytes(path: Path, key: str) -> float:
    return int(re.search(rf"^{key}:\s+(\d+) kB", path.read_text(), re.MULTILINE)[1]) * 1024


def _left_in_groups(root: Path) -> list[float]:
    """What the process's control group and each group around it leave of their limits, versions 1 and 2."""
    left = []
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            mount = root / "sys/fs/cgroup" / controllers
            group = mount / path.lstrip("/")
            while True:
                left += _left_in_group(group)
                if group == mount:
                    break
                group = group.parent
    return left


def _left_in_group(group: Path) -> list[float]:
    """Limit minus use; file pages that can be dropped do not count as used. Empty where there is no limit."""
    for limit, used, reclaimable in (("memory.max", "memory.current", "inactive_file"),
                                     ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")):
        try:
            most, now = (group / limit).read_text().strip(), int((group / used).read_text())
            cached = re.search(rf"^{reclaimable} (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
        except OSError:
            continue
        if most != "max":
            return [int(most) - now + (int(cached[1]) if cached else 0)]
    return []


# What is needed.


def parameter_counts(config: Config, schema: Schema) -> tuple[int, int]:
    """Parameters of the shared table, and of everything else."""
    model, fields = config.model, len(schema.token_fields)
    lists = sum(_list_parameters(config, schema, field) for field in schema.list_fields)
    if model.kind != "dgenctr":
        return schema.table_rows * model.table_width, _baseline_parameters(model, fields) + lists
    dim, tokens = model.embedding_dim, fields + 1
    masks = {"field": tokens, "shared": 1, "zero": 0}[model.mask_embedding]
    of_fields = tokens if model.attends else 0
    dense = (masks + of_fields + 2) * dim  # mask, field and label embeddings
    backbone, hidden = _backbone_parameters(model, model.backbone, tokens)
    dense += backbone + _scoring_parameters(model, fields, hidden) + 1  # temperature
    dense += _linear(hidden, dim) + 2  # label scoring
    dense += 2 * WAVES * dim * (model.time_input != "none")
    if config.diffusion.loss_weights in LEARNED_WEIGHTS:
        dense += fields + (config.diffusion.label == "token")
    return schema.table_rows * dim, dense + lists


def _list_parameters(config: Config, schema: Schema, field: ListField) -> int:
    """Parameters that make one token of a list: the vector of the empty list, and of a sequence its attention."""
    interest, width = config.model.interest, config.model.table_width
    if not isinstance(field, SequenceField) or interest.attention == "mean":
        return width
    units = interest.hidden_units
    attention = width * width if interest.attention == "dot" else _linear(width, units) + 2 * width * units + units
    return width + recency_buckets(field.max_length) + width * (schema.target(field) is None) + attention


def _linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear map with bias."""
    return (inputs + 1) * outputs


def _scoring_parameters(model: ModelConfig, fields: int, hidden: int) -> int:
    """Parameters of the fields' scoring functions, of which each field has a bias of its own."""
    units, dim, maps = model.scoring.hidden_units, model.embedding_dim, fields if model.scoring.function == "field" else 1
    behind = maps * _linear(hidden, units) if units else 0
    return behind + maps * (units or hidden) * dim + fields * dim


def _tower_parameters(width: int, hidden_units: Sequence[int], batch_norm: bool) -> int:
    inputs = (width, *hidden_units)
    return sum(inputs[layer] * units + (4 if batch_norm else 1) * units for layer, units in enumerate(hidden_units))


def _baseline_parameters(model: ModelConfig, fields: int) -> int:
    """Parameters of a baseline's network: the bias of its logit, and what is behind the table."""
    start = fields * model.embedding_dim
    if model.kind in ("lr", "fm"):
        return 1
    if model.kind in ("deepfm", "mlp"):
        return 1 + _tower_parameters(start, model.mlp.hidden_units, model.mlp.batch_norm) + model.mlp.hidden_units[-1]
    if model.kind == "dcn_v2":
        return 1 + sum(_backbone_parameters(model, "dcn", fields))
    settings = model.finalmlp
    streams = settings.first, settings.second
    counted = 1 + math.prod(stream.hidden_units[-1] for stream in streams) // settings.heads
    for stream in streams:
        context = max(len(stream.gate_fields), 1) * model.embedding_dim
        counted += (0 if stream.gate_fields else context) + _tower_parameters(context, (*settings.gate_hidden_units, start), False)
        counted += _tower_parameters(start, stream.hidden_units, stream.batch_norm) + stream.hidden_units[-1]
    return counted


def _backbone_parameters(model: ModelConfig, backbone: str, tokens: int) -> tuple[int, int]:
    """Parameters of a backbone, and the width of its hidden state."""
    start, settings = tokens * model.embedding_dim, getattr(model, backbone)
    if backbone == "mlp":
        return _tower_parameters(start, settings.hidden_units, settings.batch_norm), settings.hidden_units[-1]
    if backbone == "dcn":
        crosses = settings.cross_layers * _linear(start, start) + 2 * start * _norms_crosses(model)
        width = start * bool(settings.cross_layers) + (settings.hidden_units[-1] if settings.hidden_units else 0)
        return crosses + _tower_parameters(start, settings.hidden_units, settings.batch_norm), width
    width = settings.width
    if backbone == "hstu":
        block = 2 * 2 * width + _linear(width, 4 * width) + _linear(width, width)
    else:
        block = 2 * 2 * width + _linear(width, 3 * width) + _linear(width, width)
        block += _linear(width, settings.feed_forward) + _linear(settings.feed_forward, width)
    return _linear(model.embedding_dim, width) + settings.layers * block + 2 * width, width


def _norms_crosses(model: ModelConfig) -> bool:
    return model.kind == "dgenctr" and model.dcn.layer_norm and model.dcn.cross_layers > 0


def checkpoint_bytes(config: Config, schema: Schema) -> int:
    """Size of the larger stage's checkpoint: every parameter with its moments, and what else the stage keeps of them."""
    weights = sum(parameter_counts(config, schema)) * FLOAT_BYTES
    kept = []
    for stage in ("pretrain", "finetune"):
        averages = _average_bytes(stage, config, schema)
        heads = FLOAT_BYTES * head_parameters(config, schema) * (1 + MOMENTS) * (stage == "pretrain")
        kept.append(heads + _start_bytes(stage, config, schema) + averages + weights * (averages > 0))
    return weights * (1 + MOMENTS) + _rare_row_bytes(config, schema) + max(kept)


def head_parameters(config: Config, schema: Schema) -> int:
    """Parameters of MAP's heads, which only its pre-training has."""
    objective, width, fields = config.pretrain.objective, config.pretrain.map.width, len(schema.id_fields)
    if objective == "diffusion":
        return 0
    tokens = len(schema.token_fields) + 1
    _, hidden = _backbone_parameters(config.model, config.model.backbone, tokens)
    vectors = fields * _linear(hidden, width)
    return vectors + (schema.table_rows * (width + 1) if objective == "masked_features" else _linear(fields * width, fields))


def _start_bytes(stage: str, config: Config, schema: Schema) -> int:
    """The table's values at the start of fine-tuning, where decay pulls towards them."""
    anchored = stage == "finetune" and config.finetune.decay_towards == "pretrained"
    return parameter_counts(config, schema)[0] * FLOAT_BYTES * anchored


def _average_bytes(stage: str, config: Config, schema: Schema) -> int:
    """An average of every parameter (but a few that are not trained), and an int64 step of every row of the table."""
    averaged = getattr(config, stage).averaging > 0
    return (sum(parameter_counts(config, schema)) * FLOAT_BYTES + 8 * schema.table_rows) * averaged


def _rare_row_bytes(config: Config, schema: Schema) -> int:
    """A truth value for each row of the table, where rare values are masked."""
    return schema.table_rows if config.model.rare_count else 0


def predict(stage: str, config: Config, schema: Schema, rows: Mapping[str, int], resumed: bool = False) -> Prediction:
    """Predicts the peak of a training stage.

        peak = process + table (1 + 2 moments) + others (1 + 2 moments + 2 gradients) + frequencies + rows read
             + max(a training batch, an evaluation batch, the moments while a checkpoint is read, the rows while decoded)

    Settings of a stage add to it: averages of the weights (and a table more while they are evaluated), the table's values at the
    start, heads; a frozen table has no moments.

    Drawing the first values of the table takes three times its size for a moment; the moments then fill the same memory,
    as TensorFlow keeps what it once had. Writing a checkpoint copies nothing. Reading one holds both moments twice, and
    decoding a split that is kept holds its rows twice.

    Args:
      stage: "pretrain" or "finetune".
      config: the resolved configuration.
      schema: a resolved schema.
      rows: rows of each split that the stage reads (`DataFolder.rows_read`).
      resumed: whether the stage continues from a checkpoint.
    """
    settings = getattr(config, stage)
    batch = fitting_batch_size(rows["train"], settings.batch_size, settings.min_steps)
    table, others = (count * FLOAT_BYTES for count in parameter_counts(config, schema))
    training = batch * _training_floats(stage, config, schema) * FLOAT_BYTES
    evaluation = min(EVALUATION_BATCH, rows["valid"]) * _evaluation_floats(config, schema) * FLOAT_BYTES
    frozen, averages = stage == "finetune" and config.finetune.train == "no_table", _average_bytes(stage, config, schema)
    heads = FLOAT_BYTES * head_parameters(config, schema) * (stage == "pretrain")
    passing = {
        f"a batch of {batch:,} rows": max(training, evaluation + table * (averages > 0)),
        "reading the checkpoint": MOMENTS * table if resumed else 0,
        "decoding the rows": rows["train"] * decoded_row_bytes(schema) if rows["train"] <= config.input.window_rows else 0,
    }
    return Prediction(stage, (
        ("Python, TensorFlow, the compiled step", PROCESS_BYTES[stage] + PROCESS_BYTES_PER_FIELD[stage] * len(schema.token_fields)),
        (f"embedding table, {schema.table_rows:,} rows x {config.model.table_width}", table),
        ("its two moments", MOMENTS * table * (not frozen)),
        ("other parameters, moments, gradients", others * (1 + MOMENTS + 2)),
        *_where_there_are({"heads, their moments and gradients": heads * (1 + MOMENTS + 2),
                           "averages of all parameters": averages,
                           "the table's values at the start": _start_bytes(stage, config, schema)}),
        ("generator", (table + others + _frequency_bytes("pretrain", schema)) * _has_generator(stage, config)),
        ("training frequencies", _frequency_bytes("pretrain" if config.finetune.auxiliary_diffusion else stage, schema) + _rare_row_bytes(config, schema)),
        ("rows in memory", _rows_bytes(config, schema, rows)),
        max(passing.items(), key=lambda part: part[1]),
    ))


def _where_there_are(sizes: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, size) for name, size in sizes.items() if size]


def _has_generator(stage: str, config: Config) -> bool:
    return stage == "finetune" and config.finetune.regeneration.source == "generator"


def _training_floats(stage: str, config: Config, schema: Schema) -> float:
    """Floats a sample of a training batch takes at the peak.

    In float32 that is when the backbone's gradients begin. With products in bfloat16 their operands are kept in half the
    size, and the queries of all fields, which are gone by then, count too.
    """
    network, queries = _network_floats(stage, config, schema), len(schema.token_fields) * config.model.embedding_dim
    if halved := resolved(config).runtime.matmul == "bfloat16":
        network *= BFLOAT16_SHARE
    if stage == "pretrain" and config.pretrain.objective != "diffusion":
        return network + _head_floats(config, schema)
    if stage == "finetune":
        if not config.finetune.auxiliary_diffusion:
            return network
        network *= 2.0  # two passes, whose gradients are taken together
    return network + 4.0 * queries * halved + _softmax_floats(config, schema)


def _head_floats(config: Config, schema: Schema) -> float:
    """Floats a sample takes in MAP's heads: each field's vector, and the scores of masked ones with all noise."""
    fields, settings = len(schema.id_fields), config.pretrain.map
    floats = 3.0 * fields * settings.width
    if config.pretrain.objective == "masked_features":
        floats += 3.0 * max(1, round(settings.rate * fields)) * settings.noise_samples
    return floats


def _network_floats(stage: str, config: Config, schema: Schema) -> float:
    """Floats of a sample in embeddings and network, kept for the gradients, and these themselves, in float32."""
    model, fields, dropout = config.model, len(schema.token_fields), getattr(config, stage).dropout > 0
    lists = LIST_VALUE_FLOATS["training"] * _list_columns(config, schema)
    if model.kind != "dgenctr":
        return lists + BASELINE_VALUE_FLOATS[model.kind] * fields * model.table_width + _baseline_floats(model, fields, dropout)
    return lists + 4.5 * (fields + 1) * model.embedding_dim + _backbone_floats(model, model.backbone, fields + 1, dropout)


def _list_columns(config: Config, schema: Schema) -> float:
    """Widths of the vectors of all values of a sample's lists, as if every list were as long as it may be."""
    interest, width = config.model.interest, config.model.table_width
    units = interest.hidden_units if interest.attention == "mlp" else 0
    return sum(field.max_length * (width + 0.7 * units * isinstance(field, SequenceField)) for field in schema.list_fields)


def _tower_floats(settings: DcnConfig | MlpConfig, dropout: bool) -> float:
    return (1.9 + 0.8 * settings.batch_norm + 1.8 * dropout) * sum(settings.hidden_units)


def _backbone_floats(model: ModelConfig, backbone: str, tokens: int, dropout: bool) -> float:
    settings = getattr(model, backbone)
    if backbone == "mlp":
        return _tower_floats(settings, dropout)
    if backbone == "dcn":
        crossed = 3.0 * settings.cross_layers + 3.0 * _norms_crosses(model)
        return crossed * tokens * model.embedding_dim + _tower_floats(settings, dropout)
    if backbone == "hstu":
        layer = (17.0 + 1.5 * dropout) * tokens * settings.width + 1.25 * settings.heads * tokens**2
    else:
        layer = (11.2 + 3.2 * dropout) * tokens * settings.width + 4.5 * tokens * settings.feed_forward
        layer += 2.0 * settings.heads * tokens**2
    return 8.0 * tokens * settings.width + settings.layers * layer


def _baseline_floats(model: ModelConfig, fields: int, dropout: bool) -> float:
    """Floats of a sample in what is behind its embedded features."""
    if model.kind in ("lr", "fm"):
        return 0.0
    if model.kind in ("deepfm", "mlp"):
        return _tower_floats(model.mlp, dropout)
    if model.kind == "dcn_v2":
        return _backbone_floats(model, "dcn", fields, dropout)
    settings = model.finalmlp
    gates = bool(settings.first.gate_fields) + bool(settings.second.gate_fields)  # those that differ by sample
    gate = 2.7 * fields * model.embedding_dim + 3.0 * sum(settings.gate_hidden_units)
    return gates * gate + _tower_floats(settings.first, dropout) + _tower_floats(settings.second, dropout)


def _softmax_floats(config: Config, schema: Schema) -> float:
    """Floats a sample takes in the softmaxes of pre-training: arrays [masked samples, values or candidates].

    Two of a field with a full softmax live until its gradient is known, and TensorFlow works on as many fields at once as
    there are cores; two more are on the way. Of sampled softmaxes most fields keep theirs.
    """
    scoring = config.model.scoring
    full = sorted((field.rows for field in schema.token_fields if scoring.is_full(field.rows)), reverse=True)
    sampled = len(schema.token_fields) - len(full)
    columns = 2 * sum(full[:available_cores()]) + 2 * max(full, default=0)
    columns += (1.5 * sampled + 4 * bool(sampled)) * scoring.sampled_candidates
    return _masked_share(config, schema) * columns


def _masked_share(config: Config, schema: Schema) -> float:
    """Mean share of the tokens that pre-training masks."""
    diffusion, tokens = config.diffusion, len(schema.token_fields) + 1
    if diffusion.schedule == "fixed":
        return max(diffusion.fixed_rate, 1 / tokens)
    return 0.5 if diffusion.schedule == "linear" else 1 - 2 / math.pi


def _evaluation_floats(config: Config, schema: Schema) -> float:
    """Floats a sample of an evaluation batch takes at the peak: a few tensors of the widest kind."""
    tokens, model = len(schema.token_fields) + 1, config.model
    lists = LIST_VALUE_FLOATS["evaluation"] * _list_columns(config, schema)
    of_backbone = model.kind == "dgenctr" and model.backbone
    if of_backbone == "hstu":
        return lists + 15.0 * tokens * model.hstu.width + 2.0 * model.hstu.heads * tokens**2
    if of_backbone == "transformer":
        settings = model.transformer
        return lists + 10.0 * tokens * settings.width + 3.0 * tokens * settings.feed_forward + 2.0 * settings.heads * tokens**2
    return lists + 5.0 * tokens * model.table_width + 3.0 * max(_hidden_units(model), default=0)


def _hidden_units(model: ModelConfig) -> tuple[int, ...]:
    """Of all deep towers of a network that concatenates its tokens."""
    if model.kind in ("lr", "fm"):
        return ()
    if model.kind == "finalmlp":
        return model.finalmlp.first.hidden_units + model.finalmlp.second.hidden_units
    in_dcn = model.kind == "dcn_v2" or model.kind == "dgenctr" and model.backbone == "dcn"
    return (model.dcn if in_dcn else model.mlp).hidden_units


def _frequency_bytes(stage: str, schema: Schema) -> float:
    """Counts int64 of every row and of each field that shares rows, whose owner's are copied as often; in pre-training the
    logarithms of every field's too, and the arrays of the largest field on the way.
    """
    counts = 8 * schema.table_rows + 2 * 8 * sum(field.rows for field in schema.sharing_fields)
    rows = [field.rows for field in schema.token_fields]
    return counts if stage == "finetune" else counts + FLOAT_BYTES * sum(rows) + 2 * 8 * max(rows)


def _rows_bytes(config: Config, schema: Schema, rows: Mapping[str, int]) -> float:
    """Decoded rows of the training and validation split (`trainer.input`)."""
    window, row_bytes = config.input.window_rows, decoded_row_bytes(schema)
    if rows["train"] <= window:
        train = rows["train"] * (row_bytes + ORDER_BYTES)
    else:
        train = window * (WINDOW_COPIES * row_bytes + ORDER_BYTES)
    return train + (rows["valid"] * row_bytes if rows["valid"] <= window else 0)


# What is said.


def refusal(prediction: Prediction, config: Config, schema: Schema, rows: Mapping[str, int], limit: float) -> str:
    """Why a stage is refused, and what would make it fit: each smaller setting with what the stage would then take."""
    stage, parts = prediction.stage, sorted(prediction.parts, key=lambda part: -part[1])
    largest = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts[:3])
    batch = fitting_batch_size(rows["train"], getattr(config, stage).batch_size, getattr(config, stage).min_steps)
    smaller = {
        ("model", "embedding_dim"): config.model.embedding_dim // 2,
        (stage, "batch_size"): batch // 2,
        ("input", "window_rows"): min(config.input.window_rows, rows["train"]) // 2,
    }
    advice = []
    for (section, name), value in smaller.items():
        if value < 2:
            continue
        changed = config.model_copy(update={section: getattr(config, section).model_copy(update={name: value})})
        if (peak := predict(stage, changed, schema, rows).peak) < prediction.peak:
            advice.append((peak, f"--set {section}.{name}={value}"))
    advised = ", ".join(f"`{flag}` ({peak / 1e9:.2f} GB)" for peak, flag in sorted(advice))
    return (f"{stage} would take {prediction.peak / 1e9:.2f} GB of memory ({largest}, ...) and {limit / 1e9:.2f} GB may be used: "
            f"try {advised}, a larger min_count in the schema (fewer rows of the table), or parameter servers "
            "(docs/scaling.md; without `averaging`); `--set memory_limit_gb=...` sets another limit")


def require_memory(stage: str, config: Config, schema: Schema, rows: Mapping[str, int], resumed: bool = False) -> None:
    """Prints the prediction for a stage, and a warning where only continuing it later would be over the limit.

    Raises:
      UserError: it is over the limit; with what would make it fit.
    """
    prediction, limit = predict(stage, config, schema, rows, resumed), limit_bytes(config)
    prediction.print(limit)
    if prediction.peak > limit:
        raise UserError(refusal(prediction, config, schema, rows, limit))
    later = predict(stage, config, schema, rows, resumed=True).peak
    if later > limit:
        print(f"{stage}: continuing this run after a stop would take {later / 1e9:.2f} GB, as reading a checkpoint holds the "
              "moments twice, and that is over the limit")
