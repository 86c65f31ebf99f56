"""
Training with privacy
=====================

DP-SGD from one backward pass: clipped sums, noise of optax, and what the noise
costs in accuracy. σ is the noise as a multiple of the bound; an accountant
would turn it into ε.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import adaopt

images, labels = load_digits(return_X_y=True)
images, labels = jnp.asarray(images / 16), jnp.asarray(labels)
train = {'image': images[:1500], 'label': labels[:1500]}
model = nn.Sequential([nn.Dense(32), nn.tanh, nn.Dense(10)])
params = model.init(jax.random.key(0), images[:1])
MAX_NORM, RATE = 1.0, 0.1


def loss_fn(params, batch):
  logits = model.apply(params, batch['image'])
  return optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  ).mean()


clipped_sum = adaopt.per_example.clipped_sum(loss_fn, MAX_NORM)


def accuracy(sigma):
  """On the last 297 digits, after 100 steps."""
  optimizer = optax.chain(
    optax.add_noise((sigma * MAX_NORM) ** 2, gamma=0.0, key=0),
    optax.scale(1 / (RATE * 1500)),
    optax.sgd(2.0),
  )

  @jax.jit
  def step(carried, key):
    params, state = carried
    drawn = jax.random.uniform(key, [1500]) < RATE
    _, total, _ = clipped_sum(params, train, mask=drawn)
    updates, state = optimizer.update(total, state, params)
    return (optax.apply_updates(params, updates), state), None

  keys = jax.random.split(jax.random.key(1), 100)
  (found, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
  predicted = model.apply(found, images[1500:]).argmax(1)
  return float(np.mean(predicted == labels[1500:]))


# %%
# σ = 0 clips and adds no noise.
sigmas = (0.0, 1.0, 4.0, 16.0)
figure, axis = plt.subplots(figsize=(5, 3.2), layout='constrained')
axis.plot(sigmas, [accuracy(sigma) for sigma in sigmas], 'o-')
axis.set(xlabel='σ, noise over the bound', ylabel='test accuracy')
plt.show()
