"""Robust linear regression: smooth, nonconvex, with a cheap full gradient."""

import jax
import jax.numpy as jnp


def loss_fn(
  w: jax.Array,
  batch: dict[str, jax.Array],
  penalty: jax.typing.ArrayLike = 1e-3,
) -> jax.Array:
  r"""The mean loss over a batch.

  r_i = y_i − ⟨x_i, w⟩,  (1/b) Σ_i log(1 + r_i²/2) + λ Σ_k w_k² / (1 + w_k²),

  with y_i = ±1. The loss is concave beyond |r| = √2, the penalty beyond
  |w_k| = 1/√3, and both have Lipschitz gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.experiments import robust
    >>> batch = {'input': jnp.eye(2), 'label': jnp.array([0, 1])}
    >>> print(robust.loss_fn(jnp.array([-1.0, 1.0]), batch))
    0.001

  References:
    Wang et al., `SpiderBoost and Momentum: Faster Variance Reduction
    Algorithms <https://arxiv.org/abs/1810.10690>`_, 2019 (this loss, and this
    penalty on the logistic one)
  """
  residuals = 2 * batch['label'] - 1 - batch['input'] @ w
  penalties = jnp.sum(w**2 / (1 + w**2))
  return jnp.mean(jnp.log1p(residuals**2 / 2)) + penalty * penalties
