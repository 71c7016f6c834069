"""The package as a user installs it, the lock file, the Makefile and the environment check."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _python(code: str, **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**inherited, **environment},
                          capture_output=True, text=True, check=False)


def _last_line(done: subprocess.CompletedProcess) -> str:
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A copy of the sources (the build writes beside them), installed into a folder of its own."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in ("preprocessing", "trainer", "serving"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--target", target, source],
        check=True, capture_output=True, text=True,
    )
    return target


def test_install_holds_every_module(installed):
    for package in ("preprocessing", "trainer", "serving"):
        expected = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        assert expected and expected <= {path.relative_to(installed) for path in (installed / package).rglob("*.py")}


def test_install_holds_data_files(installed):
    data = [*ROOT.glob("preprocessing/datasets/*.yaml"), *(p for p in ROOT.glob("serving/config/*") if p.is_file())]
    assert [path for path in data if not (installed / path.relative_to(ROOT)).is_file()] == []


def test_every_entry_point_is_a_main(installed):
    metadata = configparser.ConfigParser()
    metadata.read(next(installed.glob("dgenctr-*.dist-info")) / "entry_points.txt")
    scripts = dict(metadata["console_scripts"])
    assert set(scripts) == {"dgenctr-preprocess", "dgenctr-synthetic", "dgenctr-train", "dgenctr-export",
                            "dgenctr-versions", "dgenctr-server", "dgenctr-client", "dgenctr-score"}
    for target in scripts.values():
        module, function = target.split(":")
        source = (installed / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        assert f"def {function}(argv" in source


def test_installed_command_runs(installed):
    done = subprocess.run([sys.executable, installed / "bin" / "dgenctr-synthetic", "--help"], capture_output=True,
                          text=True, check=False, env={**os.environ, "PYTHONPATH": str(installed)})
    assert done.returncode == 0 and "click log" in done.stdout


def test_lock_pins_every_requirement_with_hashes():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, flags=re.MULTILINE))
    locked, _, _peers = (ROOT / "setup.py").read_text(encoding="utf-8").partition('"peers": ')  # which only a benchmark needs
    required = re.findall(r'"([A-Za-z0-9-]+)[><]=?[^"]*"', locked)
    assert len(required) >= 15 and set(required) <= pinned
    assert lock.count("==") <= lock.count("--hash=sha256:")
    assert "://" not in lock


def test_keras_3_loaded_first_is_explained_in_one_sentence():
    done = _python("import tensorflow, trainer")
    assert done.returncode != 0
    assert re.fullmatch(r"ImportError: tensorflow was imported before dgenctr .* set TF_USE_LEGACY_KERAS=1 .*\.",
                        _last_line(done))


def test_keras_2_chosen_by_hand_is_accepted():
    done = _python("import sys, types; sys.modules['tensorflow'] = types.ModuleType('tensorflow'); import trainer",
                   TF_USE_LEGACY_KERAS="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["preprocessing", "trainer", "serving"])
def test_unsupported_python_is_explained_in_one_sentence(package):
    done = _python(f"import sys; sys.version_info = (3, 14, 0, 'final', 0); import {package}")
    assert done.returncode != 0
    assert _last_line(done) == (
        "ImportError: dgenctr needs Python 3.11 to 3.13, and this is Python 3.14: create the environment with one of "
        "those, for example `make setup PYTHON=python3.11`.")


@pytest.fixture
def makefile_copy(tmp_path) -> Path:
    for name in ("Makefile", "setup.py", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_make_explains_an_unsupported_python(makefile_copy):
    old = makefile_copy / "old-python"
    old.write_text(f"#!/bin/sh\nexec {sys.executable} -c \"import sys; sys.version_info = (3, 9, 1); $2\"\n")
    old.chmod(0o755)
    done = _make(makefile_copy, "setup", f"PYTHON={old}")
    assert done.returncode != 0
    assert f"requirements.lock is for Python 3.11 or 3.12 and {old} is 3.9: install one of those" in done.stderr
    assert not (makefile_copy / ".venv").exists()


def test_a_failed_setup_is_made_again_and_a_finished_one_is_not(makefile_copy):
    failing = _make(makefile_copy, "setup", "PYTHON=false")
    assert failing.returncode != 0 and not (makefile_copy / ".venv/.complete").exists()
    assert "Nothing to be done" not in _make(makefile_copy, "--dry-run", "setup").stdout
    (makefile_copy / ".venv").mkdir()
    (makefile_copy / ".venv/.complete").touch()
    assert "Nothing to be done" in _make(makefile_copy, "--dry-run", "setup").stdout
    later = (makefile_copy / ".venv/.complete").stat().st_mtime + 10
    os.utime(makefile_copy / "requirements.lock", (later, later))
    assert "pip sync" in _make(makefile_copy, "--dry-run", "setup").stdout


def test_continuous_integration_calls_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^exec make test </dev/null$", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
