"""If these fail, a test that asks for more than the others is not heard."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaopt

NAN, INF = float('nan'), float('inf')

MEAN = {'w': jnp.array([3.0, 0.0]), 'b': jnp.array(4.0)}  # ‖ḡ‖² = 25
TOTAL = adaopt.GradientStatistics(
  jnp.int32(8), MEAN, {'w': jnp.array(18.0), 'b': jnp.array(32.0)}
)


@pytest.mark.parametrize(
  ('etas', 'expected'),
  [([0.5], 8.0), ([0.5, 0.1], 200.0), ([0.1, 0.5], 200.0), ([0.5, 2, 1], 8.0)],
)
def test_the_largest_requirement_is_that_of_all(etas, expected):
  # 50 / (η² · 25)
  criterion = adaopt.all_of(*map(adaopt.norm_test, etas))
  for required in (criterion(TOTAL), jax.jit(criterion)(TOTAL)):
    assert (required.shape, required.dtype) == ((), jnp.float32)
    np.testing.assert_allclose(required, expected, 1e-6)


def _constant(value):
  return lambda stats: jnp.array(value, jnp.float32)


@pytest.mark.parametrize(
  ('parts', 'expected'),
  [
    ([NAN, 3.0], 3.0),
    ([3.0, NAN], 3.0),
    ([NAN, 3.0, 7.0, NAN], 7.0),
    ([NAN, NAN], NAN),
    ([NAN], NAN),
    ([INF, NAN, 1.0], INF),
  ],
)
def test_a_part_without_evidence_has_no_say(parts, expected):
  criterion = adaopt.all_of(*map(_constant, parts))
  np.testing.assert_array_equal(criterion(TOTAL), expected)


def _counter(start):
  """A criterion that requires the number of its calls, from start on."""
  return adaopt.StatefulCriterion(
    lambda params: jnp.full([], start, jnp.float32),
    lambda stats, state, *, step=1.0, **_: (state, state + step),
  )


def test_all_of_holds_the_memories_of_its_parts():
  criterion = adaopt.all_of(_counter(7.0), adaopt.norm_test(0.5), _counter(3.0))
  state = criterion.init(MEAN)
  found = []
  for step in (1.0, 4.0, 1.0):
    required, state = criterion.update(TOTAL, state, step=step)
    found.append(float(required))
  # The norm test requires 8.
  assert found == [8, 8, 12]
  assert state == (13, (), 9)


def test_a_part_with_memory_that_has_no_evidence_has_no_say():
  criterion = adaopt.all_of(_counter(NAN), _constant(3.0))
  required, _ = criterion.update(TOTAL, criterion.init(MEAN))
  assert required == 3.0


def test_all_of_functions_is_a_function():
  assert callable(adaopt.all_of(adaopt.norm_test(0.5), _constant(3.0)))


def test_a_part_names_the_statistics_that_it_misses():
  criterion = adaopt.all_of(
    adaopt.norm_test(0.1), adaopt.inner_product_test(0.1)
  )
  sentence = (
    r'inner_product_test needs statistics\.variance_along_mean, which is None; '
    'value_and_statistics .* accumulate cannot merge it: use train_step or fit'
  )
  for call in (criterion, jax.jit(criterion)):
    with pytest.raises(ValueError, match=sentence):
      call(TOTAL)


def test_all_of_refuses_nothing_and_non_criteria():
  with pytest.raises(ValueError, match='at least one criterion, got none'):
    adaopt.all_of()
  with pytest.raises(ValueError, match=r'criterion 1 must be .*, got 0\.1'):
    adaopt.all_of(adaopt.norm_test(0.1), 0.1)
  with pytest.raises(ValueError, match=r'criterion 0 .* as in norm_test\('):
    adaopt.all_of(adaopt.norm_test)
