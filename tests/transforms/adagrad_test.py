"""The scalings of AdaGrad against float64 formulas.

A failure here means that steps are scaled otherwise than in the papers, in
PyTorch or in optax; that a gradient of zero gives NaN; or that half-precision
sums of squares stall.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt import transforms

# A dozen operations in float64 and in float32, each good to half an ulp.
FLOAT64 = dict(rtol=1e-12, atol=0)
FLOAT32 = dict(rtol=2e-6, atol=0)

HALF = pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])


def _gradients(steps=5):
  """Random float64 gradients of two tensors, 1e-6 to 1e3 in size."""
  rng = np.random.default_rng(0)
  scale = 10.0 ** rng.uniform(-6, 3, size=(steps, 4))
  return [
    {
      'w': rng.normal(size=(3, 4)) * scale[k],
      'b': rng.normal(size=4) * scale[k],
    }
    for k in range(steps)
  ]


def _run(transform, gradients):
  """The updates of all steps."""
  state = transform.init(jax.tree.map(jnp.asarray, gradients[0]))
  found = []
  for gradient in gradients:
    updates, state = transform.update(
      jax.tree.map(jnp.asarray, gradient), state
    )
    found.append(updates)
  return found


@pytest.mark.slow
@pytest.mark.parametrize(
  ('initial_accumulator_value', 'eps', 'eps_root'),
  [(0.0, 1e-10, 0.0), (0.0, 1e-2, 0.0), (0.5, 1e-3, 1e-2)],
  ids=['as_torch', 'large_eps', 'all_three'],
)
def test_scale_by_adagrad_is_torch_adagrad_in_float64(
  initial_accumulator_value, eps, eps_root
):
  gradients = _gradients()
  with jax.enable_x64(True):
    found = _run(
      transforms.scale_by_adagrad(initial_accumulator_value, eps, eps_root),
      gradients,
    )
  for name in ('w', 'b'):
    s = np.full(gradients[0][name].shape, initial_accumulator_value)
    for gradient, updates in zip(gradients, found, strict=True):
      g = gradient[name]
      s += g**2
      expected = g / (np.sqrt(s + eps_root) + eps)
      np.testing.assert_allclose(updates[name], expected, **FLOAT64)


def test_scale_by_adagrad_defaults_to_the_constants_of_torch():
  gradients = [np.array([3.0]), np.array([1e-10])]
  with jax.enable_x64(True):
    found = _run(transforms.scale_by_adagrad(), gradients[1:])
    second = _run(transforms.scale_by_adagrad(), gradients)[1]
  # s_0 = 0 and eps = 1e-10 outside the root: half of what no eps would give.
  np.testing.assert_allclose(found[0], [0.5], **FLOAT64)
  np.testing.assert_allclose(second, [1e-10 / (3 + 1e-10)], **FLOAT64)


def test_adagrad_with_the_constants_of_optax_is_optax_adagrad():
  gradients = _gradients()
  with jax.enable_x64(True):
    found = _run(
      adaopt.adagrad(
        0.3, initial_accumulator_value=0.1, eps=0.0, eps_root=1e-7
      ),
      gradients,
    )
    expected = _run(
      optax.adagrad(0.3, initial_accumulator_value=0.1, eps=1e-7), gradients
    )
  for updates, updates_of_optax in zip(found, expected, strict=True):
    for name in ('w', 'b'):
      np.testing.assert_allclose(
        updates[name], updates_of_optax[name], **FLOAT64
      )


@pytest.mark.parametrize(
  ('constants', 'expected'),
  [
    (dict(eps=1e-2, eps_root=0.0), 0.0909),
    (dict(eps=0.0, eps_root=1e-2), 0.0100),
  ],
  ids=['outside', 'inside'],
)
def test_eps_outside_the_root_is_not_eps_inside_it(constants, expected):
  (updates,) = _run(
    transforms.scale_by_adagrad(**constants), [np.array([1e-3], np.float32)]
  )
  # Half a unit of the last digit given.
  np.testing.assert_allclose(updates, [expected], rtol=0, atol=5e-5)


@pytest.mark.parametrize(
  'dtype', [jnp.float16, jnp.bfloat16, jnp.float32, jnp.complex64]
)
@pytest.mark.parametrize('eps', [0.0, 1e-10])
@pytest.mark.parametrize(
  'make', [transforms.scale_by_adagrad, transforms.scale_by_adagrad_norm]
)
def test_zero_gradients_give_zero_updates(make, eps, dtype):
  # An eps of 1e-10 is 0 in float16, whose smallest number is 6e-8.
  for eps_ in (eps, jnp.asarray(eps, dtype).real):
    updates = _run(make(eps=eps_), [jnp.zeros(2, dtype)] * 2)
    for u in updates:
      assert u.dtype == dtype
      np.testing.assert_array_equal(u.astype(jnp.complex64), np.zeros(2))


def test_a_coordinate_without_gradient_does_not_hold_up_the_others():
  gradients = [np.array([0.0, 2.0]), np.array([-3.0, 0.0])]
  found = _run(transforms.scale_by_adagrad(eps=0.0), gradients)
  np.testing.assert_array_equal(found, [[0, 1], [-1, 0]])


def test_gradients_that_are_not_finite_are_not_hidden():
  (updates,) = _run(transforms.scale_by_adagrad(), [np.array([np.nan, 2.0])])
  np.testing.assert_array_equal(updates, [np.nan, 1])


@HALF
@pytest.mark.parametrize(
  'make', [transforms.scale_by_adagrad, transforms.scale_by_adagrad_norm]
)
def test_half_precision_sums_of_squares_keep_adding_up(make, dtype):
  start = 4096.0
  # In half precision the sum would stay where it is, for ever.
  assert dtype(start) + dtype(1) == dtype(start)
  transform = make(initial_accumulator_value=start)
  gradient = jnp.ones(1, dtype)
  state = transform.init(gradient)
  for _ in range(3):
    _, state = transform.update(gradient, state)
  assert state.sum_of_squares.dtype == jnp.float32
  np.testing.assert_array_equal(state.sum_of_squares, [start + 3])


@HALF
@pytest.mark.parametrize(
  'make', [transforms.scale_by_adagrad, transforms.scale_by_adagrad_norm]
)
def test_gradients_whose_squares_overflow_float16_are_scaled(make, dtype):
  # 300² = 90 000 exceeds float16's 65 504.
  (updates,) = _run(make(), [jnp.array([-300], dtype)])
  assert updates.dtype == dtype
  np.testing.assert_array_equal(updates.astype(jnp.float32), [-1])


def test_complex_gradients_are_divided_by_their_modulus():
  found = _run(
    transforms.scale_by_adagrad(eps=0.0),
    [jnp.array([3 + 4j]), jnp.array([12j])],
  )
  np.testing.assert_allclose(found, [[0.6 + 0.8j], [12j / 13]], **FLOAT32)


@pytest.mark.parametrize(
  ('initial_accumulator_value', 'eps'),
  [(0.0, 1e-10), (0.25, 0.0), (4.0, 0.1)],
)
def test_scale_by_adagrad_norm_keeps_one_scalar_for_the_whole_tree(
  initial_accumulator_value, eps
):
  gradients = _gradients()
  transform = transforms.scale_by_adagrad_norm(initial_accumulator_value, eps)
  found = _run(transform, gradients)
  squared = initial_accumulator_value
  for gradient, updates in zip(gradients, found, strict=True):
    squared += sum((g**2).sum() for g in gradient.values())
    for name, g in gradient.items():
      expected = g / (np.sqrt(squared) + eps)
      np.testing.assert_allclose(updates[name], expected, **FLOAT32)
  assert transform.init(gradients[0]).sum_of_squares.shape == ()


def test_first_step_of_adagrad_norm_is_the_gradient_over_its_norm():
  gradient = {'w': np.array([[1.0, 2.0]]), 'b': np.array([-2.0, 4.0])}
  (updates,) = _run(transforms.scale_by_adagrad_norm(), [gradient])
  np.testing.assert_allclose(updates['w'], [[0.2, 0.4]], **FLOAT32)
  np.testing.assert_allclose(updates['b'], [-0.4, 0.8], **FLOAT32)


@pytest.mark.parametrize('value', [-1e-3, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  ('make', 'name'),
  [
    (transforms.scale_by_adagrad, 'initial_accumulator_value'),
    (transforms.scale_by_adagrad, 'eps'),
    (transforms.scale_by_adagrad, 'eps_root'),
    (transforms.scale_by_adagrad_norm, 'initial_accumulator_value'),
    (transforms.scale_by_adagrad_norm, 'eps'),
  ],
)
def test_a_constant_below_zero_or_not_finite_is_refused(make, name, value):
  with pytest.raises(ValueError, match=f'{name} must be .* got {value}'):
    make(**{name: value})


@pytest.mark.parametrize(
  'transform',
  [transforms.scale_by_adagrad(), transforms.scale_by_adagrad_norm()],
)
def test_a_gradient_that_was_not_a_number_is_not_forgotten(transform):
  state = transform.init(jnp.ones(1))
  _, state = transform.update(jnp.array([jnp.nan]), state)
  update, _ = transform.update(jnp.array([7.0]), state)
  assert jnp.isnan(update[0])
