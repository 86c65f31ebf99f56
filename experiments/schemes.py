"""Schemes: what a config calls an optimizer with a rule for its batch sizes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

import adaopt
from adaopt.criteria import evidence
from adaopt.experiments import command_line

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
  'gradient_noise_scale': lambda _: adaopt.criteria.gradient_noise_scale(),
  'cabs': lambda scheme: adaopt.criteria.cabs(scheme.cabs_learning_rate),
  'goodput': lambda scheme: adaopt.criteria.goodput(
    seconds=(0.5, 1 / scheme.round), micro_batch_size=scheme.round
  ),
  'diversity': lambda scheme: adaopt.criteria.gradient_diversity(
    scheme.delta, num_examples=scheme.epoch
  ),
}

POLICIES = {
  'grow': jnp.maximum,
  'gradual': adaopt.batch_size.capped_growth(1.1),
  'follow': adaopt.batch_size.follow,
  'measure': adaopt.batch_size.measure,
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
  'momentum': lambda scheme: optax.trace(scheme.momentum),
  'adam': lambda scheme: optax.scale_by_adam(scheme.b1, scheme.b2),
  'following_adam': lambda scheme: adaopt.follow_batch_size(
    optax.inject_hyperparams(optax.scale_by_adam)(scheme.b1, scheme.b2),
    decays='b2',
  ),
  'following_adamw': lambda scheme: optax.chain(
    adaopt.follow_batch_size(
      optax.inject_hyperparams(optax.scale_by_adam)(scheme.b1, scheme.b2),
      decays='b2',
    ),
    optax.add_decayed_weights(scheme.weight_decay),
  ),
  'normalized_lr_gd': lambda scheme: adaopt.transforms.scale_by_mean_residual(),
  'adamw': lambda scheme: optax.chain(
    optax.scale_by_adam(scheme.b1, scheme.b2),
    optax.add_decayed_weights(scheme.weight_decay),
  ),
}

# What is done to the moments of an optimizer where the batch size moves.
MOMENTS = {
  'reset': adaopt.transforms.reset_moments,
  'rescaled': adaopt.transforms.rescale_second_moment,
}

# The optimizers whose update takes the mean residual of the batch.
NORMALIZED = ('normalized_lr_gd',)


class ScaledState(NamedTuple):
  """State of a criterion whose requirement is multiplied by a number."""

  requirement_scale: jax.Array  # []
  inner_state: Any


def _scaled(criterion):
  """A criterion times a number in its state, so that tolerances are data."""
  criterion = evidence.stateful(criterion=criterion)

  def init(params):
    return ScaledState(jnp.ones([]), criterion.init(params))

  def update(statistics, state, **extra_args):
    required, inner_state = criterion.update(
      statistics, state.inner_state, **extra_args
    )
    state = state._replace(inner_state=inner_state)
    return state.requirement_scale * required, state

  return adaopt.StatefulCriterion(init, update)


def _adapted(scheme):
  return _adapting(scheme, lookup(TESTS, 'test', scheme.test)(scheme))


def _family(scheme):
  criterion = lookup(TESTS, 'test', scheme.family)(scheme)
  return _adapting(scheme, _scaled(criterion))


def _unmoved(scheme):
  """Holds the batch size that the state is given."""
  return adaopt.adapt_batch_size(
    lambda statistics: statistics.batch_size,
    init_batch_size=1,
    max_batch_size=scheme.unmoved,
    policy=adaopt.batch_size.measure,
  )


def _adapting(scheme, criterion):
  return adaopt.adapt_batch_size(
    criterion,
    init_batch_size=scheme.init_batch_size,
    max_batch_size=scheme.max_batch_size,
    test_interval=scheme.get('test_interval', 1),
    policy=lookup(POLICIES, 'policy', scheme.get('policy', 'grow')),
  )


def _staged(scheme):
  examples, sizes = zip(*scheme.stages, strict=True)
  stages = [optax.constant_schedule(size) for size in sizes]
  return optax.join_schedules(stages, examples[1:])


def _seesaw(scheme):
  """Learning rate and batch size; a cut wherever the cosine has halved."""
  falls = 2.0 ** -np.arange(1, scheme.halvings + 1)
  boundaries = scheme.num_examples * np.arccos(2 * falls - 1) / np.pi
  return adaopt.seesaw(
    scheme.learning_rate,
    scheme.seesaw,
    [round(boundary) for boundary in boundaries],
  )


def _late_switch(scheme):
  init_batch_size, max_batch_size, fraction = scheme.late_switch
  return adaopt.batch_size.late_switch(
    init_batch_size,
    max_batch_size,
    num_examples=scheme.num_examples,
    fraction=fraction,
  )


# What sizes the batches of a scheme: the key that says so, and from the scheme
# the transform that holds the size.
SIZES = {
  'test': _adapted,
  'family': _family,
  'unmoved': _unmoved,
  'batch_size': lambda scheme: adaopt.schedule_batch_size(scheme.batch_size),
  'stages': lambda scheme: adaopt.schedule_batch_size(_staged(scheme)),
  'ramp': lambda scheme: adaopt.schedule_batch_size(
    optax.linear_schedule(*scheme.ramp)
  ),
  'late_switch': lambda scheme: adaopt.schedule_batch_size(
    _late_switch(scheme)
  ),
  'seesaw': lambda scheme: adaopt.schedule_batch_size(_seesaw(scheme)[1]),
}


def lookup(table: dict[str, Any], kind: str, name: str) -> Any:
  """The entry of a table; raises ValueError listing the names if missing."""
  if name not in table:
    known = ', '.join(map(repr, table))
    near = command_line.nearest(name, table)
    raise ValueError(f'unknown {kind} {name!r}; choose from {known}{near}.')
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
      over that of the first batch; `adascale`, the batch size of the learning
      rate, if AdaScale's gain is to multiply it, to the power
      `adascale_exponent` if that is not 1; `moments`, what is done to them, if
      anything, where the batch size moves; and one of `batch_size`, a number;
      `stages`, pairs of (examples, batch size) that start at 0; `ramp`, (first
      size, last size, examples); `late_switch`, (first size, last size,
      fraction of `num_examples`); `seesaw`, the first size, with the number of
      `halvings` of a cosine over `num_examples`; `test` with its tolerances,
      `init_batch_size`, `max_batch_size` and, where they are not 1 and 'grow',
      `test_interval` and `policy`; `family`, a test likewise, whose requirement
      is multiplied by `requirement_scale` in the state; `unmoved`, an upper
      bound of the batch size in the state.

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
  if 'moments' in scheme:
    direction = lookup(MOMENTS, 'moments', scheme.moments)(direction)
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
  if 'seesaw' in scheme:
    yield adaopt.scale_by_example_schedule(_seesaw(scheme)[0])
    yield optax.scale(-1.0)
  elif not isinstance(rate, ml_collections.ConfigDict):
    yield optax.scale_by_learning_rate(rate)
  else:
    schedule = optax.warmup_cosine_decay_schedule(**rate)
    yield adaopt.scale_by_example_schedule(schedule)
    yield optax.scale(-1.0)
  if 'learning_rate_exponent' in scheme:
    yield adaopt.scale_by_batch_size(scheme.learning_rate_exponent)
  if 'adascale' in scheme:
    yield adaopt.scale_by_adascale(
      base_batch_size=scheme.adascale,
      exponent=scheme.get('adascale_exponent', 1.0),
    )
