r"""
Large steps
===========

Logistic regression on the digits 3 and 9: the larger the step, the higher the
loss goes, and the sooner all are on their side.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from adaopt import logistic

images, digits = load_digits(return_X_y=True)
chosen = (digits == 3) | (digits == 9)
features = jnp.asarray(images[chosen] / 16)
labels = jnp.asarray(digits[chosen] == 3)
step_sizes = jnp.array([0.1, 1.0, 10.0, 100.0])


@jax.jit
@jax.vmap
def record(step_size):
  return logistic.record(
    logistic.normalized_lr_gd(step_size), features, labels, num_steps=1000
  )


solution, trajectory = record(step_sizes)
print(solution.iterations)

# %%
# Each line is a run of the same program.
figure, (left, right) = plt.subplots(
  1, 2, figsize=(9, 3.2), layout='constrained'
)
for i, step_size in enumerate(step_sizes):
  left.plot(trajectory.loss[i], linewidth=0.8, label=f'γ = {step_size:g}')
  right.plot(trajectory.accuracy[i], linewidth=0.8)
left.set(xlabel='iteration', ylabel='log-loss', xscale='symlog', yscale='log')
right.set(xlabel='iteration', ylabel='accuracy', xscale='symlog')
right.set_ylim(0.85, 1.01)
left.legend(frameon=False)
plt.show()
