"""Contractions of gradients run after their loops, with equal results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaopt.per_example.hoisting import loops, slicing, steps
from adaopt.per_example.program import inlining, ir
from tests import per_example_programs as programs

# The tails of programs with loops, if nothing is hoisted.
IN_A_LOOP = {
  'scan over time': [('', [(4, 3)], [], 'scan')],
  'scan over layers': [
    ('scan cos mul scan', [(4,)], [(6, 4, 4), (4,)], 'scan')
  ],
  'split cell': [('', [(4, 3)], [], 'scan'), ('', [(4, 3)], [], 'scan')],
}


def contracted_in_loops(flat):
  """The shapes of all contractions in the loops of a program."""
  needed = ir.needed(flat.equations, flat.outputs)
  bodies = [inlining.flatten(closed(e)) for e in needed if e.name == 'scan']
  return [
    tuple(body.avals[v].shape)
    for body in bodies
    for equation in ir.needed(body.equations, body.outputs)
    if equation.name == 'dot_general'
    for v in equation.outputs
  ]


def closed(equation):
  jaxpr = equation.params['jaxpr']
  if isinstance(jaxpr, jax.extend.core.ClosedJaxpr):
    return jaxpr
  return jax.extend.core.ClosedJaxpr(jaxpr, ())


def evaluated(flat, inputs):
  known = flat.constants | dict(zip(flat.inputs, inputs, strict=True))
  equations = ir.needed(flat.equations, flat.outputs)
  return ir.evaluate(equations, known, flat.outputs)


def random_inputs(flat):
  rng = np.random.default_rng(0)
  shapes = (flat.avals[v].shape for v in flat.inputs)
  return [np.float32(rng.normal(size=shape)) for shape in shapes]


@pytest.mark.parametrize('name', IN_A_LOOP)
def test_in_a_loop_a_gradient_has_no_known_tail(name):
  assert programs.tails_of(*programs.flat_of(name)) == IN_A_LOOP[name]


@pytest.mark.parametrize(
  ('name', 'gradient'),
  [
    ('scan over time', (3, 4)),
    ('scan over layers', (4, 4)),
    ('split cell', (6, 4)),
  ],
)
def test_the_contraction_of_a_gradient_is_hoisted(name, gradient):
  (before, _), (after, _) = programs.flat_of(name), programs.hoisted(name)
  count = lambda flat: contracted_in_loops(flat).count(gradient)
  # The forward and cotangent passes of a loop have products of vectors only.
  assert count(before) == 1
  assert count(after) == 0


@pytest.mark.slow
@pytest.mark.parametrize('name', IN_A_LOOP)
def test_a_hoisted_program_is_equal(name):
  (before, _), (after, _) = programs.flat_of(name), programs.hoisted(name)
  inputs = random_inputs(before)
  for a, b in zip(
    *(evaluated(f, inputs) for f in (before, after)), strict=True
  ):
    np.testing.assert_allclose(a, b, 1e-5, 1e-6)


def test_a_program_without_loops_stays_as_it_is():
  flat, count = programs.flat_of('dense')
  assert loops.hoist(flat, range(count)) is flat


def steps_of(function, *operands):
  """The last equation of a function of one step, and stacks of operands."""
  flat = inlining.flatten(jax.make_jaxpr(function)(*(x[0] for x in operands)))
  return flat, flat.equations[-1], dict(zip(flat.inputs, operands, strict=True))


def scattered(keys, rows):
  return jnp.zeros((7, 3)).at[keys].add(rows)


SUMMABLE = {
  'matrices': (jnp.dot, (5, 2, 3), (5, 3, 4)),
  'convolution': (
    lambda x, w: jax.lax.conv(x, w, (1, 1), 'VALID'),
    (5, 1, 2, 6, 6),
    (5, 3, 2, 2, 2),
  ),
}


@pytest.mark.parametrize('name', SUMMABLE)
def test_a_sum_of_contractions_over_steps_is_one_contraction(name):
  function, *shapes = SUMMABLE[name]
  rng = np.random.default_rng(0)
  operands = [np.float32(rng.normal(size=shape)) for shape in shapes]
  flat, equation, stacks = steps_of(function, *operands)
  assert steps.is_summable(flat, equation)
  actual = steps.summed(equation, None, stacks)
  expected = sum(map(function, *operands))
  np.testing.assert_allclose(actual, expected, 1e-5, 1e-5)


def test_a_sum_of_added_rows_over_steps_is_one_addition():
  """A table that all steps add their rows to."""
  rng = np.random.default_rng(0)
  keys = rng.integers(0, 7, (5, 4))
  rows = np.float32(rng.normal(size=(5, 4, 3)))
  step = lambda total, row: (total + scattered(*row), None)
  expected = jax.lax.scan(step, jnp.zeros((7, 3)), (keys, rows))[0]
  flat, equation, _ = steps_of(lambda k, r: scattered(k, r), keys, rows)
  table, index, values = equation.inputs
  assert steps.is_summable(flat, equation)
  stacks = {index: keys[..., None], values: rows}
  read = {table: jnp.zeros((7, 3))}.get
  actual = steps.summed(equation, read, stacks)
  np.testing.assert_allclose(actual, expected, 1e-5, 1e-5)


@pytest.mark.parametrize(
  'select',
  [
    lambda p: p[1:3],
    lambda p: p.T[::2, 1:],
    lambda p: jnp.split(p, [1, 3], 1),
  ],
)
def test_a_slice_of_a_product_is_a_product_of_slices(select):
  rng = np.random.default_rng(0)
  a, b = (np.float32(rng.normal(size=shape)) for shape in ((4, 3), (3, 5)))
  function = lambda a, b: jax.tree.leaves(select(a @ b))
  flat = inlining.flatten(jax.make_jaxpr(function)(a, b))
  equation = flat.equations[-1]
  assert equation.name in slicing.SELECTIONS
  assert slicing.is_of_product(flat, equation)
  read = dict(zip(flat.inputs, (a, b), strict=True)).get
  actual = slicing.of_factors(flat, equation)(read)
  for x, y in zip(actual, function(a, b), strict=True):
    np.testing.assert_allclose(x, y, 1e-5, 1e-5)


def test_a_slice_of_another_value_is_not_one_of_a_product():
  flat = inlining.flatten(jax.make_jaxpr(lambda a: jnp.sin(a)[1:])(np.ones(3)))
  assert not slicing.is_of_product(flat, flat.equations[-1])
