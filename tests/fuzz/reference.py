"""The gradient of every example by `vmap(grad)`, and statistics in float64."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests import oracles
from tests.fuzz import programs

RTOL = 1e-10
"""Of float64: a million roundings, or a loss that magnifies them as much."""

ROUNDINGS = 16
"""Of fewer bits: so many of the largest gradient, beside the error of
`vmap(grad)` itself."""


SMALLEST = 1e-2
"""A loss or gradient that is less has no more precision: it may be what others
leave that cancel, such as that of logits that are all equal."""


class Rows(NamedTuple):
  """Of b examples; all in float64."""

  gradients: dict[str, np.ndarray]  # ∇a_i, [b, ...]
  weights: np.ndarray  # w_i, [b]
  totals: np.ndarray  # a_i, [b]
  error: float  # up to which a gradient ∇a_i is known, in ‖·‖
  total_error: float  # likewise of a_i


def flat(gradients: dict[str, np.ndarray]) -> np.ndarray:
  """All tensors of every example in one row. [b, d]."""
  leaves = jax.tree.leaves(gradients)
  return np.concatenate([x.reshape(len(x), -1) for x in leaves], 1)


def is_double(program: programs.Program) -> bool:
  return program.compute == 'float64'


def _each(losses):
  """(totals, weights), gradients of every example in numpy's float64."""
  function = jax.value_and_grad(losses.of_one, has_aux=True)
  found = jax.jit(jax.vmap(function, (None, 0)))(losses.params, losses.batch)
  return jax.tree.map(lambda x: np.asarray(x, np.float64), found)


def _differentiate_batch(losses):
  """Raises what JAX raises: of a batch it may lack rules that one example has.

  Such as a `custom_jvp` of a switch whose index is batched.
  """
  total = lambda params: jax.tree.leaves(losses.of_batch(params, losses.batch))[
    0
  ]
  jax.eval_shape(jax.grad(total), losses.params)


def _largest(rows):
  return float(np.max(np.linalg.norm(rows, axis=1)))


def rows_of(program: programs.Program, losses: programs.Losses) -> Rows:
  """The rows of a program.

  Args:
    program: The program.
    losses: It, to run.

  Returns:
    Its rows. Those of fewer bits are computed in float64, from the same
    numbers.
  """
  _differentiate_batch(losses)
  double = dict.fromkeys(('params', 'compute', 'narrow'), 'float64')
  with jax.enable_x64(True):
    exact = programs.losses_of(program._replace(**double))
    exact = exact._replace(
      params=jax.tree.map(lambda x: jnp.asarray(x, float), losses.params),
      batch=exact.batch | {'x': jnp.asarray(losses.batch['x'], float)},
    )
    (totals, weights), gradients = _each(exact)
  whole = _largest(flat(gradients))
  rtol, error, total_error = RTOL, 0.0, 0.0
  if not is_double(program):
    (rough, _), rough_gradients = _each(losses)
    error = 4 * _largest(flat(gradients) - flat(rough_gradients))
    total_error = 4 * float(np.max(np.abs(totals - rough)))
    dtypes = program.params, program.compute, program.narrow
    rtol = ROUNDINGS * max(float(jnp.finfo(dtype).eps) for dtype in dtypes)
  return Rows(
    gradients,
    weights,
    totals,
    error=error + rtol * max(whole, SMALLEST),
    total_error=total_error + rtol * max(np.max(np.abs(totals)), SMALLEST),
  )


class Statistics(NamedTuple):
  """Those of rows, and the errors up to which they are known."""

  value: Any
  mean: np.ndarray  # [d]
  variance: np.ndarray  # [tensors]
  coordinate_variance: np.ndarray  # [d]
  variance_along_mean: Any


def statistics_of(
  program: programs.Program, rows: Rows, counted: np.ndarray
) -> tuple[Statistics, Statistics]:
  """The statistics of the examples that count, and their errors.

  Args:
    program: The program.
    rows: Its rows.
    counted: Which of its groups count, [J] bool.

  Returns:
    Statistics, errors. A variance is a difference of mean squares, which have
    the errors of the larger ones.
  """
  q = program.group_size
  merge = oracles.group_sums
  a, w, t = flat(rows.gradients), rows.weights, rows.totals
  if program.mean == 'examples':
    merge, w = oracles.group_means, np.ones_like(w)
  a, w, t = (merge(x, q)[counted] for x in (a, w, t))
  if program.mean != 'examples':
    rows = rows._replace(error=q * rows.error, total_error=q * rows.total_error)
  one = jax.tree.map(lambda x: x[0], rows.gradients)
  mean = oracles.ratio(a, w)
  norm = np.linalg.norm(mean)
  exact = Statistics(
    sum(t) / sum(w),
    mean,
    oracles.ratio_tensor_variances(a, w, one, q),
    oracles.ratio_coordinate_variances(a, w, q),
    oracles.ratio_variance_along_mean(a, w, q) if norm else 0.0,
  )
  share = len(a) / sum(w)
  mean_error = share * rows.error
  error = share * (rows.error + max(w) * mean_error)
  size = share * (_largest(a) + max(w) * norm) + error
  spread = 4 * q * size * error
  turned = min(1.0, 2 * mean_error / norm) if norm else 1.0
  errors = Statistics(
    share * rows.total_error,
    mean_error,
    spread,
    spread,
    spread + 4 * q * size**2 * turned,
  )
  return exact, errors
