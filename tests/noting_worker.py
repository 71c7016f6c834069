"""What a process of a schedule does in tests; apart, so that the process imports nothing that takes long."""

import json
import sys
import time
from pathlib import Path


def note(task: tuple[str, str]) -> None:
    """Notes when it began and ended in the file `name` of the folder; fails where the name is "bad"."""
    name, folder = task
    began = time.monotonic()
    time.sleep(0.3)
    Path(folder, name).write_text(json.dumps([began, time.monotonic()]))
    if name == "bad":
        sys.exit(3)
