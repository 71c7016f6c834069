"""Versions that are published without a model: three small files, and no TensorFlow."""

from pathlib import Path

from serving.versions.publishing import publish, staged_version


def write(version: Path, content: str = "graph") -> None:
    (version / "variables").mkdir(parents=True)
    (version / "saved_model.pb").write_text(content)
    (version / "variables" / "values").write_text(content * 10)


def published(base_path: Path, content: str = "graph", label: str | None = None) -> int:
    with staged_version(base_path) as version:
        write(version, content)
        return int(publish(version, base_path, label).name)
