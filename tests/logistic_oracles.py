"""The methods for separable data in plain float64 numpy, example by example.

Every function takes A [n, d], with rows y_i a_i, and returns the iterates θ_1,
…, θ_T [T, d]. Updates are written as in the papers, without weights: an
example that counts twice is listed twice.
"""

import math

import numpy as np


def _residual(margin):
  """p = 1 / (1 + e^m)."""
  return 1 / (1 + math.exp(margin)) if margin < 700 else 0.0


def _softmin(x):
  """e^{−x_i} / Σ e^{−x_j}."""
  powers = [math.exp(min(x) - x_i) for x_i in x]
  return np.array(powers) / sum(powers)


def _iterate(rows, steps, change):
  """θ ← θ + change(margins, t), T times from 0."""
  theta, iterates = np.zeros(rows.shape[1]), []
  for t in range(steps):
    margins = [float(row @ theta) for row in rows]
    theta = theta + change(margins, t)
    iterates.append(theta)
  return np.array(iterates)


def lr_gd(rows, steps, gamma):
  """θ += (γ/n) Σ p_i A_i."""
  return _iterate(
    rows,
    steps,
    lambda m, t: (
      (gamma / len(rows))
      * sum(_residual(m_i) * row for m_i, row in zip(m, rows, strict=True))
    ),
  )


def normalized_lr_gd(rows, steps, gamma):
  """θ += γ β (1/n) Σ p_i A_i, β = 1 / mean(p_i)."""

  def change(m, t):
    p = [_residual(m_i) for m_i in m]
    beta = 1 / np.mean(p)
    total = sum(p_i * row for p_i, row in zip(p, rows, strict=True))
    return gamma * beta * total / len(rows)

  return _iterate(rows, steps, change)


def _wrong(m, rows):
  return [row for m_i, row in zip(m, rows, strict=True) if m_i <= 0]


def perceptron(rows, steps):
  """θ += A_i, the first i with m_i ≤ 0."""
  zero = np.zeros(rows.shape[1])
  return _iterate(rows, steps, lambda m, t: [*_wrong(m, rows), zero][0])


def batch_perceptron(rows, steps):
  """θ += (1/2n) Σ A_i, then θ += (1/n) Σ_{i: m_i ≤ 0} A_i."""

  def change(m, t):
    if t == 0:
      return sum(rows) / (2 * len(rows))
    return sum(_wrong(m, rows), np.zeros(rows.shape[1])) / len(rows)

  return _iterate(rows, steps, change)


def normalized_batch_perceptron(rows, steps):
  """θ += mean of A_i over {i: m_i ≤ 0}."""

  def change(m, t):
    wrong = _wrong(m, rows)
    return sum(wrong) / len(wrong) if wrong else np.zeros(rows.shape[1])

  return _iterate(rows, steps, change)


def normalized_exponential_gd(rows, steps, eta):
  """θ += η Σ softmin_i A_i."""
  return _iterate(rows, steps, lambda m, t: eta * rows.T @ _softmin(m))


def progressive_rescaling(rows, steps, eta, growth, every):
  """θ_1, …, θ_T: before every phase but the first θ is put on its sphere."""
  theta, iterates, bound = np.zeros(rows.shape[1]), [], math.inf
  for t in range(steps):
    if t > 0 and t % every == 0:
      bound = growth * (np.linalg.norm(theta) if t == every else bound)
      theta = bound * theta / np.linalg.norm(theta)
    theta = theta + eta * rows.T @ _softmin(rows @ theta)
    theta = theta * min(1, bound / np.linalg.norm(theta))
    iterates.append(theta)
  return np.array(iterates)


def adaptive_gd(rows, steps, eta):
  """θ −= η ∇φ, φ = −ℓ⁻¹(L), by a central difference of φ."""

  def phi(theta):
    loss = np.mean([math.log1p(math.exp(-row @ theta)) for row in rows])
    return math.log(math.expm1(loss))

  theta, iterates = np.zeros(rows.shape[1]), []
  for _ in range(steps):
    h = 1e-5 * np.eye(len(theta))
    slope = [(phi(theta + e) - phi(theta - e)) / 2e-5 for e in h]
    theta = theta - eta * np.array(slope)
    iterates.append(theta)
  return np.array(iterates)


def averages(iterates):
  """(1/t) Σ_{s ≤ t} θ_s, s from 1."""
  return np.array(
    [np.mean(iterates[:t], 0) for t in range(1, len(iterates) + 1)]
  )


def _unit(rows):
  """A / R."""
  return rows / max(np.linalg.norm(row) for row in rows)


def dual_momentum(rows, steps):
  """v_1, …, v_T, from v_0 = g_0 = 0 and q_0 = 1/n."""
  rows = _unit(rows)
  v, g = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
  q, iterates = np.full(len(rows), 1 / len(rows)), []
  for t in range(1, steps + 1):
    v = v - (g - rows.T @ q)
    q = _softmin(rows @ v)
    g = t / (t + 1) * (g - rows.T @ q)
    iterates.append(v)
  return np.array(iterates)


def nesterov(rows, steps):
  """The game: p_t answers t copies of w_{t−1}, w_t averages Aᵀp_s by s."""
  rows = _unit(rows)
  pulls, ws = [], [np.zeros(rows.shape[1])]
  for t in range(1, steps + 1):
    past = sum((s * ws[s] for s in range(1, t)), np.zeros(rows.shape[1]))
    pulls.append(rows.T @ _softmin(rows @ (past + t * ws[t - 1]) / 4))
    total = sum((s + 1) * pull for s, pull in enumerate(pulls))
    ws.append(total / sum(range(1, t + 1)))
  terms = [s * w for s, w in enumerate(ws)]
  return np.cumsum(terms[1:], 0)


def smooth_perceptron(rows, steps):
  """θ_1, …, θ_T and the excessive gaps at 0, …, T: right side less left."""
  rows = _unit(rows)
  n, mu = len(rows), 2.0
  theta = rows.T @ np.full(n, 1 / n)
  q = _softmin(rows @ theta / mu)

  def gap(theta, q, mu):
    s = _softmin(rows @ theta / mu)
    divergence = sum(x * math.log(n * x) for x in s if x > 0)
    smoothed = s @ rows @ theta + mu * divergence - theta @ theta / 2
    return smoothed - np.linalg.norm(rows.T @ q) ** 2 / 2

  iterates, gaps = [], [gap(theta, q, mu)]
  for k in range(steps):
    tau = 2 / (k + 3)
    s = _softmin(rows @ theta / mu)
    theta = (1 - tau) * (theta + tau * rows.T @ q) + tau**2 * rows.T @ s
    mu = (1 - tau) * mu
    q = (1 - tau) * q + tau * _softmin(rows @ theta / mu)
    iterates.append(theta)
    gaps.append(gap(theta, q, mu))
  return np.array(iterates), np.array(gaps)


def first_solution(iterates, rows):
  """The first t with every ⟨A_i, θ_t⟩ > 0, None if there is none."""
  for t, theta in enumerate(iterates, 1):
    if min(row @ theta for row in rows) > 0:
      return t
  return None


# Steepest descent in a norm, for A [n, d].

DIRECTIONS = {
  'max': np.sign,
  'sum': lambda g: np.sign(g) * (np.arange(g.size) == np.argmax(np.abs(g))),
  'euclidean': lambda g: g / np.linalg.norm(g),
}
"""argmax_{‖Δ‖ ≤ 1} ⟨g, Δ⟩ for g ≠ 0."""


def steepest_descent(rows, steps, norm, schedule, beta=0.0):
  """θ += η_t argmax ⟨M, Δ⟩, M = β M + Σ p_i A_i."""
  moments = [np.zeros(rows.shape[1])]

  def change(m, t):
    pulls = (_residual(m_i) * row for m_i, row in zip(m, rows, strict=True))
    moments.append(beta * moments[-1] + sum(pulls))
    return schedule(t) * DIRECTIONS[norm](moments[-1])

  return _iterate(rows, steps, change)


# k classes: every function takes H [n, d] and y [n], and returns W_1, …, W_T.


def _probabilities(z):
  powers = [math.exp(z_c - max(z)) for z_c in z]
  return np.array(powers) / sum(powers)


def _iterate_classes(features, labels, classes, steps, change):
  """W ← W + change(z, t), T times from 0; z [n, k] are the logits."""
  w, iterates = np.zeros([classes, features.shape[1]]), []
  for t in range(steps):
    w = w + change([w @ h for h in features], t)
    iterates.append(w)
  return np.array(iterates)


def _pull(z, h, y):
  """Minus the gradient of the cross-entropy of one example."""
  wrong = np.where(np.arange(len(z)) == y, 0, _probabilities(z))
  return np.outer(np.eye(len(z))[y] * np.sum(wrong) - wrong, h)


def _total_pull(z, features, labels):
  return sum(map(_pull, z, features, labels))


def class_lr_gd(features, labels, classes, steps, gamma):
  """W −= γ ∇L."""
  return _iterate_classes(
    features,
    labels,
    classes,
    steps,
    lambda z, t: gamma * _total_pull(z, features, labels) / len(labels),
  )


def class_normalized_lr_gd(features, labels, classes, steps, gamma):
  """W −= γ ∇L / mean(1 − p_iy)."""

  def change(z, t):
    wrong = [
      np.delete(_probabilities(z_i), y)
      for z_i, y in zip(z, labels, strict=True)
    ]
    mean = np.sum(wrong) / len(labels)
    return gamma * _total_pull(z, features, labels) / len(labels) / mean

  return _iterate_classes(features, labels, classes, steps, change)


def _rival(z, y):
  """The best class but y."""
  return max((c for c in range(len(z)) if c != y), key=lambda c: z[c])


def class_perceptron(features, labels, classes, steps):
  """w_y += h, w_c −= h for the first example not won, c its best rival."""

  def change(z, t):
    for z_i, h, y in zip(z, features, labels, strict=True):
      c = _rival(z_i, y)
      if z_i[y] <= z_i[c]:
        return np.outer(np.eye(classes)[y] - np.eye(classes)[c], h)
    return np.zeros([classes, features.shape[1]])

  return _iterate_classes(features, labels, classes, steps, change)


def class_batch_perceptron(features, labels, classes, steps):
  """The same, the mean over all examples; W_1 = −∇L(0)."""

  def change(z, t):
    if t == 0:
      return _total_pull(z, features, labels) / len(labels)
    total = np.zeros([classes, features.shape[1]])
    for z_i, h, y in zip(z, features, labels, strict=True):
      c = _rival(z_i, y)
      if z_i[y] <= z_i[c]:
        total += np.outer(np.eye(classes)[y] - np.eye(classes)[c], h)
    return total / len(labels)

  return _iterate_classes(features, labels, classes, steps, change)


def polar(g):
  """U Vᵀ by the eigenvectors of gᵀg, of eigenvalues above rounding."""
  values, v = np.linalg.eigh(g.T @ g)
  kept = values > 1e-12 * values[-1]
  return g @ (v[:, kept] / np.sqrt(values[kept])) @ v[:, kept].T


CLASS_DIRECTIONS = DIRECTIONS | {'spectral': polar}


def class_steepest_descent(
  features, labels, classes, steps, norm, schedule, beta=0.0
):
  """W += η_t argmax ⟨M, Δ⟩, M = β M − n ∇L."""
  moments = [np.zeros([classes, features.shape[1]])]

  def change(z, t):
    moments.append(beta * moments[-1] + _total_pull(z, features, labels))
    return schedule(t) * CLASS_DIRECTIONS[norm](moments[-1])

  return _iterate_classes(features, labels, classes, steps, change)


def class_differences(features, labels, classes):
  """The rows Δ_ic = (e_y − e_c) h_iᵀ, flattened, c ≠ y_i. [n (k − 1), k d]."""
  return np.array(
    [
      np.outer(np.eye(classes)[y] - np.eye(classes)[c], h).ravel()
      for h, y in zip(features, labels, strict=True)
      for c in range(classes)
      if c != y
    ]
  )
