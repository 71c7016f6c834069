"""What a training run refuses before it starts, so that no work is lost and no folder is spoilt."""

from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.schema import MANIFEST_FILE, SCHEMA_FILE, load_schema
from trainer.checkpoints import CONFIG_FILE, StageCheckpoints, differences, network_differences, schema_differences
from trainer.click_model import Stage
from trainer.config import Config, FinetuneConfig, uses_labels
from trainer.data_folder import DataFolder

ENVIRONMENT_FILE = "environment.json"  # written first, so that it marks a folder as a model folder


def refuse_foreign_folder(model_dir: Path) -> None:
    """Files of ours are written only into a folder that is new or ours."""
    if model_dir.exists() and not model_dir.is_dir():
        raise UserError(f"--model_dir {model_dir} is a file: give a folder")
    theirs = [name for name in (CONFIG_FILE, SCHEMA_FILE, MANIFEST_FILE) if (model_dir / name).exists()]
    if theirs and not (model_dir / ENVIRONMENT_FILE).exists():
        raise UserError(f"--model_dir {model_dir} is not a model folder but holds {', '.join(theirs)}, which training would "
                        "overwrite: give a new folder")


def refuse_pretraining_a_baseline(stage: Stage, config: Config, from_scratch: bool, init_from: str | Path | None) -> None:
    """Discriminative models learn from labels alone, and from random parameters."""
    kind = config.model.kind
    if kind == "dgenctr":
        return
    if init_from:
        raise UserError(f"--init_from {init_from} carries over models of `model.kind: dgenctr` alone, received `model.kind: {kind}`: train it "
                        "anew with --from_scratch")
    if stage == "pretrain" or not from_scratch:
        raise UserError(f"`model.kind: {kind}` has no pre-training: train it with --stage=finetune --from_scratch, or with "
                        "--stage=all --from_scratch, which evaluates and exports it too")


def refuse_unlabelled(stage: Stage, data: DataFolder) -> None:
    if stage == "finetune" and data.label_share < 1 and not data.labelled("train"):
        raise UserError(f"input.label_share={data.label_share:g} leaves none of the {data.rows('train'):,} training rows of "
                        f"{data.path} a label, and fine-tuning learns from labels: set a larger share")
    if stage == "finetune" and data.rows("train") and not data.labelled("train"):
        raise UserError(f"data folder {data.path}: none of the {data.rows('train'):,} training rows has a label, and fine-tuning learns "
                        "from labels: correct `label` in the schema, or add files with labels to the training split, and run "
                        "`python -m preprocessing.task` again")


def refuse_one_class(data: DataFolder, config: Config) -> None:
    positives, labelled = data.positives("valid"), data.labelled("valid")
    if not labelled:
        raise UserError(f"data folder {data.path}: the validation split has no rows with a label, which every epoch is judged by: split the "
                        "log otherwise (`split` in the schema; --split beside --transform_from) and run `python -m preprocessing.task` again")
    if config.finetune.monitor == "auc" and positives in (0, labelled):
        raise UserError(f"data folder {data.path}: the validation split has {positives} clicks in {labelled} rows with a label, "
                        "so its AUC is undefined: validate on more rows, or use --set finetune.monitor=logloss")


def refuse_idle_start(stage: Stage, config: Config, from_scratch: bool, init_from: str | Path | None) -> None:
    """Refuses settings of what a stage starts from where it starts from something else."""
    if stage == "pretrain":
        if init_from and config.pretrain.objective != "diffusion":
            raise UserError(f"--init_from {init_from} with pretrain.objective={config.pretrain.objective}: its heads have rows of "
                            "their own, which are not carried over to other data: pre-train anew without --init_from")
        return
    idle = ("transfer", "train", "decay_towards") if from_scratch else ("transfer",) if init_from else ()
    for name in idle:
        if (value := getattr(config.finetune, name)) != FinetuneConfig.model_fields[name].default:
            start = "--from_scratch, which starts from random parameters" if from_scratch else "--init_from, which takes over everything"
            raise UserError(f"finetune.{name}={value} is of fine-tuning from a pre-training and has no meaning with {start}: leave one "
                            "of them out")


def require_one_device(is_single: bool, stage: Stage) -> None:
    """Refuses an average of weights where a stage is not trained by one process on one device."""
    if not is_single:
        raise UserError(f"{stage}.averaging is kept by one process on one device: train without TF_CONFIG and --devices, or set it "
                        "to 0")


def require_one_process(is_single: bool, init_from: str | Path) -> None:
    """Refuses to carry an earlier model over in several processes."""
    if not is_single:
        raise UserError(f"--init_from {init_from} carries rows over in one process: start without TF_CONFIG and --devices, stop it by "
                        "Ctrl-C after the first step, which saves a checkpoint, and continue with the same command in the cluster")


def require_one_data_folder(model_dir: Path, data: DataFolder) -> None:
    """Both stages of a model folder are of one data folder, whose schema stands there once."""
    for stage in ("pretrain", "finetune"):
        checkpoints = StageCheckpoints(model_dir, stage)
        last = checkpoints.last()
        if last and checkpoints.state(last).data != data.checksum:
            raise UserError(f"{checkpoints.stage_dir} holds a run on other data than {data.path} ({_other_data(model_dir, data)}): give the data "
                            "folder it was trained on, or another --model_dir")


def require_same_run(checkpoints: StageCheckpoints, last: Path, config: Config, origin: str | None, generator: str | None,
                     allow_changes: bool) -> list[str]:
    """A stage's folder belongs to one configuration and one start; anything else is named and refused.

    Returns:
      The differences of the configuration, where they are allowed.
    """
    stage_dir, state = checkpoints.stage_dir, checkpoints.state(last)
    changed = differences(checkpoints.config(last), config, checkpoints.stage)
    if changed and not allow_changes:
        raise UserError(f"{stage_dir} holds a run of another configuration ({'; '.join(changed)}): give the stored configuration "
                        "or another --model_dir, or add --allow_changes to continue with the new one, which fails where its network has "
                        "other variables or `averaging` is left out")
    if state.origin != origin:
        raise UserError(f"{stage_dir} holds a run that started from {state.origin}, and this call would start from "
                        f"{origin or 'a pre-training that is not there'}: use the same --init_from or --from_scratch as before; or, to fine-tune "
                        f"anew (pre-training went on, say), remove {stage_dir} or give another --model_dir")
    if state.generator and generator and state.generator != generator:
        raise UserError(f"{stage_dir} holds a run whose rows were drawn by {state.generator}, and its pre-training went on and is "
                        f"{generator} now: to fine-tune anew, remove {stage_dir} or give another --model_dir")
    return changed


def require_pretraining(pretrained: StageCheckpoints, config: Config) -> Path:
    """The best pre-trained checkpoint, if fine-tuning can start from it."""
    best = pretrained.best()
    if best is None:
        raise UserError(
            f"no pre-trained checkpoint in {pretrained.stage_dir}: run `python -m trainer.task --stage=pretrain` with the same "
            "--model_dir first, or train without pre-training by adding --from_scratch")
    if changed := network_differences(pretrained.config(), config, "pretrain"):
        raise UserError(f"the pre-trained checkpoint {best} has another network ({'; '.join(changed)}): "
                        f"fine-tune with the configuration it was pre-trained with, `--config {best / CONFIG_FILE}`")
    before, now = pretrained.config().input.label_share, config.input.label_share
    if before > now and uses_labels(pretrained.config()):
        raise UserError(f"the pre-trained checkpoint {best} has learnt from the labels of input.label_share={before:g} of the training "
                        f"rows, and fine-tuning is to know only {now:g} of them: pre-train with that share too")
    return best


def _other_data(model_dir: Path, data: DataFolder) -> str:
    """What distinguishes a data folder from the one that the model folder's checkpoints belong to."""
    path = model_dir / SCHEMA_FILE
    changed = schema_differences(load_schema(path), data.schema.without(())) if path.exists() else []
    return f"another schema: {'; '.join(changed)}" if changed else "other training rows or vocabularies"
