"""Which tensors an optimizer moves, and statistics of those alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, base
from adaopt.statistics import signs


def trained_tensors(update: Callable[..., optax.Updates], *args: Any) -> Any:
  """Whether an optimizer's update can move each tensor.

  It is traced, never run. A tensor is not trained if its update is zero for all
  finite inputs, as `optax.set_to_zero` makes it, also in a partition or behind
  a mask and with whatever keeps a zero after it: a learning rate, a cast, a
  clip, a branch. What the trace does not show to be zero is trained.

  Args:
    update: (*args) → updates, like params. What it closes over is constant.
    *args: What the update depends on, such as the gradient, the state and the
      parameters, or their shapes.

  Returns:
    A bool for every tensor, in the structure of the updates.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from adaopt.statistics import trained
    >>> optimizer = optax.chain(
    ...   optax.sgd(0.1), optax.transforms.freeze({'w': False, 'b': True}))
    >>> params = {'w': jnp.zeros(3), 'b': jnp.zeros([])}
    >>> update = lambda *args: optimizer.update(*args)[0]
    >>> print(trained.trained_tensors(update, params, optimizer.init(params)))
    {'b': False, 'w': True}
  """
  closed, shapes = jax.make_jaxpr(update, return_shape=True)(*args)
  found = signs.propagated(closed, [signs.UNKNOWN] * len(closed.in_avals))
  moved = [sign != signs.ZERO for sign in found]
  return jax.tree.unflatten(jax.tree.structure(shapes), moved)


def moved_by(moved: Any, tree: Any) -> Any:
  """The tree, with zeros in the place of tensors that are not trained."""
  return arithmetic.map_present(
    lambda x, is_moved: x if is_moved else jnp.zeros_like(x), tree, moved
  )


def statistics_of(
  moved: Any, statistics: base.GradientStatistics
) -> base.GradientStatistics:
  """The statistics of the trained tensors: all others have none, exactly 0.

  Args:
    moved: A bool for every tensor, as `trained_tensors` finds them.
    statistics: Of all tensors, but for v∥, a number of the trained ones.

  Returns:
    The statistics. What is None stays None.
  """
  of = lambda tree: None if tree is None else moved_by(moved, tree)
  return statistics._replace(
    mean=of(statistics.mean),
    variance=of(statistics.variance),
    coordinate_variance=of(statistics.coordinate_variance),
    matrix_variance=of(statistics.matrix_variance),
    weight_covariance=of(statistics.weight_covariance),
  )


def total_variance(
  moved: Any, statistics: base.GradientStatistics
) -> jax.Array:
  """v of the trained tensors, of each from whichever variance was measured.

  Args:
    moved: A bool for every tensor, whether it is trained.
    statistics: In which any variance of a tensor may be None.

  Returns:
    v, []; missing unless every trained tensor has a variance.
  """
  nothing = jax.tree.map(lambda _: None, moved)
  present = lambda tree: nothing if tree is None else tree

  def of_tensor(is_moved, total, coordinates, square):
    if not is_moved:
      return None
    if total is None and coordinates is not None:
      return jnp.sum(coordinates)
    if total is None and square is not None:
      return jnp.real(jnp.trace(square))
    return total

  found = jax.tree.map(
    of_tensor,
    moved,
    present(statistics.variance),
    present(statistics.coordinate_variance),
    present(statistics.matrix_variance),
  )
  if len(jax.tree.leaves(found)) < sum(jax.tree.leaves(moved)):
    return jnp.full([], arithmetic.missing(), float)
  return arithmetic.returnable(arithmetic.total(found))


def check_coordinates(moved: Any, read: Any) -> None:
  """Raises ValueError if a test by coordinate reads a tensor not trained.

  Args:
    moved: A bool for every tensor, whether it is trained.
    read: A bool for every tensor, whether its V_k is read.
  """
  paths = jax.tree.leaves_with_path(moved)
  for (path, is_moved), is_read in zip(
    paths, jax.tree.leaves(read), strict=True
  ):
    if is_read and not is_moved:
      raise ValueError(
        f'a test by coordinate reads params{jax.tree_util.keystr(path)}, which '
        'the optimizer never moves: in a median, or another quantile, its '
        'coordinates would count. Restrict the criterion to what is trained, '
        'as in adaopt.of_tensors(criterion, mask).'
      )
