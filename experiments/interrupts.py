"""Ctrl-C and SIGTERM request a graceful stop that saves the results."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def requested_stop() -> Iterator[threading.Event]:
  """Yields an event that the first signal sets; the second interrupts."""
  stop = threading.Event()

  def handle(signum, frame):
    del signum, frame
    if stop.is_set():
      raise KeyboardInterrupt
    stop.set()
    # Not by `print`, which may be what the signal has interrupted.
    os.write(2, b'\nStopping after the next step; Ctrl-C again stops now.\n')

  previous = {number: signal.signal(number, handle) for number in SIGNALS}
  try:
    yield stop
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
