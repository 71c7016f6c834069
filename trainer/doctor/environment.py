"""Checks of the machine: Python, packages, TensorFlow, its devices, the cluster and the port to serve on."""

import errno
import importlib.metadata
import importlib.util
import platform
import re
import socket
import sys
from pathlib import Path

from preprocessing.environment import PYTHON_VERSIONS, available_cores, start_tensorflow
from preprocessing.errors import UserError
from trainer.doctor.patient import SET_UP, Concern, Patient

LOCK_FILE = Path(__file__).resolve().parents[2] / "requirements.lock"
DISTRIBUTION = "dgenctr"
SERVING_PORT = 8500


def check_python(patient: Patient) -> str:
    lowest, highest = PYTHON_VERSIONS
    if not lowest <= sys.version_info[:2] <= highest:
        raise UserError(f"this is Python {platform.python_version()}, and {lowest[0]}.{lowest[1]} to {highest[0]}.{highest[1]} "
                        "are supported: run `make setup PYTHON=python3.11`")
    return f"{platform.python_version()} at {sys.executable}"


def check_processor(patient: Patient) -> str:
    cores, features = available_cores(), _processor_features()
    if features is not None and "avx" not in features:
        raise UserError("the processor has no AVX, which TensorFlow's packages are built for, so that importing it ends the "
                        "process: use another machine, or in a virtual machine pass the host's processor through")
    known = [name for name in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16") if features and name in features]
    text = f"{cores} core{'s' * (cores != 1)}, {platform.machine()}" + (f" with {', '.join(known)}" if known else "")
    if features is not None and not {"avx2", "fma"} <= features:
        raise Concern(f"{text}: without AVX2 and FMA matrix products take several times as long; choose another type of machine")
    return text


def _processor_features() -> set[str] | None:
    """Features of an x86 processor; None on other processors or systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else None


def check_packages(patient: Patient) -> str:
    from packaging.requirements import Requirement

    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise Concern(f"{DISTRIBUTION} is not installed in this environment, so its packages cannot be checked: "
                      f"{SET_UP}") from error
    tested, others, count = _tested_versions(), [], 0
    for requirement in map(Requirement, declared):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError(f"{requirement.name} is not installed: {SET_UP}") from error
        if not requirement.specifier.contains(installed, prereleases=True):
            raise UserError(f"{requirement.name} {installed} is installed, and {requirement.specifier} is needed: {SET_UP}")
        if tested.get(requirement.name, installed) != installed:
            others.append(f"{requirement.name} {installed} (tested: {tested[requirement.name]})")
    if others:
        raise Concern(f"{', '.join(others)}: if something misbehaves, {SET_UP}")
    return f"{count} packages" + (" as tested" if tested else " within the supported versions")


def _tested_versions() -> dict[str, str]:
    """Versions of requirements.lock; empty where this is not a checkout."""
    if not LOCK_FILE.is_file():
        return {}
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", LOCK_FILE.read_text(encoding="utf-8"), re.MULTILINE))


def check_keras(patient: Patient) -> str:
    """Before TensorFlow is imported: afterwards its Keras can no longer be chosen."""
    loaded = sys.modules.get("tensorflow")
    if loaded is not None and not _has_keras_2(loaded):
        raise UserError("TensorFlow was imported with Keras 3 before this project could choose Keras 2: "
                        "import `trainer` first, or start Python with `TF_USE_LEGACY_KERAS=1`")
    versions = {}
    for name in ("tensorflow", "tf_keras"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name} is not installed: {SET_UP}")
        versions[name] = importlib.metadata.version(name)
    if versions["tensorflow"].split(".")[:2] != versions["tf_keras"].split(".")[:2]:
        raise UserError(f"tensorflow {versions['tensorflow']} and tf_keras {versions['tf_keras']} do not belong together: {SET_UP}")
    return f"Keras 2 (tf_keras {versions['tf_keras']})"


def _has_keras_2(tensorflow) -> bool:
    return tensorflow.keras.Model.__module__.startswith("tf_keras")


def check_tensorflow(patient: Patient) -> str:
    start_tensorflow()
    import tensorflow as tf

    if not _has_keras_2(tf):
        raise UserError("TensorFlow came up with Keras 3: start Python with `TF_USE_LEGACY_KERAS=1`")
    if int(tf.constant(1) + 1) != 2:
        raise UserError(f"TensorFlow {tf.__version__} miscalculates: {SET_UP}")
    gpus = len(tf.config.list_physical_devices("GPU"))
    return f"{tf.__version__} works, {gpus or 'no'} GPU{'s' * (gpus != 1)}"


def check_settings(patient: Patient) -> str:
    try:
        _ = patient.config
    except UserError as error:
        raise UserError(f"{error}: `python -m trainer.task --stage=doctor --print_config` lists every setting") from error
    return f"{patient.config_path or 'defaults'}{' with --set ' + ' '.join(patient.assignments) if patient.assignments else ''}"


def check_cluster(patient: Patient) -> str:
    from trainer.distribute.cluster import Cluster

    cluster = Cluster.from_environment()
    if cluster is None:
        return "TF_CONFIG is not set: one process"
    for address in (address for addresses in cluster.tasks.values() for address in addresses):
        host = address.rpartition(":")[0].strip("[]")
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            raise UserError(f"TF_CONFIG: host {host!r} of {address} is unknown here: correct the address, or try "
                            f"`getent hosts {host}` until the name resolves") from error
    port = int(cluster.tasks[cluster.role][cluster.index].rpartition(":")[2])
    if not _is_free(port, ""):
        raise UserError(f"TF_CONFIG: port {port} of this task is taken: see who has it with `ss -ltnp 'sport = :{port}'` and stop "
                        "that process, or give another port in every task's TF_CONFIG")
    return str(cluster)


def check_devices(patient: Patient) -> str:
    """Whether the devices are there, and settings are of those that several devices or machines can have."""
    from trainer.distribute.cluster import Cluster
    from trainer.distribute.distribution import local_devices, require_one_machine
    from trainer.refusals import require_one_device

    if patient.devices is not None:
        require_one_machine(Cluster.from_environment(), patient.devices)
        text = ", ".join(local_devices(patient.devices))
    else:
        text = "one, TensorFlow's default" if patient.is_single else "all GPUs of every machine, or its processor"
    if patient.config.finetune.averaging:
        require_one_device(patient.is_single, "finetune")
    if patient.config.pretrain.averaging and not patient.from_scratch:
        try:
            require_one_device(patient.is_single, "pretrain")
        except UserError as error:
            if patient.needs_pretraining and not patient.has_pretraining:
                raise
            raise Concern(f"{error}; fine-tuning can be trained so") from error
    return text


def check_port(patient: Patient) -> str:
    if not _is_free(SERVING_PORT, "127.0.0.1"):
        raise Concern(f"port {SERVING_PORT} is taken (see `ss -ltnp 'sport = :{SERVING_PORT}'`): serve on another one with "
                      f"`python -m serving.server --port {SERVING_PORT + 1}`")
    return f"{SERVING_PORT} is free for serving"


def _is_free(port: int, host: str) -> bool:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True
