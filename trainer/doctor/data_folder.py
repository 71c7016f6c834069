"""Checks of the data folder: its schema, the fields and rows that training reads, its files."""

import hashlib
import sys
from pathlib import Path

from preprocessing.errors import UserError
from trainer.doctor.patient import Concern, Inapplicable, Patient

BLOCK_BYTES = 4 << 20


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


def check_workers(patient: Patient) -> str:
    """Whether each worker of a cluster finds a file to read, in both stages."""
    from trainer.data_folder import require_file_for_each
    from trainer.distribute.cluster import Cluster

    cluster = Cluster.from_environment()
    if cluster is None:
        raise Inapplicable("one process reads all files")
    files = patient.data.files("train")
    for stage in patient.stages:
        labelled_only = stage == "finetune" and patient.data.unlabelled("train") > 0
        read = [file for file in files if file.labelled or not labelled_only]
        require_file_for_each(cluster.workers, read, patient.data_dir, labelled_only)
    return f"{cluster.workers} workers share {len(files)} files"


def check_fields(patient: Patient) -> str:
    count, ignored, unread = len(patient.schema.fields), patient.config.model.ignored_fields, patient.read_schema.vector_fields
    if unread:
        names = ", ".join(field.name for field in unread)
        raise Concern(f"{names} would be left unread, as models read no fields with a vector a row yet: nothing to mend")
    if ignored:
        return f"training reads {count - len(ignored)} of {count}, as model.ignored_fields leaves out {', '.join(ignored)}"
    return f"training reads all {count}"


def check_slices(patient: Patient) -> str:
    from trainer.slices import field_place

    if not patient.slices:
        raise Inapplicable("--slices is not given")
    for field in patient.slices:
        field_place(field, patient.read_schema, patient.data_dir)
    return f"by {', '.join(patient.slices)}"


def check_files(patient: Patient) -> str:
    entries = [entry for split in patient.manifest["splits"].values() for entry in split["files"]]
    total = sum(entry.get("bytes", 0) for entry in entries)
    with _Progress(total) as progress:
        for name in _derived_files(patient.schema):
            require_file(patient, name)
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


def require_file(patient: Patient, name: str) -> Path:
    """The path of a file of the data folder, which must be there."""
    path = patient.data_dir / name
    if not path.is_file():
        raise UserError(f"{path} is missing: {mend_file(patient)}")
    return path


def mend_file(patient: Patient) -> str:
    return f"restore it from a copy, or run `{patient.preprocessing}`"


def _check_file(patient: Patient, entry: dict, progress: "_Progress") -> None:
    path, mend = require_file(patient, entry["path"]), mend_file(patient)
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
