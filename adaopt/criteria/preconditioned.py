"""The norm test in the metric of the optimizer, read from its state.

A preconditioner is a function from the optimizer's state to d_k, the diagonal
by which it multiplies the gradient, like params.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, arrays, base, checks, fields, functions
from adaopt.criteria import evidence

Preconditioner = Callable[[optax.OptState], optax.Updates]


def preconditioned_norm_test(
  eta: jax.typing.ArrayLike, preconditioner: Preconditioner
) -> base.StatefulCriterion:
  r"""The norm test with noise and signal in the optimizer's own metric.

  b ≥ Σ_k V_k d_k / (η² Σ_k ḡ_k² d_k).

  No factor common to all d_k changes it; d_k = 1 is `norm_test`.

  Args:
    eta: η > 0, the tolerated ratio of noise to signal.
    preconditioner: From the optimizer's state before the update to d_k ≥ 0,
      like params, such as `adam_preconditioner()`.

  Returns:
    A criterion that reads `coordinate_variance`, and `opt_state=`,
    the state of the whole optimizer, in the extra arguments of its update.

  Raises:
    ValueError: If η is not positive and finite or preconditioner is not a
      function; from update without `opt_state=` or for d unlike the gradient.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from adaopt import criteria
    >>> optimizer = optax.chain(
    ...   adaopt.adapt_batch_size(
    ...     criteria.preconditioned_norm_test(
    ...       0.5, criteria.adam_preconditioner()),
    ...     init_batch_size=8, max_batch_size=64),
    ...   optax.adam(1e-3))
    >>> params = jnp.zeros(2)
    >>> state = optimizer.init(params)
    >>> statistics = adaopt.GradientStatistics(
    ...   jnp.array(8), mean=jnp.array([1.0, 8.0]),
    ...   coordinate_variance=jnp.array([19.0, 16.0]))
    >>> for _ in range(2):  # 35 / (0.25 · 65), then 21 / (0.25 · 9)
    ...   _, state = optimizer.update(
    ...     statistics.mean, state, params, statistics=statistics,
    ...     opt_state=state)
    ...   print(f"{optax.tree.get(state, 'required'):.3f}")
    2.154
    9.333

  References:
    Lau et al., `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient
    Methods <https://arxiv.org/abs/2402.11215>`_, 2024
  """
  checks.check_positive(eta=eta)
  checks.check_made('of the optimizer state', preconditioner=preconditioner)
  functions.check_takes(1, preconditioner=preconditioner)

  def update(statistics, state, *, opt_state=None, **extra_args):
    del extra_args
    variance = evidence.coordinate_variance(
      statistics, 'preconditioned_norm_test'
    )
    if opt_state is None:
      raise ValueError(
        'preconditioned_norm_test needs the state of the optimizer; pass '
        'opt_state= to optimizer.update.'
      )
    d = preconditioner(opt_state)
    arrays.check_diagonal(statistics.mean, preconditioner=d)
    squares = jax.tree.map(arithmetic.abs_sq, statistics.mean)
    noise = arithmetic.total(jax.tree.map(jnp.multiply, variance, d))
    signal = arithmetic.total(jax.tree.map(jnp.multiply, squares, d))
    return evidence.ratio(noise, eta**2 * signal), state

  return base.StatefulCriterion(init=lambda params: (), update=update)


def _real(tree):
  """The tree in real accumulator dtypes; optax keeps a complex ν."""
  return jax.tree.map(
    lambda x: jnp.real(x.astype(arithmetic.accumulator_dtype(x))), tree
  )


def _diagonal(squares, eps, eps_root):
  """1 / (√(s_k + ε_root) + ε), 0 for what never had a gradient."""
  seen = jax.tree.reduce(
    jnp.logical_or,
    jax.tree.map(lambda s: jnp.any(s > 0), squares),
    jnp.bool_(False),
  )

  def inverse(s):
    root = jnp.sqrt(jnp.where(s > 0, s, 1) + eps_root) + eps
    return jnp.where(s > 0, 1 / root, jnp.where(seen, 0.0, 1.0))

  return jax.tree.map(inverse, squares)


def _only(found: list[Any], preconditioner: str, what: str) -> Any:
  if len(found) != 1:
    raise ValueError(
      f'{preconditioner} needs an optimizer state with one {what}, got '
      f'{len(found)}; chain with one such optimizer, or pass a preconditioner '
      'of your own.'
    )
  return found[0]


def adagrad_preconditioner(
  *, eps: jax.typing.ArrayLike = 1e-10, eps_root: jax.typing.ArrayLike = 0.0
) -> Preconditioner:
  r"""AdaGrad's diagonal, d_k = 1 / (√(s_k + ε_root) + ε).

  A coordinate that never had a gradient, s_k = 0, does not count, d_k = 0: its
  1 / ε would outweigh all others in the step in which it wakes up. Before the
  first update there is no metric, d = 1.

  Args:
    eps: ε ≥ 0, as in `adagrad`.
    eps_root: ε_root ≥ 0, as in `adagrad`.

  Returns:
    A preconditioner that finds the only `sum_of_squares`, of `adagrad` or
    `optax.adagrad`.

  Raises:
    ValueError: If a constant is negative or not finite; from the
      preconditioner if there is no such state, or several.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> optimizer = adaopt.adagrad(0.1)
    >>> gradient = jnp.array([4.0, 0.5])
    >>> _, state = optimizer.update(gradient, optimizer.init(gradient))
    >>> print(adaopt.criteria.adagrad_preconditioner()(state))
    [0.25 2.  ]

  References:
    Duchi et al., `Adaptive Subgradient Methods for Online Learning and
    Stochastic Optimization <https://jmlr.org/papers/v12/duchi11a.html>`_, 2011
  """
  checks.check_not_negative(eps=eps, eps_root=eps_root)

  def preconditioner(opt_state):
    found = fields.find_all(opt_state, 'sum_of_squares')
    squares = _only(found, 'adagrad_preconditioner', 'sum_of_squares')
    return _diagonal(_real(squares), eps, eps_root)

  return preconditioner


def adam_preconditioner(
  *,
  b2: jax.typing.ArrayLike = 0.999,
  eps: jax.typing.ArrayLike = 1e-8,
  eps_root: jax.typing.ArrayLike = 0.0,
) -> Preconditioner:
  r"""Adam's diagonal, d_k = 1 / (√(ν̂_k + ε_root) + ε), ν̂ = ν / (1 − β₂^t).

  As in `adagrad_preconditioner`, what never had a gradient does not count.

  Args:
    b2: β₂ in [0, 1), as in `optax.adam`.
    eps: ε ≥ 0, as in `optax.adam`.
    eps_root: ε_root ≥ 0, as in `optax.adam`.

  Returns:
    A preconditioner that finds the only `optax.ScaleByAdamState`, of `adam`,
    `adamw`, `nadam` and whatever else is made of `optax.scale_by_adam`.

  Raises:
    ValueError: If a constant is out of range; from the preconditioner if there
      is no such state, or several.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> optimizer = optax.adam(0.1)
    >>> gradient = jnp.array([4.0, 0.5])
    >>> _, state = optimizer.update(gradient, optimizer.init(gradient))
    >>> d = adaopt.criteria.adam_preconditioner()(state)
    >>> print([f'{x:.3f}' for x in d])
    ['0.250', '2.000']

  References:
    Kingma and Ba, `Adam: A Method for Stochastic Optimization
    <https://arxiv.org/abs/1412.6980>`_, 2015
  """
  checks.check_decays(b2=b2)
  checks.check_not_negative(eps=eps, eps_root=eps_root)

  def is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)

  def preconditioner(opt_state):
    nodes = jax.tree.leaves(opt_state, is_leaf=is_adam)
    found = [node for node in nodes if is_adam(node)]
    adam = _only(found, 'adam_preconditioner', 'ScaleByAdamState')
    correction = 1 - jax.lax.pow(
      jnp.asarray(b2, float), jnp.maximum(adam.count, 1)
    )
    unbiased = jax.tree.map(
      lambda nu: nu / correction.astype(nu.dtype), _real(adam.nu)
    )
    return _diagonal(unbiased, eps, eps_root)

  return preconditioner
