"""What is not read is not computed, and what has effects is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from adaopt.per_example import factorisation, reductions
from adaopt.per_example.program import ir, pruning
from adaopt.per_example.rules import choice
from tests import per_example_cases

X = np.ones(4, np.float32)
both = lambda x: {'sine': jnp.sin(x), 'cosine': jnp.cos(x)}
sine = pruning.pruned(lambda x: both(x)['sine'])


def test_no_equation_is_left_of_what_is_not_read():
  assert ir.names(jax.make_jaxpr(sine)(X)) == {'sin'}


def test_values_are_those_of_the_function():
  np.testing.assert_array_equal(sine(X), jnp.sin(X))
  assert sine(2.0).shape == ()


@pytest.mark.parametrize('transform', [jax.jit, jax.vmap, jax.grad])
def test_arguments_and_captured_values_may_be_tracers(transform):
  def captured(x):
    return pruning.pruned(lambda: both(x)['sine'])() + sine(x)

  x = X[0] if transform is jax.grad else X
  expected = transform(lambda x: 2 * jnp.sin(x))(x)
  np.testing.assert_allclose(transform(captured)(x), expected, 1e-6)


@pytest.mark.parametrize('check_vma', [False, True])
def test_within_shard_map(check_vma):
  mesh = jax.make_mesh((2,), ('i',), axis_types=(jax.sharding.AxisType.Auto,))
  function = jax.shard_map(
    lambda x: sine(x) + jax.lax.psum(pruning.pruned(jnp.sum)(x), 'i'),
    mesh=mesh,
    in_specs=PartitionSpec('i'),
    out_specs=PartitionSpec('i'),
    check_vma=check_vma,
  )
  np.testing.assert_allclose(function(X), jnp.sin(X) + 4, 1e-6)


def test_keyed_random_numbers():
  draw = lambda key: (jax.random.split(key), jax.random.normal(key))
  keys, _ = draw(key := jax.random.key(0))
  actual = pruning.pruned(lambda key: draw(key)[0])(key)
  assert jnp.all(actual == keys)


def test_a_print_is_kept(capsys):
  def printing(x):
    jax.debug.print('seen {}', x[0])
    return both(x)['sine']

  jax.block_until_ready(pruning.pruned(printing)(X))
  jax.effects_barrier()
  assert capsys.readouterr().out == 'seen 1.0\n'


def scans(name, read, preference):
  """Shapes of carries and of stacked outputs, for every scan that is left."""
  apply, params, x = per_example_cases.CASES[name]()
  loss = per_example_cases.loss_of(apply)

  @pruning.pruned
  def reduce(params, x):
    factored = factorisation.factorise(
      loss, params, x, jnp.ones(len(x)), preference=preference
    )
    return read(reductions.sums(factored))

  return [
    carried_and_stacked(equation)
    for equation in jax.make_jaxpr(reduce)(params, x).eqns
    if equation.primitive.name == 'scan'
  ]


def carried_and_stacked(equation):
  """Numbers of elements."""
  inner = equation.params['jaxpr']
  inside = [v.aval.shape for v in getattr(inner, 'jaxpr', inner).outvars]
  outside = [v.aval.shape for v in equation.outvars]
  # A stacked output has another axis outside.
  pairs = list(zip(inside, outside, strict=True))
  size = lambda shape: int(np.prod(shape))
  return (
    [size(a) for a, b in pairs if len(a) == len(b)],
    [size(b) for a, b in pairs if len(a) < len(b)],
  )


TOTAL_AND_NORMS = lambda sums: (sums.total, sums.norms)
TOTAL_AND_SQUARES = lambda sums: (sums.total, sums.squares)
# The number of elements of the parameter whose gradients are materialised.
KERNELS = {
  'dense on long sequences': 12,
  'conv same': 6 * 4 * 9,
  'masked weights': 16 * 12,
}


@pytest.mark.parametrize('name', KERNELS)
def test_without_squares_a_loop_carries_the_total_alone(name):
  (loop,) = scans(name, TOTAL_AND_NORMS, choice.NORMS_FIRST)
  assert loop == ([KERNELS[name]], [4])


@pytest.mark.parametrize('name', KERNELS)
def test_without_norms_a_loop_stacks_nothing(name):
  (loop,) = scans(name, TOTAL_AND_SQUARES, choice.SQUARES_FIRST)
  assert loop == ([KERNELS[name]] * 2, [])


@pytest.mark.parametrize('name', KERNELS)
def test_norms_alone_are_stacked_alone(name):
  (loop,) = scans(name, lambda sums: sums.norms, choice.NORMS_FIRST)
  assert loop == ([], [4])


def test_gram_matrices_need_no_loop():
  name = 'dense on short sequences'
  assert not scans(name, TOTAL_AND_NORMS, choice.NORMS_FIRST)
  (loop,) = scans(name, TOTAL_AND_SQUARES, choice.SQUARES_FIRST)
  assert loop == ([50 * 60] * 2, [])
