"""Optimizers that choose their own batch size.

Their schedules count examples.
"""

import jax
import optax

from adaopt._common import base, checks, functions, passing
from adaopt.batch_size import adapting, policies
from adaopt.criteria import noise_scales
from adaopt.transforms import adagrad, by_examples


def adaptive(
  optimizer: optax.GradientTransformation,
  learning_rate: optax.ScalarOrSchedule,
  *,
  init_batch_size: int,
  max_batch_size: int,
  criterion: base.Criterion | base.StatefulCriterion | None = None,
  multiple_of: int = 1,
  test_interval: int = 1,
  policy: policies.AnyPolicy | None = None,
  scaling: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Any optax optimizer with a batch size that follows the gradient's noise.

  b ← policy(b, criterion(statistics)); with u the update of the optimizer, made
  with learning rate 1.0, n the examples seen and r what a batch of b gains over
  one of b_0,

    x ← x + α(n) r u.

  By default the criterion is the norm test without its bias at η = 1; the size
  grows by at most a tenth at once, since the first estimates are of few
  examples and large rates need a warm-up; and r = b / b_0.

  Args:
    optimizer: An optax optimizer made with learning rate 1.0, such as
      `optax.adamw(1.0, weight_decay=0.1)` or `optax.sgd(1.0, momentum=0.9)`.
    learning_rate: α at batch size b_0: a number, or a schedule over the
      examples seen.
    init_batch_size: b_0.
    max_batch_size: b_max.
    criterion: As in `adapt_batch_size`; by default `debiased_norm_test(1.0)`.
    multiple_of: As in `adapt_batch_size`.
    test_interval: As in `adapt_batch_size`.
    policy: As in `adapt_batch_size`; by default `capped_growth(1.1)`.
    scaling: The transform that multiplies updates by r; by default
      `scale_by_batch_size(1.0)`, also for Adam-like methods. Where rates that
      large diverge: `scale_by_batch_size(0.5)`, their square-root rule,
      `scale_by_adascale(base_batch_size=init_batch_size)`, which gains what the
      noise allows, or `optax.identity()`.

  Returns:
    The optimizer. Its update requires `statistics=`, and what else the
    criterion reads; `train_step` and `fit` pass them.

  Raises:
    ValueError: As `adapt_batch_size`, for an optimizer or a scaling that is not
      one, and for a learning rate that is not a finite number or a schedule.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> loss_fn = lambda params, batch: jnp.mean((params - batch) ** 2)
    >>> optimizer = adaopt.adaptive(
    ...   optax.sgd(1.0, momentum=0.9), 0.01,
    ...   init_batch_size=4, max_batch_size=64)
    >>> dataset = jax.random.normal(jax.random.key(0), [256]) + 1.0
    >>> steps = adaopt.fit(
    ...   loss_fn, optimizer, jnp.array(0.0), dataset, num_examples=2000)
    >>> sizes = [int(metrics.batch_size) for _, metrics in steps]
    >>> print(sizes[0], sizes[-1])
    4 43

  References:
    McCandlish et al., `An Empirical Model of Large-Batch Training
    <https://arxiv.org/abs/1812.06162>`_, 2018

    Smith et al., `Don't Decay the Learning Rate, Increase the Batch Size
    <https://arxiv.org/abs/1711.00489>`_, 2017 (α ∝ b keeps the noise of SGD)
  """
  checks.check_optimizer(optimizer)
  if criterion is None:
    criterion = noise_scales.debiased_norm_test(1.0)
  size = adapting.adapt_batch_size(
    criterion,
    init_batch_size=init_batch_size,
    max_batch_size=max_batch_size,
    multiple_of=multiple_of,
    test_interval=test_interval,
    policy=policies.capped_growth(1.1) if policy is None else policy,
  )
  if scaling is None:
    scaling = by_examples.scale_by_batch_size(1.0)
  checks.check_optimizer(scaling, 'scaling')
  return optax.chain(
    size,
    passing.with_own_args(optimizer),
    passing.with_own_args(scaling),
    _by_examples(learning_rate),
  )


def adadagrad(
  learning_rate: optax.ScalarOrSchedule,
  criterion: base.Criterion | base.StatefulCriterion,
  *,
  init_batch_size: int,
  max_batch_size: int,
  multiple_of: int = 1,
  test_interval: int = 1,
  policy: policies.AnyPolicy = policies.grow,
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
    The optimizer. Its update requires `statistics=`, and what else the
    criterion reads; `train_step` and `fit` pass them.

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
    adapting.adapt_batch_size(
      criterion,
      init_batch_size=init_batch_size,
      max_batch_size=max_batch_size,
      multiple_of=multiple_of,
      test_interval=test_interval,
      policy=policy,
    ),
    adagrad.scale_by_adagrad(initial_accumulator_value, eps, eps_root),
    _descend(learning_rate),
  )


def adadagrad_norm(
  learning_rate: optax.ScalarOrSchedule,
  criterion: base.Criterion | base.StatefulCriterion,
  *,
  init_batch_size: int,
  max_batch_size: int,
  multiple_of: int = 1,
  test_interval: int = 1,
  policy: policies.AnyPolicy = policies.grow,
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
    The optimizer. Its update requires `statistics=`, and what else the
    criterion reads; `train_step` and `fit` pass them.

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
    adapting.adapt_batch_size(
      criterion,
      init_batch_size=init_batch_size,
      max_batch_size=max_batch_size,
      multiple_of=multiple_of,
      test_interval=test_interval,
      policy=policy,
    ),
    adagrad.scale_by_adagrad_norm(initial_accumulator_value, eps),
    _descend(learning_rate),
  )


def _by_examples(learning_rate):
  """Scales by a positive learning rate; a schedule of it counts examples."""
  functions.check_scalar_or_schedule(learning_rate)
  if callable(learning_rate):
    return by_examples.scale_by_example_schedule(learning_rate)
  return optax.scale(learning_rate)


def _descend(learning_rate):
  return optax.chain(_by_examples(learning_rate), optax.scale(-1.0))
