"""Checks of the model folder: whether it can be trained in, and what the stages would start from."""

import tempfile
from pathlib import Path

from preprocessing.errors import UserError
from trainer.doctor.data_folder import require_file
from trainer.doctor.patient import Concern, Inapplicable, Patient

TRANSFORM_GRAPH = "transform_fn/saved_model.pb"


def check_model_folder(patient: Patient) -> str:
    from trainer.lock import holder

    model_dir = patient.given(patient.model_dir, "--model_dir")
    if model_dir.exists() and not model_dir.is_dir():
        raise UserError(f"--model_dir {model_dir} is a file: give a folder, for example `--model_dir {model_dir}_model`")
    _require_writable(model_dir, "--model_dir")
    if not model_dir.is_dir():
        return f"{model_dir} is not there yet and can be made"
    names = {path.name for path in model_dir.iterdir()}
    if "manifest.json" in names:
        raise UserError(f"--model_dir {model_dir} is a data folder: give it as `--data_dir {model_dir}`, and another --model_dir")
    if "checkpoints" in names:
        raise UserError(f"--model_dir {model_dir} is the folder of one stage inside a model folder: give `--model_dir {model_dir.parent}`")
    foreign = sorted(names & {"config.yaml", "schema.yaml"})
    if foreign and "environment.json" not in names:
        raise UserError(f"--model_dir {model_dir} is not a model folder but holds {', '.join(foreign)}, which training would "
                        f"overwrite: give a new folder, for example `--model_dir {model_dir / 'model'}`")
    if process := holder(model_dir):
        raise UserError(f"{model_dir} is in use by {process}: wait until it ends, or stop it with `kill PROCESS`")
    return f"{model_dir} is free and can be written"


def _require_writable(folder: Path, flag: str) -> None:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{existing} is a file, so {folder} cannot be made: give another {flag}")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"{existing} cannot be written ({error.strerror}): change that with `chmod u+w {existing}`, or give another "
                        f"{flag}") from error


def check_checkpoints(patient: Patient) -> str:
    from trainer.checkpoints import StageCheckpoints

    stages = [StageCheckpoints(patient.existing_model_dir, stage) for stage in ("pretrain", "finetune")]
    found = [f"{one.stage} {_last_sound(patient, one)}" for one in stages if one.last()]
    if not found:
        raise Inapplicable("nothing has been trained yet")
    return ", ".join(found)


def _last_sound(patient: Patient, checkpoints) -> str:
    """Name of the stage's last checkpoint, after checking that it is whole and belongs to the data folder."""
    from preprocessing.schema import train_checksum
    from trainer.checkpoints import damage

    last = checkpoints.last()
    if broken := damage(last):
        raise UserError(f"checkpoint {last} is damaged ({broken}): remove it with `rm -r {last}`, and training goes on from the "
                        "one before")
    if patient.data_dir and checkpoints.state(last).data != train_checksum(patient.data_dir):
        raise UserError(f"{checkpoints.stage_dir} was trained on other data than {patient.data_dir} (another schema, other training "
                        "rows or vocabularies): give the --data_dir that it was trained on, which `cat "
                        f"{patient.model_dir / 'environment.json'}` names, or another --model_dir")
    return last.name


def check_same_settings(patient: Patient) -> str:
    """Whether a stage that has begun would go on with the same settings."""
    from trainer.checkpoints import StageCheckpoints, differences
    from trainer.runtime import resolved

    begun = []
    for stage in ("pretrain", "finetune"):
        checkpoints = StageCheckpoints(patient.existing_model_dir, stage)
        last = checkpoints.last()
        if not last:
            continue
        changed = differences(checkpoints.config(last), resolved(patient.config), stage)
        if changed and not patient.allow_changes:
            raise UserError(f"{checkpoints.stage_dir} was trained with other settings ({'; '.join(changed)}): give them with "
                            f"`--config {last / 'config.yaml'}`, or another --model_dir")
        begun.append(stage + f" (with changes: {'; '.join(changed)})" * bool(changed))
    if not begun:
        raise Inapplicable("nothing has been trained yet")
    return f"{' and '.join(begun)} would go on"


def check_start(patient: Patient) -> str:
    """Whether fine-tuning will find something to start from."""
    from trainer.checkpoints import RANDOM, StageCheckpoints
    from trainer.refusals import refuse_idle_start, refuse_pretraining_a_baseline

    for refuse in (refuse_pretraining_a_baseline, refuse_idle_start):
        refuse("finetune", patient.config, patient.from_scratch, patient.init_from)
    if patient.init_from:
        return _check_earlier_model(patient)
    if patient.from_scratch:
        _has_begun(patient, RANDOM)
        return "without pre-training"
    model_dir = patient.given(patient.model_dir, "--model_dir")
    best = StageCheckpoints(model_dir, "pretrain").best()
    if best is None:
        raise Concern(f"{model_dir} holds no pre-training that fine-tuning could start from: first run "
                      f"`{patient.command('pretrain')}`, or fine-tune with --from_scratch")
    return f"pre-training, {best.name}"


def _check_earlier_model(patient: Patient) -> str:
    """Whether the model of --init_from can be carried over; a run that has begun from it has done so."""
    from trainer.carry_over import EarlierModel, plan
    from trainer.checkpoints import OPTIMIZER, RAW, StageCheckpoints, damage
    from trainer.runtime import resolved

    pretrained = StageCheckpoints(patient.init_from, "pretrain").best()
    try:
        earlier = EarlierModel(patient.init_from, "finetune")
    except UserError as error:
        if pretrained is None:
            raise
        _require_one_process(patient)
        raise Concern(f"{error}; pre-training can start from {pretrained}") from error
    if _has_begun(patient, earlier.origin):
        return f"goes on from an earlier model, {earlier.best}"
    config = resolved(patient.config)
    _require_one_process(patient)
    earlier.require_network(config)
    if broken := damage(earlier.best, only=lambda name: not name.startswith((OPTIMIZER, RAW))):
        raise UserError(f"--init_from: checkpoint {earlier.best} is damaged ({broken}): restore it from a copy, or give another model")
    try:
        data = patient.data
    except UserError as error:
        raise Inapplicable("needs data: rows") from error
    plan(earlier, config, data)
    return f"an earlier model, {earlier.best}"


def _require_one_process(patient: Patient) -> None:
    from trainer.refusals import require_one_process

    try:
        is_single = patient.is_single
    except UserError as error:
        raise Inapplicable("needs cluster") from error
    require_one_process(is_single, patient.init_from)


def _has_begun(patient: Patient, origin: str) -> bool:
    """Whether the model folder holds a fine-tuning, which must have started from `origin`."""
    from trainer.checkpoints import StageCheckpoints
    from trainer.refusals import require_same_run
    from trainer.runtime import resolved

    if patient.model_dir is None:
        return False
    checkpoints = StageCheckpoints(patient.model_dir, "finetune")
    last = checkpoints.last()
    if last:  # its settings are another check's
        require_same_run(checkpoints, last, resolved(patient.config), origin, generator=None, allow_changes=True)
    return last is not None


def check_export(patient: Patient) -> str:
    """Whether a trained model could be published, asked before hours of training."""
    from serving.export.parity import read_samples
    from serving.versions.publishing import require_publishable

    base_path = patient.base_path
    require_publishable(base_path, patient.keep, patient.label)
    _require_writable(base_path, "--export_dir")
    require_file(patient, TRANSFORM_GRAPH)
    read_samples(patient.data_dir)
    return f"{base_path} can be written"
