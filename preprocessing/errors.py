"""Errors that a user can mend, and the one place that turns them into a paragraph and an exit code."""

import errno
import os
import re
import select
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence

EXIT_USER_ERROR = 2
EXIT_CLOSED_PIPE = 128 + signal.SIGPIPE  # what a shell says of a command that the signal ended
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # all that NumPy says of a full disk


class UserError(Exception):
    """Something outside the program is wrong: a file, a line, a field, a setting.

    The message names the culprit, what was expected, what was received, and what to do next.
    """

    exit_code = EXIT_USER_ERROR


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs a command, which may return an exit code: a `UserError` becomes one paragraph on stderr and its exit code, 2.

    So does what the system says of a file (no permission, not a folder) and of a full disk. `--traceback` shows the traceback
    instead. Where nobody reads the output any more, as behind `| head`, the command ends without a word. Any other exception is a
    defect of ours and keeps its traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _reported(main, argv)
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        return EXIT_CLOSED_PIPE
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # which Rich turns into this
            raise
        return EXIT_CLOSED_PIPE
    finally:
        _drop_what_cannot_be_written()


def _reported(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
    show_traceback = "--traceback" in argv
    try:
        code = main([argument for argument in argv if argument != "--traceback"]) or 0
        if sys.stdout:
            sys.stdout.flush()  # the interpreter would do so at its end, too late for an error to be told
        return code
    except UserError as error:
        _tell(_paragraph(error), show_traceback)
        return error.exit_code
    except OSError as error:
        said = _said_by_the_system(error)
        if not said:
            raise
        _tell(said, show_traceback)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _said_by_the_system(error: OSError) -> str | None:
    """What is outside the program; None where that is not known, so that the error may be ours."""
    if error.filename:
        return f"error: {error.filename}: {error.strerror}"
    if error.errno in DISK_FULL or _SHORT_WRITE.fullmatch(str(error)):
        return _paragraph(f"nothing more can be written ({error.strerror or error}): the disk is full, or a quota or limit of file size is "
                          "reached; free some space, or choose an output on another disk, and give the same command again")
    return None


def _paragraph(error: UserError | str) -> str:
    return textwrap.fill(f"error: {error}", width=100, break_long_words=False, break_on_hyphens=False)


def _tell(said: str, show_traceback: bool) -> None:
    """Prints what the error that is being handled says, or where it was raised."""
    if show_traceback:
        traceback.print_exc()
    else:
        print(said, file=sys.stderr)


def _reader_has_gone() -> bool:
    """Whether stdout or stderr is a pipe that nobody reads any more: else it was a connection of ours that broke."""
    poll = select.poll()
    for handle in (1, 2):
        poll.register(handle, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _drop_what_cannot_be_written() -> None:
    """Spares the interpreter, which writes at its end what is still in the buffers, a complaint and an exit code of its own."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
