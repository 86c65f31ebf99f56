"""Means over tokens: a transformer on sequences of all lengths, padded."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adaopt
from adaopt.experiments import losses, models, plain_loops, results

SEQUENCES = 24
"""The batch size of the transformer."""
SHORTEST = 8
TRANSFORMER = models.MODELS['tiny_transformer']()
# Its updates are linear in the gradients. Adam would divide rounding errors by
# themselves where a gradient is 0, as that of the biases of attention's keys.
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


class Difference(NamedTuple):
  """One row: how far parameters lie from those of the loop of optax."""

  run: str
  loss: float  # of the last batch
  moved: float  # ‖θ − θ'‖ over the length of the way, ‖θ' − θ_0‖
  largest: float  # the largest ‖θ − θ'‖ / ‖θ'‖ of a tensor


def cut(data: dict[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
  """Sequences cut at random lengths and padded with 0, and their weights.

  Args:
    data: 'input' and 'label', [n, T].
    seed: The seed of the lengths, uniform from 8 to T.

  Returns:
    The sequences, with 'weight' [n, T] float32: 1 for what was kept.
  """
  n, length = data['input'].shape
  lengths = np.random.default_rng(seed).integers(SHORTEST, length + 1, n)
  mask = np.arange(length) < lengths[:, None]
  return {
    'input': np.where(mask, data['input'], 0),
    'label': np.where(mask, data['label'], 0),
    'weight': mask.astype(np.float32),
  }


def ratio(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
  """The mean over tokens as a number: not a mean over examples."""
  total, weight = losses.weighted(TRANSFORMER)(params, batch)
  return total / weight


def difference(
  run: str,
  found: tuple[Any, jax.Array],
  expected: tuple[Any, jax.Array],
  start: Any,
) -> Difference:
  """The row of a run from θ_0, beside the loop of optax."""
  params, loss = found
  subtract = lambda x, y: jax.tree.map(jnp.subtract, x, y)
  distances, ways, norms = (
    np.array([float(jnp.linalg.norm(x)) for x in jax.tree.leaves(tree)])
    for tree in (
      subtract(params, expected[0]),
      subtract(expected[0], start),
      expected[0],
    )
  )
  # A bias that would stay 0 but for rounding is measured by all parameters.
  whole = np.linalg.norm(norms)
  own = np.where(norms > 1e-4 * whole, norms, whole)
  return Difference(
    run=run,
    loss=float(loss),
    moved=float(np.linalg.norm(distances) / np.linalg.norm(ways)),
    largest=float(np.max(distances / own)),
  )


def train_tokens(
  data: dict[str, np.ndarray],
  *,
  num_steps: int,
  batch_size: int = SEQUENCES,
  micro_batch_sizes: tuple[int, ...],
) -> list[Difference]:
  """All runs of the second part."""
  dataset = jax.device_put(cut(data))
  start = TRANSFORMER.init(jax.random.key(0), dataset['input'][:1])
  plain = functools.partial(
    plain_loops.train,
    ratio,
    OPTIMIZER,
    start,
    dataset,
    batch_size=batch_size,
    num_steps=num_steps,
    seed=0,
  )

  def here(loss_fn, hold, micro_batch_size):
    optimizer = optax.chain(hold, OPTIMIZER)
    step = adaopt.train_step(
      loss_fn, optimizer, micro_batch_size=micro_batch_size
    )
    state = adaopt.init_train_state(start, optimizer)
    for _ in range(num_steps):
      state, metrics = step(state, dataset)
    return state.params, metrics.loss

  expected = plain()
  shuffled = np.random.default_rng(0).permutation(batch_size)
  found = {
    'optax': expected,
    'optax, batch reversed': plain(order=np.arange(batch_size)[::-1]),
    'optax, batch shuffled': plain(order=shuffled),
  }
  fixed = adaopt.schedule_batch_size(batch_size)
  passed = adaopt.adapt_batch_size(
    adaopt.norm_test(1e3),
    init_batch_size=batch_size,
    max_batch_size=2 * batch_size,
  )
  weighted = losses.weighted(TRANSFORMER)
  for name, hold in {'adaopt': fixed, 'adaopt, norm test': passed}.items():
    for size in micro_batch_sizes:
      found[f'{name}, micro-batch {size}'] = here(weighted, hold, size)
  found['adaopt, mean of means'] = here(ratio, fixed, micro_batch_sizes[0])
  return [difference(run, x, expected, start) for run, x in found.items()]


def differences(rows: list[Difference]) -> str:
  """A Markdown table of the second part."""
  lines = [['run', 'last loss', 'of the way', 'of a tensor, at most']]
  lines += [
    [run, f'{loss:.6f}', f'{moved:.1e}', f'{largest:.1e}']
    for run, loss, moved, largest in rows
  ]
  return results.markdown(lines)
