"""From a config to the runs it plans: model, optimizer, step, evaluation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

import adaopt
from adaopt import checks
from experiments import datasets, models, schemes


class Run(NamedTuple):
  """What one run is made of, before it starts."""

  state: adaopt.TrainState
  examples: dict[str, jax.Array]  # on the device
  make_step: Callable[..., Any]  # micro_batch_size=… → step
  evaluate: Callable[
    ..., tuple[jax.Array, jax.Array]
  ]  # params → loss, accuracy


class Planned(NamedTuple):
  """A run of a plan, prepared when its turn comes."""

  scheme: str
  seed: int
  prepare: Callable[[], Run]


def prepare(
  config: ml_collections.ConfigDict,
  scheme: ml_collections.ConfigDict,
  seed: int,
  dataset: datasets.Dataset,
) -> Run:
  """Builds model, optimizer and step of one run.

  Args:
    config: `model`, `eval_train_examples`.
    scheme: As `schemes.make_optimizer` takes it.
    seed: Of the initial parameters and the example stream.
    dataset: The examples, on the device.

  Returns:
    The run.

  Raises:
    ValueError: If the config names something unknown or out of range.
  """
  model = schemes.lookup(models.MODELS, 'model', config.model)()
  optimizer, statistics = schemes.make_optimizer(scheme)
  train, test = dataset

  def losses_and_hits(params, batch):
    logits = model.apply(params, batch['input'])
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    )
    return losses, jnp.argmax(logits, -1) == batch['label']

  def loss_fn(params, batch):
    return jnp.mean(losses_and_hits(params, batch)[0])

  def means(params, part):
    """Loss and accuracy, by chunks that bound the memory."""
    single = lambda example: losses_and_hits(
      params, jax.tree.map(lambda x: x[None], example)
    )
    return jax.tree.map(jnp.mean, jax.lax.map(single, part, batch_size=1000))

  @jax.jit
  def evaluate(params, train, test):
    return means(params, train)[0], means(params, test)[1]

  params = model.init(jax.random.key(seed), train['input'][:1])
  first = jax.tree.map(lambda x: x[: config.eval_train_examples], train)
  return Run(
    adaopt.init_train_state(params, optimizer, seed=seed),
    train,
    functools.partial(adaopt.train_step, loss_fn, optimizer, **statistics),
    functools.partial(evaluate, train=first, test=test),
  )


def plan(
  config: ml_collections.ConfigDict, data_dir: str | None = None
) -> list[Planned]:
  """Every scheme with every seed, checked before anything is trained.

  Args:
    config: See experiments/configs.
    data_dir: Where the data sets lie.

  Returns:
    The runs, scheme by scheme.

  Raises:
    ValueError: If the config is wrong or a data file is damaged.
    FileNotFoundError: If the data are not there.
  """
  checks.check_integer(
    1,
    **{
      name: config[name]
      for name in (
        'num_examples',
        'num_seeds',
        'eval_interval',
        'eval_train_examples',
        'max_micro_batch_size',
      )
    },
  )
  schemes.lookup(models.MODELS, 'model', config.model)
  for scheme in config.schemes.values():
    schemes.make_optimizer(scheme)
  load = schemes.lookup(datasets.DATASETS, 'dataset', config.dataset)
  dataset = jax.device_put(load(data_dir))
  return [
    Planned(
      name, seed, functools.partial(prepare, config, scheme, seed, dataset)
    )
    for name, scheme in config.schemes.items()
    for seed in range(config.seed, config.seed + config.num_seeds)
  ]
