"""The checks in their order, and the diagnosis that they make."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from preprocessing.errors import UserError
from trainer.doctor import data_folder, environment, model_folder, resources
from trainer.doctor.patient import SET_UP, Concern, Inapplicable, Patient


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis. Status: "ok", "warn", "fail", or "skip" where there was nothing to check."""

    status: str
    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.status:<5}{self.check:<15}{self.text}"


@dataclass(frozen=True)
class Check:
    """A line of the diagnosis: its name, its function, and the checks that must have passed before it makes sense."""

    name: str
    function: Callable[[Patient], str]
    needs: tuple[str, ...] = ()


CHECKS = (
    Check("python", environment.check_python),
    Check("processor", environment.check_processor),
    Check("packages", environment.check_packages),
    Check("keras", environment.check_keras),
    Check("tensorflow", environment.check_tensorflow, needs=("processor", "keras")),
    Check("serving port", environment.check_port),
    Check("settings", environment.check_settings),
    Check("cluster", environment.check_cluster, needs=("tensorflow",)),
    Check("devices", environment.check_devices, needs=("tensorflow", "cluster", "settings")),
    Check("data: schema", data_folder.check_schema),
    Check("data: fields", data_folder.check_fields, needs=("data: schema", "settings")),
    Check("data: files", data_folder.check_files, needs=("data: schema",)),
    Check("data: rows", data_folder.check_rows, needs=("tensorflow", "data: schema", "data: fields", "data: files")),
    Check("data: workers", data_folder.check_workers, needs=("cluster", "data: rows")),
    Check("memory", resources.check_memory, needs=("tensorflow", "settings", "cluster", "data: schema", "data: rows")),
    Check("disk", resources.check_disk, needs=("tensorflow", "settings", "data: schema")),
    Check("model folder", model_folder.check_model_folder),
    Check("checkpoints", model_folder.check_checkpoints, needs=("tensorflow", "model folder")),
    Check("same settings", model_folder.check_same_settings, needs=("tensorflow", "settings", "model folder")),
    Check("fine-tuning", model_folder.check_start, needs=("tensorflow", "settings")),
    Check("slices", data_folder.check_slices, needs=("data: schema", "settings")),
    Check("export", model_folder.check_export, needs=("tensorflow", "data: schema", "model folder")),
)


def diagnose(patient: Patient) -> Iterator[Finding]:
    """Runs every check, also after one has failed, apart from those that need what has failed."""
    statuses: dict[str, str] = {}
    for check in CHECKS:
        lacking = [name for name in check.needs if statuses[name] in ("fail", "skip")]
        finding = Finding("skip", check.name, f"needs {lacking[0]}") if lacking else _examine(check, patient)
        statuses[check.name] = finding.status
        yield finding


def _examine(check: Check, patient: Patient) -> Finding:
    try:
        return Finding("ok", check.name, check.function(patient))
    except Concern as concern:
        return Finding("warn", check.name, str(concern))
    except Inapplicable as reason:
        return Finding("skip", check.name, str(reason))
    except UserError as error:
        return Finding("fail", check.name, str(error))
    except ImportError as error:
        return Finding("fail", check.name, f"{error}: {SET_UP}")
    except Exception as error:  # noqa: BLE001 - a check that breaks must not hide the ones after it
        return Finding("fail", check.name, f"{type(error).__name__}: {' '.join(str(error).split())}")


def examine(patient: Patient) -> int:
    """Prints the diagnosis, line by line. Returns the exit code: 1 where a check failed, 0 otherwise."""
    findings = []
    for finding in diagnose(patient):
        print(finding, flush=True)
        findings.append(finding.status)
    print(f"doctor: {findings.count('fail')} failed, {findings.count('warn')} warned, {findings.count('ok')} ok")
    return int("fail" in findings)
