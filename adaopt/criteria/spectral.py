"""The noise scale of spectral descent, such as Muon."""

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic, base, checks, matrices
from adaopt.criteria import averaging, evidence


def spectral_noise_scale(
  theta: jax.typing.ArrayLike, *, decay: jax.typing.ArrayLike = 0.9
) -> base.StatefulCriterion:
  r"""The norm test in the norms of Muon and, beside its matrices, of Adam.

  b ≥ ⟨(Σ_l n_l)²⟩ / (θ² ⟨(Σ_l s_l)²⟩) of the tensors l, with noise n and signal
  s, ⟨·⟩ moving averages:

    n = tr C^(1/2),  s = ‖Ḡ‖_*      of matrices, C their `matrix_variance`,
    n = ‖σ‖₁,        s = ‖ḡ‖₁       of other tensors, σ_k = √V_k.

  Muon moves every matrix by a step of bounded spectral norm, and Adam every
  coordinate of the others by a bounded step. The dual of the largest of these
  norms measures the gradient: the sum of nuclear and ℓ₁ norms. The noise N of
  one example has E ‖N‖_* ≤ tr (E N Nᴴ)^(1/2), as the root is concave, and
  E |N_k| ≤ √V_k. N Nᴴ is that of the smaller side. The bound and the sum over
  tensors are derived here, from the norms of the paper.

  A test takes the eigenvalues of two [m, m] for every matrix, which cost ten
  gradients of a small batch where m is 1000: test seldom, by `test_interval`.
  In `fit` and `train_step` no other step does. On a CPU they are LAPACK's,
  whose threads wait for each other beside other work; OPENBLAS_NUM_THREADS=1
  keeps them from it.

  Eigenvalues of Ḡ Ḡᴴ keep half the digits, and those that are 0 round to some
  above it: ‖Ḡ‖_* of a matrix of rank 1 with 512 rows is 2 % too large.

  Few examples show a part of the noise: b of them, with T rows each, at most
  (b − 1) T directions of a matrix, so that C has fewer than its m eigenvalues
  and n is too small. What is orthogonalised has two axes, as in
  `optax.contrib.muon` by default. The sizes of θ, intervals and rates are as in
  `sign_noise_scale`.

  Args:
    theta: θ > 0.
    decay: Of the averages, in [0, 1).

  Returns:
    A criterion that reads `matrix_variance`, and `coordinate_variance` of what
    is no matrix.

  Raises:
    ValueError: If a constant is out of range; from update if no tensor is a
      matrix.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> test = adaopt.criteria.spectral_noise_scale(theta=0.5)
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8),
    ...   mean={'w': jnp.diag(jnp.array([3.0, -4.0])), 'b': jnp.array([1.0])},
    ...   coordinate_variance={'w': None, 'b': jnp.array([4.0])},
    ...   matrix_variance={'w': jnp.diag(jnp.array([9.0, 1.0])), 'b': None})
    >>> required, _ = test.update(statistics, test.init(statistics.mean))
    >>> print(required)  # (3 + 1 + 2)² / (0.25 · (3 + 4 + 1)²)
    2.25

  References:
    `Adaptive Batch Sizes Using Non-Euclidean Gradient Noise Scales for
    Stochastic Sign and Spectral Descent <https://arxiv.org/abs/2602.03001>`_,
    2026
  """
  checks.check_positive(theta=theta)

  def measure(statistics, **extra_args):
    del extra_args
    noise, signal = _norms(statistics, 'spectral_noise_scale')
    return averaging.NoiseAndSignal(
      jnp.square(noise), theta**2 * jnp.square(signal), floor=0.0
    )

  return averaging.ratio_of_averages(measure, decay)


def _norms(statistics, test):
  """Σ_l n_l and Σ_l s_l. [2]."""
  squares = evidence.matrix_variance(statistics, test)
  mean = statistics.mean
  is_matrix = jax.tree.leaves(
    arithmetic.map_present(lambda _, square: square is not None, mean, squares)
  )
  if not any(is_matrix):
    shapes = ', '.join(str(jnp.shape(g)) for g in jax.tree.leaves(mean)[:4])
    raise ValueError(
      f'{test} found no matrix in statistics.mean, whose tensors have the '
      f'shapes {shapes}; use sign_noise_scale, the test of such tensors.'
    )
  variances = jax.tree.map(lambda _: None, mean)
  if not all(is_matrix):
    variances = evidence.coordinate_variance(statistics, test)

  def norms(gradient, square, variance):
    found = (
      _of_others(gradient, variance)
      if square is None
      else (_of_matrix(gradient, square))
    )
    return jnp.stack(found)

  each = arithmetic.map_present(norms, mean, squares, variances)
  return jnp.sum(jnp.stack(jax.tree.leaves(each)), 0)


def _of_others(gradient, variance):
  """‖σ‖₁ and ‖ḡ‖₁."""
  length = jnp.sum(jnp.sqrt(arithmetic.abs_sq(gradient)))
  return jnp.sum(jnp.sqrt(variance)), length


def _of_matrix(gradient, variance):
  """tr C^(1/2) and ‖Ḡ‖_*; without eigenvalues where no noise was measured."""
  square = matrices.product(gradient, gradient)
  missing = lambda x: jnp.full([], jnp.nan, arithmetic.real_dtype(x))
  return jax.lax.cond(
    ~arithmetic.is_missing(jnp.real(jnp.trace(variance))),
    lambda *squares: tuple(map(matrices.trace_of_root, squares)),
    lambda *squares: tuple(map(missing, squares)),
    variance,
    square,
  )
