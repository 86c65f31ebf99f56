"""What a user's type checker sees: `make lint` checks it, nothing runs it.

A line that expects an error fails where there is none.
"""

import jax
import optax

import adaopt


def loss_fn(params: jax.Array, batch: jax.Array) -> jax.Array:
  return ((batch - params) ** 2).mean()


def right(params: jax.Array, batch: jax.Array) -> jax.Array:
  optimizer = adaopt.adaptive(
    optax.sgd(1.0), 0.1, init_batch_size=8, max_batch_size=64
  )
  scheduled = adaopt.adagrad(optax.constant_schedule(0.1))
  chained = optax.chain(adaopt.accumulate(optimizer, group_size=4), scheduled)
  chained.init(params)
  _, statistics = adaopt.value_and_statistics(loss_fn)(params, batch)
  both = adaopt.all_of(adaopt.norm_test(0.5), adaopt.inner_product_test(0.9))
  of_biases = adaopt.of_tensors(both, lambda path: 'bias' in path)
  return jax.numpy.fmax(both(statistics), of_biases(statistics))


def wrong(statistics: adaopt.GradientStatistics) -> None:
  stateful = adaopt.gradient_noise_scale(decay=0.9)
  # pyrefly: ignore [not-callable]
  adaopt.all_of(adaopt.norm_test(0.5), stateful)(statistics)
  # pyrefly: ignore [bad-argument-type]
  adaopt.adagrad('0.1')
  # pyrefly: ignore [bad-argument-type]
  adaopt.norm_test('0.5')
  # pyrefly: ignore [unexpected-keyword]
  adaopt.norm_test(0.5, smoothing=0.9)
  # pyrefly: ignore [missing-argument]
  adaopt.adaptive(optax.sgd(1.0), 0.1)
