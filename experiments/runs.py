"""Builds the runs of a config: model, optimizer, step, evaluation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

import adaopt
from adaopt._common import checks
from experiments import augmentation, datasets, models, schemes, together

EVALUATED = 1000
"""Examples evaluated at once."""

DRAWS = {
  'none': adaopt.draw,
  'crop_and_flip': augmentation.crop_and_flip,
  'shift': augmentation.shift,
}
"""How to draw a batch, by the name of the augmentation."""


SIZES = (
  'num_examples',
  'eval_interval',
  'eval_train_examples',
  'max_micro_batch_size',
  'group_size',
)
"""What a config has that is a number of examples."""

REQUIRED = (
  *SIZES,
  'dataset',
  'model',
  'augmentation',
  'schemes',
  'seed',
  'seeds_together',
)
"""What a config has."""


class Run(NamedTuple):
  """The parts of a run, before it starts."""

  state: adaopt.TrainState  # stacked if there are several seeds
  examples: dict[str, jax.Array]  # on the device
  step_of: Callable[[int], Any]  # micro_batch_size → step, which donates
  evaluate: Callable[
    ..., tuple[jax.Array, jax.Array]
  ]  # params → loss, accuracy


class Planned(NamedTuple):
  """A planned run, prepared just before it starts."""

  scheme: str
  seeds: tuple[int, ...]  # several are trained as one program
  prepare: Callable[[tuple[int, ...]], Run]  # for all or some of these seeds


def _losses_and_hits(model, params, batch):
  logits = model.apply(params, batch['input'])
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  )
  return losses, jnp.argmax(logits, -1) == batch['label']


def summed(losses_and_hits, params, part):
  """Sums of losses and of hits, computed in chunks of examples."""
  length = checks.num_examples(part)
  whole = length - length % EVALUATED
  sums = lambda batch: jax.tree.map(jnp.sum, losses_and_hits(params, batch))
  chunks = jax.tree.map(
    lambda x: x[:whole].reshape(-1, EVALUATED, *x.shape[1:]), part
  )
  totals = jax.tree.map(jnp.sum, jax.lax.map(sums, chunks))
  if whole < length:
    rest = sums(jax.tree.map(lambda x: x[whole:], part))
    totals = jax.tree.map(jnp.add, totals, rest)
  return totals


def _preparation(
  config: ml_collections.ConfigDict,
  scheme: schemes.Scheme,
  dataset: datasets.Dataset,
) -> Callable[[tuple[int, ...]], Run]:
  """Seeds → a run; single-seed runs share their compiled programs."""
  model = schemes.lookup(models.MODELS, 'model', config.model)()
  draw = schemes.lookup(DRAWS, 'augmentation', config.augmentation)
  optimizer = schemes.make_optimizer(scheme)
  train, test = dataset
  first = jax.tree.map(lambda x: x[: config.eval_train_examples], train)
  losses_and_hits = functools.partial(_losses_and_hits, model)

  def loss_fn(params, batch):
    return jnp.mean(losses_and_hits(params, batch)[0])

  def loss_and_residual(params, batch):
    m = adaopt.log_odds(model.apply(params, batch['input']), batch['label'])
    residual = jnp.mean(jax.nn.sigmoid(-m))
    return jnp.mean(jax.nn.softplus(-m)), {'mean_residual': residual}

  def totals(params, train, test):
    return (
      summed(losses_and_hits, params, train)[0],
      summed(losses_and_hits, params, test)[1],
    )

  def start(seed):
    params = model.init(jax.random.key(seed), train['input'][:2])
    return adaopt.init_train_state(params, optimizer, seed=seed)

  normalized = schemes.is_normalized(scheme)

  @functools.cache
  def single(micro_batch_size):
    return adaopt.train_step(
      loss_and_residual if normalized else loss_fn,
      optimizer,
      micro_batch_size=micro_batch_size,
      group_size=config.group_size,
      has_aux=normalized,
      draw=draw,
      donate=True,
    )

  @functools.cache
  def several(micro_batch_size):
    return together.make_step(single(micro_batch_size))

  totals_of_one = jax.jit(totals)
  totals_of_several = jax.jit(jax.vmap(totals, (0, None, None)))

  def prepare(seeds):
    if len(seeds) == 1:
      state, step_of, totals_of = start(*seeds), single, totals_of_one
    else:
      state = together.stack([start(seed) for seed in seeds])
      step_of, totals_of = several, totals_of_several

    def evaluate(params):
      # Divide here: XLA would multiply by 1 / n, which is not exact.
      loss, hits = jax.device_get(totals_of(params, first, test))
      return loss / first['label'].size, hits / test['label'].size

    return Run(state, train, step_of, evaluate)

  return prepare


def plan(
  config: ml_collections.ConfigDict,
  names: list[str],
  num_seeds: int,
  data_dir: str | None = None,
) -> list[Planned]:
  """Plans the runs of schemes and seeds, and checks them before training.

  Args:
    config: See experiments/configs.
    names: The schemes to run.
    num_seeds: Seeds per scheme, from `config.seed` on.
    data_dir: The folder of the data sets.

  Returns:
    The runs, scheme by scheme. With `config.seeds_together` the seeds of a
    scheme are one run, unless its batch sizes depend on the gradients.

  Raises:
    ValueError: If the config is wrong or a data file is damaged.
    FileNotFoundError: If the data are missing.
  """
  lacking = [name for name in REQUIRED if name not in config]
  if lacking:
    raise ValueError(
      f'the config lacks {", ".join(lacking)}; experiments/README.md says what '
      'belongs in one.'
    )
  sizes = {name: config[name] for name in SIZES}
  checks.check_integer(1, num_seeds=num_seeds, **sizes)
  load = schemes.lookup(datasets.DATASETS, 'dataset', config.dataset)
  chosen = {
    name: schemes.lookup(dict(config.schemes), 'scheme', name) for name in names
  }
  for scheme in chosen.values():
    schemes.make_optimizer(scheme)
  dataset = jax.device_put(load(data_dir))
  every = tuple(range(config.seed, config.seed + num_seeds))
  planned = []
  for name, scheme in chosen.items():
    prepare = _preparation(config, scheme, dataset)
    alone = schemes.is_adaptive(scheme) or not config.seeds_together
    for seeds in [(seed,) for seed in every] if alone else [every]:
      planned.append(Planned(name, seeds, prepare))
  return planned
