"""Optimizers: chains of the transforms under the names of the literature."""

import jax
import jax.numpy as jnp
import optax

from adaopt import base, batch_size, transforms


def adagrad(
  learning_rate: optax.ScalarOrSchedule,
  initial_accumulator_value: jax.typing.ArrayLike = 0.0,
  eps: jax.typing.ArrayLike = 1e-10,
  eps_root: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
  r"""AdaGrad with the constants of `torch.optim.Adagrad`.

  s_k ← s_k + |g_k|²,  x_k ← x_k − α g_k / (√(s_k + ε_root) + ε).

  `optax.adagrad` is the same with initial_accumulator_value=0.1, eps=0 and
  eps_root=1e-7.

  Args:
    learning_rate: α, or a schedule over the steps.
    initial_accumulator_value: s_0 ≥ 0.
    eps: ε ≥ 0, outside the root.
    eps_root: ε_root ≥ 0, inside the root.

  Returns:
    The optimizer.

  Raises:
    ValueError: If a constant is negative or not finite.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> f = lambda x: jnp.sum(x**2)
    >>> optimizer = adaopt.adagrad(learning_rate=1.0)
    >>> params = jnp.array([1.0, 2.0, 3.0])
    >>> state = optimizer.init(params)
    >>> for _ in range(3):
    ...   updates, state = optimizer.update(jax.grad(f)(params), state)
    ...   params = optax.apply_updates(params, updates)
    ...   print(f'{f(params):.3f}')
    5.000
    2.394
    1.250

  References:
    Duchi et al., `Adaptive Subgradient Methods for Online Learning and
    Stochastic Optimization <https://jmlr.org/papers/v12/duchi11a.html>`_, 2011
  """
  return optax.chain(
    transforms.scale_by_adagrad(initial_accumulator_value, eps, eps_root),
    optax.scale_by_learning_rate(learning_rate),
  )


def adagrad_norm(
  learning_rate: optax.ScalarOrSchedule,
  initial_accumulator_value: jax.typing.ArrayLike = 0.0,
  eps: jax.typing.ArrayLike = 1e-10,
) -> optax.GradientTransformationExtraArgs:
  r"""AdaGrad-Norm: one step size for all parameters, adapted to the norms.

  b² ← b² + ‖g‖²,  x ← x − (α / (b + ε)) g.

  Args:
    learning_rate: α, or a schedule over the steps.
    initial_accumulator_value: b_0² ≥ 0.
    eps: ε ≥ 0.

  Returns:
    The optimizer.

  Raises:
    ValueError: If a constant is negative or not finite.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> f = lambda x: jnp.sum(x**2)
    >>> optimizer = adaopt.adagrad_norm(learning_rate=1.0)
    >>> params = jnp.array([1.0, 2.0, 3.0])
    >>> state = optimizer.init(params)
    >>> for _ in range(3):
    ...   updates, state = optimizer.update(jax.grad(f)(params), state)
    ...   params = optax.apply_updates(params, updates)
    ...   print(f'{f(params):.3f}')
    7.517
    4.625
    2.993

  References:
    Ward et al., `AdaGrad stepsizes: Sharp convergence over nonconvex
    landscapes <https://arxiv.org/abs/1806.01811>`_, 2019
  """
  return optax.chain(
    transforms.scale_by_adagrad_norm(initial_accumulator_value, eps),
    optax.scale_by_learning_rate(learning_rate),
  )


def _scale_by_learning_rate(learning_rate):
  """Like optax's, with schedules that count examples."""
  if not callable(learning_rate):
    return optax.scale_by_learning_rate(learning_rate)
  return optax.chain(
    transforms.scale_by_example_schedule(learning_rate), optax.scale(-1.0)
  )


def adadagrad(
  learning_rate: optax.ScalarOrSchedule,
  criterion: base.Criterion | base.StatefulCriterion,
  *,
  init_batch_size: int,
  max_batch_size: int,
  multiple_of: int = 1,
  test_interval: int = 1,
  policy: base.Policy = jnp.maximum,
  initial_accumulator_value: jax.typing.ArrayLike = 0.0,
  eps: jax.typing.ArrayLike = 1e-10,
  eps_root: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
  r"""AdAdaGrad: AdaGrad with a batch size that follows the gradient's noise.

  ḡ over b examples; b ← policy(b, criterion(statistics));
  s_k ← s_k + |ḡ_k|²,  x_k ← x_k − α ḡ_k / (√(s_k + ε_root) + ε).

  Args:
    learning_rate: α, or a schedule over the examples seen.
    criterion: As in `adapt_batch_size`, such as `norm_test(eta)`.
    init_batch_size: b_0.
    max_batch_size: b_max.
    multiple_of: As in `adapt_batch_size`.
    test_interval: As in `adapt_batch_size`.
    policy: As in `adapt_batch_size`.
    initial_accumulator_value: As in `adagrad`.
    eps: As in `adagrad`.
    eps_root: As in `adagrad`.

  Returns:
    The optimizer. Its update takes `statistics=`, and whatever else the
    criterion reads; `train_step` passes them.

  Raises:
    ValueError: As `adapt_batch_size` and `adagrad`.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> def loss_fn(params, batch):
    ...   return jnp.mean((params - batch) ** 2)
    >>> optimizer = adaopt.adadagrad(
    ...   1.0, adaopt.norm_test(eta=0.5), init_batch_size=2, max_batch_size=8)
    >>> estimate = adaopt.value_and_statistics(loss_fn)
    >>> data = jnp.array([1.0, 5.0, 3.0, 2.0, 4.0, 3.0, 2.0, 4.0])
    >>> params = jnp.array(0.0)
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...   b = optax.tree.get(state, 'batch_size')
    ...   loss, statistics = estimate(params, data[:b])
    ...   updates, state = optimizer.update(
    ...     statistics.mean, state, params, statistics=statistics)
    ...   params = optax.apply_updates(params, updates)
    ...   print(b, f'{loss:.2f}', f'{params:.3f}')
    2 13.00 1.000
    4 5.25 1.504

  References:
    Lau et al., `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient
    Methods <https://arxiv.org/abs/2402.11215>`_, 2024
  """
  return optax.chain(
    batch_size.adapt_batch_size(
      criterion,
      init_value=init_batch_size,
      max_value=max_batch_size,
      multiple_of=multiple_of,
      test_interval=test_interval,
      policy=policy,
    ),
    transforms.scale_by_adagrad(initial_accumulator_value, eps, eps_root),
    _scale_by_learning_rate(learning_rate),
  )


def adadagrad_norm(
  learning_rate: optax.ScalarOrSchedule,
  criterion: base.Criterion | base.StatefulCriterion,
  *,
  init_batch_size: int,
  max_batch_size: int,
  multiple_of: int = 1,
  test_interval: int = 1,
  policy: base.Policy = jnp.maximum,
  initial_accumulator_value: jax.typing.ArrayLike = 0.0,
  eps: jax.typing.ArrayLike = 1e-10,
) -> optax.GradientTransformationExtraArgs:
  r"""AdAdaGrad-Norm: AdaGrad-Norm with a batch size that follows the noise.

  ḡ over n examples; n ← policy(n, criterion(statistics));
  b² ← b² + ‖ḡ‖²,  x ← x − (α / (b + ε)) ḡ.

  Args:
    learning_rate: α, or a schedule over the examples seen.
    criterion: As in `adapt_batch_size`, such as `norm_test(eta)`.
    init_batch_size: The first n.
    max_batch_size: The largest n.
    multiple_of: As in `adapt_batch_size`.
    test_interval: As in `adapt_batch_size`.
    policy: As in `adapt_batch_size`.
    initial_accumulator_value: As in `adagrad_norm`.
    eps: As in `adagrad_norm`.

  Returns:
    The optimizer. Its update takes `statistics=`, and whatever else the
    criterion reads; `train_step` passes them.

  Raises:
    ValueError: As `adapt_batch_size` and `adagrad_norm`.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> optimizer = adaopt.adadagrad_norm(
    ...   0.5, adaopt.norm_test(eta=0.1), init_batch_size=8,
    ...   max_batch_size=1024)
    >>> gradient = jnp.array([3.0, 4.0])
    >>> statistics = adaopt.GradientStatistics(
    ...   jnp.array(8), mean=gradient, variance=jnp.array(50.0))
    >>> updates, state = optimizer.update(
    ...   gradient, optimizer.init(gradient), statistics=statistics)
    >>> print(updates, optax.tree.get(state, 'batch_size'))
    [-0.3 -0.4] 200

  References:
    Lau et al., `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient
    Methods <https://arxiv.org/abs/2402.11215>`_, 2024
  """
  return optax.chain(
    batch_size.adapt_batch_size(
      criterion,
      init_value=init_batch_size,
      max_value=max_batch_size,
      multiple_of=multiple_of,
      test_interval=test_interval,
      policy=policy,
    ),
    transforms.scale_by_adagrad_norm(initial_accumulator_value, eps),
    _scale_by_learning_rate(learning_rate),
  )
