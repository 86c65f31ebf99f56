"""Losses that are weighted means: a rare class, and sequences of all lengths.

python -m experiments.weighted_losses --workdir=DIR --data_dir=DIR [--seeds=3]

The first part trains logistic regression on ijcnn1 with few positives left, by
the plain mean loss and with class weights. The second trains a transformer on
padded sequences, by adaopt and in a loop of optax on the same batches, and
compares the parameters.
"""

import collections
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

import adaopt
from experiments import datasets, models, options, results

_EXAMPLES = flags.DEFINE_integer(
  'num_examples', 400_000, 'Examples of every run on ijcnn1.', lower_bound=1
)
_POSITIVES = flags.DEFINE_integer(
  'positives', 500, 'Positives of ijcnn1 that are kept.', lower_bound=1
)
_STEPS = flags.DEFINE_integer(
  'num_steps', 20, 'Steps of the transformer.', lower_bound=1
)

LEARNING_RATE = 2.0
FIXED_SIZES = (64, 1024)
"""Of the runs without a test; those with a test go from the first on."""
ETA = 0.5

SEQUENCES = 24
"""The batch size of the transformer."""
MICRO_BATCH_SIZES = (24, 8, 5)
SHORTEST = 8
TRANSFORMER = models.Transformer(width=64, num_layers=2)


class Outcome(NamedTuple):
  """One row: one scheme, one seed. Shares of the test set in %."""

  scheme: str
  seed: int
  steps: int
  examples: int
  recall: float  # of the positives, how many are found
  precision: float  # of what is called positive, how much is
  balanced: float  # the mean of the recalls of both classes


class Difference(NamedTuple):
  """One row: how far parameters lie from those of the loop of optax."""

  run: str
  loss: float  # of the last batch
  moved: float  # ‖θ − θ'‖ over the length of the way, ‖θ' − θ_0‖
  largest: float  # the largest ‖θ − θ'‖ / ‖θ'‖ of a tensor


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
    >>> from experiments import weighted_losses
    >>> data = {'input': np.eye(5), 'label': np.array([1, 0, 1, 0, 0])}
    >>> kept = weighted_losses.rare(data, positives=1)
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


def _class_losses(params, batch):
  logits = models.MODELS['binary_logistic']().apply(params, batch['input'])
  return optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])


def plain_loss(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
  """The mean log-loss."""
  return jnp.mean(_class_losses(params, batch))


def weighted_loss(
  params: Any, batch: dict[str, jax.Array]
) -> adaopt.WeightedLoss:
  """The mean of the log-losses by the weights of their classes."""
  total = jnp.sum(batch['weight'] * _class_losses(params, batch))
  return adaopt.WeightedLoss(total, jnp.sum(batch['weight']))


def average_loss(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
  """The same of one batch, as a number."""
  return jnp.average(_class_losses(params, batch), weights=batch['weight'])


def train_here(
  loss_fn: adaopt.LossFn,
  hold: optax.GradientTransformation,
  params: Any,
  train: dict[str, Any],
  *,
  num_examples: int,
  seed: int,
) -> tuple[Any, int, int]:
  """Parameters, steps and examples of AdaGrad with what holds a batch size."""
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
) -> tuple[Any, int, int]:
  """The same of optax's AdaGrad on batches of one size."""
  optimizer = optax.adagrad(
    LEARNING_RATE, initial_accumulator_value=0.0, eps=1e-10
  )
  num_steps = -(-num_examples // batch_size)
  params, _ = plain_loop(
    average_loss,
    optimizer,
    params,
    train,
    batch_size=batch_size,
    num_steps=num_steps,
    seed=seed,
  )
  return params, num_steps, num_steps * batch_size


def make_schemes() -> dict[str, Callable[..., tuple[Any, int, int]]]:
  """The schemes of the first part, by name."""
  tested = adaopt.adapt_batch_size(
    adaopt.norm_test(ETA),
    init_batch_size=FIXED_SIZES[0],
    max_batch_size=FIXED_SIZES[-1],
  )
  schemes = {
    'adaopt, mean, norm test': functools.partial(
      train_here, plain_loss, tested
    ),
    'adaopt, weighted, norm test': functools.partial(
      train_here, weighted_loss, tested
    ),
  }
  for size in FIXED_SIZES:
    fixed = adaopt.schedule_batch_size(size)
    schemes |= {
      f'adaopt, weighted, b = {size}': functools.partial(
        train_here, weighted_loss, fixed
      ),
      f'optax, weighted, b = {size}': functools.partial(train_in_optax, size),
    }
  return schemes


def plain_loop(
  loss_fn: Callable[[Any, Any], jax.Array],
  optimizer: optax.GradientTransformation,
  params: Any,
  dataset: Any,
  *,
  batch_size: int,
  num_steps: int,
  seed: int,
  order: np.ndarray | None = None,
) -> tuple[Any, jax.Array]:
  """A loop of optax over the batches that a training step would draw.

  Args:
    loss_fn: (params, batch) → the loss of the batch, which is differentiated.
    optimizer: An optax optimizer.
    params: Where to start.
    dataset: The examples.
    batch_size: b, of every step.
    num_steps: The number of steps.
    seed: The seed of the stream.
    order: The order of the examples within each batch, [b].

  Returns:
    The parameters, and the loss of the last batch before its update.
  """
  offsets = jnp.arange(batch_size) if order is None else jnp.asarray(order)

  def body(carry, first):
    params, state = carry
    batch = adaopt.draw(dataset, seed, first + offsets)
    loss, gradient = jax.value_and_grad(loss_fn)(params, batch)
    updates, state = optimizer.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), loss

  @jax.jit
  def run(params):
    firsts = batch_size * jnp.arange(num_steps)
    return jax.lax.scan(body, (params, optimizer.init(params)), firsts)

  (params, _), losses = run(params)
  return params, losses[-1]


def outcome(
  scheme: str,
  seed: int,
  trained: tuple[Any, int, int],
  test: dict[str, np.ndarray],
) -> Outcome:
  """The row of a run, from the classes that it gives to the test set."""
  params, steps, examples = trained
  logits = models.MODELS['binary_logistic']().apply(params, test['input'])
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
  """All schemes of the first part, with all seeds.

  Args:
    data: Two classes, of which 1 becomes the rare one.
    positives: How many of it are kept for training.
    num_examples: The budget of a run.
    seeds: The number of runs of a scheme.

  Returns:
    The rows.
  """
  train = jax.device_put(rare(data.train, positives))
  rows = []
  for scheme, run in make_schemes().items():
    for seed in range(seeds):
      params = models.MODELS['binary_logistic']().init(
        jax.random.key(seed), train['input'][:1]
      )
      trained = run(params, train, num_examples=num_examples, seed=seed)
      rows.append(outcome(scheme, seed, trained, data.test))
  return rows


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
  """All runs of the second part.

  Args:
    data: 'input' and 'label', [n, T].
    num_steps: The steps of every run.
    batch_size: Of every step.
    micro_batch_sizes: Of adaopt's runs.

  Returns:
    The rows.
  """
  dataset = jax.device_put(cut(data))
  params = TRANSFORMER.init(jax.random.key(0), dataset['input'][:1])
  loop = functools.partial(
    plain_loop,
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


def main(argv: list[str]) -> None:
  """Runs both parts; prints and writes their tables."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
  options.quiet()
  folder = pathlib.Path(options.WORKDIR.value)
  try:
    classes = datasets.DATASETS['ijcnn1'](options.DATA_DIR.value)
    text = datasets.DATASETS['shakespeare'](options.DATA_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
  except (OSError, ValueError) as error:
    sys.exit(str(error))
  rows = train_classes(
    classes,
    positives=_POSITIVES.value,
    num_examples=_EXAMPLES.value,
    seeds=options.SEEDS.value,
  )
  table = results.averages(rows, OUTCOMES)
  results.save(rows, table, folder, 'classes')
  print(table, flush=True)
  rows = train_tokens(
    text.train, num_steps=_STEPS.value, micro_batch_sizes=MICRO_BATCH_SIZES
  )
  table = differences(rows)
  results.save(rows, table, folder, 'tokens')
  print(f'\n{table}')


if __name__ == '__main__':
  flags.mark_flag_as_required('workdir')
  app.run(main)
