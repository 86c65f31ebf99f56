"""Gradient statistics and required batch sizes in plain float64 numpy.

Everything starts from G [b, d], one example's gradient a row, and every
function is one formula, written as the papers write it and never simplified.
Complex gradients count as vectors of their real and imaginary parts.
"""

import functools

import jax
import numpy as np


@functools.cache
def gradient_of(loss_fn):
  """jax.grad(loss_fn), compiled once for all tests of a loss."""
  return jax.jit(jax.grad(loss_fn))


def ravel(tree):
  """All tensors of a tree as one vector, [d]."""
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def sample_gradients(loss_fn, params, batch, size=1):
  """G: the gradient of every `size` successive examples. [b / size, d]."""
  length = len(jax.tree.leaves(batch)[0])
  gradient = gradient_of(loss_fn)
  rows = []
  for start in range(0, length, size):
    sample = jax.tree.map(lambda x, i=start: x[i : i + size], batch)
    rows.append(ravel(gradient(params, sample)))
  return np.stack(rows)


def mean(g):
  """ḡ = (1/b) Σ_i g_i. [d]."""
  return sum(row for row in g) / len(g)


def squared_norm(x):
  """‖x‖² = Σ_k |x_k|²."""
  return sum(abs(entry) ** 2 for entry in x)


def coordinate_variances(g):
  """V_k = Σ_i |g_ik − ḡ_k|² / (b − 1). [d]."""
  center = mean(g)
  return sum(abs(row - center) ** 2 for row in g) / (len(g) - 1)


def sum_of_matrix_squares(matrices):
  """Σ_j G_j G_jᴴ, of G_jᵀ if it has more rows than columns. [m, m]."""
  wide = [m if m.shape[0] <= m.shape[1] else m.T for m in matrices]
  return sum(m @ np.conj(m).T for m in wide)


def total_variance(g):
  """v = Σ_i ‖g_i − ḡ‖² / (b − 1)."""
  center = mean(g)
  return sum(squared_norm(row - center) for row in g) / (len(g) - 1)


def tensor_variances(g, params):
  """total_variance of the columns of each tensor of params. [tensors]."""
  variances, start = [], 0
  for leaf in jax.tree.leaves(params):
    columns = slice(start, start + np.size(leaf))
    variances.append(total_variance(g[:, columns]))
    start = columns.stop
  return np.array(variances)


def projections(g):
  """p_i = Re ⟨g_i, ḡ⟩. [b]."""
  center = mean(g)
  return np.array([np.vdot(center, row).real for row in g])


def variance_along_mean(g):
  """v∥ = Σ_i (p_i − p̄)² / ((b − 1) ‖ḡ‖²)."""
  p = projections(g)
  spread = sum((p_i - p.mean()) ** 2 for p_i in p) / (len(g) - 1)
  return spread / squared_norm(mean(g))


def variance_across_mean(g):
  """v⊥ = Σ_i ‖g_i − (p_i / ‖ḡ‖²) ḡ‖² / (b − 1)."""
  center = mean(g)
  along = projections(g) / squared_norm(center)
  rest = [row - a * center for row, a in zip(g, along, strict=True)]
  return sum(squared_norm(row) for row in rest) / (len(g) - 1)


def group_means(g, size):
  """ḡ_j, the mean of the rows (j − 1) q + 1, …, j q. [b / q, d]."""
  return np.stack([mean(g[i : i + size]) for i in range(0, len(g), size)])


def group_estimate(variance, g, size):
  """q · variance(ḡ_1, …, ḡ_J): a variance per example, from groups."""
  return size * variance(group_means(g, size))


def norm_requirement(g, eta):
  """b ≥ v / (η² ‖ḡ‖²)."""
  return total_variance(g) / (eta**2 * squared_norm(mean(g)))


def inner_product_requirement(g, theta):
  """b ≥ v∥ / (θ² ‖ḡ‖²)."""
  return variance_along_mean(g) / (theta**2 * squared_norm(mean(g)))


def orthogonality_requirement(g, nu):
  """b ≥ v⊥ / (ν² ‖ḡ‖²)."""
  return variance_across_mean(g) / (nu**2 * squared_norm(mean(g)))


def augmented_requirement(g, theta, nu):
  """The larger of the inner-product and the orthogonality requirement."""
  return max(
    inner_product_requirement(g, theta), orthogonality_requirement(g, nu)
  )


def coordinate_requirements(g, eta):
  """b ≥ V_k / (η² |ḡ_k|²). [d]."""
  return coordinate_variances(g) / (eta**2 * abs(mean(g)) ** 2)


# A loss Σ a_i / Σ w_i: rows ∇a_i in A [J, d] with weights w [J], each of one
# example or of the sums over a group of `size`.


def ratio(a, w):
  """ḡ = Σ_i ∇a_i / Σ_i w_i. [d]."""
  return sum(row for row in a) / sum(w)


def ratio_deviations(a, w):
  """u_i = J (∇a_i − w_i ḡ) / W. [J, d]."""
  center = ratio(a, w)
  return np.stack(
    [
      len(a) * (row - weight * center) / sum(w)
      for row, weight in zip(a, w, strict=True)
    ]
  )


def ratio_coordinate_variances(a, w, size=1):
  """V_k = q Σ_j |u_jk|² / (J − 1). [d]."""
  u = ratio_deviations(a, w)
  return size * sum(abs(row) ** 2 for row in u) / (len(a) - 1)


def ratio_variance(a, w, size=1):
  """v = n² / (q W²) Σ_j ‖∇a_j − w_j ḡ‖² / (J − 1)."""
  center, n = ratio(a, w), size * len(a)
  total = sum(
    squared_norm(row - weight * center)
    for row, weight in zip(a, w, strict=True)
  )
  return n**2 / (size * sum(w) ** 2) * total / (len(a) - 1)


def ratio_tensor_variances(a, w, params, size=1):
  """ratio_variance of the columns of each tensor of params. [tensors]."""
  variances, start = [], 0
  for leaf in jax.tree.leaves(params):
    columns = slice(start, start + np.size(leaf))
    variances.append(ratio_variance(a[:, columns], w, size))
    start = columns.stop
  return np.array(variances)


def ratio_matrix_variances(a, w, params, size=1):
  """C = q Σ_j U_j U_jᴴ / (J − 1) of each matrix of params, in a list."""
  found, start = [], 0
  for leaf in jax.tree.leaves(params):
    columns = slice(start, start + np.size(leaf))
    u = ratio_deviations(a[:, columns], w).reshape(-1, *np.shape(leaf))
    if u.ndim == 3:
      found.append(size * sum_of_matrix_squares(u) / (len(a) - 1))
    start = columns.stop
  return found


def ratio_variance_along_mean(a, w, size=1):
  """v∥ = q Σ_j (Re ⟨u_j, ḡ⟩ / ‖ḡ‖)² / (J − 1)."""
  center = ratio(a, w)
  along = [np.vdot(center, u).real for u in ratio_deviations(a, w)]
  spread = sum(p**2 for p in along) / squared_norm(center)
  return size * spread / (len(a) - 1)


def group_sums(a, size):
  """Σ of the rows (j − 1) q + 1, …, j q. [b / q, ...]."""
  return np.stack([sum(a[i : i + size]) for i in range(0, len(a), size)])
