"""Schedules of stages: a value that holds until a threshold of examples."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax.numpy as jnp

from adaopt._common import checks, counts
from adaopt.batch_size import adapting

_STAGE = re.compile(r'(\d+(?:\.\d+)?)([KMBT]?):(\d+)', re.ASCII)
_UNITS = {'': 1, 'K': 10**3, 'M': 10**6, 'B': 10**9, 'T': 10**12}


def stages(
  values: Sequence[Any], thresholds: Sequence[int]
) -> Callable[..., Any]:
  """The value after as many thresholds as a count of examples has reached."""

  def schedule(examples, turns=0):
    value = values[0]
    for threshold, later in zip(thresholds, values[1:], strict=True):
      reached = counts.reaches(examples, turns, threshold)
      value = jnp.where(reached, later, value)
    return value

  return schedule


def stage_schedule(
  text: str, *, tokens_per_example: int = 1
) -> Callable[..., Any]:
  """A schedule of batch sizes as it is written in "0:768 250B:1536".

  Each stage is threshold:size. The size holds from the first update before
  which the threshold was reached, counted in examples, or in tokens where
  `tokens_per_example` is given; K, M, B and T stand for 10³, 10⁶, 10⁹ and 10¹²,
  as in 1.5B. Sizes are numbers of examples always. Thresholds are exact, up to
  2⁶² examples: `schedule_batch_size` counts beyond 2³¹.

  Args:
    text: The stages, with blanks between them. The first threshold is 0, and
      they rise.
    tokens_per_example: s, the length of a sequence: a threshold of T tokens is
      one of ⌈T / s⌉ examples.

  Returns:
    A schedule for `schedule_batch_size`, from the number of examples seen to
    the batch size. As a function of Python it takes a number of any size; in a
    transform, what is left of it modulo 2³¹ and `turns`, how often it went
    round, both [] int32. A function around it passes `turns` on, or it reaches
    no threshold beyond 2³¹.

  Raises:
    ValueError: If the text is not of that form, the first threshold is not 0,
      they do not rise, one is not a whole number or not below 2⁶², or a size
      is not a positive integer below 2³¹.

  Example:
    >>> import adaopt
    >>> schedule = adaopt.batch_size.stage_schedule(
    ...   '0:768 250B:1536', tokens_per_example=4096)
    >>> transform = adaopt.schedule_batch_size(schedule)
    >>> for examples in (0, 61_035_156, 61_035_157):
    ...   print(schedule(examples))
    768
    768
    1536

  References:
    `Megatron-LM <https://github.com/NVIDIA/Megatron-LM>`_, the option
    ``--step-batch-size-schedule``
  """
  checks.check_integer(1, tokens_per_example=tokens_per_example)
  if not isinstance(text, str) or not text.split():
    raise ValueError(
      f"text must be stages such as '0:768 250B:1536', got {text!r}."
    )
  thresholds, sizes = zip(*map(_stage, text.split()), strict=True)
  if thresholds[0] != 0:
    raise ValueError(
      f'the first threshold of text must be 0, got {text!r}; begin it with '
      f"'0:size'."
    )
  if list(thresholds) != sorted(set(thresholds)):
    raise ValueError(f'the thresholds of text must rise, got {text!r}.')
  examples = [-(-t // int(tokens_per_example)) for t in thresholds[1:]]
  return stages(sizes, examples)


def _stage(part):
  """Threshold and size, exact."""
  match = _STAGE.fullmatch(part)
  if not match:
    raise ValueError(
      f'text must hold stages threshold:size such as 250B:1536, in K, M, B or '
      f'T, got {part!r}.'
    )
  number, unit, size = match.groups()
  threshold = Fraction(number) * _UNITS[unit]
  if threshold.denominator > 1:
    raise ValueError(
      f'a threshold of text must be a whole number, got {part!r}; write fewer '
      'decimals or a smaller unit.'
    )
  checks.check_integer(
    0, bits=counts.BITS, **{'a threshold of text': int(threshold)}
  )
  checks.check_integer(1, **{'a size of text': int(size)})
  return int(threshold), int(size)


def late_switch(
  init_batch_size: int,
  max_batch_size: int,
  *,
  num_examples: int,
  fraction: float,
) -> Callable[..., Any]:
  """A small batch size for most of the data, and a large one for the rest.

  b = b_0 before n = fraction · N examples, and b_max from there on. After the
  switch the loss soon comes to that of the large size, at less data.

  Args:
    init_batch_size: b_0.
    max_batch_size: b_max ≥ b_0.
    num_examples: N, the budget.
    fraction: Of the budget, in (0, 1); n is the nearest whole number.

  Returns:
    A schedule for `schedule_batch_size`, as `stage_schedule` returns one.

  Raises:
    ValueError: If a size or the budget is not a positive integer, b_0 > b_max,
      the fraction is not in (0, 1), or n is not in [1, N).

  Example:
    >>> import adaopt
    >>> schedule = adaopt.batch_size.late_switch(
    ...   64, 1024, num_examples=100_000, fraction=0.8)
    >>> print(schedule(79_999), schedule(80_000))
    64 1024

  References:
    Wang et al., `Fast Catch-Up, Late Switching: Optimal Batch Size Scheduling
    via Functional Scaling Laws <https://arxiv.org/abs/2602.14208>`_, 2026
  """
  adapting.check_bounds(init_batch_size, max_batch_size, 1)
  checks.check_integer(1, bits=counts.BITS, num_examples=num_examples)
  checks.check_positive(fraction=fraction)
  if not fraction < 1:
    raise ValueError(f'fraction must be below 1, got {fraction}.')
  switch = round(Fraction(float(fraction)) * int(num_examples))
  if not 1 <= switch < num_examples:
    raise ValueError(
      f'fraction must switch at an example of [1, {num_examples}), got '
      f'{fraction}, which is {switch} examples; take a larger num_examples, or '
      'schedule_batch_size of one size.'
    )
  return stages([init_batch_size, max_batch_size], [switch])
