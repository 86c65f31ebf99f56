"""Losses of the experiments, example by example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[jax.Array, dict[str, jax.Array]], tuple[jax.Array, jax.Array]]
"""(outputs of the model, batch) → losses and hits, each [n, ...]; the mean of
the losses is trained on, that of the hits is the accuracy."""


def cross_entropy(
  logits: jax.Array, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """−log softmax(logits)_label, and whether that logit is the largest."""
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  )
  return losses, jnp.argmax(logits, -1) == batch['label']


DEFAULT = 'cross_entropy'

LOSSES: dict[str, Loss] = {DEFAULT: cross_entropy}
