"""Means over tokens: a transformer on sequences of all lengths, padded."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adaopt
from adaopt.experiments import models, plain_loops, results

SEQUENCES = 24
"""The batch size of the transformer."""
SHORTEST = 8
TRANSFORMER = models.Transformer(width=64, num_layers=2)


class Difference(NamedTuple):
  """One row: how far parameters lie from those of the loop of optax."""

  run: str
  loss: float  # of the last batch
  moved: float  # ‖θ − θ'‖ over the length of the way, ‖θ' − θ_0‖
  largest: float  # the largest ‖θ − θ'‖ / ‖θ'‖ of a tensor


def cut(data: dict[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
  """Sequences cut at random lengths and padded with 0, and their masks.

  Args:
    data: 'input' and 'label', [n, T].
    seed: The seed of the lengths, uniform from 8 to T.

  Returns:
    The sequences, with 'mask' [n, T] float32: 1 for what was kept.
  """
  n, length = data['input'].shape
  lengths = np.random.default_rng(seed).integers(SHORTEST, length + 1, n)
  mask = np.arange(length) < lengths[:, None]
  return {
    'input': np.where(mask, data['input'], 0),
    'label': np.where(mask, data['label'], 0),
    'mask': mask.astype(np.float32),
  }


def token_loss(params: Any, batch: dict[str, jax.Array]) -> adaopt.WeightedLoss:
  """The mean loss of the tokens that are not padding."""
  logits = TRANSFORMER.apply(params, batch['input'])
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  )
  mask = batch['mask']
  return adaopt.WeightedLoss(jnp.sum(mask * losses), jnp.sum(mask))


def ratio(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
  """The same as a number: not a mean over examples."""
  total, weight = token_loss(params, batch)
  return total / weight


def step_through(
  loss_fn: adaopt.LossFn,
  hold: optax.GradientTransformation,
  params: Any,
  dataset: dict[str, jax.Array],
  *,
  num_steps: int,
  micro_batch_size: int,
) -> tuple[Any, jax.Array]:
  """Parameters after steps of adaopt, and the loss of the last batch."""
  optimizer = optax.chain(hold, make_optimizer())
  step = adaopt.train_step(
    loss_fn, optimizer, micro_batch_size=micro_batch_size
  )
  state = adaopt.init_train_state(params, optimizer)
  for _ in range(num_steps):
    state, metrics = step(state, dataset)
  return state.params, metrics.loss


def make_optimizer() -> optax.GradientTransformation:
  """SGD with momentum: its updates are linear in the gradients.

  Adam would divide rounding errors by themselves where a gradient is 0, as that
  of the biases of attention's keys.
  """
  return optax.sgd(0.1, momentum=0.9)


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
  params = TRANSFORMER.init(jax.random.key(0), dataset['input'][:1])
  loop = functools.partial(
    plain_loops.train,
    ratio,
    make_optimizer(),
    params,
    dataset,
    batch_size=batch_size,
    num_steps=num_steps,
    seed=0,
  )
  expected = loop()
  rows = [difference('optax', expected, expected, params)]
  shuffled = np.random.default_rng(0).permutation(batch_size)
  orders = {'reversed': np.arange(batch_size)[::-1], 'shuffled': shuffled}
  rows += [
    difference(f'optax, batch {name}', loop(order=order), expected, params)
    for name, order in orders.items()
  ]
  passed = adaopt.adapt_batch_size(
    adaopt.norm_test(1e3),
    init_batch_size=batch_size,
    max_batch_size=2 * batch_size,
  )
  holds = {'': adaopt.schedule_batch_size(batch_size), ', norm test': passed}
  for name, hold in holds.items():
    for size in micro_batch_sizes:
      found = step_through(
        token_loss,
        hold,
        params,
        dataset,
        num_steps=num_steps,
        micro_batch_size=size,
      )
      rows.append(
        difference(f'adaopt{name}, micro-batch {size}', found, expected, params)
      )
  wrong = step_through(
    ratio,
    holds[''],
    params,
    dataset,
    num_steps=num_steps,
    micro_batch_size=micro_batch_sizes[0],
  )
  rows.append(difference('adaopt, mean of means', wrong, expected, params))
  return rows


def differences(rows: list[Difference]) -> str:
  """A Markdown table of the second part."""
  lines = [['run', 'last loss', 'of the way', 'of a tensor, at most']]
  lines += [
    [
      row.run,
      f'{row.loss:.6f}',
      f'{row.moved:.1e}',
      f'{row.largest:.1e}',
    ]
    for row in rows
  ]
  return results.markdown(lines)
