"""Whole runs of a scheme, a few programs for all learning rates and seeds.

The learning rate is part of the optimizer's state, and the steps between two
points of the batch-size curve are one loop on the device.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

import adaopt
from adaopt.experiments import datasets, models, runs, schemes
from adaopt.experiments.frontier import trials

DEVICES = (1, 8, 64)
"""P, the numbers of devices for which rounds of micro-batches are counted."""

POINTS = 60
"""Points of a batch-size curve."""

EVALUATED = 10_000
"""The first training examples, of which the train loss is."""

Splits = dict[str, dict[str, jax.Array]]


class Parts(NamedTuple):
  """What the runs of one scheme are made of."""

  start: Callable[[dict[str, float], int], adaopt.TrainState]  # (held, seed)
  step_of: Callable[[int], Any]  # micro_batch_size → step
  # micro_batch_size → ((state, rounds), until, dataset) → (state, rounds)
  burst_of: Callable[[int], Callable[..., Any]]
  evaluate: Callable[..., tuple[float, float]]  # (params, split) → loss, hits


def load(config: ml_collections.ConfigDict, data_dir: str | None) -> Splits:
  """The training, validation and test examples of a config, on the device.

  Args:
    config: `dataset`, and `validation_examples`: so many of the last training
      examples are set aside.
    data_dir: The folder of the data sets.
  """
  found = schemes.lookup(datasets.DATASETS, 'dataset', config.dataset)(data_dir)
  last = config.validation_examples
  if not 0 < last < len(found.train['label']):
    raise ValueError(
      f'validation_examples={last} must be positive and below the '
      f'{len(found.train["label"])} training examples.'
    )
  return jax.device_put(
    {
      'train': {name: x[:-last] for name, x in found.train.items()},
      'validation': {name: x[-last:] for name, x in found.train.items()},
      'test': found.test,
    }
  )


def rung(batch_size: int, sizes: tuple[int, ...]) -> int:
  """The smallest micro-batch that holds a batch, or the largest."""
  return next((size for size in sizes if batch_size <= size), sizes[-1])


def _burst(step, limit, device_batch):
  """Steps until enough examples are seen or batches outgrow the limit."""
  per_round = device_batch * np.array(DEVICES)

  def goes_on(carry, until):
    state, _ = carry
    small = optax.tree.get(state.opt_state, 'batch_size') <= limit
    return (state.examples < until) & small

  def advance(carry, dataset):
    state, rounds = carry
    state, metrics = step(state, dataset)
    return state, rounds - (-metrics.batch_size // per_round)

  @functools.partial(jax.jit, donate_argnums=0)
  def burst(carry, until, dataset):
    return jax.lax.while_loop(
      lambda carry: goes_on(carry, until),
      lambda carry: advance(carry, dataset),
      carry,
    )

  return burst


def holding(state: adaopt.TrainState, **held: float) -> adaopt.TrainState:
  """The state with these numbers in that of its optimizer, by their names."""
  held = {
    name: jnp.asarray(value, optax.tree.get(state.opt_state, name).dtype)
    for name, value in held.items()
  }
  return state._replace(opt_state=optax.tree.set(state.opt_state, **held))


def make_parts(
  config: ml_collections.ConfigDict, scheme: schemes.Scheme, splits: Splits
) -> Parts:
  """The parts of all runs of one scheme, as in `make_runner`."""
  model = schemes.lookup(models.MODELS, 'model', config.model)()
  of = runs.losses_and_hits(config)
  draw = schemes.lookup(runs.DRAWS, 'augmentation', config.augmentation)
  optimizer = optax.chain(
    schemes.make_optimizer(scheme),
    optax.inject_hyperparams(optax.scale)(1.0),
  )
  train = splits['train']
  sizes = tuple(config.micro_batch_sizes)

  def loss_fn(params, batch):
    return jnp.mean(of(params, batch)[0])

  @functools.cache
  def step_of(size):
    return adaopt.train_step(
      loss_fn, optimizer, micro_batch_size=size, draw=draw
    )

  @functools.cache
  def burst_of(size):
    limit = size if size < sizes[-1] else jnp.iinfo(jnp.int32).max
    return _burst(step_of(size), limit, config.device_batch)

  @jax.jit
  def init(seed):
    return model.init(jax.random.key(seed), train['input'][:2])

  def start(held, seed):
    state = adaopt.init_train_state(init(seed), optimizer, seed=seed)
    return holding(state, **held)

  totals = jax.jit(functools.partial(runs.summed, of))

  def evaluate(params, part):
    loss, hits = jax.device_get(totals(params, part))
    losses, scores = runs.shapes(config, part)
    return float(loss) / losses.size, float(hits) / scores.size

  return Parts(start, step_of, burst_of, evaluate)


def make_runner(
  config: ml_collections.ConfigDict, scheme: schemes.Scheme, splits: Splits
) -> Callable[[dict[str, float], int], trials.Outcome]:
  """Runs of one scheme, with any learning rate and any tolerance.

  Args:
    config: A config of a frontier.
    scheme: As in `schemes.make_optimizer`, made with learning rate 1.
    splits: From `load`.

  Returns:
    (held, seed) → the outcome; `held` names numbers in the optimizer's state,
    such as step_size, the learning rate.

  Raises:
    ValueError: If the model or the scheme is not known.
  """
  start, _, burst_of, evaluate = make_parts(config, scheme, splits)
  train = splits['train']

  def run(held, seed):
    carry = start(held, seed), jnp.zeros(len(DEVICES), int)
    begin = time.perf_counter()
    carry, curve = _train(burst_of, carry, train, config)
    state, rounds = jax.block_until_ready(carry)
    seconds = time.perf_counter() - begin
    first = {name: x[:EVALUATED] for name, x in train.items()}
    test_loss, test_accuracy = evaluate(state.params, splits['test'])
    return trials.Outcome(
      steps=int(state.step),
      examples=int(state.examples),
      train_loss=evaluate(state.params, first)[0],
      validation_loss=evaluate(state.params, splits['validation'])[0],
      test_loss=test_loss,
      test_accuracy=test_accuracy,
      seconds=seconds,
      rounds=tuple(rounds.tolist()),
      curve=tuple(curve),
    )

  return run


def _train(
  burst_of: Callable[[int], Callable[..., Any]],
  carry: Any,
  train: dict[str, jax.Array],
  config: ml_collections.ConfigDict,
) -> tuple[Any, list[tuple[int, int]]]:
  """Trains to the end of the budget; returns the curve of batch sizes too."""
  curve = []
  sizes = tuple(config.micro_batch_sizes)
  for until in np.linspace(0, config.num_examples, POINTS + 1)[1:].astype(int):
    while True:
      state, _ = carry
      examples = int(state.examples)
      if examples >= until:
        break
      batch_size = int(optax.tree.get(state.opt_state, 'batch_size'))
      curve.append((examples, batch_size))
      burst = burst_of(rung(batch_size, sizes))
      carry = burst(carry, int(until), train)
  return carry, curve
