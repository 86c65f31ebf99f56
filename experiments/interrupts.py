"""Ctrl-C as a wish: a run ends after the step at hand, with its results."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def requested_stop() -> Iterator[threading.Event]:
  """Yields an event that the first Ctrl-C sets; the second one interrupts."""
  stop = threading.Event()

  def handle(signum, frame):
    del signum, frame
    if stop.is_set():
      raise KeyboardInterrupt
    stop.set()
    print('\nStopping after this step; Ctrl-C again stops at once.')

  previous = signal.signal(signal.SIGINT, handle)
  try:
    yield stop
  finally:
    signal.signal(signal.SIGINT, previous)
