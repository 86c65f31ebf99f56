"""One gradient, where the backward pass of a parameter is not linear."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt.training import drivers

X = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
DATASET = {'x': X, 'y': X[:, 0] - 2 * X[:, 1]}


def with_backward(backward, forward=lambda p: p):
  function = jax.custom_vjp(forward)
  function.defvjp(lambda p: (forward(p), ()), lambda _, c: (backward(c),))
  return function


FUNCTIONS = {
  'clip': with_backward(lambda c: jnp.clip(c, -0.1, 0.1)),
  'normalise': with_backward(lambda c: c / (jnp.linalg.norm(c) + 1e-6)),
  'straight-through quantiser': with_backward(
    lambda c: c, lambda p: jnp.round(4 * p) / 4
  ),
}
TESTS = [None, adaopt.norm_test(0.5), adaopt.inner_product_test(0.5)]
WAYS = [
  *itertools.product([1, 4], [8, 64], TESTS, [drivers.traced]),
  (1, 8, TESTS[1], drivers.dispatched),
]
# Alone, a function is all that tells how its parameter is differentiated.
ALONE = [
  (1, 8, TESTS[0], drivers.traced),
  (4, 8, TESTS[1], drivers.traced),
  (1, 64, TESTS[2], drivers.traced),
]
CASES = {name: ([name], ALONE) for name in FUNCTIONS}
CASES['all of them'] = [*FUNCTIONS], WAYS


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_every_way_gives_the_gradient_of_the_batch(case):
  names, ways = CASES[case]
  params = {'b': jnp.zeros([])} | {
    name: jnp.linspace(-1, 1, 5) for name in names
  }
  functions = {name: jax.jit(FUNCTIONS[name]) for name in names}

  def loss_fn(params, batch):
    outputs = params['b']
    for name, function in functions.items():
      outputs += batch['x'] @ function(params[name])
    return jnp.mean((outputs - batch['y']) ** 2)

  batch = adaopt.draw(DATASET, 0, jnp.arange(32))
  expected = jax.grad(loss_fn)(params, batch)
  for group_size, micro_batch_size, test, driver in ways:
    holds = adaopt.schedule_batch_size(32)
    if test is not None:
      holds = adaopt.adapt_batch_size(
        test, init_batch_size=32, max_batch_size=64
      )
    optimizer = optax.chain(holds, optax.sgd(1.0))
    step = adaopt.train_step(
      loss_fn,
      optimizer,
      micro_batch_size=micro_batch_size,
      group_size=group_size,
      driver=driver,
    )
    state, _ = step(adaopt.init_train_state(params, optimizer), DATASET)
    for key, gradient in expected.items():
      # A step of float32, x − g, rounds at 1e-7 of the larger one.
      np.testing.assert_allclose(
        params[key] - state.params[key], gradient, rtol=2e-6, atol=1e-6
      )
  for only in ((), ('variance',)):
    estimate = jax.jit(adaopt.value_and_statistics(loss_fn, only=only))
    found = estimate(params, batch)[1].mean
    for key, gradient in expected.items():
      np.testing.assert_allclose(found[key], gradient, rtol=1e-6, atol=1e-7)
  adaopt.check_independent_examples(loss_fn, params, DATASET)
