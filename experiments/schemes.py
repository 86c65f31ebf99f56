"""Schemes: what a config calls an optimizer, with or without a test."""

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections
import optax

import adaopt


class Test(NamedTuple):
  """A criterion, built from a scheme, and the statistics it reads."""

  criterion: Callable[[ml_collections.ConfigDict], adaopt.Criterion]
  statistics: dict[str, Any]


TESTS = {
  'norm': Test(lambda scheme: adaopt.norm_test(scheme.eta), {}),
  'inner_product': Test(
    lambda scheme: adaopt.inner_product_test(scheme.theta),
    {'along_mean': True},
  ),
  'orthogonality': Test(
    lambda scheme: adaopt.orthogonality_test(scheme.nu), {'along_mean': True}
  ),
  'augmented': Test(
    lambda scheme: adaopt.augmented_inner_product_test(scheme.theta, scheme.nu),
    {'along_mean': True},
  ),
  'coordinate': Test(
    lambda scheme: adaopt.coordinate_norm_test(scheme.eta),
    {'variance': 'coordinate'},
  ),
}

OPTIMIZERS = {
  'adagrad': adaopt.adagrad,
  'adagrad_norm': adaopt.adagrad_norm,
}


def lookup(table: dict[str, Any], kind: str, name: str) -> Any:
  """The entry of a table, or a sentence that lists them."""
  if name not in table:
    raise ValueError(
      f'unknown {kind} {name!r}; there are {", ".join(map(repr, table))}.'
    )
  return table[name]


def make_optimizer(
  scheme: ml_collections.ConfigDict,
) -> tuple[optax.GradientTransformationExtraArgs, dict[str, Any]]:
  """The optimizer of a scheme, and the statistics its steps compute.

  Args:
    scheme: `optimizer` and `learning_rate`, and either `batch_size` or a
      `test` with its tolerances, `init_batch_size` and `max_batch_size`.

  Returns:
    The optimizer, which holds the batch size, and keyword arguments of
    `adaopt.train_step`.

  Raises:
    ValueError: For an unknown optimizer or test, constants out of range, or
      one that is missing.
  """
  try:
    return _make_optimizer(scheme)
  except AttributeError as error:
    raise ValueError(f'the scheme lacks a value: {error}') from error


def _make_optimizer(scheme):
  optimizer = lookup(OPTIMIZERS, 'optimizer', scheme.optimizer)
  optimizer = optimizer(scheme.learning_rate)
  if 'test' not in scheme:
    return optax.chain(
      adaopt.schedule_batch_size(scheme.batch_size), optimizer
    ), {}
  test = lookup(TESTS, 'test', scheme.test)
  return optax.chain(
    adaopt.adapt_batch_size(
      test.criterion(scheme),
      init_value=scheme.init_batch_size,
      max_value=scheme.max_batch_size,
      test_interval=scheme.get('test_interval', 1),
    ),
    optimizer,
  ), test.statistics
