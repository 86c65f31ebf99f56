"""
Each norm has its own margin
============================

Steepest descent in three norms on the digits 3 and 9. Each method widens the
margin in its own norm most.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from adaopt import logistic

jax.config.update('jax_enable_x64', True)
images, digits = load_digits(return_X_y=True)
chosen = (digits == 3) | (digits == 9)
features, labels = images[chosen] / 16, np.where(digits[chosen] == 3, 1, -1)
NORMS = {'sum': 1, 'Euclidean': 2, 'max': np.inf}
LARGEST = {
  'sum': logistic.max_margin_l1(features, labels).margin,
  'Euclidean': logistic.max_margin(features, labels).margin,
  'max': logistic.max_margin_linf(features, labels).margin,
}
# Steps of comparable length: the largest entry, norm and sum of a gradient.
METHODS = {
  'coordinate descent': (logistic.coordinate_descent, 5.0),
  'normalised GD': (logistic.normalized_gd, 1.0),
  'sign descent': (logistic.sign_descent, 0.15),
}


@jax.jit(static_argnums=0)
def final(make, size):
  method = make(lambda count: size / jnp.sqrt(count + 1.0))
  found, _ = logistic.record(method, features, labels, num_steps=3000)
  return found.params


# %%
# The margin of the last iterate over the largest possible, in each norm.
figure, axis = plt.subplots(figsize=(6.5, 3.2), layout='constrained')
for i, (name, (make, size)) in enumerate(METHODS.items()):
  theta = np.asarray(final(make, size))
  margin = np.min(labels * (features @ theta))
  shares = [
    margin / np.linalg.norm(theta, order) / LARGEST[norm]
    for norm, order in NORMS.items()
  ]
  axis.bar(np.arange(3) + 0.27 * (i - 1), shares, 0.25, label=name)
axis.set(xticks=range(3), ylabel='margin over the largest')
axis.set_xticklabels([f'{norm} norm' for norm in NORMS])
axis.legend(frameon=False, fontsize='small')
plt.show()
jax.config.update('jax_enable_x64', False)  # as it was
