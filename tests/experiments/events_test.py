"""Events that TensorBoard does not read, or that a full disk stops in silence.

The form of a record is that of TFRecord: length, its check, data, its check.
"""

import struct

import pytest
import tensorboardX
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from adaopt.experiments import events


def read(path):
  content, found = path.read_bytes(), []
  while content:
    (length,) = struct.unpack('<Q', content[:8])
    head, data = content[:8], content[12 : 12 + length]
    checks = struct.unpack('<II', content[8:12] + content[12 + length :][:4])
    assert checks == tuple(map(record_writer.masked_crc32c, (head, data)))
    found.append(event_pb2.Event.FromString(data))
    content = content[16 + length :]
  return found


def test_scalars_are_read_back_and_a_resumed_file_drops_what_came_later(
  tmp_path,
):
  first = events.open_file(tmp_path, None)
  events.write(first, {'train/loss': 0.5, 'train/batch_size': 8.0}, 16)
  events.close(first)
  second = events.open_file(tmp_path, 17)
  events.close(second)
  paths = sorted(tmp_path.glob(events.PATTERN))
  version, scalars = read(paths[0])
  assert version.file_version == 'brain.Event:2'
  assert scalars.step == 16
  assert {v.tag: v.simple_value for v in scalars.summary.value} == {
    'train/loss': 0.5,
    'train/batch_size': 8.0,
  }
  _, start = read(paths[1])
  assert start.step == 17
  assert start.session_log.status == event_pb2.SessionLog.START


def test_a_full_disk_is_an_error_that_names_the_file():
  writer = tensorboardX.RecordWriter('/dev/full')
  events.write(writer, {'train/loss': 0.5}, 16)
  for end in (events.flush, events.close):
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
      end(writer)
