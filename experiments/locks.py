"""One process at a time in a folder."""

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator

LOCK = 'lock'


def _open(path):
  """A descriptor; only to read where nothing can be written."""
  try:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
  except OSError:
    return os.open(path, os.O_RDONLY)


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
  """Keeps other processes out of a folder.

  The lock is the kernel's, by `flock` on a file that stays: it ends with the
  process that holds it, however that dies, and no file is ever stale. What the
  file says, process and host, is for the message alone.

  Args:
    folder: The folder, created if it is missing. Where no file can be opened
      or locked, as in a folder that is read-only, it is left unlocked.

  Raises:
    ValueError: If another process holds the folder; it names the process.
    OSError: If there is no folder and none can be created.
  """
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / LOCK
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):
      descriptor = _open(path)
      stack.callback(os.close, descriptor)
      _take(descriptor, path)
    yield


def _take(descriptor, path):
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    holder = os.read(descriptor, 200).decode(errors='replace').strip()
    raise ValueError(
      f'{path.parent} is in use by {holder or "another process"}; wait for it '
      'to end, stop it, or use another --workdir.'
    ) from error
  os.ftruncate(descriptor, 0)
  holder = f'process {os.getpid()} on {socket.gethostname()}'
  os.write(descriptor, holder.encode())
