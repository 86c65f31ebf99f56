"""The default driver: a convolution inside a loop body on CPU is a trap."""

import jax
import jax.numpy as jnp
import optax
import pytest

import adaopt
from adaopt.training import drivers
from experiments import compilations


def convolve(kernel, images):
  return jax.lax.conv(images, kernel, (1, 1), 'SAME')


def in_scan(kernel, images):
  body = lambda carry, _: (convolve(kernel, carry), None)
  return jax.lax.scan(body, images, length=2)[0]


MODELS = {
  'plain': convolve,
  'under jit': jax.jit(convolve),
  'under remat': jax.checkpoint(convolve),
  'in a scan': in_scan,
  'none': lambda kernel, images: jnp.sum(kernel) * images,
}


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='the CPU default')
@pytest.mark.parametrize('name', MODELS)
def test_convolutions_are_dispatched_on_cpu_and_the_rest_is_traced(name):
  optimizer = optax.chain(adaopt.schedule_batch_size(2), optax.sgd(0.1))
  step = adaopt.train_step(
    lambda kernel, images: jnp.mean(MODELS[name](kernel, images) ** 2),
    optimizer,
    micro_batch_size=2,
  )
  state = adaopt.init_train_state(jnp.ones([1, 1, 3, 3]), optimizer)
  before = compilations.names()
  step(state, jnp.ones([4, 1, 6, 6]))
  expected = (
    ['jit(step)']
    if name == 'none'
    else [
      'jit(micro_step)',
      'jit(update)',
    ]
  )
  assert compilations.names()[len(before) :] == expected


def test_the_host_reads_the_number_of_micro_batches_once_a_step():
  """Read again, behind the first pass, it would wait for that."""
  reads = []

  def counted(parts):
    def num_micro_batches(state):
      reads.append(state)
      return parts.num_micro_batches(state)

    return drivers.dispatched(
      parts._replace(num_micro_batches=num_micro_batches)
    )

  optimizer = adaopt.adadagrad(
    0.1, adaopt.inner_product_test(0.5), init_batch_size=4, max_batch_size=8
  )
  step = adaopt.train_step(
    lambda params, batch: jnp.mean((params - batch) ** 2),
    optimizer,
    micro_batch_size=2,
    along_mean=True,
    driver=counted,
  )
  state = adaopt.init_train_state(jnp.zeros([]), optimizer)
  with jax.disable_jit():  # which would call it at its first read alone
    _, metrics = step(state, jnp.arange(8.0))
  assert jnp.isfinite(metrics.variance_along_mean)
  assert len(reads) == 1
