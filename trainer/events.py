"""Scalars for TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class EventLog:
    """Writes scalars of a run; all of a step are one event, so that logging costs a step next to nothing.

    Args:
      folder: the event folder; earlier files in it are kept.
      first_step: TensorBoard forgets what earlier files hold from this step on: steps after the last checkpoint of a
        killed run, which are now done again.
    """

    def __init__(self, folder: Path, first_step: int):
        self._writer = EventFileWriter(str(folder))
        self._writer.add_event(Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
