"""Criteria: from gradient statistics to the batch size at which a test passes.

Every test compares the noise of the mean gradient, a variance over b, with
its squared norm, and asks for the b at which they balance. Where there is
neither noise nor signal (0/0) or a part is not finite there is no evidence,
NaN; noise without signal (x/0) asks for infinitely many examples.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from adaopt import base, checks, statistics


def _ratio(noise: jax.Array, signal: jax.Array) -> jax.Array:
  """noise / signal, NaN where one is not finite."""
  finite = jnp.isfinite(noise) & jnp.isfinite(signal)
  return jnp.where(finite, noise / signal, jnp.nan)


def _need(stats: base.GradientStatistics, field: str, test: str, remedy: str):
  """The field of the statistics, which the test cannot do without."""
  value = getattr(stats, field)
  if value is None:
    raise ValueError(
      f'{test} needs statistics.{field}; build the estimator with {remedy}.'
    )
  return value


def _need_along_mean(stats, test):
  return _need(stats, 'variance_along_mean', test, 'along_mean=True')


def _total_variance(stats, test):
  """v."""
  variance = _need(stats, 'variance', test, "variance='total'")
  return statistics.total(variance)


def norm_test(eta: jax.typing.ArrayLike) -> base.Criterion:
  r"""The norm test: the gradient's noise stays below η times its norm.

  b ≥ v / (η² ‖ḡ‖²).

  Args:
    eta: η > 0, the tolerated ratio of noise to signal.

  Returns:
    A criterion that needs `variance`.

  Raises:
    ValueError: If η is not positive and finite.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(1.0), variance_along_mean=jnp.array(0.25))
    >>> print(adaopt.norm_test(eta=0.1)(statistics))
    4.0

  References:
    Byrd et al., `Sample size selection in optimization methods for machine
    learning <https://doi.org/10.1007/s10107-012-0572-5>`_, 2012

    Lau et al., `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient
    Methods <https://arxiv.org/abs/2402.11215>`_, 2024
  """
  checks.check_positive(eta=eta)

  def required(stats):
    return _ratio(
      _total_variance(stats, 'norm_test'),
      eta**2 * statistics.squared_norm(stats.mean),
    )

  return required


def inner_product_test(theta: jax.typing.ArrayLike) -> base.Criterion:
  r"""The inner-product test: the noise along the mean gradient alone.

  b ≥ v∥ / (θ² ‖ḡ‖²), v∥ = Var_i(⟨g_i, ḡ⟩) / ‖ḡ‖².

  Args:
    theta: θ > 0.

  Returns:
    A criterion that needs `variance_along_mean`.

  Raises:
    ValueError: If θ is not positive and finite.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(1.0), variance_along_mean=jnp.array(0.25))
    >>> print(adaopt.inner_product_test(theta=0.1)(statistics))
    1.0

  References:
    Bollapragada et al., `Adaptive Sampling Strategies for Stochastic
    Optimization <https://arxiv.org/abs/1710.11258>`_, 2018, eq. 2.6
  """
  checks.check_positive(theta=theta)

  def required(stats):
    return _ratio(
      _need_along_mean(stats, 'inner_product_test'),
      theta**2 * statistics.squared_norm(stats.mean),
    )

  return required


def orthogonality_test(nu: jax.typing.ArrayLike) -> base.Criterion:
  r"""The orthogonality test: the noise across the mean gradient.

  b ≥ v⊥ / (ν² ‖ḡ‖²), v⊥ = v − v∥, clamped at 0.

  Args:
    nu: ν > 0.

  Returns:
    A criterion that needs `variance` and `variance_along_mean`.

  Raises:
    ValueError: If ν is not positive and finite.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(1.0), variance_along_mean=jnp.array(0.25))
    >>> print(adaopt.orthogonality_test(nu=0.1)(statistics))
    3.0

  References:
    Bollapragada et al., `Adaptive Sampling Strategies for Stochastic
    Optimization <https://arxiv.org/abs/1710.11258>`_, 2018, eq. 3.3
  """
  checks.check_positive(nu=nu)

  def required(stats):
    total = _total_variance(stats, 'orthogonality_test')
    along_mean = _need_along_mean(stats, 'orthogonality_test')
    return _ratio(
      jnp.maximum(total - along_mean, 0),
      nu**2 * statistics.squared_norm(stats.mean),
    )

  return required


def augmented_inner_product_test(
  theta: jax.typing.ArrayLike, nu: jax.typing.ArrayLike
) -> base.Criterion:
  """Both the inner-product test and the orthogonality test.

  It implies the norm test with η² = θ² + ν², since v = v∥ + v⊥.

  Args:
    theta: θ > 0, of the inner-product test.
    nu: ν > 0, of the orthogonality test.

  Returns:
    A criterion that needs `variance` and `variance_along_mean`.

  Raises:
    ValueError: If θ or ν is not positive and finite.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(1.0), variance_along_mean=jnp.array(0.25))
    >>> print(adaopt.augmented_inner_product_test(0.1, nu=0.1)(statistics))
    3.0

  References:
    Bollapragada et al., `Adaptive Sampling Strategies for Stochastic
    Optimization <https://arxiv.org/abs/1710.11258>`_, 2018
  """
  return all_of(inner_product_test(theta), orthogonality_test(nu))


def coordinate_norm_test(
  eta: jax.typing.ArrayLike,
  reduce: Callable[[jax.Array], jax.Array] = jnp.max,
) -> base.Criterion:
  r"""The coordinate-wise norm test: every coordinate's noise against its own.

  b ≥ V_k / (η² ḡ_k²), reduced over the coordinates k.

  Args:
    eta: η > 0.
    reduce: From the requirements of all coordinates, [d], to one. The
      maximum is the theory's; one coordinate with ḡ_k ≈ 0 makes it explode,
      which a quantile forgives. A coordinate with neither noise nor gradient
      requires 0; if all are so, there is no evidence.

  Returns:
    A criterion that needs `variance` of every coordinate.

  Raises:
    ValueError: If η is not positive and finite, or reduce is no function.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array([9.0, 32.0]))
    >>> print(adaopt.coordinate_norm_test(eta=0.5)(statistics))
    8.0

  References:
    Lau et al., `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient
    Methods <https://arxiv.org/abs/2402.11215>`_, 2024
  """
  checks.check_positive(eta=eta)
  checks.check_callable('of the requirements [d]', reduce=reduce)

  def noise_and_signal(noise, tensor):
    if noise.shape != tensor.shape:
      raise ValueError(
        'coordinate_norm_test needs the variance of every coordinate; build '
        "the estimator with variance='coordinate'."
      )
    return noise.ravel(), eta**2 * statistics.abs_sq(tensor).ravel()

  def required(stats):
    variance = _need(
      stats, 'variance', 'coordinate_norm_test', "variance='coordinate'"
    )
    pairs = map(
      noise_and_signal, jax.tree.leaves(variance), jax.tree.leaves(stats.mean)
    )
    noise, signal = map(jnp.concatenate, zip(*pairs, strict=True))
    silent = (noise == 0) & (signal == 0)
    required = reduce(jnp.where(silent, 0, _ratio(noise, signal)))
    return jnp.where(jnp.all(silent), jnp.nan, required)

  return required


def all_of(*criteria: base.Criterion) -> base.Criterion:
  """Every one of the tests: the largest requirement.

  Args:
    *criteria: The tests, at least one. One without evidence has no say.

  Returns:
    A criterion that needs what its parts need.

  Raises:
    ValueError: If there is none, or one is no function.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(1.0), variance_along_mean=jnp.array(0.25))
    >>> both = adaopt.all_of(
    ...   adaopt.norm_test(eta=0.2), adaopt.inner_product_test(theta=0.1))
    >>> print(both(statistics))
    1.0
  """
  if not criteria:
    raise ValueError('all_of needs at least one criterion, got none.')
  for i, criterion in enumerate(criteria):
    checks.check_callable('of the statistics', **{f'criterion {i}': criterion})

  def required(stats):
    largest = criteria[0](stats)
    for criterion in criteria[1:]:
      largest = jnp.fmax(largest, criterion(stats))
    return largest

  return required
