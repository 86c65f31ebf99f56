"""Noise scales: criteria of moving averages over steps.

One step's ‖ḡ‖² is mostly noise where a larger batch is needed most. These
average noise and signal over the steps that test, and divide last.
"""

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic, base, checks
from adaopt.criteria import averaging, evidence


def _debiased(test, eta, decay, floor):
  """⟨v⟩ / (η² ⟨‖∇F‖²⟩); messages name the test."""
  checks.check_positive(eta=eta)
  averaging.check_floor(floor)

  def measure(statistics, **extra_args):
    del extra_args
    measured = averaging.debiased(statistics, floor=floor, test=test)
    return measured._replace(noise=measured.noise / eta**2)

  return averaging.ratio_of_averages(measure, decay)


def debiased_norm_test(
  eta: jax.typing.ArrayLike,
  *,
  decay: jax.typing.ArrayLike = 0.95,
  floor: jax.typing.ArrayLike = 0.01,
) -> base.StatefulCriterion:
  r"""The norm test without the noise that hides in ‖ḡ‖².

  b ≥ ⟨v⟩ / (η² max(⟨‖ḡ‖² − v / b⟩, floor · ⟨‖ḡ‖²⟩)), ⟨·⟩ moving averages.

  E ‖ḡ‖² = ‖∇F‖² + v / b, so that under pure noise `norm_test` asks for about
  b / η² for any noise. Here the floor bounds what is asked for, by
  ⟨v⟩ / (η² floor ⟨‖ḡ‖²⟩).

  The first tests average over little, and a size that only grows keeps what
  they ask for: `policy=follow` forgets it, `capped_growth` slows it down.

  Args:
    eta: η > 0, the tolerated ratio of noise to signal.
    decay: Of the averages, in [0, 1).
    floor: The smallest share of ‖ḡ‖² taken to be signal, in (0, 1].

  Returns:
    A criterion that reads `variance`.

  Raises:
    ValueError: If a constant is out of range.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> test = adaopt.debiased_norm_test(eta=0.5)
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(40.0))
    >>> required, _ = test.update(statistics, test.init(statistics.mean))
    >>> print(required)  # 40 / (0.25 · (25 − 40 / 8))
    8.0

  References:
    Byrd et al., `Sample size selection in optimization methods for machine
    learning <https://doi.org/10.1007/s10107-012-0572-5>`_, 2012

    McCandlish et al., `An Empirical Model of Large-Batch Training
    <https://arxiv.org/abs/1812.06162>`_, 2018
  """
  return _debiased('debiased_norm_test', eta, decay, floor)


def gradient_noise_scale(
  *,
  decay: jax.typing.ArrayLike = 0.95,
  floor: jax.typing.ArrayLike = 0.01,
) -> base.StatefulCriterion:
  r"""The gradient noise scale: the batch size at which noise equals signal.

  b ≥ B_simple = v / ‖∇F‖²: `debiased_norm_test` at η = 1, which divides this
  by η².

  Args:
    decay: Of the averages, in [0, 1).
    floor: The smallest share of ‖ḡ‖² taken to be signal, in (0, 1].

  Returns:
    A criterion that reads `variance`.

  Raises:
    ValueError: If a constant is out of range.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> test = adaopt.gradient_noise_scale()
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(40.0))
    >>> required, _ = test.update(statistics, test.init(statistics.mean))
    >>> print(required)
    2.0

  References:
    McCandlish et al., `An Empirical Model of Large-Batch Training
    <https://arxiv.org/abs/1812.06162>`_, 2018
  """
  return _debiased('gradient_noise_scale', 1.0, decay, floor)


def cabs(
  learning_rate: jax.typing.ArrayLike, *, decay: jax.typing.ArrayLike = 0.95
) -> base.StatefulCriterion:
  r"""CABS: batch sizes coupled with the learning rate, for plain SGD.

  b = α ⟨v⟩ / ⟨F⟩, ⟨·⟩ moving averages and F the loss, whose least value is
  taken to be 0: where ⟨F⟩ is not above it, infinitely many examples.

  The paper's sizes follow it both ways within [16, 2048]: `policy=follow`,
  `init_batch_size=16`, `max_batch_size=2048`.

  Args:
    learning_rate: α, that of the optimizer.
    decay: Of the averages, in [0, 1).

  Returns:
    A criterion that reads `variance`, and `value=`, the loss, in the extra
    arguments of the optimizer's update.

  Raises:
    ValueError: If a constant is out of range; from update without `value=`.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> criterion = adaopt.criteria.cabs(learning_rate=0.5)
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(40.0))
    >>> required, _ = criterion.update(
    ...   statistics, criterion.init(statistics.mean), value=jnp.array(2.0))
    >>> print(required)
    10.0

  References:
    Balles et al., `Coupling Adaptive Batch Sizes with Learning Rates
    <https://arxiv.org/abs/1612.05086>`_, 2016
  """
  checks.check_positive(learning_rate=learning_rate)

  def measure(statistics, *, value=None, **extra_args):
    del extra_args
    v = evidence.total_variance(statistics, 'cabs')
    if value is None:
      raise ValueError('cabs needs the loss; pass value= to optimizer.update.')
    return averaging.NoiseAndSignal(learning_rate * v, value, floor=0.0)

  return averaging.ratio_of_averages(measure, decay)


def sign_noise_scale(
  theta: jax.typing.ArrayLike, *, decay: jax.typing.ArrayLike = 0.9
) -> base.StatefulCriterion:
  r"""The norm test in the norm of sign descent and Adam.

  b ≥ ⟨‖σ‖₁²⟩ / (θ² ⟨‖ḡ‖₁²⟩), σ_k = √V_k, ⟨·⟩ moving averages.

  The paper has θ = 0.6, a test every 100 steps (`test_interval=100`), and a
  learning rate that follows by `scale_by_batch_size(exponent=0.5)`. The
  averages are over the tests, of the squares of both norms; the noise in ‖ḡ‖₁
  is not taken out.

  Args:
    theta: θ > 0.
    decay: Of the averages, in [0, 1).

  Returns:
    A criterion that reads `coordinate_variance`.

  Raises:
    ValueError: If a constant is out of range.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> test = adaopt.criteria.sign_noise_scale(theta=0.5)
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, -4.0]),
    ...   coordinate_variance=jnp.array([9.0, 16.0]))
    >>> required, _ = test.update(statistics, test.init(statistics.mean))
    >>> print(required)  # (3 + 4)² / (0.25 · (3 + 4)²)
    4.0

  References:
    `Adaptive Batch Sizes Using Non-Euclidean Gradient Noise Scales for
    Stochastic Sign and Spectral Descent <https://arxiv.org/abs/2602.03001>`_,
    2026
  """
  checks.check_positive(theta=theta)

  def measure(statistics, **extra_args):
    del extra_args
    variance = evidence.coordinate_variance(statistics, 'sign_noise_scale')
    deviation = arithmetic.total(jax.tree.map(jnp.sqrt, variance))
    length = arithmetic.total(
      jax.tree.map(lambda g: jnp.sqrt(arithmetic.abs_sq(g)), statistics.mean)
    )
    return averaging.NoiseAndSignal(
      jnp.square(deviation), theta**2 * jnp.square(length), floor=0.0
    )

  return averaging.ratio_of_averages(measure, decay)
