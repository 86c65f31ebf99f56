"""A criterion of some of the tensors."""

from typing import overload

import jax
import jax.numpy as jnp

from adaopt._common import base
from adaopt.criteria import evidence, selecting

_LIKE_PARAMS = (
  'mean',
  'variance',
  'coordinate_variance',
  'matrix_variance',
  'weight_covariance',
)


@overload
def of_tensors(
  criterion: base.Criterion, filter: selecting.Filter
) -> base.Criterion: ...


@overload
def of_tensors(
  criterion: base.StatefulCriterion, filter: selecting.Filter
) -> base.StatefulCriterion: ...


def of_tensors(
  criterion: base.Criterion | base.StatefulCriterion, filter: selecting.Filter
) -> base.Criterion | base.StatefulCriterion:
  """A criterion of the tensors that a filter selects.

  The criterion gets the gradient and its noise as dicts from the path of a
  selected tensor, such as 'block/norm/scale', to its entry; so it gets the
  parameters, and whatever in the extra arguments is like them, such as the
  moments in `opt_state=`. It reads nothing of other tensors, so that a step
  computes no noise for them. A single array without a path stays as it is.

  Args:
    criterion: Any criterion that does not read v∥, which is one number for all
      tensors.
    filter: From the path of a tensor, a string, to whether it counts; or a mask
      of bools, a tree like the parameters. At least one tensor counts.

  Returns:
    A criterion, with a state if the given one has one.

  Raises:
    ValueError: If criterion is not one, or filter is neither a function nor a
      tree of bools; from the criterion for a filter that does not fit the
      parameters or selects none of them, and for one that reads v∥.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8),
    ...   mean={'norm': jnp.array([3.0, 4.0]), 'head': jnp.array([0.1])},
    ...   variance={'norm': jnp.array(50.0), 'head': jnp.array(9e9)})
    >>> criterion = adaopt.of_tensors(
    ...   adaopt.norm_test(eta=0.5), lambda path: path.endswith('norm'))
    >>> print(criterion(statistics))  # 50 / (0.25 · 25)
    8.0
  """
  stateful = evidence.stateful(criterion=criterion)
  selecting.check_filter(filter)

  def init(params):
    return stateful.init(
      selecting.restrict(params, selecting.select(params, filter))
    )

  def update(statistics, state, **extra_args):
    tensors = selecting.select(statistics.mean, filter)
    restricted = _restrict_statistics(statistics, tensors)
    extra_args = {
      name: _restrict_like(x, statistics.mean, tensors)
      for name, x in extra_args.items()
    }
    return stateful.update(restricted, state, **extra_args)

  if isinstance(criterion, base.StatefulCriterion):
    return base.StatefulCriterion(init, update)
  return lambda statistics: update(statistics, ())[0]


class _OfTensors(base.GradientStatistics):
  """Statistics that tell who reads v∥ that it is not there, and why."""

  @property
  # pyrefly: ignore[bad-override]
  def variance_along_mean(self):
    raise ValueError(
      'of_tensors has no statistics.variance_along_mean, which is one number '
      'for all tensors and cannot be restricted to some; keep the '
      'inner-product and orthogonality tests outside, as in '
      'all_of(of_tensors(norm_test(eta), filter), inner_product_test(theta)).'
    )


def _restrict_statistics(statistics, tensors):
  def restricted(field, tree):
    if tree is None or field not in _LIKE_PARAMS:
      return tree
    structure = selecting.structure_of(tree)
    if structure != tensors.structure:
      raise ValueError(
        f'of_tensors needs statistics.{field} of every tensor, like the mean, '
        f'{tensors.structure}, got {structure}.'
      )
    return selecting.restrict(tree, tensors)

  return _OfTensors(
    *(restricted(*item) for item in statistics._asdict().items())
  )


def _restrict_like(tree, gradient, tensors):
  """Restricts every part of a tree that is like the gradient."""
  if jax.tree_util.treedef_is_leaf(tensors.structure):
    return tree

  def fits(x, like):
    return selecting.is_gap(x) or jnp.shape(x) == jnp.shape(like)

  def is_like(node):
    return selecting.structure_of(node) == tensors.structure and all(
      map(fits, selecting.leaves_of(node), selecting.leaves_of(gradient))
    )

  return jax.tree.map(
    lambda node: selecting.restrict(node, tensors) if is_like(node) else node,
    tree,
    is_leaf=is_like,
  )
