"""Builds the runs of a config: model, optimizer, step, evaluation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

import adaopt
from adaopt._common import checks
from adaopt.experiments import (
  augmentation,
  datasets,
  losses,
  models,
  schemes,
  together,
)

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


def losses_and_hits(config: ml_collections.ConfigDict) -> Callable[..., Any]:
  """(params, batch) → losses and hits of the config's model and loss."""
  model = schemes.lookup(models.MODELS, 'model', config.model)()
  name = config.get('loss', losses.DEFAULT)
  loss = schemes.lookup(losses.LOSSES, 'loss', name)
  return lambda params, batch: loss(model.apply(params, batch['input']), batch)


def shapes(
  config: ml_collections.ConfigDict, part: dict[str, jax.Array]
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
  """The shapes of losses and hits of some examples.

  Raises:
    ValueError: If examples or losses are not what an experiment takes.
  """
  lacking = [name for name in ('input', 'label') if name not in part]
  if lacking:
    raise ValueError(
      f'the data set {config.dataset!r} has no {" and no ".join(lacking)}; its '
      f'examples have {", ".join(part)}.'
    )
  model = schemes.lookup(models.MODELS, 'model', config.model)()
  params = jax.eval_shape(model.init, jax.random.key(0), part['input'][:2])
  found = jax.eval_shape(losses_and_hits(config), params, part)
  n = checks.num_examples(part)
  entries = [x.shape[:1] for x in jax.tree.leaves(found)]
  if entries != [(n,), (n,)]:
    raise ValueError(
      f'the loss {config.get("loss", losses.DEFAULT)!r} must return losses and '
      f'hits, an entry for each of {n} examples; got the shapes '
      f'{jax.tree.map(lambda x: x.shape, found)}.'
    )
  return found


def summed(of, params, part):
  """Sums of losses and of hits, computed in chunks of examples."""
  length = checks.num_examples(part)
  whole = length - length % EVALUATED
  sums = lambda batch: jax.tree.map(jnp.sum, of(params, batch))
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
  of = losses_and_hits(config)
  num_losses = shapes(config, first)[0].size
  num_hits = shapes(config, test)[1].size

  def loss_fn(params, batch):
    return jnp.mean(of(params, batch)[0])

  def loss_and_residual(params, batch):
    m = adaopt.log_odds(model.apply(params, batch['input']), batch['label'])
    residual = jnp.mean(jax.nn.sigmoid(-m))
    return jnp.mean(jax.nn.softplus(-m)), {'mean_residual': residual}

  def totals(params, train, test):
    return (
      summed(of, params, train)[0],
      summed(of, params, test)[1],
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
      return loss / num_losses, hits / num_hits

    return Run(state, train, step_of, evaluate)

  return prepare


def plan(
  config: ml_collections.ConfigDict,
  names: list[str],
  num_seeds: int,
  data_dir: str | None = None,
) -> list[Planned]:
  """Plans the runs of schemes and seeds, and checks them before training.

  The runs come scheme by scheme. With `config.seeds_together` the seeds of a
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
  for name, scheme in chosen.items():
    schemes.make_optimizer(scheme)
    if schemes.is_normalized(scheme) and 'loss' in config:
      raise ValueError(
        f'the optimizer of {name}, {scheme.optimizer}, has a loss of its own; '
        f'got loss={config.loss!r}. Take another optimizer.'
      )
  dataset = jax.device_put(load(data_dir))
  every = tuple(range(config.seed, config.seed + num_seeds))
  planned = []
  for name, scheme in chosen.items():
    prepare = _preparation(config, scheme, dataset)
    alone = schemes.is_adaptive(scheme) or not config.seeds_together
    for seeds in [(seed,) for seed in every] if alone else [every]:
      planned.append(Planned(name, seeds, prepare))
  return planned
