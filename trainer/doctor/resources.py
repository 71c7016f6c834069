"""Checks of what a run takes: memory and disk."""

from pathlib import Path

from preprocessing.errors import UserError
from trainer.doctor.patient import Inapplicable, Patient


def check_memory(patient: Patient) -> str:
    from trainer.memory import limit_bytes, predict, refusal

    if not patient.is_single:
        raise Inapplicable("nothing is predicted for several devices or machines")
    limit = limit_bytes(patient.config)
    peaks = {}
    for stage in patient.stages:
        rows = patient.data.rows_read(stage)
        prediction = predict(stage, patient.config, patient.read_schema, rows)
        if prediction.peak > limit:
            raise UserError(refusal(prediction, patient.config, patient.read_schema, rows, limit))
        peaks[stage] = prediction.peak
    shown = ", ".join(f"{stage} {peak / 1e9:.2f} GB" for stage, peak in peaks.items())
    return f"{shown}; {limit / 1e9:.2f} GB may be used"


def check_disk(patient: Patient) -> str:
    from trainer.checkpoints import KEPT_AND_WRITTEN, StageCheckpoints
    from trainer.disk import free_bytes
    from trainer.memory import checkpoint_bytes

    folder = patient.model_dir or Path.cwd()
    used = sum(StageCheckpoints(folder, stage).used_bytes() for stage in ("pretrain", "finetune"))
    needed, free = 2 * KEPT_AND_WRITTEN * checkpoint_bytes(patient.config, patient.read_schema) - used, free_bytes(folder)
    if free < needed:
        raise UserError(f"the checkpoints of both stages take {needed / 1e9:.2f} GB and the disk of {folder} has {free / 1e9:.2f} GB "
                        f"free: free some space, or choose a --model_dir on another disk (`df -h` lists them)")
    return f"{free / 1e9:,.1f} GB free, the checkpoints of both stages take up to {max(needed, 0) / 1e9:.2f} GB more"
