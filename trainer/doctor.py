"""`--stage=doctor`: what a run needs, checked before it starts; one line a check, and where one fails, what mends it.

Only the standard library is imported up here, and TensorFlow not before the checks of Keras and of the processor have
passed, so that a broken environment is described instead of ending in a traceback.
"""

import errno
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import shlex
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from preprocessing.environment import PYTHON_VERSIONS, available_cores, start_tensorflow
from preprocessing.errors import UserError

LOCK_FILE = Path(__file__).resolve().parents[1] / "requirements.lock"
DISTRIBUTION = "dgenctr"
SERVING_PORT = 8500
BLOCK_BYTES = 4 << 20
SET_UP = "run `make setup`, which installs the tested versions"


class Concern(Exception):
    """Something that a run survives but its owner should know."""


class Inapplicable(Exception):
    """A check that makes no sense before another one passes, or without a flag."""


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis. Status: "ok", "warn", "fail", or "skip" where there was nothing to check."""

    status: str
    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.status:<5}{self.check:<15}{self.text}"


@dataclass(frozen=True)
class Patient:
    """What is examined: the flags of the call, and what the first checks have read.

    Attributes:
      data_dir, model_dir, init_from: None where the flag was not given.
      config_path, assignments: as for training.
      from_scratch: whether fine-tuning is meant to start from random parameters.
      allow_changes: whether a stage that has begun may go on with other settings.
    """

    data_dir: Path | None = None
    model_dir: Path | None = None
    init_from: Path | None = None
    config_path: str | None = None
    assignments: tuple[str, ...] = ()
    from_scratch: bool = False
    allow_changes: bool = False

    @property
    def needs_pretraining(self) -> bool:
        return not (self.from_scratch or self.init_from)

    def command(self, stage: str) -> str:
        """What the user types to run a stage on these folders."""
        flags = [f"--data_dir={self.data_dir or 'DATA'}", f"--model_dir={self.model_dir or 'MODEL'}"]
        return shlex.join(["python", "-m", "trainer.task", f"--stage={stage}", *flags])

    @property
    def preprocessing(self) -> str:
        """The command that wrote the data folder, where its manifest is readable."""
        try:
            return json.loads((self.data_dir / "manifest.json").read_text(encoding="utf-8"))["command"] + " --overwrite"
        except (OSError, ValueError, KeyError, TypeError):
            return f"python -m preprocessing.task --input LOG --schema SCHEMA --output {self.data_dir}"

    @cached_property
    def config(self):
        """The resolved configuration (`trainer.config.Config`)."""
        from trainer.config import load_config

        return load_config(self.config_path, self.assignments)

    @cached_property
    def schema(self):
        """The data folder's resolved schema."""
        from preprocessing.schema import load_data_folder_schema

        return load_data_folder_schema(self.given(self.data_dir, "--data_dir"))

    @cached_property
    def read_schema(self):
        """The schema without `model.ignored_fields`."""
        return self.schema.without(self.config.model.ignored_fields)

    @cached_property
    def manifest(self) -> dict:
        from preprocessing.schema import read_manifest

        return read_manifest(self.given(self.data_dir, "--data_dir"))

    @cached_property
    def data(self):
        """The data folder as training sees it (`trainer.input.DataFolder`)."""
        from trainer.loop import open_data

        return open_data(self.given(self.data_dir, "--data_dir"), self.config)

    @property
    def existing_model_dir(self) -> Path:
        model_dir = self.given(self.model_dir, "--model_dir")
        if not model_dir.is_dir():
            raise Inapplicable(f"{model_dir} is not there yet")
        return model_dir

    def given(self, path: Path | None, flag: str) -> Path:
        if path is None:
            raise Inapplicable(f"{flag} is not given")
        return path


# The environment.


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
    from trainer.distribute import Cluster

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


# The data folder.


def check_schema(patient: Patient) -> str:
    schema, stored = patient.schema, patient.manifest.get("schema_sha256")
    text = (patient.data_dir / "schema.yaml").read_bytes()
    if stored and hashlib.sha256(text).hexdigest() != stored:
        raise UserError(f"{patient.data_dir / 'schema.yaml'} was edited after preprocessing, and the records were not: edit your own "
                        f"schema file instead and run `{patient.preprocessing}`")
    return f"{schema.name}: {len(schema.id_fields)} fields, table of {schema.table_rows:,} rows"


def check_rows(patient: Patient) -> str:
    """What training refuses fails; what it takes and is unusual is a concern."""
    from trainer.refusals import refuse_one_class, refuse_unlabelled

    data = patient.data
    if not data.rows("train"):
        raise UserError(f"split 'train' of {patient.data_dir} has no rows: change `split` in your schema file (beside "
                        f"--transform_from: give --split) and run `{patient.preprocessing}`")
    try:
        refuse_one_class(data, patient.config)
        if not patient.needs_pretraining:
            refuse_unlabelled("finetune", data)
    except UserError as error:
        raise UserError(f"{error}; {patient.data_dir} is written again by `{patient.preprocessing}`") from error
    described = ", ".join(f"{name} {_describe_split(data, name)}" for name in patient.manifest["splits"])
    if unusual := _unusual_labels(data):
        raise Concern(f"{described}: {'; '.join(unusual)}")
    return described


def _unusual_labels(data) -> list[str]:
    found = [f"the labels of split {name} are of one class" for name in ("train", "valid")
             if data.labelled(name) and data.positives(name) in (0, data.labelled(name))]
    found += ["no training row has a label, so there is only pre-training"] * (not data.labelled("train"))
    found += ["the test split has no label: evaluate with --split=valid"] * (not data.labelled("test"))
    return found


def _describe_split(data, name: str) -> str:
    rows, labelled = data.rows(name), data.labelled(name)
    clicks = f"{data.positives(name) / labelled:.2%} clicks" if labelled else "no labels"
    return f"{rows:,} ({clicks}{f', {labelled:,} with a label' if 0 < labelled < rows else ''})"


def check_fields(patient: Patient) -> str:
    count, ignored, unread = len(patient.schema.fields), patient.config.model.ignored_fields, patient.read_schema.vector_fields
    if unread:
        names = ", ".join(field.name for field in unread)
        raise Concern(f"{names} would be left unread, as models read no fields with a vector a row yet: nothing to mend")
    if ignored:
        return f"training reads {count - len(ignored)} of {count}, as model.ignored_fields leaves out {', '.join(ignored)}"
    return f"training reads all {count}"


def check_files(patient: Patient) -> str:
    entries = [entry for split in patient.manifest["splits"].values() for entry in split["files"]]
    total = sum(entry.get("bytes", 0) for entry in entries)
    with _Progress(total) as progress:
        for name in _derived_files(patient.schema):
            _require_file(patient, name)
        for entry in entries:
            _check_file(patient, entry, progress)
    if any("sha256" not in entry for entry in entries):
        raise Concern(f"{len(entries)} files are there, but the manifest has no checksums of them: to get some, run "
                      f"`{patient.preprocessing}`")
    return f"{len(entries)} files, {total / 1e6:,.1f} MB, as they were written"


def _derived_files(schema) -> list[str]:
    """What training reads beside the records."""
    vocabularies = [f"vocabularies/{field.name}.txt" for field in schema.vocabulary_fields]
    return ["frequencies.npy", *vocabularies, *["buckets.json"] * bool(schema.numeric_fields), *["tally.npz"] * bool(schema.sharing_fields)]


def _require_file(patient: Patient, name: str) -> Path:
    path = patient.data_dir / name
    if not path.is_file():
        raise UserError(f"{path} is missing: {_mend_file(patient)}")
    return path


def _mend_file(patient: Patient) -> str:
    return f"restore it from a copy, or run `{patient.preprocessing}`"


def _check_file(patient: Patient, entry: dict, progress: "_Progress") -> None:
    path, mend = _require_file(patient, entry["path"]), _mend_file(patient)
    size = path.stat().st_size
    if size != entry.get("bytes", size):
        raise UserError(f"{path} has {size:,} bytes and was written with {entry['bytes']:,}: {mend}")
    if "sha256" not in entry:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            progress.add(len(block))
    if digest.hexdigest() != entry["sha256"]:
        raise UserError(f"{path} is not as it was written (its SHA-256 differs from the manifest's): {mend}")


class _Progress:
    """Bytes checked so far, on a terminal only, where the line is replaced by the check's own."""

    def __init__(self, total: int):
        self._total, self._done, self._live = total, 0, sys.stderr.isatty()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def add(self, size: int) -> None:
        self._done += size
        if self._live:
            print(f"\rchecking files {self._done / max(self._total, 1):.0%} of {self._total / 1e9:.1f} GB", end="",
                  file=sys.stderr, flush=True)


# What a run takes.


def check_memory(patient: Patient) -> str:
    from trainer.memory import limit_bytes, predict, refusal

    limit = limit_bytes(patient.config)
    peaks = {}
    for stage in ("pretrain", "finetune") if patient.needs_pretraining else ("finetune",):
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


# The model folder.


def check_model_folder(patient: Patient) -> str:
    from trainer.lock import holder

    model_dir = patient.given(patient.model_dir, "--model_dir")
    if model_dir.exists() and not model_dir.is_dir():
        raise UserError(f"--model_dir {model_dir} is a file: give a folder, for example `--model_dir {model_dir}_model`")
    _require_writable(model_dir)
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


def _require_writable(folder: Path) -> None:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"{existing} cannot be written ({error.strerror}): change that with `chmod u+w {existing}`, or give another "
                        "--model_dir") from error


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
        raise Concern(f"{error}; pre-training can start from {pretrained}") from error
    if _has_begun(patient, earlier.origin):
        return f"goes on from an earlier model, {earlier.best}"
    config = resolved(patient.config)
    earlier.require_network(config)
    if broken := damage(earlier.best, only=lambda name: not name.startswith((OPTIMIZER, RAW))):
        raise UserError(f"--init_from: checkpoint {earlier.best} is damaged ({broken}): restore it from a copy, or give another model")
    try:
        data = patient.data
    except UserError as error:
        raise Inapplicable("needs data: rows") from error
    plan(earlier, config, data)
    return f"an earlier model, {earlier.best}"


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


@dataclass(frozen=True)
class Check:
    """A line of the diagnosis: its name, its function, and the checks that must have passed before it makes sense."""

    name: str
    function: Callable[[Patient], str]
    needs: tuple[str, ...] = ()


CHECKS = (
    Check("python", check_python),
    Check("processor", check_processor),
    Check("packages", check_packages),
    Check("keras", check_keras),
    Check("tensorflow", check_tensorflow, needs=("processor", "keras")),
    Check("cluster", check_cluster, needs=("tensorflow",)),
    Check("serving port", check_port),
    Check("settings", check_settings),
    Check("data: schema", check_schema),
    Check("data: fields", check_fields, needs=("data: schema", "settings")),
    Check("data: files", check_files, needs=("data: schema",)),
    Check("data: rows", check_rows, needs=("tensorflow", "data: schema", "data: fields", "data: files")),
    Check("memory", check_memory, needs=("tensorflow", "settings", "data: schema", "data: rows")),
    Check("disk", check_disk, needs=("tensorflow", "settings", "data: schema")),
    Check("model folder", check_model_folder),
    Check("checkpoints", check_checkpoints, needs=("tensorflow", "model folder")),
    Check("same settings", check_same_settings, needs=("tensorflow", "settings", "model folder")),
    Check("fine-tuning", check_start, needs=("tensorflow", "settings")),
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
