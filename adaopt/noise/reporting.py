"""What the instrument found: a table, and what to do about the batch size."""

import math
from typing import NamedTuple

import jax
import numpy as np
import optax

from adaopt._common import checks
from adaopt.noise import estimating, intervals

ENOUGH = 10
"""The effective steps below which nothing is advised."""


class NoiseRow(NamedTuple):
  """The noise scale of a tensor, or of all of them.

  NaN, or −1 under jax_debug_nans or jax_debug_infs, is no evidence.
  """

  name: str  # the path of the tensor; 'total'
  noise_scale: float  # B, examples; ∞ where no signal was found
  standard_error: float  # of B; ∞ where B is
  low: float  # of the interval of B, about 95 %
  high: float  # ∞: it has no upper end
  noise: float  # v, per example
  signal: float  # ‖∇F‖²


class NoiseReport(NamedTuple):
  """What `noise_report` returns, on the host."""

  batch_size: int  # b, to which advice refers
  examples: int  # measured so far
  effective_steps: float  # in the averages
  total: NoiseRow
  tensors: tuple[NoiseRow, ...]


def noise_report(
  opt_state: optax.OptState,
  params: optax.Params,
  *,
  batch_size: int | None = None,
) -> NoiseReport:
  """Reads what `noise_scale` measured.

  Args:
    opt_state: The state of `noise_scale`, or of an optimizer that holds one.
    params: The parameters, or their shapes: they name the tensors.
    batch_size: b, the batch size to advise on; None for that of the last step
      measured.

  Returns:
    The report: `noise_table` and `noise_advice` put it in words.

  Raises:
    ValueError: If there is not exactly one `noise_scale` in the state, params
      are of other tensors, or batch_size is out of range.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> instrument = adaopt.noise_scale(half_life=1000)
    >>> params = {'w': jnp.zeros(2)}
    >>> state = instrument.init(params)
    >>> for v in (36.0, 44.0):
    ...   statistics = adaopt.GradientStatistics(
    ...     jnp.array(8), mean={'w': jnp.array([3.0, 4.0])},
    ...     variance={'w': jnp.array(v)})
    ...   _, state = instrument.update(
    ...     statistics.mean, state, statistics=statistics)
    >>> print(adaopt.noise_table(adaopt.noise_report(state, params)))
    | tensor | noise scale | ± | 95 % | v | ‖∇F‖² |
    |---|---|---|---|---|---|
    | total | 2 | 0.25 | 1.5 to 2.5 | 40 | 20 |
    | w | 2 | 0.25 | 1.5 to 2.5 | 40 | 20 |
  """
  state = estimating.state_in(opt_state)
  named = jax.tree_util.tree_leaves_with_path(params)
  if len(named) + 1 != len(state.mean):
    raise ValueError(
      f'noise_report got {len(named)} parameters to name the '
      f'{len(state.mean) - 1} tensors measured; pass those that noise_scale '
      'was initialised with, and of a mask only the tensors in it.'
    )
  if batch_size is not None:
    checks.check_integer(1, batch_size=batch_size)
  names = ['total'] + [
    jax.tree_util.keystr(path, simple=True, separator='/') or 'params'
    for path, _ in named
  ]
  found = jax.device_get(intervals.noise_estimates(state))
  numbers = np.stack(
    [getattr(found, field) for field in NoiseRow._fields[1:]], axis=1
  )
  total, *tensors = (
    NoiseRow(name, *row)
    for name, row in zip(names, numbers.tolist(), strict=True)
  )
  return NoiseReport(
    batch_size=int(state.last_measured if batch_size is None else batch_size),
    examples=int(state.measured),
    effective_steps=float(found.effective_steps),
    total=total,
    tensors=tuple(tensors),
  )


def _check_report(report):
  if not isinstance(report, NoiseReport):
    raise ValueError(
      f'report must be one of noise_report(opt_state, params), got {report!r}.'
    )


def _is_known(x):
  return x >= 0


def _number(x):
  """At most three digits, or more before the point."""
  if not _is_known(x):
    return 'unknown'
  if math.isinf(x):
    return '∞'
  return f'{x:.0f}' if x >= 100 else f'{x:.2g}'


def _interval(row):
  if not _is_known(row.low):
    return 'unknown'
  if math.isinf(row.high):
    return f'{_number(row.low)} or more'
  return f'{_number(row.low)} to {_number(row.high)}'


def noise_table(report: NoiseReport) -> str:
  """The report as a table in Markdown, one row a tensor.

  Args:
    report: Of `noise_report`.

  Returns:
    The table, as in the example of `noise_report`.

  Raises:
    ValueError: If it is not a report.
  """
  _check_report(report)
  header = 'tensor', 'noise scale', '±', '95 %', 'v', '‖∇F‖²'
  rows = [header, ['---'] * len(header)]
  rows += [
    [
      row.name,
      _number(row.noise_scale),
      _number(row.standard_error),
      _interval(row),
      f'{row.noise:.3g}',
      f'{row.signal:.3g}',
    ]
    for row in (report.total, *report.tensors)
  ]
  cells = [f'| {" | ".join(row)} |' for row in rows]
  cells[1] = cells[1].replace(' ', '')
  return '\n'.join(cells)


def noise_advice(report: NoiseReport) -> str:
  r"""What the report means for the batch size, in words.

  The batch size advised is b times the power of two that comes closest to B,
  where the whole interval of B is on that side of b. The learning rate α and
  what it saves are by the trade-off of steps S against examples E at a constant
  noise scale:

    α_max / α = S / S_min = 1 + B / b,  E / E_min = 1 + b / B.

  Args:
    report: Of `noise_report`.

  Returns:
    A few sentences. Where there is not enough evidence, they say so and what to
    do.

  Raises:
    ValueError: If it is not a report.

  Example:
    >>> import adaopt
    >>> row = adaopt.noise.NoiseRow(
    ...   'total', noise_scale=500.0, standard_error=20.0, low=462.0,
    ...   high=544.0, noise=100.0, signal=0.2)
    >>> report = adaopt.noise.NoiseReport(
    ...   batch_size=128, examples=64_000, effective_steps=300.0, total=row,
    ...   tensors=())
    >>> print(adaopt.noise_advice(report))
    The critical batch size is about 500 ± 20 examples (95 %: 462 to 544).
    A batch of 128 is below it: take 512, and 2.48 times the learning rate.
    That takes 60 % fewer steps and 61 % more examples.
    No size saves more than 80 % of the steps.
    Grow again once the interval lies above 512.

  References:
    McCandlish et al., `An Empirical Model of Large-Batch Training
    <https://arxiv.org/abs/1812.06162>`_, 2018, sections 2.2 and 2.3
  """
  _check_report(report)
  found, b = report.total, report.batch_size
  insufficient = _insufficient(report)
  if insufficient:
    return insufficient
  scale, size = found.noise_scale, _advised(found, b)
  lines = [
    f'The critical batch size is about {_number(scale)} ± '
    f'{_number(found.standard_error)} examples (95 %: {_interval(found)}).'
  ]
  if size == b:
    lines += [f'A batch of {b} is near it: keep it.']
  else:
    side = 'below' if size > b else 'above'
    steps = (1 + scale / size) / (1 + scale / b)
    examples = (1 + size / scale) / (1 + b / scale)
    lines += [
      f'A batch of {b} is {side} it: take {size}, and '
      f'{1 / steps:.3g} times the learning rate.',
      f'That takes {_change(steps)} steps and {_change(examples)} examples.',
    ]
  lines += [
    f'No size saves more than {_percent(scale / (scale + b))} of the steps.',
    f'Grow again once the interval lies above {size}.',
  ]
  return '\n'.join(lines)


def _insufficient(report):
  """Why there is nothing to advise, or an empty string."""
  found, b = report.total, report.batch_size
  if report.effective_steps < ENOUGH:
    return (
      f'Not enough evidence: {report.effective_steps:.1f} effective steps of '
      f'the {ENOUGH} that it takes. Measure more steps, and with a half-life '
      'of many batches.'
    )
  if not _is_known(found.low):
    return 'Not enough evidence: the gradients had no noise.'
  if math.isfinite(found.high):
    return ''
  lines = [
    'Not enough evidence for an upper end: the noise scale is '
    f'{_number(found.low)} or more, and the signal may be 0. Measure longer, '
    'with a longer half-life or larger batches.'
  ]
  if math.isinf(found.low) or found.low >= 2 * b:
    lines += [f'A batch of {2 * b} is below it all the same.']
  return ' '.join(lines)


def _advised(row, b):
  """b, or its multiple by a power of two if B is clearly beyond it."""
  power = round(math.log2(row.noise_scale / b))
  if power > 0 and row.low > b:
    return b * 2**power
  if power < 0 and row.high < b:
    return max(round(b / 2**-power), 1)
  return b


def _percent(x):
  return f'{100 * x:.0f} %'


def _change(ratio):
  if ratio < 1:
    return f'{_percent(1 - ratio)} fewer'
  return f'{_percent(ratio - 1)} more'
