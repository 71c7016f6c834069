"""Errors that a user can mend, and the one place that turns them into a paragraph and an exit code."""

import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence

EXIT_USER_ERROR = 2


class UserError(Exception):
    """Something outside the program is wrong: a file, a line, a field, a setting.

    The message names the culprit, what was expected, what was received, and what to do next.
    """

    exit_code = EXIT_USER_ERROR


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs a command, which may return an exit code: a `UserError` becomes one paragraph on stderr and its exit code, 2.

    So does what the system says of a file (no permission, disk full, not a folder). Any other exception is a defect of
    ours and keeps its traceback. `--traceback` keeps it for user errors too.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    show_traceback = "--traceback" in argv
    try:
        return main([argument for argument in argv if argument != "--traceback"]) or 0
    except UserError as error:
        if show_traceback:
            traceback.print_exc()
        else:
            print(textwrap.fill(f"error: {error}", width=100, break_long_words=False,
                                break_on_hyphens=False), file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if show_traceback or not error.filename:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
