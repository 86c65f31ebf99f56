"""Event files for TensorBoard, written by the loop itself.

A thread that writes them could die of a full disk, and the loop wait for it.
"""

import pathlib
import time

import tensorboardX
from tensorboardX.proto import event_pb2, summary_pb2

from adaopt.experiments import files

PATTERN = 'events.out.tfevents.*'


def open_file(
  folder: pathlib.Path, first: int | None
) -> tensorboardX.RecordWriter:
  """Starts a new file of events.

  Args:
    folder: The folder of the run.
    first: TensorBoard is to drop what older files hold from this step on; None
      to keep all.
  """
  path = folder / PATTERN.replace('*', str(time.time_ns()))
  with files.naming(path):
    writer = tensorboardX.RecordWriter(str(path))
  _write(writer, file_version='brain.Event:2')
  if first is not None:
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    _write(writer, step=first, session_log=start)
  return writer


def _write(writer, **fields):
  event = event_pb2.Event(wall_time=time.time(), **fields)
  with files.naming(writer.path):
    writer.write(event.SerializeToString())


def write(
  writer: tensorboardX.RecordWriter, values: dict[str, float], step: int
) -> None:
  """Writes scalars by their tags; raises OSError that names the file."""
  value = summary_pb2.Summary.Value
  scalars = [value(tag=tag, simple_value=x) for tag, x in values.items()]
  _write(writer, step=step, summary=summary_pb2.Summary(value=scalars))


def flush(writer: tensorboardX.RecordWriter) -> None:
  """Brings what was written to the disk."""
  with files.naming(writer.path):
    writer.flush()


def close(writer: tensorboardX.RecordWriter) -> None:
  """Closes the file."""
  with files.naming(writer.path):
    writer.close()
