"""
Examples ranked by their gradients
==================================

Squared norms of single gradients, from one backward pass: the digits that pull
hardest at a trained model, above those that pull least.
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
dataset = {'image': jnp.asarray(images / 16), 'label': jnp.asarray(labels)}
model = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(10)])
params = model.init(jax.random.key(0), dataset['image'][:1])


def loss_fn(params, batch):
  logits = model.apply(params, batch['image'])
  return optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  ).mean()


optimizer = adaopt.adaptive(
  optax.adam(1.0), 2e-3, init_batch_size=32, max_batch_size=512
)
*_, (state, metrics) = adaopt.fit(
  loss_fn,
  optimizer,
  params,
  dataset,
  num_examples=12_000,
  max_micro_batch_size=16,
)

# %%
# All 1797 squared norms at once, without one gradient per example.
_, _, squared_norms = jax.jit(adaopt.per_example.squared_norms(loss_fn))(
  state.params, dataset
)
order = np.argsort(-np.asarray(squared_norms))
figure, axes = plt.subplots(2, 8, figsize=(9, 2.8), layout='constrained')
for row, chosen in zip(axes, (order[:8], order[-8:]), strict=True):
  for axis, i in zip(row, chosen, strict=True):
    axis.imshow(images[i].reshape(8, 8), cmap='gray_r')
    axis.set(title=f'labelled {labels[i]}', xticks=[], yticks=[])
axes[0, 0].set_ylabel('largest')
axes[1, 0].set_ylabel('smallest')
plt.show()
