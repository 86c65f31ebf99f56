"""Which tensors of a tree a filter selects, and those of trees like it."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from adaopt._common import functions

Filter = Callable[[str], bool] | Any
"""A predicate of a tensor's path, or a tree of bools like the parameters."""


class Tensors(NamedTuple):
  """The tensors of a tree, in its order, and whether they are selected."""

  structure: Any
  paths: list[str]
  selected: list[bool]


def is_gap(node: Any) -> bool:
  """Whether a node only holds the place of a tensor."""
  return node is None or isinstance(node, optax.MaskedNode)


def leaves_of(tree: Any) -> list[Any]:
  """The leaves, gaps included."""
  return jax.tree.leaves(tree, is_leaf=is_gap)


def structure_of(tree: Any) -> Any:
  """The structure, in which a gap is a leaf."""
  return jax.tree.structure(tree, is_leaf=is_gap)


def _is_bool(x):
  return isinstance(x, bool | np.bool_)


def _is_mask(filter):
  leaves = jax.tree.leaves(filter)
  return bool(leaves) and all(map(_is_bool, leaves))


def check_filter(filter: Filter) -> None:
  """Raises ValueError unless it is a function or a tree of bools."""
  if not (_is_mask(filter) or callable(filter)):
    raise ValueError(
      "filter must be a function of a tensor's path, such as lambda path: "
      "'norm' in path, or a tree of bools like the parameters, got "
      f'{filter!r}.'
    )
  if not _is_mask(filter):
    functions.check_takes(1, filter=filter)


def select(tree: Any, filter: Filter) -> Tensors:
  """The tensors of a tree, and which of them a filter selects.

  Args:
    tree: Like the parameters.
    filter: A predicate of paths or a mask.

  Returns:
    The tensors, of which at least one is selected.

  Raises:
    ValueError: If the filter does not fit the tree or selects nothing, or two
      tensors share a path.
  """
  found, structure = jax.tree_util.tree_flatten_with_path(tree, is_gap)
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in found
  }
  some = ', '.join(map(repr, [*leaves][:4])) + ', …' * (len(leaves) > 4)
  if len(leaves) < len(found):
    raise ValueError(
      f'of_tensors got {len(found)} tensors of {len(leaves)} paths, {some}; '
      'rename those that share one.'
    )
  tensors = Tensors(structure, list(leaves), [])
  answer = _by_mask if _is_mask(filter) else _by_path
  selected = [
    leaf is not None and bool(answer)
    for leaf, answer in zip(
      leaves.values(), answer(filter, tensors, some), strict=True
    )
  ]
  if not any(selected):
    raise ValueError(
      f'the filter of of_tensors selects no tensor; their paths are {some}.'
    )
  return tensors._replace(selected=selected)


def _by_mask(mask, tensors, some):
  if structure_of(mask) != tensors.structure:
    raise ValueError(
      'the mask of of_tensors must be like the parameters, '
      f'{tensors.structure}, got {structure_of(mask)}; pass a bool for each of '
      f'{some}.'
    )
  return leaves_of(mask)


def _by_path(predicate, tensors, some):
  answers = list(map(predicate, tensors.paths))
  for path, answer in zip(tensors.paths, answers, strict=True):
    if not _is_bool(answer):
      raise ValueError(
        f'the filter of of_tensors must return a bool, got {answer!r} for '
        f'{path!r}; the paths are {some}.'
      )
  return answers


def restrict(tree: Any, tensors: Tensors) -> Any:
  """The selected tensors of a tree of this structure.

  Args:
    tree: Like that of which the tensors are.
    tensors: Which of them are selected.

  Returns:
    A dict from path to leaf; a single array as it is.
  """
  if jax.tree_util.treedef_is_leaf(tensors.structure):
    return tree
  pairs = zip(tensors.paths, leaves_of(tree), strict=True)
  return dict(itertools.compress(pairs, tensors.selected))


def beside(updates: Any, tree: Any, name: str) -> Any:
  """The tensors of a tree of which there is an update.

  Args:
    updates: A tree like the parameters, in which gaps hold the places of
      tensors that are not updated.
    tree: A tree like the parameters, of values of any shape.
    name: Of who asks, for the message.

  Returns:
    A tree like the updates, gaps included.

  Raises:
    ValueError: If a tensor of one is not a tensor of the other.
  """
  structure = structure_of(updates)
  try:
    tensors = structure.flatten_up_to(tree)
    found = [
      gap if is_gap(gap) else x
      for gap, x in zip(leaves_of(updates), tensors, strict=True)
    ]
    if not jax.tree_util.all_leaves(found, is_leaf=is_gap):
      raise ValueError('a tensor of the updates is a tree of the statistics')
  except ValueError as error:
    raise ValueError(
      f'{name} needs statistics of the tensors that it is passed updates of, '
      f'{structure}, got {jax.tree.structure(tree)}; pass those of the '
      'parameters.'
    ) from error
  return structure.unflatten(found)
