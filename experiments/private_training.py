"""DP-SGD: a perceptron on MNIST, to an ε that is stated before the run.

python -m adaopt.experiments.private_training \
  --workdir=DIR --data_dir=DIR [--seeds=3]

Every step draws its examples independently (Poisson sampling), sums their
gradients clipped to a norm of C by `adaopt.per_example.clipped_sum`, adds
Gaussian noise of deviation σ C by `optax.add_noise`, and divides by the
expected batch size. The accountant of dp_accounting finds the σ at which all
steps together are (ε, δ)-private against one example that is added or removed.
ε = ∞ is the same run without clipping and without noise.

The noise comes from JAX's generator and the draws from NumPy's, by the seed:
neither is made for cryptography, and who knows the seed knows both.
"""

import functools
import math
import sys
from collections.abc import Iterator
from typing import NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from absl import flags
from dp_accounting import pld

import adaopt
from adaopt.experiments import (
  command_line,
  datasets,
  losses,
  models,
  options,
  results,
)

_EPSILONS = flags.DEFINE_multi_float(
  'epsilon', [1.0, 3.0, 8.0, math.inf], 'ε of a run; may be repeated.'
)
_EPOCHS = flags.DEFINE_float(
  'epochs', 10.0, 'Expected passes over the data.', lower_bound=1e-3
)

DELTA = 1e-5
BATCH_SIZE = 512  # expected
MAX_NORM = 1.0
LEARNING_RATE = 0.5
MOMENTUM = 0.9
MODEL = models.MLP()


class Outcome(NamedTuple):
  """One row: one ε, one seed."""

  scheme: str  # ε
  seed: int
  sigma: float
  steps: int
  clipped: float  # share of the gradients, %
  accuracy: float  # on the test set, %


OUTCOMES = {
  'sigma': ('σ', '.3f'),
  'steps': ('steps', '.0f'),
  'clipped': ('clipped, %', '.1f'),
  'accuracy': ('test accuracy, %', '.2f'),
}


def noise_multiplier(
  epsilon: float, delta: float, rate: float, num_steps: int
) -> float:
  """The least σ at which all steps together are (ε, δ)-private.

  σ is the deviation of the noise over C; `rate` the probability that a step
  draws an example.

  Example:
    >>> from adaopt.experiments import private_training
    >>> sigma = private_training.noise_multiplier(3.0, 1e-5, 0.01, 100)
    >>> print(f'{sigma:.2f}')
    0.65
  """
  if epsilon == math.inf:
    return 0.0

  def event(sigma):
    gaussian = dp_accounting.GaussianDpEvent(sigma)
    drawn = dp_accounting.PoissonSampledDpEvent(rate, gaussian)
    return dp_accounting.SelfComposedDpEvent(drawn, num_steps)

  # A coarse grid of privacy losses rounds ε up, in seconds.
  accountant = functools.partial(
    pld.PLDAccountant, value_discretization_interval=1e-3
  )
  return dp_accounting.calibrate_dp_mechanism(
    accountant, event, target_epsilon=epsilon, target_delta=delta
  )


def poisson_batches(
  num_examples: int, rate: float, num_steps: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Draws every example with the same probability, independently.

  Args:
    num_examples: n.
    rate: The probability.
    num_steps: The number of batches.
    seed: The seed.

  Yields:
    Positions [m], padded by 0, and which of them were drawn, [m] bool; m lies
    eight deviations above the mean.

  Raises:
    ValueError: If a batch does not fit.
  """
  rng = np.random.default_rng(seed)
  mean = rate * num_examples
  size = min(num_examples, math.ceil(mean + 8 * math.sqrt(mean)))
  for _ in range(num_steps):
    drawn = np.flatnonzero(rng.random(num_examples) < rate)
    if len(drawn) > size:
      raise ValueError(
        f'{len(drawn)} examples were drawn for a batch of at most {size}; '
        'leaving some out would void the accounting.'
      )
    positions = np.zeros(size, np.int32)
    positions[: len(drawn)] = drawn
    yield positions, np.arange(size) < len(drawn)


def train(
  epsilon: float, data: datasets.Dataset, *, epochs: float, seed: int
) -> Outcome:
  """Trains to the end of the budget of ε."""
  train, test = jax.device_put(data)
  n = len(data.train['label'])
  rate = min(1.0, BATCH_SIZE / n)
  num_steps = math.ceil(epochs / rate)
  sigma = noise_multiplier(epsilon, DELTA, rate, num_steps)
  max_norm = MAX_NORM if sigma else math.inf
  clipped_sum = adaopt.per_example.clipped_sum(losses.mean(MODEL), max_norm)
  init, noise = jax.random.split(jax.random.key(seed))
  optimizer = optax.chain(
    optax.add_noise((sigma * MAX_NORM) ** 2, gamma=0.0, key=noise),
    optax.scale(1 / BATCH_SIZE),
    optax.sgd(LEARNING_RATE, MOMENTUM),
  )

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, data, positions, drawn):
    batch = jax.tree.map(lambda x: x[positions], data)
    _, total, norms = clipped_sum(params, batch, mask=drawn)
    updates, state = optimizer.update(total, state, params)
    counts = jnp.sum(norms > max_norm), jnp.sum(drawn)
    return optax.apply_updates(params, updates), state, counts

  params = MODEL.init(init, train['input'][:1])
  state = optimizer.init(params)
  scheme, counts = f'ε = {epsilon:g}', []
  batches = poisson_batches(n, rate, num_steps, seed)
  for positions, drawn in tqdm.tqdm(
    batches, f'{scheme}, seed {seed}', num_steps, disable=None
  ):
    params, state, count = step(params, state, train, positions, drawn)
    counts.append(count)
  clipped, drawn = np.sum(jax.device_get(counts), 0)
  logits = jax.jit(MODEL.apply)(params, test['input'])
  _, hits = losses.cross_entropy(logits, test)
  return Outcome(
    scheme=scheme,
    seed=seed,
    sigma=sigma,
    steps=num_steps,
    clipped=100 * clipped / drawn,
    accuracy=100 * float(jnp.mean(hits)),
  )


def main() -> None:
  """Trains for every ε and seed; prints and writes the table."""
  if not all(epsilon > 0 for epsilon in _EPSILONS.value):
    sys.exit(f'--epsilon must be above 0, got {_EPSILONS.value}.')
  if not math.isfinite(_EPOCHS.value):
    sys.exit(f'--epochs must be finite, got {_EPOCHS.value}.')
  data = options.load(datasets.DATASETS['mnist'])
  folder = options.make_workdir()
  rows = [
    train(epsilon, data, epochs=_EPOCHS.value, seed=seed)
    for epsilon in _EPSILONS.value
    for seed in range(options.SEEDS.value)
  ]
  table = results.averages(rows, OUTCOMES)
  results.save(rows, table, folder, 'private')
  print(table)


if __name__ == '__main__':
  command_line.run(main, ['workdir'], ['data_dir', 'seeds'])
