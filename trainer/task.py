"""Trains, evaluates and exports: `python -m trainer.task --stage=pretrain --data_dir DATA --model_dir MODEL`."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preprocessing import errors
from preprocessing.environment import start_tensorflow
from preprocessing.errors import UserError

if TYPE_CHECKING:
    from trainer.config import Config
    from trainer.distribute.distribution import Distribution

ORDER = ("pretrain", "finetune", "evaluate", "export")
STAGES = (*ORDER, "all", "doctor")
EXAMPLES = """stages:
  pretrain   learn the joint distribution of features and click by discrete diffusion
  finetune   load every pre-trained parameter and learn click prediction
  evaluate   metrics, plots and REPORT.md of the fine-tuned model on a split
  export     publish the fine-tuned model as the next version of a SavedModel for TF Serving
  all        the four of them in this order
  doctor     change nothing; check packages, devices, folders, memory, disk and ports, and say what mends what is wrong:
             put it in place of the stage of any command

examples:
  python -m trainer.task --stage=all --data_dir data --model_dir model
  python -m trainer.task --stage=finetune --from_scratch --data_dir data --model_dir baseline
  python -m trainer.task --stage=all --from_scratch --data_dir data --model_dir deepfm --set model.kind=deepfm
  python -m trainer.task --stage=pretrain --data_dir data --model_dir model --config configs/frappe.yaml \\
      --set model.backbone=hstu --set pretrain.epochs=20
  every night, the new day only: the vocabularies of `night` are those of the day before, grown
    python -m trainer.task --stage=finetune --init_from model --config model/finetune/config.yaml --data_dir night --model_dir model2

Several machines: start the same command in every process, with TF_CONFIG set in each (docs/scaling.md).

A call that finds checkpoints in the model folder continues where the last one stopped, and ends as if it had never
stopped. SIGTERM and Ctrl-C save first. Only one run at a time may train in a model folder."""

TRAINING = ("pretrain", "finetune")
# Stages, beside "all" and "doctor", that use a flag; the others refuse it.
USERS = {
    "--config": TRAINING,
    "--set": TRAINING,
    "--allow_changes": TRAINING,
    "--from_scratch": ("finetune",),
    "--init_from": TRAINING,
    "--split": ("evaluate",),
    "--slices": ("evaluate",),
    "--export_dir": ("export",),
    "--keep": ("export",),
    "--label": ("export",),
    "--devices": TRAINING,
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.task", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", required=True, choices=STAGES, help="what to do (see below)")
    parser.add_argument("--data_dir", help="data folder written by `python -m preprocessing.task`")
    parser.add_argument("--model_dir", help="model folder: checkpoints, history, TensorBoard events, report")
    parser.add_argument("--config", help="YAML file of settings; what it leaves out keeps its default")
    parser.add_argument("--set", action="extend", nargs="+", default=[], dest="assignments", metavar="A.B=C",
                        help="override settings; may be repeated")
    parser.add_argument("--from_scratch", action="store_true", help="fine-tune from random parameters, without pre-training")
    parser.add_argument("--init_from", metavar="MODEL",
                        help="start from the model of an earlier model folder, on data whose vocabularies have grown or moved: rows "
                             "of the table are carried over by value; --stage=all then leaves out pre-training")
    parser.add_argument("--allow_changes", action="store_true",
                        help="continue a run of another configuration with this one; an epoch under way is begun anew")
    parser.add_argument("--split", choices=("train", "valid", "test"), help="split to evaluate (default: test)")
    parser.add_argument("--slices", metavar="FIELD,FIELD",
                        help="evaluate: metrics by how often training has seen the row's value of these fields, such as user,item")
    parser.add_argument("--export_dir",
                        help="model base path of the exported versions, which servers poll; the same as --base_path of "
                             "serving.export (default: MODEL_DIR/export/NAME)")
    parser.add_argument("--keep", type=int, metavar="N",
                        help="export: then delete all but the N highest versions; those with a label or the pin stay")
    parser.add_argument("--label", help="export: a label that the new version gets, such as canary (`python -m serving.versions`)")
    parser.add_argument("--devices", metavar="gpus[:N]|cpus:N",
                        help="train on all or on N GPUs of this machine, each with a part of every batch; cpus:N tries the same on N "
                             "logical devices of the processor. In a cluster every process uses all its GPUs anyway")
    parser.add_argument("--print_config", action="store_true", help="print the resolved configuration and stop")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    absent = [f"--{name}" for name in ("data_dir", "model_dir") if getattr(arguments, name) is None]
    if absent and arguments.stage != "doctor":
        parser.error(f"the following arguments are required: {', '.join(absent)}")
    return arguments


def _refuse_unused(arguments: argparse.Namespace) -> None:
    values = {**vars(arguments), "set": arguments.assignments}
    for flag, users in USERS.items():
        if values[flag.removeprefix("--")] and arguments.stage not in (*users, "all", "doctor"):
            raise UserError(f"--stage={arguments.stage} does not use {flag}, which is for --stage={' and --stage='.join(users)}: leave it out")


def _refuse_two_meanings(arguments: argparse.Namespace) -> None:
    if arguments.init_from and arguments.from_scratch:
        raise UserError("--init_from and --from_scratch are two different starts: give one of them")
    if arguments.init_from and arguments.model_dir and Path(arguments.init_from).resolve() == Path(arguments.model_dir).resolve():
        raise UserError(f"--model_dir {arguments.model_dir} is the folder that --init_from names: give a new folder, so that the "
                        "earlier model stays as it is")


def _stages(arguments: argparse.Namespace) -> list[str]:
    if arguments.stage != "all":
        return [arguments.stage]
    without_pretraining = arguments.from_scratch or arguments.init_from
    return [stage for stage in ORDER if not (stage == "pretrain" and without_pretraining)]


def _distribution(arguments: argparse.Namespace, stages: Sequence[str]) -> "Distribution":
    """Joins the cluster that TF_CONFIG names, to train. Does not return in a process that only serves it."""
    from preprocessing.schema import load_data_folder_schema
    from trainer.distribute.cluster import Cluster, serve
    from trainer.distribute.distribution import Distribution, connect

    if not set(stages) & set(TRAINING):
        return Distribution()
    cluster = Cluster.from_environment()
    if cluster and cluster.only_serves:
        serve(cluster)
    return connect(cluster, arguments.devices, load_data_folder_schema(arguments.data_dir).table_rows)


def run_stage(stage: str, arguments: argparse.Namespace, config: "Config", began: float, distribution: "Distribution") -> None:
    if stage in TRAINING:
        from trainer.loop import train

        train(stage, config, arguments.data_dir, arguments.model_dir, arguments.from_scratch, arguments.allow_changes, began,
              arguments.init_from, distribution)
    elif stage == "evaluate":
        from trainer.evaluate import evaluate

        evaluate(arguments.data_dir, arguments.model_dir, arguments.split or "test", _sliced_by(arguments))
    else:
        from preprocessing.schema import load_data_folder_schema
        from serving.export.exporter import export
        from serving.versions.folders import default_base_path

        name = load_data_folder_schema(arguments.data_dir).name
        base_path = Path(arguments.export_dir or default_base_path(Path(arguments.model_dir), name))
        export(arguments.model_dir, arguments.data_dir, base_path, arguments.keep, arguments.label)


def _sliced_by(arguments: argparse.Namespace) -> tuple[str, ...]:
    return tuple(arguments.slices.split(",")) if arguments.slices else ()


def _examine(arguments: argparse.Namespace) -> int:
    from trainer.doctor.diagnosis import examine
    from trainer.doctor.patient import Patient

    folders = {name: Path(value) if value else None for name, value in
               (("data_dir", arguments.data_dir), ("model_dir", arguments.model_dir), ("init_from", arguments.init_from),
                ("export_dir", arguments.export_dir))}
    return examine(Patient(**folders, config_path=arguments.config, assignments=tuple(arguments.assignments),
                           from_scratch=arguments.from_scratch, allow_changes=arguments.allow_changes, devices=arguments.devices,
                           slices=_sliced_by(arguments), keep=arguments.keep, label=arguments.label))


def run(argv: Sequence[str]) -> int | None:
    began = time.monotonic()
    arguments = _parse(argv)
    if arguments.stage == "doctor" and not arguments.print_config:
        _refuse_two_meanings(arguments)
        return _examine(arguments)
    # Only now, as the doctor also examines an environment in which these cannot be imported.
    from trainer.config import load_config

    _refuse_unused(arguments)
    _refuse_two_meanings(arguments)
    config = load_config(arguments.config, arguments.assignments)
    if arguments.print_config:
        print(config.to_yaml())
        return None
    start_tensorflow()
    stages = _stages(arguments)
    distribution = _distribution(arguments, stages)
    with distribution.only_the_chief_prints():
        for stage in stages:
            if stage in TRAINING or distribution.is_chief:
                run_stage(stage, arguments, config, began, distribution)
            began = time.monotonic()
        distribution.leave()
    return None


def main(argv: Sequence[str] | None = None) -> int:
    return errors.run(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
