"""The tables of `benchmarks.training_speed`: medians and ranges over its rounds, ratios, aims, floors."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.network import CROSS_LAYERS, DIM, HIDDEN_UNITS, IN_FLOAT32, STAGES
from preprocessing.files import replaced_file
from trainer.progress import print_table

RESULTS = "training_speed"
GROWTH = "growth"
MAGNITUDES = {"k": 1_000, "m": 1_000_000}
ARMS = {
    "finetune": "our fine-tuning",
    "pretrain": "our pre-training",
    "finetune_float32": "our fine-tuning in float32",
    "pretrain_float32": "our pre-training in float32",
    "keras": "plain tf_keras DCN-V2, stock Adam",
    "fuxictr": "FuxiCTR DCN-V2, PyTorch",
    "input": "our input alone, in memory",
    "input_streamed": "our input alone, from files",
    "floor": "the machine",
}
DESCRIPTIONS = {
    "finetune": "fine-tuning as the trainer runs it, input included: one table with lazy Adam, gradients scaled to a norm, the masked "
                "label as a token more than the fields; matrix products in what suits the processor (`runtime.matmul=auto`)",
    "pretrain": "pre-training as the trainer runs it: the same network, and the scores of every masked value",
    "finetune_float32": "fine-tuning with `runtime.matmul=float32`, as the peers compute",
    "pretrain_float32": "pre-training with `runtime.matmul=float32`",
    "keras": "tf_keras as it is usually written: tf.data with one feature per field (records parsed by the batch), one Embedding "
             "per field, the cross layers of TensorFlow Recommenders, stock Adam, no limit on the gradient, the train function of "
             "Model.fit",
    "fuxictr": "FuxiCTR's layers and training step in PyTorch, put together as its DCN-V2: one Embedding per field, stock Adam, "
               "gradients scaled to a norm; its batches are in memory and cost nothing",
    "input": "what our stages read, without training: rows decoded once and kept in memory, shuffled every epoch",
    "input_streamed": "the same, read anew every epoch in four windows",
    "floor": "matrix products of one step, forward and backward, in float32 and bfloat16; bytes moved by adding one array to "
             "another. The best of all rounds",
}
HEADER = ("arm", "samples/s", "ms a step", "CPU ms a step", "peak GB", "times our fine-tuning", "matrix products alone")
AIMS_HEADER = ("log", "aim", "measured", "by CPU time", "")


def shorten(values: int) -> str:
    """100000 -> 100k."""
    for suffix, magnitude in reversed(MAGNITUDES.items()):
        if values % magnitude == 0:
            return f"{values // magnitude}{suffix}"
    return str(values)


@dataclass(frozen=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str) -> str:
        return f"{self.median:{form}} [{self.lowest:{form}}, {self.highest:{form}}]"


def seconds_per_step(answer: dict, seconds: str = "seconds") -> float:
    return answer[seconds] / answer["steps"]


def over_rounds(record: dict, measure_round: Callable[[dict[str, dict]], float]) -> Spread:
    """A figure of each round, for example a ratio of two contestants, which had their turns close to one another."""
    return Spread.of([measure_round(answers) for answers in record["rounds"]])


def ratio(record: dict, key: str, base: str, seconds: str = "seconds") -> Spread:
    """How many times as fast as `base` the contestant `key` is, by the clock or by "cpu_seconds"."""
    return over_rounds(record, lambda answers: seconds_per_step(answers[base], seconds) / seconds_per_step(answers[key], seconds))


def contestants(record: dict) -> list[str]:
    return [key for key in record["rounds"][0] if key != "floor"]


def machine(record: dict) -> dict[str, float] | None:
    """The best that the machine showed in any round."""
    floors = [answers["floor"] for answers in record["rounds"] if "floor" in answers]
    names = ("float32_flops", "bfloat16_flops", "bytes_per_second")
    return {name: max(floor[name] for floor in floors) for name in names} if floors else None


def table_rows(record: dict) -> list[tuple[str, ...]]:
    batch_size, limits = record["settings"]["batch_size"], machine(record)
    rows = []
    for key in contestants(record):
        step = over_rounds(record, lambda answers, key=key: seconds_per_step(answers[key]))
        cpu = over_rounds(record, lambda answers, key=key: seconds_per_step(answers[key], "cpu_seconds"))
        peak = max(answers[key]["peak_bytes"] for answers in record["rounds"])
        relative = ratio(record, key, "finetune").text(".2f") if "finetune" in contestants(record) else ""
        share = ""
        stage, matmul = key.removesuffix(IN_FLOAT32), record["rounds"][0][key].get("matmul")
        if limits and matmul and stage in record["flops"]:
            floor = record["flops"][stage] / limits[f"{matmul}_flops"]
            share = f"{1000 * floor:.0f} ms, {floor / step.median:.0%} of the step"
        milliseconds = Spread(1000 * step.median, 1000 * step.lowest, 1000 * step.highest)
        rows.append((ARMS.get(key, key), f"{batch_size / step.median:,.0f}", milliseconds.text(".1f"), f"{1000 * cpu.median:.1f}",
                     f"{peak / 1e9:.2f}", relative, share))
    return rows


@dataclass(frozen=True)
class Aim:
    """`key` at least (or at most, for costs) so many times `base` in an experiment."""

    experiment: str
    key: str
    base: str
    bound: float
    is_cost: bool = False

    @property
    def text(self) -> str:
        if self.is_cost:
            return f"{self.key} costs at most {self.bound:g} times {self.base}"
        return f"{self.key} is at least {self.bound:g} times as fast as {self.base}"


def aims_of(record: dict) -> list[Aim]:
    """What was aimed at for this experiment, as far as its contestants took part."""
    name, keys = record["experiment"], contestants(record)
    if name == GROWTH:
        pairs = [[key for key in keys if key.startswith(stage)] for stage in STAGES]
        return [Aim(name, pair[1], pair[0], 1.2, is_cost=True) for pair in pairs if pair]
    aims = [Aim(name, "pretrain", "finetune", 0.4), Aim(name, "input", "finetune", 4), Aim(name, "input_streamed", "finetune", 4)]
    if record["values"] == 100_000:
        aims += [Aim(name, stage, peer, 1.3) for stage in ("finetune", "finetune_float32") for peer in ("keras", "fuxictr")]
    if record["values"] == 10_000_000:
        aims += [Aim(name, "finetune", "keras", 10), Aim(name, "finetune", "fuxictr", 3)]
    return [aim for aim in aims if aim.key in keys and aim.base in keys]


def judge(record: dict, aim: Aim) -> tuple[str, ...]:
    """The aim, what was measured by the clock and by CPU time, and the verdict, which is by the clock's median."""
    pair = (aim.base, aim.key) if aim.is_cost else (aim.key, aim.base)
    found, by_cpu = ratio(record, *pair), ratio(record, *pair, "cpu_seconds")
    reached = found.median <= aim.bound if aim.is_cost else found.median >= aim.bound
    return aim.experiment, aim.text, found.text(".2f"), f"{by_cpu.median:.2f}", "reached" if reached else "NOT reached"


def limits_text(record: dict) -> str:
    limits = machine(record)
    if not limits:
        return ""
    return (f"The machine: {limits['float32_flops'] / 1e9:.0f} GFLOP/s in float32 and {limits['bfloat16_flops'] / 1e9:.0f} in bfloat16 "
            f"on the products of this network, {limits['bytes_per_second'] / 1e9:.0f} GB/s of memory.")


def settings_text(record: dict) -> str:
    settings = record["settings"]
    changed = f", with {' '.join(settings['assignments'])}" if settings["assignments"] else ""
    return (f"{settings['rows']:,} rows of 39 fields, batch {settings['batch_size']}, d = {DIM}, {CROSS_LAYERS} full-rank crosses "
            f"beside {'x'.join(map(str, HIDDEN_UNITS))}, batch norm, dropout {settings['dropout']:g}{changed}; {record['cores']} cores, "
            f"load {record['load']:.1f} at the start; {settings['rounds']} rounds of {settings['steps']} steps after "
            f"{settings['settle']} unmeasured ones ({settings['warmup']} before the first round); {record['finished']}. "
            "Medians [lowest, highest] over the rounds.")


def title(record: dict) -> str:
    if record["experiment"] == GROWTH:
        return f"The same lookups in a small table and in one of {shorten(record['values'])} rows"
    return f"{record['experiment']} distinct values"


def command(records: Sequence[dict]) -> str:
    """What to type to measure this again, with the settings of the first experiment; each table names its own."""
    sizes = [shorten(record["values"]) for record in records if record["experiment"] != GROWTH]
    settings = records[0]["settings"]
    flags = [f"--{name} {settings[name]}" for name in ("rows", "batch_size", "dropout", "rounds", "warmup", "settle", "steps")]
    flags += [f"--set {assignment}" for assignment in settings["assignments"]]
    return " ".join(["python -m benchmarks.training_speed --values", *sizes, *flags])


def markdown(records: Sequence[dict]) -> str:
    """The whole result as a page."""
    parts = ["# Training speed", f"Command: `{command(records)}`."]
    judged = [judge(record, aim) for record in records for aim in aims_of(record)]
    if judged:
        parts += ["## Aims", _markdown_table(AIMS_HEADER, judged)]
    parts += ["## Arms", _markdown_table(("arm", "what it is"), [(ARMS[arm], text) for arm, text in DESCRIPTIONS.items()])]
    for record in records:
        parts += [f"## {title(record)}", settings_text(record), limits_text(record), _markdown_table(HEADER, table_rows(record))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(record: dict) -> None:
    print()
    print_table(title(record), table_rows(record), HEADER)
    print(limits_text(record))
    for _, aim, found, by_cpu, verdict in (judge(record, aim) for aim in aims_of(record)):
        print(f"{verdict}: {aim}: {found}, by CPU time {by_cpu}", flush=True)


def load_records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def save(records: Sequence[dict], output: Path) -> None:
    """Writes training_speed.jsonl, one experiment a line, and training_speed.md."""
    contents = {"jsonl": "".join(json.dumps(record) + "\n" for record in records), "md": markdown(records)}
    for suffix, content in contents.items():
        with replaced_file(output / f"{RESULTS}.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")
