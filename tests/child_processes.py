"""Scripts that train in forked children, so that TensorFlow is imported once for many runs, and how a test runs such a script."""

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

SECONDS_TO_WAIT = 900


def run_script(name: str, folder: Path, *arguments: str) -> None:
    """Runs a script of this folder to its end. Where it fails, shows what it and its children (`folder`/*.log) have printed."""
    command = [sys.executable, str(Path(__file__).with_name(name)), *arguments]
    script = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        output, _ = script.communicate(timeout=SECONDS_TO_WAIT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGKILL)
    logs = "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(folder.glob("*.log")))
    assert script.returncode == 0, f"{output}\n{logs}"


def fork(main: Callable[[], int], log: Path) -> int:
    """Runs `main` in a forked child that prints to the end of `log` and exits with its code. Returns the child's number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = main()
    except SystemExit as stop:
        code = stop.code
    except Exception:  # noqa: BLE001 - the child must not go on with its parent's program
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
