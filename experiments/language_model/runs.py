"""What a run is made of: model, optimizer, stream, state on its mesh."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import adaopt
from adaopt._common import checks
from adaopt.experiments import schemes
from adaopt.experiments.datasets import text
from adaopt.experiments.language_model import layouts, model, speeches
from adaopt.training import placing

NUMBERS = (
  'eval_interval',
  'eval_sequences',
  'half_life',
  'length',
  'micro_batch_size',
  'num_tokens',
)
"""What a config has that is a positive number."""

REQUIRED = (*NUMBERS, 'layout', 'model', 'optimizer', 'seed')
"""What a config has."""


class State(NamedTuple):
  """What is saved of a run."""

  train: adaopt.TrainState
  average: Any  # of the parameters, over examples


class Run(NamedTuple):
  """The parts of a run, before it starts."""

  loss_fn: adaopt.LossFn
  optimizer: optax.GradientTransformation
  state: State
  feed: adaopt.Feed
  # (average, params, batch size, examples) → average.
  move: Callable[..., Any]
  evaluate: Callable[[Any], float]  # parameters → nats a token


def is_decayed(params: Any) -> Any:
  """Whether weight decay holds for a parameter: kernels and embeddings.

  By name: a bias of scanned layers has two axes too.
  """
  names = ('kernel', 'embedding')
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key in names, params
  )


def make_optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """AdamW behind clipping, with warm-up over examples and its own batch size.

  The rate is not lowered at the end: the batch grows in its place.
  """
  clipped = optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      1.0,
      b1=config.b1,
      b2=config.b2,
      weight_decay=config.weight_decay,
      mask=is_decayed,
    ),
  )
  warm_up = optax.warmup_constant_schedule(
    0.0, config.learning_rate, config.warmup_examples
  )
  return adaopt.adaptive(
    clipped,
    warm_up,
    init_batch_size=config.init_batch_size,
    max_batch_size=config.max_batch_size,
  )


def _evaluation(network, batches, mesh):
  """Parameters → the mean loss over batches, which are put on the mesh."""
  rows = NamedSharding(mesh, PartitionSpec(None, *mesh.axis_names))
  held = jax.device_put(jax.tree.map(lambda *x: np.stack(x), *batches), rows)

  @jax.jit
  def ratio(params, batches):
    def of_one(batch):
      logits = network.apply({'params': params}, batch['input'])
      return model.weighted_loss(logits, batch)

    total, weight = jax.tree.map(jnp.sum, jax.lax.map(of_one, batches))
    return total / weight

  return lambda params: float(ratio(params, held))


def prepare(config: ml_collections.ConfigDict, data_dir: str | None) -> Run:
  """Reads the data, and makes the state in its place on all devices.

  Raises:
    FileNotFoundError: If the text is missing.
    ValueError: If the config is wrong or the text is damaged.
  """
  lacking = [name for name in REQUIRED if name not in config]
  if lacking:
    raise ValueError(
      f'the config lacks {", ".join(lacking)}; '
      'experiments/configs/shakespeare_lm.py has what belongs in one.'
    )
  checks.check_positive(**{name: config[name] for name in NUMBERS})
  layout = schemes.lookup(layouts.LAYOUTS, 'layout', config.layout)
  optimizer, mesh = make_optimizer(config.optimizer), layouts.mesh_of_all()
  rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  placing.check_shares(config.micro_batch_size, rows)
  tokens = text.read_shakespeare(data_dir)
  train, test = np.split(tokens, [len(tokens) * 9 // 10])
  network = model.Transformer(text.VOCABULARY, config.length, **config.model)

  def loss(bound, batch):
    return model.weighted_loss(bound(batch['input'], train=True), batch)

  def new_variables():
    shape = jnp.zeros([1, config.length], jnp.int32)
    return network.init(jax.random.key(config.seed), shape)

  loss_fn, *_ = adaopt.linen_loss(network, jax.eval_shape(new_variables), loss)

  def start():
    params = new_variables()['params']
    state = adaopt.init_train_state(
      params, optimizer, seed=config.seed, model_state={}
    )
    return State(state, params)

  place = functools.partial(layout, mesh)
  where = jax.tree.map(place, jax.eval_shape(start))

  @functools.partial(jax.jit, out_shardings=where.average)
  def move(average, params, batch_size, examples):
    """The plain mean over examples, until that forgets no faster."""
    share = 1 - 0.5 ** (batch_size / config.half_life)
    share = jnp.maximum(share, batch_size / examples)
    return optax.incremental_update(params, average, share)

  batches = speeches.batches(test, config.length, config.micro_batch_size)
  batches = batches[: -(-config.eval_sequences // config.micro_batch_size)]
  return Run(
    loss_fn,
    optimizer,
    jax.jit(start, out_shardings=where)(),
    adaopt.feed(
      speeches.stream(train, config.length, config.seed),
      micro_batch_size=config.micro_batch_size,
    ),
    move,
    _evaluation(network, batches, mesh),
  )
