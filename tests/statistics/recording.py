"""A criterion that keeps the statistics that it is given."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import adaopt
from adaopt.statistics import reading


class Record(NamedTuple):
  """The statistics of the last test; what was left out is None."""

  examples: jax.Array
  mean: Any
  variance: Any
  coordinate_variance: Any
  matrix_variance: Any
  value: Any


NOISE = 'variance', 'coordinate_variance', 'matrix_variance'


def criterion(
  fields: tuple[str, ...] = NOISE,
) -> adaopt.StatefulCriterion:
  """Asks for nothing, and keeps the mean and these fields in its state."""
  left_out = {name: None for name in NOISE if name not in fields}

  def init(params):
    shapes = reading.shapes_of(params)
    record = Record(
      shapes.batch_size,
      shapes.mean,
      shapes.variance,
      shapes.coordinate_variance,
      shapes.matrix_variance,
      value=jax.ShapeDtypeStruct((), jnp.result_type(float)),
    )
    zeros = lambda s: jnp.zeros(s.shape, s.dtype)
    return jax.tree.map(zeros, record._replace(**left_out))

  def update(statistics, state, *, value=None, **extra_args):
    del extra_args
    record = Record(
      statistics.batch_size,
      statistics.mean,
      statistics.variance,
      statistics.coordinate_variance,
      # `accumulate` holds none where no tensor is a matrix.
      statistics.matrix_variance or state.matrix_variance,
      state.value if value is None else value,
    )
    return jnp.nan, record._replace(**left_out)

  return adaopt.StatefulCriterion(init, update)


def optimizer(
  batch_size: int, max_batch_size: int | None = None, **options: Any
) -> optax.GradientTransformationExtraArgs:
  """Moves nothing, and records every batch."""
  return optax.chain(
    adaopt.adapt_batch_size(
      criterion(**options),
      init_batch_size=batch_size,
      max_batch_size=max_batch_size or batch_size,
      policy=adaopt.batch_size.measure,
    ),
    optax.scale(0.0),
  )


def last(opt_state: optax.OptState) -> Record:
  """What was recorded last."""
  return jax.device_get(optax.tree.get(opt_state, 'criterion_state'))
