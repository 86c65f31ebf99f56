"""Seeds trained as one program that differ from their separate runs."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt import training
from adaopt.experiments import together

DATASET = np.random.default_rng(0).normal(1.0, size=(64, 3)).astype(np.float32)
SEEDS = (3, 4, 5)


def loss_fn(params, batch):
  return jnp.mean((batch @ params - 1) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(
  'sizes', [6, optax.linear_schedule(2, 20, transition_steps=100)]
)
def test_seeds_together_are_the_seeds_alone(sizes):
  optimizer = optax.chain(
    adaopt.schedule_batch_size(sizes), adaopt.adagrad(0.1)
  )

  @functools.cache
  def single(size):
    return adaopt.train_step(
      loss_fn, optimizer, micro_batch_size=size, donate=True
    )

  @functools.cache
  def together_of(size):
    return together.make_step(single(size))

  states = [
    adaopt.init_train_state(
      jax.random.normal(jax.random.key(seed), 3), optimizer, seed=seed
    )
    for seed in SEEDS
  ]

  def train(step_of, state):
    return [
      jax.device_get(pair)
      for pair in training.iterate(
        step_of,
        state,
        DATASET,
        num_examples=200,
        max_micro_batch_size=16,
        donate=True,
      )
    ]

  several = train(together_of, together.stack(states))
  state, _ = several[-1]
  for i, alone in enumerate(train(single, state) for state in states):
    assert len(alone) == len(several)
    for (_, one), (_, all_) in zip(alone, several, strict=True):
      assert one.batch_size == all_.batch_size
      assert one.examples == all_.examples
      # The same sums, compiled apart.
      np.testing.assert_allclose(one.loss, all_.loss[i], rtol=1e-5)
    params = alone[-1][0].params
    chex.assert_trees_all_close(params, state.params[i], rtol=1e-5)
