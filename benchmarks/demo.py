"""The whole way, with the commands a user types: click log, preprocessing, training, evaluation, export, gRPC answers.

`make demo`, or `python -m benchmarks.demo`. The log is generated, so the true click probability of every row is known:
the closing table sets the pre-trained model beside the same network without pre-training and beside the best that the
truth allows on the same test rows.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.special import logit

from benchmarks.processes import Interrupted, Processes
from preprocessing import errors
from preprocessing.environment import start_tensorflow
from preprocessing.errors import UserError
from preprocessing.schema import NumericField, Schema, load_schema
from trainer.metrics import Predictions, click_metrics

ROOT = Path(__file__).resolve().parents[1]
MARKER = ".made-by-demo"
MODEL_NAME = "clicks"
SHOWN_ROWS = 10
EXAMPLE_ROWS = 3
SERVER_SECONDS = 120
SERVED_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Paths:
    """Where the demo writes, relative to the repository's root where possible, so that its commands are short."""

    work: Path

    @property
    def log(self) -> Path:
        return self.work / "log"

    @property
    def data(self) -> Path:
        return self.work / "data"

    @property
    def pretrained(self) -> Path:
        return self.work / "model"

    @property
    def scratch(self) -> Path:
        return self.work / "model_from_scratch"

    @property
    def exports(self) -> Path:
        return self.work / "exports" / MODEL_NAME

    @property
    def server_log(self) -> Path:
        return self.work / "server.log"


@dataclass
class Clock:
    """Seconds of each step, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        print(f"\n== {title}", flush=True)
        begin = time.monotonic()
        yield
        self.seconds[title] = time.monotonic() - begin


@dataclass(frozen=True)
class TestRows:
    """The rows of the test split: raw columns as text, labels, true probabilities."""

    columns: pd.DataFrame
    labels: np.ndarray
    truth: np.ndarray

    @property
    def groups(self) -> np.ndarray:
        return pd.factorize(self.columns["user_id"])[0]


def make_work_folder(work: Path) -> None:
    """Makes the folder anew; one that an earlier demo made is removed, anything else is refused."""
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        raise UserError(f"--work_dir {work}: expected a folder or nothing, received a file or a link; give another")
    if work.is_dir() and any(work.iterdir()):
        if not (work / MARKER).is_file():
            raise UserError(f"--work_dir {work}: expected an empty folder or one that the demo made ({MARKER} inside), "
                            "and it holds other files; give another")
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    (work / MARKER).touch()


def read_test_rows(paths: Paths, schema: Schema) -> TestRows:
    """Reads the rows that the schema's time split gives to testing, with the truth that lies beside them."""
    logs, truths = [], []
    for path in sorted(paths.log.glob("log-*.csv")):
        log = pd.read_csv(path, dtype=str, keep_default_na=False)
        truth = pd.read_csv(path.with_name(path.name.replace("log-", "truth-", 1)))
        if log["row_id"].astype(int).tolist() != truth["row_id"].tolist():
            raise UserError(f"{path} and the truth beside it are not row by row the same: generate the log again")
        test = log[schema.split.column].astype(float).to_numpy() >= schema.split.test_from
        logs.append(log[test])
        truths.append(truth["probability"].to_numpy()[test])
    columns = pd.concat(logs, ignore_index=True)
    return TestRows(columns, (columns["click"] == "1").to_numpy(int), np.concatenate(truths))


def raw_columns(schema: Schema, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The model's raw features: text, and floats with NaN where missing."""
    return {
        field.name: pd.to_numeric(rows[field.source], errors="coerce").to_numpy(np.float32)
        if isinstance(field, NumericField) else rows[field.source].to_numpy(object)
        for field in schema.fields
    }


def read_metrics(model_dir: Path, rows: TestRows) -> dict[str, float]:
    """Reads an evaluation's report and makes sure that it is about the same rows as the truth."""
    path = ROOT / model_dir / "report" / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    if (metrics["rows"], metrics["positives"]) != (len(rows.labels), rows.labels.sum()):
        raise UserError(f"{path}: expected {len(rows.labels)} test rows with {rows.labels.sum()} clicks as in the log, "
                        f"received {metrics['rows']} with {metrics['positives']}")
    return metrics


def predict_examples(address: str, schema: Schema, rows: pd.DataFrame) -> np.ndarray:
    """One PredictRequest of serialized tf.Examples to `serving_default`, with nothing but the official stubs."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    columns = raw_columns(schema, rows)
    examples = []
    for row in range(len(rows)):
        example = tf.train.Example()
        for name, values in columns.items():
            if values.dtype == object:
                example.features.feature[name].bytes_list.value.append(values[row].encode())
            else:
                example.features.feature[name].float_list.value.append(values[row])
        examples.append(example.SerializeToString())
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL_NAME
    request.model_spec.signature_name = "serving_default"
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto(examples))
    with grpc.insecure_channel(address) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=10)
    return tf.make_ndarray(response.outputs["probability"])


def ask_server(address: str, schema: Schema, rows: TestRows, report_auc: float, console: Console) -> None:
    """Asks for every test row by gRPC, shows some answers beside the truth, and checks them against the report."""
    start_tensorflow()
    from serving.client.predict_client import PredictClient

    with PredictClient(address, MODEL_NAME) as client:
        client.wait_until_ready()
        begin = time.monotonic()
        answers = client.predict(raw_columns(schema, rows.columns))
        seconds = time.monotonic() - begin
    order = np.argsort(rows.truth)
    shown = order[np.linspace(len(order) - 1, 0, min(SHOWN_ROWS, len(order))).round().astype(int)]
    by_example = predict_examples(address, schema, rows.columns.iloc[shown[:EXAMPLE_ROWS]])
    table = Table(title="Answers of the server, from the likeliest click to the least likely")
    for heading in ("row", "user", "item", "scenario"):
        table.add_column(heading)
    for heading in ("true probability", "predict", "serving_default", "clicked"):
        table.add_column(heading, justify="right")
    for place, row in enumerate(shown):
        text = rows.columns.iloc[row]
        example = f"{by_example[place]:.4f}" if place < len(by_example) else ""
        table.add_row(text["row_id"], text["user_id"], text["item_id"], text["scenario"], f"{rows.truth[row]:.4f}",
                      f"{answers['probability'][row]:.4f}", example, "yes" if rows.labels[row] else "")
    console.print(table)
    served = click_metrics(Predictions(rows.labels, answers["logit"]))["auc"]
    print(f"{len(rows.labels):,} test rows answered by gRPC in {seconds:.1f} s "
          f"({len(rows.labels) / seconds:,.0f} rows/s); their AUC is {served:.4f}, the report's {report_auc:.4f}")
    if abs(served - report_auc) > SERVED_TOLERANCE:
        raise UserError(f"the served model ranks the test rows with AUC {served:.5f} and the trainer with "
                        f"{report_auc:.5f}: the export does not answer as the trainer does")


def serve_and_ask(processes: Processes, paths: Paths, schema: Schema, rows: TestRows, report_auc: float,
                  console: Console) -> None:
    command = ["-m", "serving.server", "--model_name", MODEL_NAME, "--model_base_path", str(paths.exports),
               "--port", "0"]
    server_log = ROOT / paths.server_log
    with (open(server_log, "wb") as errors_file,
          processes.started(command, stdout=subprocess.PIPE, stderr=errors_file) as server):
        line = processes.read_line(server, SERVER_SECONDS)
        if not line.startswith(f"serving {MODEL_NAME} "):
            raise UserError(f"the server did not start within {SERVER_SECONDS} s; the end of {server_log}: "
                            f"{' '.join(server_log.read_text(errors='replace').split()[-80:])}")
        print(line, flush=True)
        ask_server(line.rsplit(" ", 1)[1], schema, rows, report_auc, console)
        processes.check_signals()


def print_summary(paths: Paths, rows: TestRows, pretrained: dict, scratch: dict, clock: Clock,
                  console: Console) -> None:
    best = click_metrics(Predictions(rows.labels, logit(rows.truth), rows.groups))
    table = Table(title=f"{len(rows.labels):,} test rows, {rows.labels.sum():,} clicks")
    table.add_column("")
    for heading in ("AUC", "GAUC", "logloss", "calibration bias"):
        table.add_column(heading, justify="right")
    arms = {"pre-trained, then fine-tuned": pretrained, "same network from scratch": scratch,
            "best possible (true probability)": best}
    for name, metrics in arms.items():
        table.add_row(name, *(_number(metrics[key]) for key in ("auc", "gauc", "logloss")),
                      _number(metrics["calibration_bias"], "+.1%"))
    console.print()
    console.print(table)
    if scratch["auc"] is not None:
        clicks = int(rows.labels.sum())
        error = auc_standard_error(scratch["auc"], clicks, len(rows.labels) - clicks)
        print(f"An AUC over {clicks:,} clicks has a standard error of {error:.4f}: smaller differences prove nothing.")
    report = paths.pretrained / "report"
    print(f"report  {report / 'REPORT.md'}")
    for plot in sorted((ROOT / report).rglob("*.png")):
        print(f"plot    {report / plot.relative_to(ROOT / report)}")
    print(f"model   {paths.exports}")
    print("time    " + ", ".join(f"{title.lower()} {seconds:.0f} s" for title, seconds in clock.seconds.items())
          + f"; {sum(clock.seconds.values()):.0f} s in all")


def auc_standard_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC A over P positives and N negatives (Hanley and McNeil, Radiology 143, 1982).

        SE^2 = (A (1 - A) + (P - 1) (A / (2 - A) - A^2) + (N - 1) (2 A^2 / (1 + A) - A^2)) / (P N)
    """
    square = auc**2
    variance = auc * (1 - auc) + (positives - 1) * (auc / (2 - auc) - square)
    variance += (negatives - 1) * (2 * square / (1 + auc) - square)
    return float(np.sqrt(variance / (positives * negatives)))


def _number(value: float | None, form: str = ".4f") -> str:
    return "n/a" if value is None else format(value, form)


def run_demo(processes: Processes, paths: Paths, flags: argparse.Namespace) -> None:
    """The demo from top to bottom."""
    console, clock = Console(width=None if sys.stdout.isatty() else 100), Clock()
    make_work_folder(ROOT / paths.work)

    with clock.step("Generate a click log"):
        processes.run(["-m", "preprocessing.synthetic", "--output", str(paths.log), "--rows", str(flags.rows),
                       "--seed", str(flags.seed)])
    with clock.step("Preprocess"):
        processes.run(["-m", "preprocessing.task", "--input", f"{paths.log}/log-*.csv",
                       "--schema", f"{paths.log}/schema.yaml", "--output", str(paths.data)])

    settings = ["--config", str(flags.config), *(part for assignment in flags.assignments for part in ("--set", assignment))]

    def trainer(stage: str, model_dir: Path, *more: str) -> None:
        processes.run(["-m", "trainer.task", f"--stage={stage}", "--data_dir", str(paths.data), "--model_dir", str(model_dir), *more])

    with clock.step("Pre-train"):
        trainer("pretrain", paths.pretrained, *settings)
    with clock.step("Fine-tune"):
        trainer("finetune", paths.pretrained, *settings)
    with clock.step("Evaluate"):
        trainer("evaluate", paths.pretrained)
    with clock.step("Export"):
        trainer("export", paths.pretrained, "--export_dir", str(paths.exports))
    with clock.step("Train from scratch"):
        trainer("finetune", paths.scratch, "--from_scratch", *settings)
        trainer("evaluate", paths.scratch)

    schema = load_schema(ROOT / paths.log / "schema.yaml")
    rows = read_test_rows(Paths(ROOT / paths.work), schema)
    pretrained, scratch = read_metrics(paths.pretrained, rows), read_metrics(paths.scratch, rows)
    with clock.step("Serve"):
        serve_and_ask(processes, paths, schema, rows, pretrained["auc"], console)
    print_summary(paths, rows, pretrained, scratch, clock, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  make demo\n  make demo DEMO_FLAGS='--rows 50000 --set model.backbone=hstu'\n\n"
               "Ctrl-C ends it with exit code 130 and leaves no process behind.")
    parser.add_argument("--work_dir", type=Path, default=Path("demo_run"),
                        help="folder to write, made anew each time (default %(default)s)")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the click log (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the click log (default %(default)s)")
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"),
                        help="configuration of the trainer (default %(default)s)")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="A.B=C",
                        help="override one setting of the configuration; may be repeated")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error that you can mend")
    return parser


def _run_from_flags(argv: Sequence[str]) -> None:
    flags = _parser().parse_args(argv)
    with Processes(ROOT) as processes:
        run_demo(processes, Paths(flags.work_dir), flags)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; returns its exit code, 128 + the signal's number where one ended it."""
    try:
        return errors.run(_run_from_flags, argv)
    except Interrupted as interruption:
        print(f"\ninterrupted by {interruption}: every process of the demo has ended", file=sys.stderr)
        return interruption.exit_code


if __name__ == "__main__":
    sys.exit(main())
