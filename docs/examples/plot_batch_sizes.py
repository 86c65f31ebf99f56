"""
Batch sizes that follow the noise
=================================

One run on handwritten digits: the batch is small while any direction helps, and
grows as the noise of the gradient outweighs its length.
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


optimizer = adaopt.adaptive(
  optax.sgd(1.0, momentum=0.9), 0.01, init_batch_size=8, max_batch_size=1024
)
records = [
  (int(metrics.examples), int(metrics.batch_size), float(metrics.loss))
  for _, metrics in adaopt.fit(
    loss_fn,
    optimizer,
    params,
    dataset,
    num_examples=20_000,
    max_micro_batch_size=16,
  )
]

# %%
# The loss, and the size of every batch.
examples, sizes, losses = zip(*records, strict=True)
figure, (left, right) = plt.subplots(
  1, 2, figsize=(9, 3.2), layout='constrained'
)
left.plot(examples, losses, linewidth=0.6)
left.set(xlabel='examples', ylabel='train loss', yscale='log')
right.step(examples, sizes, where='post')
right.set(xlabel='examples', ylabel='batch size', yscale='log')
plt.show()
