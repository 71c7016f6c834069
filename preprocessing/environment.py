"""Checks, on import of any of our packages, that Python and Keras are the ones this project runs on."""

import os
import sys
import tempfile

PYTHON_VERSIONS = ((3, 11), (3, 13))


def require() -> None:
    """Selects Keras 2 (`tf_keras`) before TensorFlow loads, or explains in one sentence why that is impossible.

    Raises:
      ImportError: Python is outside 3.11 to 3.13, or TensorFlow was imported first with Keras 3.
    """
    lowest, highest = PYTHON_VERSIONS
    if not lowest <= sys.version_info[:2] <= highest:
        raise ImportError(
            f"dgenctr needs Python {lowest[0]}.{lowest[1]} to {highest[0]}.{highest[1]}, and this is Python "
            f"{sys.version_info[0]}.{sys.version_info[1]}: create the environment with one of those, "
            "for example `make setup PYTHON=python3.11`."
        )
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true")
    if "tensorflow" in sys.modules and not legacy:
        raise ImportError(
            "tensorflow was imported before dgenctr and has selected Keras 3, which tensorflow-recommenders cannot "
            "use: import dgenctr's packages first, or set TF_USE_LEGACY_KERAS=1 before Python starts."
        )
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def start_tensorflow() -> None:
    """Imports TensorFlow and looks for devices without the notes that its libraries print before any log level applies.

    They tell every user of a machine without a GPU that it has none, in ten lines. They are printed after all if the
    import fails, or if TF_CPP_MIN_LOG_LEVEL was set to 0 or 1 to see such notes.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("0", "1"):
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except Exception:
            notes.seek(0)
            os.write(stderr, notes.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
