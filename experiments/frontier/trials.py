"""What a run of a frontier comes to."""

from typing import Any, NamedTuple


class Outcome(NamedTuple):
  """What a run came to."""

  steps: int
  examples: int
  train_loss: float  # NaN where the run diverged, as in all losses
  validation_loss: float
  test_loss: float
  test_accuracy: float
  seconds: float  # of training
  rounds: tuple[int, ...]  # Σ ⌈b / (P m)⌉ over steps, for every P
  curve: tuple[tuple[int, int], ...]  # (examples, batch size), some 60 points


def _tuples(value):
  """JSON's lists as tuples."""
  if isinstance(value, list | tuple):
    return tuple(map(_tuples, value))
  return value


def outcome(fields: dict[str, Any]) -> Outcome:
  """The outcome of these fields, as JSON has them."""
  return Outcome(**{name: _tuples(value) for name, value in fields.items()})
