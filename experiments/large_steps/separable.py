"""Two classes that a hyperplane through 0 separates, or nearly."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn import datasets as sklearn_datasets

from adaopt.experiments import datasets


class Examples(NamedTuple):
  """Examples of two classes, as `adaopt.logistic` takes them."""

  features: np.ndarray  # a_i, [n, d] float64; no bias is added
  labels: np.ndarray  # y_i = ±1, [n]
  weights: np.ndarray  # how often each counts, [n]


def _pair(features, labels, classes):
  """The examples of two classes, the first labelled +1."""
  chosen = np.isin(labels, classes)
  signs = np.where(labels[chosen] == classes[0], 1, -1)
  return Examples(features[chosen], signs, np.ones(len(signs)))


def hard_set(n: int) -> Examples:
  """A set on which the batch perceptron takes Θ(n) iterations.

  One example (0.5, −1) of class +1, and n − 1 copies of (−0.5, −1) of class −1.

  R²/μ² = 5 for every n.

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """
  return Examples(
    np.array([[0.5, -1.0], [-0.5, -1.0]]),
    np.array([1, -1]),
    np.array([1.0, n - 1.0]),
  )


def chain(k: int) -> Examples:
  """A set on which methods made of gradients take k ≥ R²/(5 μ²) iterations.

  A_1 = e_1 and A_i = e_i − e_{i−1}/2, with 2^{i−1} copies of A_i. At θ = 0 the
  gradient is in the direction of e_k alone, since the copies cancel everything
  else. As long as θ is in the span of e_k, …, e_{j+1}, all examples before A_j
  have margin 0 and equal weight, and cancel likewise: each gradient brings one
  more direction, and A_1 needs the last. With θ_i = 2 − 2^{1−i} every margin is
  1 and ‖θ‖ ≤ 2√k, so that R²/μ² ≤ 5k; log n is in proportion to k.

  k ≤ 50, so that the copies cancel in float64.

  References:
    The order of the lower bound is that of Zhang et al., `Minimax Optimal
    Convergence of Gradient Descent in Logistic Regression via Large and
    Adaptive Stepsizes <https://arxiv.org/abs/2504.04105>`_, 2025; the set is
    ours.
  """
  return Examples(
    np.eye(k) - np.eye(k, k=-1) / 2,
    np.ones(k, int),
    2.0 ** np.arange(k),
  )


def plane(n: int, margin: float) -> Examples:
  """Two directions at the angle ± arccos μ to (1, 0), one of them n − 1 times.

  0 < μ < 1, and R = 1; all are of class +1.
  """
  across = np.sqrt(1 - margin**2)
  return Examples(
    np.array([[margin, across], [margin, -across]]),
    np.array([1, 1]),
    np.array([1.0, n - 1.0]),
  )


def one_feature(d: int) -> Examples:
  r"""A set on which linear models take Ω(d) iterations: one feature tells.

  With rows of norm at most 1, A_i = y_i a_i and m = (d − 1) / 2:

    A_0 = (1, 1, …, 1, 0, …, 0) / √d   4 times; the last m features are 0
    A_1 = (1, 1, …, 1) / √d            2 times
    A_2 = (1, −1, …, −1) / √d          once

  The first feature has the sign of the class; the others are common to both
  classes. R²/μ² = d, as θ = (1, 0, …, 0) has the largest margin, 1/√d: every
  point of the convex hull has the first entry 1/√d, and (A_1 + A_2) / 2 no
  other.

  Lower bound. Let θ = Σ c_i A_i, Z = Σ c_i and X = c_0 / 2 + c_1 − c_2. Then
  m_1 = (Z + 2m X) / d and m_2 = (Z − 2m X) / d: solved means Z > (d − 1) |X|.
  As Z > 0 after one update, only A_2 is wrong where X > 0, only A_0 and A_1
  where X < 0.

    Batch perceptron: X starts from 3/14 and moves by multiples of 1/7.
    Normalised batch perceptron: X starts from 3/7 and moves by multiples of
      1/6: by −1, or by 1/2, 2/3 or 1, the means over A_0, both and A_1.
    Perceptron: A_0 comes first and, as c_0 / 2 + X ≥ 0 from then on, never
      again, so X starts from 1/2 and moves by ±1.

  So |X| ≥ 1/14, 1/14 and 1/2 for ever, and Z ≤ t: they take t > (d − 1) / 14
  iterations, the perceptron t > (d − 1) / 2. Descent with finite γ has no such
  proof: X is continuous in γ and passes 0, so a few step sizes are lucky.

  A product u_j² − v_j² (`logistic.hadamard`) grows by a factor, not by a term:
  u_1 by 1 + 2/√d for each update of the perceptron, while log(u_j / v_j) of the
  others is about 4 X/√d. With X = ±1/2, it separates once u_1² = e^{4t/√d}
  outweighs d − 1 products of 4/√d each: to leading order, t = (√d/4) log(4√d).

  Args:
    d: The number of features, odd.

  Returns:
    The three distinct examples, weighted.

  Raises:
    ValueError: If d is not odd, or less than 3.

  References:
    Tyurin, `Gradient Descent as a Perceptron Algorithm
    <https://arxiv.org/abs/2512.11587>`_, 2025, has an example with Õ(√d)
    against Ω(d); this one is another, made for this experiment.
  """
  if d < 3 or d % 2 == 0:
    raise ValueError(f'd must be odd and at least 3, got {d}.')
  features = np.ones([3, d])
  features[0, (d + 1) // 2 :] = 0
  features[2, 0] = -1
  return Examples(
    features / np.sqrt(d), np.array([1, 1, -1]), np.array([4.0, 2.0, 1.0])
  )


def digits_pair(classes: tuple[int, int]) -> Examples:
  """All examples of two of scikit-learn's digits, pixels in [0, 1]."""
  images, labels = sklearn_datasets.load_digits(return_X_y=True)
  return _pair(images / 16, labels, classes)


def padded(examples: Examples, n: int) -> Examples:
  """The examples, padded to n rows by rows of weight 0.

  Problems of equal length can run in one program.
  """
  missing = (0, n - len(examples.labels))
  return Examples(
    features=np.pad(examples.features, (missing, (0, 0))),
    labels=np.pad(examples.labels, missing, constant_values=1),
    weights=np.pad(examples.weights, missing),
  )


def libsvm_set(name: str, data_dir: str | None) -> Examples:
  """A LIBSVM set, training and test examples together."""
  parts = datasets.DATASETS[name](data_dir)
  features = np.concatenate([part['input'] for part in parts])
  labels = np.concatenate([part['label'] for part in parts])
  return _pair(features.astype(np.float64), labels, (1, 0))


def image_pair(
  train: dict[str, np.ndarray],
  classes: tuple[int, int],
  counts: tuple[int, int],
) -> Examples:
  """The first images of two classes.

  The first class has y = +1; the counts are of each, in the order of the data.

  Raises:
    ValueError: If a class has fewer images.
  """
  rows = []
  for label, count in zip(classes, counts, strict=True):
    found = np.flatnonzero(train['label'] == label)
    if len(found) < count:
      raise ValueError(
        f'class {label} has {len(found)} images, fewer than {count}.'
      )
    rows.append(found[:count])
  rows = np.sort(np.concatenate(rows))
  pixels = train['input'][rows].reshape(len(rows), -1) / 255
  return _pair(pixels, train['label'][rows], classes)


def first_images(
  name: str,
  classes: tuple[int, int],
  counts: tuple[int, int],
  data_dir: str | None,
) -> Examples:
  """The first training images of two classes of a data set."""
  train = datasets.DATASETS[name](data_dir).train
  return image_pair(train, classes, counts)


BALANCES = {'': (2500, 2500), '_imbalanced': (4500, 500)}
DIGITS = tuple(itertools.combinations(range(10), 2))
LONGEST = 365  # the pair of 1 and 3: 182 + 183 examples
IMAGES = {'mnist': (0, 1), 'fashion_mnist': (3, 8), 'cifar10': (0, 1)}


PROBLEMS: dict[str, Callable[[str | None], Examples]] = {
  'hard_set': lambda data_dir: hard_set(1000),
  **{
    f'digits_{a}_{b}': lambda data_dir, pair=(a, b): padded(
      digits_pair(pair), LONGEST
    )
    for a, b in DIGITS
  },
  'mushrooms': functools.partial(libsvm_set, 'mushrooms'),
  **{
    name + suffix: functools.partial(first_images, name, classes, counts)
    for name, classes in IMAGES.items()
    for suffix, counts in BALANCES.items()
  },
}
"""data_dir → the examples, by name."""
