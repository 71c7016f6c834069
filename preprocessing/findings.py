"""What a worker found in the rows of one descriptor, left as files for the driver, since only files reach it."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError
from preprocessing.files import replaced_file
from preprocessing.rows import Rows
from preprocessing.schema import SPLITS, read_manifest
from preprocessing.sources import Descriptor, Rejection

REASONS_SHOWN = 5


@dataclass
class Findings:
    """What was found in the rows of one descriptor.

    Attributes:
      rows, positives, unlabelled: by split.
      times: by split, the first and the last time stamp (microseconds since 1970); empty without rows or time stamps.
      reasons: by reason, how many rows were rejected.
      examples: by reason, the first line.
      files: by split, the shard written.
      error: why the file could not be read to its end.
    """

    path: str
    rows: list[int] = field(default_factory=lambda: [0] * len(SPLITS))
    positives: list[int] = field(default_factory=lambda: [0] * len(SPLITS))
    unlabelled: list[int] = field(default_factory=lambda: [0] * len(SPLITS))
    times: list[list[int]] = field(default_factory=lambda: [[] for _ in SPLITS])
    reasons: dict[str, int] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None

    def add(self, rows: Rows) -> None:
        for split in range(len(SPLITS)):
            mask = rows.split == split
            label = rows.label[mask]
            self.rows[split] += len(label)
            self.positives[split] += int((label == 1).sum())
            self.unlabelled[split] += int((label < 0).sum())
            if rows.timestamp is not None and mask.any():
                times = rows.timestamp[mask]
                known = [*self.times[split], int(times.min()), int(times.max())]
                self.times[split] = [min(known), max(known)]
        self.add_rejections(rows.rejections)

    def add_rejections(self, rejections: Sequence[Rejection]) -> None:
        for rejection in rejections:
            self.reasons[rejection.reason] = self.reasons.get(rejection.reason, 0) + 1
            self.examples.setdefault(rejection.reason, rejection.line)

    @property
    def seen(self) -> int:
        return sum(self.rows) + sum(self.reasons.values())

    def write(self, work: Path, descriptor: Descriptor) -> None:
        with replaced_file(_path(work, descriptor)) as path:
            path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def _path(work: Path, descriptor: Descriptor) -> Path:
    return work / "findings" / f"{descriptor.name}.json"


def read_findings(work: Path, descriptors: Sequence[Descriptor]) -> list[Findings]:
    """The findings of all descriptors, in their order.

    Raises:
      UserError: a file could not be read to its end.
    """
    contents = (_path(work, one).read_text(encoding="utf-8") for one in descriptors)
    all_findings = [Findings(**json.loads(content)) for content in contents]
    for found in all_findings:
        if found.error:
            raise UserError(found.error)
    return all_findings


def rejection_reasons(all_findings: Sequence[Findings]) -> Counter[str]:
    total: Counter[str] = Counter()
    for found in all_findings:
        total.update(found.reasons)
    return total


def check_rejected(all_findings: Sequence[Findings], max_rejected_share: float) -> None:
    """Refuses a log of which more than the allowed share is malformed, with the most frequent reasons."""
    first = {reason: f"{found.path}, line {line}" for found in reversed(all_findings) for reason, line in found.examples.items()}
    _check_share(rejection_reasons(all_findings), sum(found.seen for found in all_findings), max_rejected_share,
                 lambda reason: f" (first: {first[reason]})")


def check_rejected_of_folder(data_dir: Path, max_rejected_share: float) -> None:
    """Refuses a finished data folder as the run that wrote it would have been with this share."""
    manifest = read_manifest(data_dir)
    reasons = Counter(manifest["rejected_reasons"])
    seen = reasons.total() + sum(split["rows"] for split in manifest["splits"].values())
    _check_share(reasons, seen, max_rejected_share, lambda reason: "", f"data folder {data_dir}: ")


def _check_share(reasons: Counter[str], seen: int, max_rejected_share: float, where: Callable[[str], str], what: str = "") -> None:
    rejected = reasons.total()
    if rejected <= max_rejected_share * seen:
        return
    shown = [f"{count:,} x {reason}{where(reason)}" for reason, count in reasons.most_common(REASONS_SHOWN)]
    raise UserError(
        f"{what}{rejected:,} of {seen:,} rows ({rejected / seen:.2%}) are malformed, more than --max_rejected_share "
        f"{max_rejected_share:g} allows: {'; '.join(shown)}. Correct the schema or the files, or raise the share"
    )


def check_rows(all_findings: Sequence[Findings], split: int) -> None:
    if not sum(found.rows[split] for found in all_findings):
        raise UserError(
            f"the {SPLITS[split]} split has no rows: expected at least one in each of {', '.join(SPLITS)}; "
            "check `split` in the schema against the files"
        )


def check_labelled(all_findings: Sequence[Findings], split: int, column: str) -> None:
    if sum(found.rows[split] for found in all_findings) == sum(found.unlabelled[split] for found in all_findings):
        raise UserError(
            f"no row of the {SPLITS[split]} split has a label: expected clicks in column {column!r}; check `label.column` in "
            "the schema against the files"
        )
