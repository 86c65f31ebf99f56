"""Criteria: from gradient statistics to the batch size at which a test passes.

Every test compares the noise of the mean gradient, a variance over b, with
its squared norm, and asks for the b at which they balance. Where there is
neither noise nor signal (0/0) or a part is not finite there is no evidence,
NaN; noise without signal (x/0) asks for infinitely many examples.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic, base, checks, functions
from adaopt.criteria import combining, evidence


def _norm_test(test, eta):
  """v / (η² ‖ḡ‖²); messages name the test."""
  checks.check_positive(eta=eta)

  def required(statistics):
    return evidence.ratio(
      evidence.total_variance(statistics, test),
      eta**2 * evidence.squared_norm(statistics),
    )

  return required


def norm_test(eta: jax.typing.ArrayLike) -> base.Criterion:
  r"""The norm test: the gradient's noise stays below η times its norm.

  b ≥ v / (η² ‖ḡ‖²).

  Args:
    eta: η > 0, the tolerated ratio of noise to signal.

  Returns:
    A criterion that reads `variance`.

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
  return _norm_test('norm_test', eta)


def big_batch_test() -> base.Criterion:
  r"""The test of Big-Batch SGD: the gradient's signal exceeds its noise.

  ‖ḡ‖² > v / b: the norm test at η = 1, up to the case of equality, which
  passes here. The method grows by a factor while the test fails, which is
  `policy=geometric_growth(factor)`.

  Returns:
    A criterion that reads `variance`.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(250.0))
    >>> print(adaopt.criteria.big_batch_test()(statistics))
    10.0

  References:
    De et al., `Big Batch SGD: Automated Inference using Adaptive Batch Sizes
    <https://arxiv.org/abs/1610.05792>`_, 2016
  """
  return _norm_test('big_batch_test', 1.0)


def inner_product_test(theta: jax.typing.ArrayLike) -> base.Criterion:
  r"""The inner-product test: only the noise along the mean gradient.

  b ≥ v∥ / (θ² ‖ḡ‖²), v∥ = Var_i(⟨g_i, ḡ⟩) / ‖ḡ‖².

  Args:
    theta: θ > 0.

  Returns:
    A criterion that reads `variance_along_mean`.

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

  def required(statistics):
    return evidence.ratio(
      evidence.variance_along_mean(statistics, 'inner_product_test'),
      theta**2 * evidence.squared_norm(statistics),
    )

  return required


def orthogonality_test(nu: jax.typing.ArrayLike) -> base.Criterion:
  r"""The orthogonality test: the noise across the mean gradient.

  b ≥ v⊥ / (ν² ‖ḡ‖²), v⊥ = v − v∥, clamped at 0.

  Args:
    nu: ν > 0.

  Returns:
    A criterion that reads `variance` and `variance_along_mean`.

  Raises:
    ValueError: If ν is not positive and finite.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(1.0), variance_along_mean=jnp.array(0.25))
    >>> print(adaopt.criteria.orthogonality_test(nu=0.1)(statistics))
    3.0

  References:
    Bollapragada et al., `Adaptive Sampling Strategies for Stochastic
    Optimization <https://arxiv.org/abs/1710.11258>`_, 2018, eq. 3.3
  """
  checks.check_positive(nu=nu)

  def required(statistics):
    total = evidence.total_variance(statistics, 'orthogonality_test')
    along_mean = evidence.variance_along_mean(statistics, 'orthogonality_test')
    return evidence.ratio(
      jnp.maximum(total - along_mean, 0),
      nu**2 * evidence.squared_norm(statistics),
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
    A criterion that reads `variance` and `variance_along_mean`.

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
  return combining.all_of(inner_product_test(theta), orthogonality_test(nu))


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
    A criterion that reads `coordinate_variance`.

  Raises:
    ValueError: If η is not positive and finite, or reduce is not a function.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   coordinate_variance=jnp.array([9.0, 32.0]))
    >>> print(adaopt.coordinate_norm_test(eta=0.5)(statistics))
    8.0

  References:
    Lau et al., `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient
    Methods <https://arxiv.org/abs/2402.11215>`_, 2024
  """
  checks.check_positive(eta=eta)
  checks.check_callable('of the requirements [d]', reduce=reduce)

  def flat(tree):
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])

  def required(statistics):
    noise = flat(
      evidence.coordinate_variance(statistics, 'coordinate_norm_test')
    )
    signal = eta**2 * flat(jax.tree.map(arithmetic.abs_sq, statistics.mean))
    silent = (noise == 0) & (signal == 0)
    required = functions.number(
      'reduce', reduce(jnp.where(silent, 0, evidence.ratio(noise, signal)))
    )
    return jnp.where(jnp.all(silent), arithmetic.missing(), required)

  return required
