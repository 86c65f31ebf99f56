"""A first signal that kills a run, or a second that does not."""

import signal

import pytest

from adaopt.experiments import interrupts


@pytest.mark.parametrize('number', interrupts.SIGNALS)
def test_the_first_signal_is_a_wish_and_the_second_interrupts(number):
  before = signal.getsignal(number)
  with interrupts.requested_stop() as stop:
    assert not stop.is_set()
    signal.raise_signal(number)
    assert stop.is_set()
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(number)
  assert signal.getsignal(number) is before
