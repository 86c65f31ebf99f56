"""Normalized LR+GD: steps over the mean residual, for any classifier."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adaopt._common import arithmetic, arrays, checks


def signs(labels: jax.Array, dtype: Any) -> jax.Array:
  """Binary labels as ±1: those of ±1, or of {0, 1} with 0 for −1.

  Args:
    labels: Any shape. What is above 0 is of the positive class.
    dtype: That of the result.

  Returns:
    ±1, in the shape of labels.

  Raises:
    ValueError: For labels known now that are neither ±1 nor {0, 1}.
  """
  if checks.is_concrete(labels):
    values = set(np.unique(np.asarray(labels)).tolist())
    if not (values <= {-1, 1} or values <= {0, 1}):
      found = ', '.join(map(str, sorted(values)[:5]))
      raise ValueError(
        f'binary labels must be ±1 or {{0, 1}}, got {found}; turn two classes '
        'into labels by labels == positive_class.'
      )
  return jnp.where(jnp.asarray(labels) > 0, 1, -1).astype(dtype)


def log_odds(logits: jax.Array, labels: jax.Array) -> jax.Array:
  r"""The log-odds of the right class: log(P / (1 − P)).

  m_i = y_i z_i for one logit an example, and z_iy − log Σ_{k ≠ y} e^{z_ik} for
  one a class. The log-loss of either is softplus(−m_i). Made of m_i, it and
  its gradient keep their relative precision when P is close to 1, where
  1 − P has none left.

  Args:
    logits: [b], or [b, k] with k ≥ 2 classes.
    labels: [b], ±1 or {0, 1} for logits [b]; integers below k for [b, k].

  Returns:
    m. [b].

  Raises:
    ValueError: If the shapes do not fit, or labels are of another kind.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[2.0, 0.0], [1.0, 4.0]])
    >>> m = adaopt.log_odds(logits, jnp.array([0, 1]))
    >>> print(m, f'{jnp.mean(jax.nn.softplus(-m)):.4f}')
    [2. 3.] 0.0878
  """
  logits = arrays.array_of('real numbers, [b] or [b, k]', logits=logits)
  arrays.check_real(logits=logits)
  shape = logits.shape
  kinds = 'integers' if len(shape) == 2 else '±1 or {0, 1}'
  classes = arrays.array_of(f'{kinds}, [b]', labels=labels)
  if len(shape) not in (1, 2) or shape[:1] != classes.shape:
    raise ValueError(
      'logits must be [b] or [b, k] and labels [b], got logits '
      f'{list(shape)} and labels {list(classes.shape)}.'
    )
  if len(shape) == 1:
    return signs(labels, logits.dtype) * logits
  if shape[1] < 2:
    raise ValueError(
      'logits [b, 1] have only one class; pass logits[:, 0] for two classes.'
    )
  labels = classes
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(
      f'labels of logits [b, k] must be integers, got {labels.dtype}.'
    )
  if checks.is_concrete(labels) and labels.size:
    extremes = int(jnp.min(labels)), int(jnp.max(labels))
    if extremes[0] < 0 or extremes[1] >= shape[1]:
      raise ValueError(
        f'labels of logits [b, {shape[1]}] must be from 0 to {shape[1] - 1}, '
        f'got {extremes[0]} to {extremes[1]}.'
      )
  right = labels[:, None] == jnp.arange(shape[1])[None, :]
  return jnp.sum(jnp.where(right, logits, 0), 1) - jax.nn.logsumexp(
    jnp.where(right, -jnp.inf, logits), 1
  )


def mean_residual(logits: jax.Array, labels: jax.Array) -> jax.Array:
  r"""The mean probability of a wrong class, (1/b) Σ p_i, p_i = σ(−m_i).

  Args:
    logits: As in `log_odds`.
    labels: As in `log_odds`.

  Returns:
    The mean, exact to a few roundings however small it is, until it underflows.
    [].

  Raises:
    ValueError: As `log_odds`.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> print(adaopt.mean_residual(jnp.zeros(2), jnp.array([1, -1])))
    0.5
  """
  return jnp.mean(jax.nn.sigmoid(-log_odds(logits, labels)))


def scale_by_mean_residual() -> optax.GradientTransformationExtraArgs:
  r"""Divides by the mean residual: u = β g, β = 1 / ((1/b) Σ p_i).

  As the log-loss vanishes so does its gradient, Σ p_i times what moves m_i;
  divided by Σ p_i it stays a weighted mean, and the steps keep their length.

  Where the mean residual is 0 the update is 0: every example is solved as far
  as the numbers tell. In float32 that is at log-odds above 90. The gradient
  loses its small parts before, unless the loss is made of `log_odds`.
  `adaopt.logistic.normalized_lr_gd` weighs by logarithms and has no such end.

  The mean residual is that of the examples behind the gradient: `train_step`
  averages it over the batch, `accumulate` passes that of the last micro-batch.

  Returns:
    A stateless transform whose update takes `mean_residual=`, [].

  Raises:
    ValueError: From update without a scalar mean residual.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> transform = adaopt.transforms.scale_by_mean_residual()
    >>> gradient = jnp.array([3.0, -4.0])
    >>> scaled, _ = transform.update(
    ...   gradient, transform.init(gradient), mean_residual=jnp.array(0.5))
    >>> print(scaled)
    [ 6. -8.]

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """

  def update_fn(
    updates, state, params=None, *, mean_residual=None, **extra_args
  ):
    del params, extra_args
    if not arrays.is_real_scalar(mean_residual):
      raise ValueError(
        'scale_by_mean_residual needs the scalar mean residual of the batch, '
        f'got {mean_residual}: pass mean_residual= to update, or in train_step '
        "has_aux=True and a loss_fn that returns (loss, {'mean_residual': …})."
      )

    solved = jnp.equal(mean_residual, 0)
    residual = jnp.where(solved, 1, mean_residual)

    def normalised(u):
      dtype = arithmetic.common_dtype(u, residual)
      quotient = u.astype(dtype) / jnp.asarray(residual, dtype)
      return jnp.where(solved, 0, quotient).astype(u.dtype)

    updates = jax.tree.map(normalised, updates)
    return updates, state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update_fn
  )
