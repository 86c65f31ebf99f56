"""What is right: parameters, statistics, losses and optimizers."""

import jax
import jax.numpy as jnp
import optax

import adaopt

PARAMS = {'w': jnp.ones(2)}
BATCH = {'x': jnp.ones([4, 2])}
G = jnp.array([1.0, 2.0])
STATISTICS = adaopt.GradientStatistics(
  batch_size=jnp.int32(4),
  mean=G,
  variance=jnp.float32(3),
  coordinate_variance=G,
  variance_along_mean=jnp.float32(1),
)
BOUNDS = dict(init_batch_size=2, max_batch_size=8)
ADAPTIVE = adaopt.adaptive(optax.sgd(1.0), 0.1, **BOUNDS)
INJECTED = optax.inject_hyperparams(optax.adam)(0.1)


def update(transform, **extra):
  """A first update by a transform."""
  return transform.update(G, transform.init(G), G, **extra)


def adapted(criterion=lambda _: 4, policy=adaopt.follow):
  """An update by a batch size with this criterion and this policy."""
  transform = adaopt.adapt_batch_size(criterion, policy=policy, **BOUNDS)
  return update(transform, statistics=STATISTICS)


def loss_fn(params, batch):
  """A mean over examples."""
  return jnp.mean((batch['x'] @ params['w']) ** 2)


def loss_of_key(params, batch, key):
  """One that draws random numbers."""
  return jax.random.uniform(key) * loss_fn(params, batch)


def loss_of_state(params, batch, model_state):
  """One with a model state."""
  return loss_fn(params, batch), model_state


def in_map(function):
  """A function of devices, mapped over an axis x of four."""
  return lambda **arguments: jax.vmap(
    lambda w: function(w, **arguments), axis_name='x'
  )(jnp.arange(8.0).reshape(4, 2))
