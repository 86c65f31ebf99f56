"""AdaGrad and Normalized LR+GD, which do not know a batch size.

Their schedules count updates, as in optax.
"""

import jax
import optax

from adaopt._common import functions
from adaopt.transforms import adagrad as adagrad_transforms
from adaopt.transforms import residuals


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
    learning_rate: α, or a schedule over the updates.
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
  functions.check_scalar_or_schedule(learning_rate)
  return optax.chain(
    adagrad_transforms.scale_by_adagrad(
      initial_accumulator_value, eps, eps_root
    ),
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
    learning_rate: α, or a schedule over the updates.
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
  functions.check_scalar_or_schedule(learning_rate)
  return optax.chain(
    adagrad_transforms.scale_by_adagrad_norm(initial_accumulator_value, eps),
    optax.scale_by_learning_rate(learning_rate),
  )


def normalized_lr_gd(
  learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
  r"""Normalized LR+GD: gradient descent over the mean residual.

  x ← x − γ β g, β = 1 / ((1/b) Σ p_i).

  On separable data it solves logistic regression with any γ, and the larger γ
  the closer it is to a batch perceptron.

  Args:
    learning_rate: γ, or a schedule over the updates.

  Returns:
    The optimizer. Its update takes `mean_residual=`; `train_step` passes it
    on from the loss_fn's aux.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> features = jnp.array([[1.0, 2.0], [-2.0, 1.0], [1.0, -1.0]])
    >>> labels = jnp.array([1, -1, 1])
    >>> def loss_fn(params):
    ...   logits = features @ params
    ...   loss = jax.nn.softplus(-adaopt.log_odds(logits, labels)).mean()
    ...   return loss, adaopt.mean_residual(logits, labels)
    >>> optimizer = adaopt.normalized_lr_gd(1.0)
    >>> params = jnp.zeros(2)
    >>> state = optimizer.init(params)
    >>> for _ in range(3):
    ...   (loss, residual), gradient = jax.value_and_grad(
    ...     loss_fn, has_aux=True)(params)
    ...   updates, state = optimizer.update(
    ...     gradient, state, mean_residual=residual)
    ...   params = optax.apply_updates(params, updates)
    ...   print(f'{loss:.4f}')
    0.6931
    0.1784
    0.0545

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """
  functions.check_scalar_or_schedule(learning_rate)
  return optax.chain(
    residuals.scale_by_mean_residual(),
    optax.scale_by_learning_rate(learning_rate),
  )
