"""Schemes: what a config calls an optimizer with a rule for its batch sizes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

import adaopt

Scheme = ml_collections.ConfigDict


# From a scheme to the criterion that its `test` names.
TESTS = {
  'norm': lambda scheme: adaopt.norm_test(scheme.eta),
  'inner_product': lambda scheme: adaopt.inner_product_test(scheme.theta),
  'augmented': lambda scheme: adaopt.augmented_inner_product_test(
    scheme.theta, scheme.nu
  ),
  'coordinate': lambda scheme: adaopt.coordinate_norm_test(
    scheme.eta, lookup(REDUCTIONS, 'reduction', scheme.reduce)
  ),
  'preconditioned': lambda scheme: adaopt.criteria.preconditioned_norm_test(
    scheme.eta,
    lookup(PRECONDITIONERS, 'preconditioner', scheme.optimizer)(scheme),
  ),
  'debiased': lambda scheme: adaopt.debiased_norm_test(scheme.eta),
  'sign_noise_scale': lambda scheme: adaopt.criteria.sign_noise_scale(
    scheme.theta
  ),
}

# The metric of an optimizer.
PRECONDITIONERS = {
  'adagrad': lambda scheme: adaopt.criteria.adagrad_preconditioner(),
  'adamw': lambda scheme: adaopt.criteria.adam_preconditioner(b2=scheme.b2),
}

REDUCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'max': jnp.max,
  'mean': jnp.mean,
  'median': jnp.median,
}

# Scheme → the direction in which its optimizer steps.
OPTIMIZERS = {
  'adagrad': lambda scheme: adaopt.transforms.scale_by_adagrad(),
  'adagrad_norm': lambda scheme: adaopt.transforms.scale_by_adagrad_norm(),
  'sgd': lambda scheme: optax.identity(),
  'normalized_lr_gd': lambda scheme: adaopt.transforms.scale_by_mean_residual(),
  'adamw': lambda scheme: optax.chain(
    optax.scale_by_adam(scheme.b1, scheme.b2),
    optax.add_decayed_weights(scheme.weight_decay),
  ),
}

# The optimizers whose update takes the mean residual of the batch.
NORMALIZED = ('normalized_lr_gd',)


def _adapted(scheme):
  return adaopt.adapt_batch_size(
    lookup(TESTS, 'test', scheme.test)(scheme),
    init_batch_size=scheme.init_batch_size,
    max_batch_size=scheme.max_batch_size,
    test_interval=scheme.get('test_interval', 1),
  )


def _staged(scheme):
  examples, sizes = zip(*scheme.stages, strict=True)
  stages = [optax.constant_schedule(size) for size in sizes]
  return optax.join_schedules(stages, examples[1:])


# What sizes the batches of a scheme: the key that says so, and from the scheme
# the transform that holds the size.
SIZES = {
  'test': _adapted,
  'batch_size': lambda scheme: adaopt.schedule_batch_size(scheme.batch_size),
  'stages': lambda scheme: adaopt.schedule_batch_size(_staged(scheme)),
  'ramp': lambda scheme: adaopt.schedule_batch_size(
    optax.linear_schedule(*scheme.ramp)
  ),
}


def lookup(table: dict[str, Any], kind: str, name: str) -> Any:
  """The entry of a table; raises ValueError listing the names if missing."""
  if name not in table:
    raise ValueError(
      f'unknown {kind} {name!r}; choose from {", ".join(map(repr, table))}.'
    )
  return table[name]


def is_adaptive(scheme: Scheme) -> bool:
  """Whether the batch sizes of a scheme depend on its gradients."""
  return 'test' in scheme


def is_normalized(scheme: Scheme) -> bool:
  """Whether the optimizer of a scheme takes the mean residual."""
  return scheme.optimizer in NORMALIZED


def make_optimizer(
  scheme: Scheme,
) -> optax.GradientTransformationExtraArgs:
  """The optimizer of a scheme, which holds the batch size.

  Args:
    scheme: `optimizer` with its constants; `learning_rate`, a number or the
      arguments of `optax.warmup_cosine_decay_schedule`, whose steps are
      examples here; `learning_rate_exponent`, if it follows the batch size
      over that of the first batch; and one of `batch_size`, a number; `stages`,
      pairs of (examples, batch size) that start at 0; `ramp`, (first size,
      last size, examples); `test` with its tolerances, `init_batch_size`,
      `max_batch_size` and, if it is not 1, `test_interval`.

  Returns:
    The optimizer.

  Raises:
    ValueError: If an optimizer or test is unknown, or a constant is missing or
      out of range.
  """
  try:
    return _make_optimizer(scheme)
  except AttributeError as error:
    raise ValueError(f'the scheme lacks a value: {error}') from error


def _make_optimizer(scheme):
  direction = lookup(OPTIMIZERS, 'optimizer', scheme.optimizer)(scheme)
  sized_by = [key for key in SIZES if key in scheme]
  if len(sized_by) != 1:
    raise ValueError(
      f'a scheme must set exactly one of {", ".join(SIZES)}; got '
      f'{" and ".join(sized_by) or "none"}.'
    )
  hold = SIZES[sized_by[0]](scheme)
  return optax.chain(hold, direction, *_learning_rate(scheme))


def _learning_rate(scheme):
  rate = scheme.learning_rate
  if not isinstance(rate, ml_collections.ConfigDict):
    yield optax.scale_by_learning_rate(rate)
  else:
    schedule = optax.warmup_cosine_decay_schedule(**rate)
    yield adaopt.scale_by_example_schedule(schedule)
    yield optax.scale(-1.0)
  if 'learning_rate_exponent' in scheme:
    yield adaopt.scale_by_batch_size(scheme.learning_rate_exponent)
