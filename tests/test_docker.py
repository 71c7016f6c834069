"""The Dockerfile: what can be seen without Docker, and its steps in a clean environment."""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_saved_models as tiny
from dockerfiles import read_stages

ROOT = Path(__file__).resolve().parents[1]
STAGES = read_stages(ROOT / "Dockerfile")
TARGETS = ("trainer", "serving", "tf-serving")
TOOLS = Path(sys.executable).parent
SECONDS_TO_INSTALL, SECONDS_TO_START = 300, 120


def ancestry(name: str) -> list:
    stage = STAGES[name]
    return [stage, *(ancestry(stage.base) if stage.base in STAGES else [])]


def pinned(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_the_linter_has_nothing_to_say():
    linter = TOOLS / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint is not installed: `make setup` installs it")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_images_have_exact_tags():
    bases = {stage.base for stage in STAGES.values()} - STAGES.keys()
    assert bases and all(re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+(-[a-z-]+)?", base) for base in bases), bases


@pytest.mark.parametrize("target", TARGETS)
def test_a_normal_user_runs_each_image(target):
    user = STAGES[target].last("USER")
    assert re.fullmatch(r"[0-9]+", user) and int(user) > 0  # a number, which Kubernetes can see is not root
    assert any(f"useradd --uid {user} " in command for stage in ancestry(target) for command in stage.all("RUN"))


@pytest.mark.parametrize("target", ["serving", "tf-serving"])
def test_each_server_has_a_health_check_of_its_own_port(target):
    assert f"--rest_api_port={8501}" in STAGES[target].words("ENTRYPOINT")
    assert "127.0.0.1" in STAGES[target].last("HEALTHCHECK") and "8501" in STAGES[target].last("HEALTHCHECK")


def test_nothing_secret_is_built_in():
    for stage in STAGES.values():
        assert not stage.all("ARG")  # would stay in the image's history
        assert not re.search(r"token|password|secret|key|://", " ".join(stage.all("ENV")), re.IGNORECASE)
    copied = {source for stage in STAGES.values() for text in stage.all("COPY") if "--from" not in text for source in text.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1] == "*" and {line[1:] for line in ignored if line.startswith("!")} == {Path(source).parts[0] for source in copied}
    assert all((ROOT / source).exists() for source in copied)


def test_versions_agree():
    [(uv, *_)] = [re.findall(r"uv==(\S+)", command) for command in STAGES["installer"].all("RUN")]
    assert f"UV_VERSION := {uv}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    version = re.search(r'version="(.*)"', (ROOT / "setup.py").read_text(encoding="utf-8")).group(1)
    assert f'image.version="{version}"' in STAGES["runtime"].last("LABEL")


def test_make_builds_each_target():
    done = subprocess.run(["make", "--dry-run", "images"], cwd=ROOT, capture_output=True, text=True, check=True)
    built = re.search(r"for target in (.*); do", done.stdout).group(1)
    assert tuple(built.split()) == TARGETS and "--target $target --tag dgenctr-$target:0.1.0" in done.stdout


def test_the_trainer_has_the_packages_of_make_setup_but_for_the_tools():
    [command] = STAGES["trainer-packages"].all("RUN")
    assert "uv pip sync --require-hashes --python /opt/venv/bin/python requirements.lock && uv pip uninstall" in command
    tools = command.partition("uninstall --python /opt/venv/bin/python ")[2].split()
    developers = re.search(r'"dev": \[(.*)\]', (ROOT / "setup.py").read_text(encoding="utf-8")).group(1)
    assert set(tools) <= pinned("requirements.lock").keys() and all(f'"{tool}>=' in developers for tool in tools)


def test_the_server_has_some_of_the_trainers_packages_in_the_same_versions():
    trainer, server = pinned("requirements.lock"), pinned("requirements-serving.lock")
    assert server.items() < trainer.items() and len(server) < len(trainer) / 2
    lock = (ROOT / "requirements-serving.lock").read_text(encoding="utf-8")
    assert lock.count("--hash=sha256:") >= len(server) and "://" not in lock


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """What the stages behind the target `serving` make, with another folder in the place of /opt."""
    folder, build = tmp_path_factory.mktemp("opt"), tmp_path_factory.mktemp("build")
    if not (TOOLS / "uv").exists():
        pytest.skip("uv is not installed beside Python: `make setup` installs it")
    for name in ("requirements-serving.lock", "setup.py", "README.md", "preprocessing", "trainer", "serving"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, build / name)
    installing, *more = (command for stage in ("installer", "serving-packages", "program") for command in STAGES[stage].all("RUN"))
    for command in [installing.partition(" && ")[2], *more]:  # uv is here already
        run_step(command.replace("/opt/", f"{folder}/"), build)
    return folder


def run_step(command: str, build: Path) -> None:
    """Runs a step from uv's cache, which `make setup` has filled, or else with the network."""
    environment = {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}", "UV_PYTHON_DOWNLOADS": "never"}
    for changes in ({"UV_OFFLINE": "1"}, {}):
        done = subprocess.run(["sh", "-c", command], cwd=build, env={**os.environ, **environment, **changes}, capture_output=True,
                              text=True, check=False, timeout=SECONDS_TO_INSTALL)
        if done.returncode == 0:
            return
    pytest.fail(f"{command}\n{done.stderr}")


def container_environment(image: Path) -> dict[str, str]:
    """The variables of the image, and nothing of this process that could lend it packages."""
    [text] = STAGES["runtime"].all("ENV")
    variables = dict(re.findall(r"(\w+)=(\S+)", text.replace("/opt/", f"{image}/").replace("$PATH", "/usr/bin:/bin")))
    return {**variables, "HOME": str(image)}


def test_the_trainers_command_explains_itself(image):
    environment = {**os.environ, "PYTHONPATH": container_environment(image)["PYTHONPATH"]}
    command = [sys.executable, *STAGES["trainer"].words("ENTRYPOINT")[1:], *STAGES["trainer"].words("CMD")]
    done = subprocess.run(command, cwd=image, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--stage" in done.stdout, done.stderr


def test_the_server_answers_in_a_clean_environment(image, tmp_path):
    """The image's own command and health check, on free ports of this machine, with nothing but its packages."""
    tiny.save(tmp_path / "clicks" / "1")
    environment = container_environment(image)
    asked = [word.replace("/models", str(tmp_path)) for word in (*STAGES["serving"].words("ENTRYPOINT"), *STAGES["serving"].words("CMD"))]
    asked[0] = str(image / "dgenctr" / "bin" / asked[0])
    with open(tmp_path / "errors", "w") as errors:
        server = subprocess.Popen([*asked, "--host=127.0.0.1", "--port=0", "--rest_api_port=0"], env=environment, cwd=tmp_path,
                                  stdout=subprocess.PIPE, stderr=errors)
    try:
        said = until(server, r"REST and metrics on http://127\.0\.0\.1:(\d+)\n")
        assert said, (tmp_path / "errors").read_text()
        check = [word.replace("8501", said.group(1)) for word in STAGES["serving"].words("HEALTHCHECK")]
        check[0] = str(image / "venv" / "bin" / check[0])
        assert subprocess.run(check, env=environment, check=False).returncode == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(SECONDS_TO_START) == 0
    finally:
        server.kill()
        server.wait()
    assert subprocess.run(check, env=environment, stderr=subprocess.DEVNULL, check=False).returncode != 0


def until(server: subprocess.Popen, pattern: str) -> re.Match | None:
    """What matches in what a server says; None if it ends or is silent for too long."""
    said, give_up = "", time.monotonic() + SECONDS_TO_START
    while not (match := re.search(pattern, said)) and time.monotonic() < give_up:
        readable, _, _ = select.select([server.stdout], [], [], 1)
        if readable:
            if not (more := os.read(server.stdout.fileno(), 4096).decode()):
                return None
            said += more
    return match


def test_versions_are_managed_with_the_servers_packages(image, tmp_path):
    (tmp_path / "1").mkdir()
    done = subprocess.run([image / "dgenctr" / "bin" / "dgenctr-versions", "list", tmp_path], env=container_environment(image),
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "not exported here" in done.stdout, done.stderr
