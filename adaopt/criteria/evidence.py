"""What criteria are made of: the statistics they read, and their ratio."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, arrays, base, checks, functions


def ratio(noise: jax.Array, signal: jax.Array) -> jax.Array:
  """noise / signal, with a meaning where it has no value.

  Args:
    noise: ≥ 0. Any shape.
    signal: ≥ 0. Any shape.

  Returns:
    The ratio; ∞ for noise without signal (x/0), and NaN, no evidence, for
    neither (0/0) and where one of the two is not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import criteria
    >>> noise = jnp.array([1.0, 1.0, 0.0, jnp.inf])
    >>> print(criteria.ratio(noise, jnp.array([2.0, 0.0, 0.0, jnp.inf])))
    [0.5 inf nan nan]
  """
  arrays.check_real(noise=noise, signal=signal)
  finite = jnp.isfinite(noise) & jnp.isfinite(signal)
  silent = signal == 0
  # Never x/0, at which `jax_debug_nans` and `jax_debug_infs` stop without jit.
  quotient = noise / jnp.where(silent, 1, signal)
  beyond = arithmetic.beyond(quotient.dtype)
  missing = arithmetic.missing()
  quotient = jnp.where(silent, jnp.where(noise > 0, beyond, missing), quotient)
  return arithmetic.returnable(jnp.where(finite, quotient, missing))


def check_statistics(statistics: Any, test: str) -> None:
  """Raises ValueError unless a test is passed gradient statistics."""
  if not isinstance(statistics, base.GradientStatistics):
    raise ValueError(
      f'{test} needs adaopt.GradientStatistics, such as value_and_statistics '
      f'returns, got {type(statistics).__name__}. '
      f'{checks.injected("criterion", "policy")}'
    )


def _need(
  statistics: base.GradientStatistics, field: str, test: str, remedy: str
) -> Any:
  check_statistics(statistics, test)
  value = getattr(statistics, field)
  if field == 'variance' and value is None:
    value = statistics.coordinate_variance
  if value is None:
    raise ValueError(
      f'{test} needs statistics.{field}, which is None; {remedy}.'
    )
  return value


_COMPUTED = 'value_and_statistics computes it unless only= leaves it out'


def total_variance(statistics: base.GradientStatistics, test: str) -> jax.Array:
  """v over all tensors.

  Args:
    statistics: With `variance`, or else with `coordinate_variance`.
    test: The name of who asks, for the message.

  Returns:
    v. [].

  Raises:
    ValueError: If the statistics hold neither.
  """
  return arithmetic.total(_need(statistics, 'variance', test, _COMPUTED))


def variance_along_mean(
  statistics: base.GradientStatistics, test: str
) -> jax.Array:
  """v∥.

  Args:
    statistics: With `variance_along_mean`.
    test: The name of who asks, for the message.

  Returns:
    v∥. [].

  Raises:
    ValueError: If v∥ was not computed.
  """
  return _need(
    statistics,
    'variance_along_mean',
    test,
    f'{_COMPUTED}. It takes the mean of the whole batch, so that accumulate '
    'cannot merge it: use train_step or fit',
  )


def coordinate_variance(
  statistics: base.GradientStatistics, test: str
) -> optax.Updates:
  """V_k of every coordinate.

  Args:
    statistics: With `coordinate_variance`.
    test: The name of who asks, for the message.

  Returns:
    V. Like the gradient.

  Raises:
    ValueError: If V was not computed.
  """
  return _need(statistics, 'coordinate_variance', test, _COMPUTED)


def matrix_variance(
  statistics: base.GradientStatistics, test: str
) -> optax.Updates:
  """C of every matrix.

  Args:
    statistics: With `matrix_variance`.
    test: The name of who asks, for the message.

  Returns:
    C [m, m] of matrices and None of other tensors. A tree like the gradient.

  Raises:
    ValueError: If C was not computed.
  """
  return _need(statistics, 'matrix_variance', test, _COMPUTED)


def squared_norm(statistics: base.GradientStatistics) -> jax.Array:
  """‖ḡ‖², in float32 or wider. []."""
  check_statistics(statistics, 'squared_norm')
  return arithmetic.squared_norm(statistics.mean)


def stateful(
  **named: base.Criterion | base.StatefulCriterion,
) -> base.StatefulCriterion:
  """One named criterion; a function becomes one without memory."""
  ((name, criterion),) = named.items()
  if isinstance(criterion, base.StatefulCriterion):
    checks.check_callable('of params', **{f'{name}.init': criterion.init})
    checks.check_callable(
      '(statistics, state, **extra_args) -> (required, state)',
      **{f'{name}.update': criterion.update},
    )
    return criterion
  checks.check_made('of the statistics', **{name: criterion})
  functions.check_takes(1, **{name: criterion})
  return base.StatefulCriterion(
    init=lambda params: (),
    update=lambda statistics, state, **_: (criterion(statistics), state),
  )


def answer(result: Any, state: Any) -> tuple[Any, Any]:
  """What a criterion returned, (required, state), checked.

  Args:
    result: What it returned.
    state: The state that it was given.

  Returns:
    The pair.

  Raises:
    ValueError: If it is no pair, or the state is of another structure.
  """
  if not isinstance(result, tuple) or len(result) != 2:
    raise ValueError(
      f'criterion.update must return (required, state), got {result!r}.'
    )
  expected, found = map(jax.tree.structure, (state, result[1]))
  if found != expected:
    raise ValueError(
      'criterion.update must return a state of the structure that it was '
      f'given, {expected}, got {found}.'
    )
  return result
