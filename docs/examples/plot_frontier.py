"""
Steps against loss
==================

Fixed batch sizes, each with the learning rate that a sweep found best, and one
adaptive run from the smallest size and its rate, all on 50 000 examples of
handwritten digits that are shifted at random. One seed.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import adaopt

images, labels = load_digits(return_X_y=True)
images = jnp.asarray(images / 16, jnp.float32).reshape(-1, 8, 8)
dataset = {'image': images, 'label': jnp.asarray(labels, jnp.int32)}
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])
params = model.init(jax.random.key(0), jnp.zeros([1, 64]))


def loss_fn(params, batch, key):
  shift = jax.random.randint(key, [2], -1, 2)
  moved = jax.vmap(lambda image: jnp.roll(image, shift, (0, 1)))(batch['image'])
  logits = model.apply(params, moved.reshape(len(moved), -1))
  return optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  ).mean()


BUDGET = 50_000
COSINE = optax.cosine_decay_schedule(1.0, BUDGET)


def train(optimizer):
  """The steps of a run, and its loss over the last 2000 examples."""
  optimizer = optax.chain(optimizer, adaopt.scale_by_example_schedule(COSINE))
  found = [
    (int(metrics.examples), float(metrics.loss))
    for _, metrics in adaopt.fit(
      loss_fn,
      optimizer,
      params,
      dataset,
      num_examples=BUDGET,
      max_micro_batch_size=16,
    )
  ]
  last = [loss for examples, loss in found if examples > BUDGET - 2000]
  return len(found), sum(last) / len(last)


def fixed(size, rate):
  return optax.chain(
    adaopt.schedule_batch_size(size), optax.sgd(rate, momentum=0.9)
  )


rates = {16: 0.05, 64: 0.2, 256: 0.4, 1024: 0.8}
runs = [train(fixed(size, rate)) for size, rate in rates.items()]
adaptive = train(
  adaopt.adaptive(
    optax.sgd(1.0, momentum=0.9), 0.05, init_batch_size=16, max_batch_size=1024
  )
)

# %%
# Left of the black line a run takes fewer steps to its loss than a fixed size.
figure, axis = plt.subplots(figsize=(6, 4), layout='constrained')
axis.plot(*zip(*runs, strict=True), 'ko-')
for size, point in zip(rates, runs, strict=True):
  axis.annotate(f'  {size}', point)
axis.plot(*adaptive, 'C0o')
axis.annotate('  adaptive', adaptive, color='C0')
axis.set(xlabel='steps', ylabel='train loss', xscale='log', yscale='log')
plt.show()
