"""Class weights: logistic regression on two classes, one of them rare."""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adaopt
from adaopt.experiments import datasets, losses, models, plain_loops

MODEL = models.MODELS['binary_logistic']()
LEARNING_RATE = 2.0
FIXED_SIZES = (64, 1024)
"""Of the runs without a test; those with a test go from the first on."""
ETA = 0.5

Trained = tuple[Any, int, int]
"""Parameters, steps and examples of a run."""


class Outcome(NamedTuple):
  """One row: one scheme, one seed. Shares of the test set in %."""

  scheme: str
  seed: int
  steps: int
  examples: int
  recall: float  # of the positives, how many are found
  precision: float  # of what is called positive, how much is
  balanced: float  # the mean of the recalls of both classes


OUTCOMES = {
  'steps': ('steps', '.0f'),
  'examples': ('examples', '.0f'),
  'recall': ('recall, %', '.1f'),
  'precision': ('precision, %', '.1f'),
  'balanced': ('balanced accuracy, %', '.1f'),
}


def rare(data: dict[str, np.ndarray], positives: int) -> dict[str, np.ndarray]:
  """Some positives and all negatives, with weights of the classes.

  A class of n_c of the n examples has the weight n / (2 n_c). The positives are
  a fixed random choice: the examples of ijcnn1 are in the order of time.

  Args:
    data: 'input' [n, d] and 'label' [n], 0 or 1.
    positives: The number of positives to keep.

  Returns:
    The examples, with 'weight' [n] float32.

  Example:
    >>> import numpy as np
    >>> from adaopt.experiments import rare_class
    >>> data = {'input': np.eye(5), 'label': np.array([1, 0, 1, 0, 0])}
    >>> kept = rare_class.rare(data, positives=1)
    >>> print(kept['label'], kept['weight'].round(2))
    [1 0 0 0] [2.   0.67 0.67 0.67]
  """
  label = data['label']
  kept = label == 0
  rng = np.random.default_rng(0)
  kept[rng.permutation(np.flatnonzero(~kept))[:positives]] = True
  label = label[kept]
  weights = len(label) / 2 / np.maximum(np.bincount(label, minlength=2), 1)
  return {
    'input': data['input'][kept],
    'label': label,
    'weight': weights[label].astype(np.float32),
  }


def average_loss(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
  """The mean by the weights of the classes, as a number."""
  each = losses.each(MODEL)(params, batch)
  return jnp.average(each, weights=batch['weight'])


def train_here(
  loss_fn: adaopt.LossFn,
  hold: optax.GradientTransformation,
  params: Any,
  train: dict[str, Any],
  *,
  num_examples: int,
  seed: int,
) -> Trained:
  """AdaGrad with what holds a batch size."""
  optimizer = optax.chain(hold, adaopt.adagrad(LEARNING_RATE))
  run = adaopt.fit(
    loss_fn, optimizer, params, train, num_examples=num_examples, seed=seed
  )
  ((state, metrics),) = collections.deque(run, maxlen=1)
  return state.params, int(metrics.step), int(metrics.examples)


def train_in_optax(
  batch_size: int,
  params: Any,
  train: dict[str, Any],
  *,
  num_examples: int,
  seed: int,
) -> Trained:
  """The same of optax's AdaGrad on batches of one size."""
  num_steps = -(-num_examples // batch_size)
  params, _ = plain_loops.train(
    average_loss,
    optax.adagrad(LEARNING_RATE, initial_accumulator_value=0.0, eps=1e-10),
    params,
    train,
    batch_size=batch_size,
    num_steps=num_steps,
    seed=seed,
  )
  return params, num_steps, num_steps * batch_size


def make_schemes() -> dict[str, Callable[..., Trained]]:
  """The schemes of the first part, by name."""
  mean, weighted = (
    functools.partial(train_here, make(MODEL))
    for make in (losses.mean, losses.weighted)
  )
  tested = adaopt.adapt_batch_size(
    adaopt.norm_test(ETA),
    init_batch_size=FIXED_SIZES[0],
    max_batch_size=FIXED_SIZES[-1],
  )
  schemes = {
    'adaopt, mean, norm test': functools.partial(mean, tested),
    'adaopt, weighted, norm test': functools.partial(weighted, tested),
  }
  for size in FIXED_SIZES:
    fixed = adaopt.schedule_batch_size(size)
    schemes[f'adaopt, weighted, b = {size}'] = functools.partial(
      weighted, fixed
    )
    schemes[f'optax, weighted, b = {size}'] = functools.partial(
      train_in_optax, size
    )
  return schemes


def outcome(
  scheme: str,
  seed: int,
  trained: Trained,
  test: dict[str, np.ndarray],
) -> Outcome:
  """The row of a run, from the classes that it gives to the test set."""
  params, steps, examples = trained
  logits = MODEL.apply(params, test['input'])
  called, is_rare = np.argmax(logits, 1) == 1, test['label'] == 1
  found = np.sum(called & is_rare)
  recall = found / np.sum(is_rare)
  return Outcome(
    scheme=scheme,
    seed=seed,
    steps=steps,
    examples=examples,
    recall=100 * float(recall),
    precision=100 * float(found / max(np.sum(called), 1)),
    balanced=50 * float(recall + np.mean(~called[~is_rare])),
  )


def train_classes(
  data: datasets.Dataset, *, positives: int, num_examples: int, seeds: int
) -> list[Outcome]:
  """All schemes of the first part, with all seeds."""
  train = jax.device_put(rare(data.train, positives))
  rows = []
  for scheme, run in make_schemes().items():
    for seed in range(seeds):
      params = MODEL.init(jax.random.key(seed), train['input'][:1])
      trained = run(params, train, num_examples=num_examples, seed=seed)
      rows.append(outcome(scheme, seed, trained, data.test))
  return rows
