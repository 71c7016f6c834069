"""How every command ends: one paragraph and an exit code for what a user can mend, a traceback for what is ours."""

import errno
import os
import subprocess
import sys

import pytest

from preprocessing.errors import EXIT_CLOSED_PIPE, EXIT_USER_ERROR, UserError, run


def raising(error: BaseException):
    def main(argv):
        raise error

    return main


def ended(capsys, error: BaseException, *argv: str) -> tuple[int, str]:
    code = run(raising(error), argv)
    return code, " ".join(capsys.readouterr().err.split())


def test_a_mistake_of_the_user_is_one_paragraph(capsys):
    assert ended(capsys, UserError("file a.csv is empty")) == (EXIT_USER_ERROR, "error: file a.csv is empty")
    code, said = ended(capsys, UserError("file a.csv is empty"), "--traceback")
    assert code == EXIT_USER_ERROR and "Traceback" in said


def test_a_file_that_the_system_refuses_is_named(capsys):
    assert ended(capsys, PermissionError(errno.EACCES, "Permission denied", "a.csv")) == (2, "error: a.csv: Permission denied")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_paragraph_though_no_file_is_named(capsys, code):
    full = OSError(code, os.strerror(code))
    said = f"error: nothing more can be written ({os.strerror(code)}): the disk is full, or a quota or limit of file size is reached; free "
    assert (found := ended(capsys, full))[0] == EXIT_USER_ERROR and found[1].startswith(said)
    found, said = ended(capsys, full, "--traceback")
    assert found == EXIT_USER_ERROR and "Traceback" in said


def test_an_array_that_does_not_fit_on_the_disk(capsys):
    """NumPy does not say why it could not write all of it."""
    code, said = ended(capsys, OSError("1000 requested and 0 written"))
    assert code == EXIT_USER_ERROR and said.startswith("error: nothing more can be written (1000 requested and 0 written): the disk")


@pytest.mark.parametrize("error", [OSError("strange"), OSError(errno.EINVAL, "Invalid argument"), ValueError("ours"),
                                   BrokenPipeError(errno.EPIPE, "of a connection")])
def test_what_is_ours_keeps_its_traceback(error):
    with pytest.raises(type(error), match=str(error).replace("[", r"\[")):
        run(raising(error), [])


# ---- Whoever reads the output has gone ----

PRINT = "for number in range(100_000): print(number)"
RICH = "from rich.console import Console; console = Console()\n    for number in range(20_000): console.print(number)"
LITTLE = "print('little')"
MISTAKE = f"{LITTLE}\n    raise UserError('a mistake')"
HELP = "import argparse; argparse.ArgumentParser().parse_args(['--help'])"


def piped_into(reader: str, body: str) -> tuple[int, str]:
    """The exit code and what is said on stderr where stdout goes into a command that does not read it all."""
    program = f"import sys\nfrom preprocessing.errors import UserError, run\ndef main(argv):\n    {body}\nsys.exit(run(main, []))"
    script = f'{{ "$0" -c "$1"; echo "code $?" >&2; }} | {reader}'
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", script, sys.executable, program], capture_output=True, text=True, check=False, env=buffered)
    said, _, code = done.stderr.rpartition("code ")
    return int(code), said


@pytest.mark.parametrize("body", [PRINT, RICH])
def test_a_closed_pipe_ends_a_command_quietly(body):
    assert piped_into("head -1", body) == (EXIT_CLOSED_PIPE, "")


@pytest.mark.parametrize(("body", "code", "said"), [
    (LITTLE, EXIT_CLOSED_PIPE, ""), (HELP, 0, ""), (MISTAKE, EXIT_USER_ERROR, "error: a mistake\n"),
])
def test_a_closed_pipe_is_not_complained_of_at_the_end(body, code, said):
    assert piped_into("sleep 0", f"import time; time.sleep(0.5)\n    {body}") == (code, said)


def test_output_that_does_not_fit_on_the_disk():
    code, said = piped_into("cat", f"sys.stdout = open('/dev/full', 'w')\n    {LITTLE}")
    assert code == EXIT_USER_ERROR and said.startswith("error: nothing more can be written (No space left on device)")


def test_a_command_without_output():
    assert piped_into("cat", f"sys.stdout = None\n    {LITTLE}") == (0, "")
