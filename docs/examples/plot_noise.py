"""
The noise of every tensor
=========================

The instrument in a plain loop of optax: the gradient noise scale of all
parameters and of every tensor, with standard errors.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import adaopt

images, labels = load_digits(return_X_y=True)
images, labels = jnp.asarray(images / 16), jnp.asarray(labels)
model = nn.Sequential(
  [nn.Dense(64), nn.relu, nn.Dense(32), nn.relu, nn.Dense(10)]
)
params = model.init(jax.random.key(0), images[:1])
optimizer = optax.chain(
  adaopt.noise_scale(half_life=10_000), optax.sgd(0.05, momentum=0.9)
)


def loss_fn(params, batch):
  logits = model.apply(params, batch['image'])
  return optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  ).mean()


@jax.jit
def step(params, state, key):
  rows = jax.random.randint(key, [64], 0, len(images))
  batch = {'image': images[rows], 'label': labels[rows]}
  loss, statistics = adaopt.value_and_statistics(loss_fn)(params, batch)
  updates, state = optimizer.update(
    statistics.mean, state, params, statistics=statistics
  )
  return optax.apply_updates(params, updates), state, loss


state = optimizer.init(params)
for key in jax.random.split(jax.random.key(1), 400):
  params, state, loss = step(params, state, key)
report = adaopt.noise_report(state, params)
print(adaopt.noise_table(report))
print(adaopt.noise_advice(report))

# %%
# One bar for each tensor.
rows = [row for row in report.tensors if 0 < row.noise_scale < float('inf')]
figure, axis = plt.subplots(figsize=(7, 3), layout='constrained')
axis.barh([row.name for row in rows], [float(row.noise_scale) for row in rows])
axis.set(xlabel='noise scale, examples')
plt.show()
