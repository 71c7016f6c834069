"""TensorFlow's start: quiet where it works, and loud where it does not."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = "import preprocessing, sys; from preprocessing.environment import start_tensorflow; "


def run_python(code):
    return subprocess.run([sys.executable, "-c", START + code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_tensorflow_starts_without_notes_and_errors_are_still_seen():
    done = run_python("start_tensorflow(); import tensorflow as tf; print(tf.keras.layers.Dense.__module__); sys.exit('seen')")
    assert done.stdout.startswith("tf_keras.")
    assert done.stderr.strip() == "seen"


def test_a_failed_start_shows_what_was_held_back():
    fail = "import os; sys.meta_path.insert(0, type('F', (), {'find_spec': lambda *a: (os.write(2, b'note from a library'), 1 / 0)})); "
    done = run_python(fail + "start_tensorflow()")
    assert done.returncode == 1
    assert "note from a library" in done.stderr and "ZeroDivisionError" in done.stderr
