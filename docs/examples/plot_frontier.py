"""
Steps against loss
==================

Fixed batch sizes trade steps for loss at a budget of examples. One adaptive run
is held against them, all with the learning rate in proportion to the size.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import adaopt

images, labels = load_digits(return_X_y=True)
dataset = {'image': jnp.asarray(images / 16), 'label': jnp.asarray(labels)}
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])
params = model.init(jax.random.key(0), dataset['image'][:1])


def loss_fn(params, batch):
  logits = model.apply(params, batch['image'])
  return optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  ).mean()


def run(init_batch_size, max_batch_size):
  """Steps, and the loss over all examples."""
  optimizer = adaopt.adaptive(
    optax.sgd(1.0, momentum=0.9),
    0.00125 * init_batch_size,
    init_batch_size=init_batch_size,
    max_batch_size=max_batch_size,
  )
  run = adaopt.fit(
    loss_fn,
    optimizer,
    params,
    dataset,
    num_examples=16_000,
    max_micro_batch_size=16,
  )
  *_, (state, metrics) = run
  return int(metrics.step), float(loss_fn(state.params, dataset))


# %%
# A size that cannot move is a fixed one.
fixed = [run(size, size) for size in (8, 32, 128)]
adaptive = run(8, 1024)
figure, axis = plt.subplots(figsize=(5, 3.4), layout='constrained')
axis.plot(*zip(*fixed, strict=True), 'ko-', label='fixed sizes')
axis.plot(*adaptive, 'o', markersize=9, label='adaptive, from 8')
axis.set(xlabel='steps', ylabel='train loss', xscale='log', yscale='log')
axis.legend(frameon=False)
plt.show()
