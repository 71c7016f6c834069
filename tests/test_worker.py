"""What both phases do about a disk that fills up."""

import errno
import os

import pytest

from preprocessing.errors import UserError
from preprocessing.worker import _explain_when_full


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_paragraph(tmp_path, code):
    full = OSError(code, os.strerror(code))
    said = rf"nothing more can be written to .* \({os.strerror(code)}\): a data folder takes about as much as the log"
    with pytest.raises(UserError, match=said), _explain_when_full(tmp_path):
        raise RuntimeError(f"{full!r} [while running 'Write']")  # as Beam wraps it
    with pytest.raises(RuntimeError, match="something else"), _explain_when_full(tmp_path):
        raise RuntimeError("something else")
