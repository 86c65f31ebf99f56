"""A run that one process makes, or several together."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import adaopt

X = np.random.default_rng(0).normal(size=(96, 16)).astype(np.float32)


def optimizer_of(max_batch_size=64):
  return adaopt.adaptive(
    optax.sgd(1.0), 0.1, init_batch_size=8, max_batch_size=max_batch_size
  )


OPTIMIZER = optimizer_of()
TIMED = adaopt.adaptive(
  optax.sgd(1.0),
  0.1,
  criterion=adaopt.criteria.goodput(),
  init_batch_size=8,
  max_batch_size=64,
)


def loss_fn(params, batch):
  return jnp.mean((jnp.tanh(batch @ params['w']) - 1) ** 2)


def new_state(optimizer=OPTIMIZER, seed=0):
  params = {'w': jnp.ones([16, 8]) / 8}
  return adaopt.init_train_state(params, optimizer, seed=seed)


def mesh_of(number):
  devices = jax.devices()[:number]
  auto = (AxisType.Auto,)
  return jax.make_mesh((number,), ('data',), axis_types=auto, devices=devices)


def whole(x):
  del x
  return P()


def in_parts(x):
  """As under FSDP."""
  return P('data') if x.ndim == 2 else P()


def place(state, mesh, spec_of):
  """Puts what every process holds on a mesh."""

  def put(x):
    x = np.asarray(x)
    sharding = NamedSharding(mesh, spec_of(x))
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return jax.tree.map(put, state)


def micro_batches():
  """Of 16 rows, but for the last one, which has 8."""
  rows = np.concatenate([X] * 3)[:280]
  return [rows[i : i + 16] for i in range(0, 280, 16)]


def run(state, dataset, optimizer=OPTIMIZER, num_examples=300):
  """Steps, examples, the last batch size, the last loss, and Σ |w| at the end.

  Of a dataset of arrays, or of a feed, which is read to its end.
  """
  options = {}
  if not isinstance(dataset, adaopt.Feed):
    options = dict(max_micro_batch_size=16)
  *_, (state, metrics) = adaopt.fit(
    loss_fn, optimizer, state, dataset, num_examples=num_examples, **options
  )
  total = multihost_utils.process_allgather(
    jnp.sum(jnp.abs(state.params['w'])), tiled=True
  )
  return (
    int(metrics.step),
    int(metrics.examples),
    int(metrics.batch_size),
    float(metrics.loss),
    float(np.ravel(total)[0]),
  )


STEPS = 6


def save(folder, state):
  """Makes the first steps from a feed, and saves state and feed."""
  feed = adaopt.feed(micro_batches())
  steps = adaopt.fit(loss_fn, OPTIMIZER, state, feed)
  state, _ = next(itertools.islice(steps, STEPS - 1, None))
  with ocp.CheckpointManager(folder) as manager:
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      feed=ocp.args.JsonSave(feed.get_state().decode()),
    )
    manager.save(int(state.step), args=args)


def restore(folder, mesh, spec_of):
  """State and feed as they were saved, the state on a mesh."""
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=NamedSharding(mesh, spec_of(x))
    ),
    jax.eval_shape(new_state),
  )
  with ocp.CheckpointManager(folder) as manager:
    args = ocp.args.Composite(
      state=ocp.args.StandardRestore(like), feed=ocp.args.JsonRestore()
    )
    found = manager.restore(manager.latest_step(), args=args)
  feed = adaopt.feed(micro_batches())
  feed.set_state(found.feed.encode())
  return found.state, feed


def history(state, feed):
  """Examples, batch size and loss of every step."""
  steps = adaopt.fit(loss_fn, OPTIMIZER, state, feed)
  return np.array([(m.examples, m.batch_size, m.loss) for _, m in steps])
