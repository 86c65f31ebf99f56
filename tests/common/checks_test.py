"""If these fail, a wrong argument meets a traceback instead of a sentence."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt._common import checks

NAN, INF = float('nan'), float('inf')


def test_only_tracers_are_not_concrete():
  assert checks.is_concrete()
  assert checks.is_concrete(1, 2.0, None, 'x', np.ones(2), jnp.ones(2))

  @jax.jit
  def concrete(x):
    return jnp.array([checks.is_concrete(x), checks.is_concrete(1.0, x)])

  assert not concrete(1.0).any()


@pytest.mark.parametrize(
  'value', [1, 1e-30, 0.5, np.float32(2), np.int64(3), jnp.array(0.1)]
)
def test_positive_values_pass(value):
  checks.check_positive(rate=value)
  checks.check_not_negative(rate=value)


@pytest.mark.parametrize(
  'value', [0, -0.0, -1, NAN, INF, -INF, np.float32(0), jnp.array(-1.0)]
)
def test_a_value_not_positive_is_named(value):
  message = f'^rate must be positive and finite, got {value}'
  with pytest.raises(ValueError, match=message):
    checks.check_positive(other=1.0, rate=value)


@pytest.mark.parametrize(
  'value', [None, 'small', '0.5', 1j, np.ones(2), [[1], [2, 3]]]
)
@pytest.mark.parametrize(
  'check', [checks.check_positive, checks.check_not_negative]
)
def test_what_is_no_number_is_named(check, value):
  message = re.escape(f'rate must be a number, got {value!r}')
  with pytest.raises(ValueError, match=message):
    check(other=1.0, rate=value)


def test_zero_is_not_negative():
  checks.check_not_negative(rate=0)
  checks.check_not_negative(rate=-0.0)


@pytest.mark.parametrize(
  'value', [-1, -1e-30, NAN, INF, -INF, np.float32(-2), jnp.array(NAN)]
)
def test_a_negative_value_is_named(value):
  message = f'^rate must be finite and at least 0, got {value}'
  with pytest.raises(ValueError, match=message):
    checks.check_not_negative(other=0.0, rate=value)


@pytest.mark.parametrize('value', [1.5, np.array([[1], [2]]), jnp.bfloat16(2)])
def test_positive_numbers_of_any_shape_pass(value):
  checks.check_all_positive(rates=value)


@pytest.mark.parametrize('value', [0, [1.0, -1.0], np.array([1, NAN]), [INF]])
def test_an_array_with_a_number_not_positive_is_named(value):
  message = re.escape(f'rates must be positive and finite, got {value}')
  with pytest.raises(ValueError, match=message):
    checks.check_all_positive(other=1.0, rates=value)


@pytest.mark.parametrize('value', [None, 'a', ['1.5'], 1j, [[1], [2, 3]]])
def test_what_are_no_numbers_is_named(value):
  message = re.escape(f'rates must be numbers, got {value!r}')
  with pytest.raises(ValueError, match=message):
    checks.check_all_positive(other=1.0, rates=value)


@pytest.mark.parametrize(
  'value', [2, 3, np.int64(2), np.uint8(7), jnp.array(2), jnp.uint32(5)]
)
def test_integers_from_the_minimum_on_pass(value):
  checks.check_integer(2, size=value)


@pytest.mark.parametrize(
  'value',
  [
    *(1, -5, np.int32(1), 2**31, 2**70),
    *(2.0, 2.5, NAN, INF, True, jnp.array(3.0)),
    *(None, '3', np.array([2, 3]), jax.random.key(2)),
  ],
)
def test_no_integer_or_one_out_of_range_is_named(value):
  got = re.escape(f'got {value!r}')
  message = f'^size must be an integer of at least 2 and below 2.31, {got}'
  with pytest.raises(ValueError, match=message):
    checks.check_integer(2, other=2, size=value)


@pytest.mark.parametrize(
  'check',
  [
    checks.check_positive,
    checks.check_not_negative,
    checks.check_all_positive,
    lambda value: checks.check_integer(1, value=value),
  ],
  ids=['positive', 'not negative', 'all positive', 'integer'],
)
def test_a_tracer_passes_every_check_of_values(check):
  @jax.jit
  def double(value):
    check(value=value)
    return 2 * value

  assert double(-1.0) == -2.0


def test_functions_and_callables_pass():
  checks.check_callable('of x', a=len, b=lambda x: x, c=jax.jit(jnp.sin))


@pytest.mark.parametrize('value', [None, 'max', 0.1])
def test_what_cannot_be_called_is_named_with_its_role(value):
  message = f'^policy must be a function of two sizes, got {value!r}'
  with pytest.raises(ValueError, match=message):
    checks.check_callable('of two sizes', other=len, policy=value)


def test_floating_and_complex_params_pass():
  checks.check_params(
    {
      'half': jnp.ones(2, jnp.bfloat16),
      'complex': jnp.ones((), jnp.complex64),
      'python': 1.0,
      'numpy': np.ones(3),
      'shape': jax.ShapeDtypeStruct((2,), jnp.float32),
      'nothing': None,
    }
  )


@pytest.mark.parametrize(
  ('params', 'name', 'dtype'),
  [
    ({'layer': [jnp.ones(2), jnp.ones(2, int)]}, r"\['layer'\]\[1\]", 'int32'),
    ({'mask': jnp.ones(2, bool)}, r"\['mask'\]", 'bool'),
    (jnp.ones(2, jnp.uint8), 'params', 'uint8'),
  ],
  ids=['integer', 'bool', 'bare array'],
)
def test_params_without_gradient_are_named_with_the_remedy(params, name, dtype):
  message = (
    f'^parameter {name} is of type {dtype}, which has no gradient; pass '
    'floating or complex parameters and close over the rest'
  )
  with pytest.raises(ValueError, match=message):
    checks.check_params(params)


def test_a_tree_like_the_parameters_passes():
  params = {'w': jnp.ones([2, 3]), 'b': 1.0, 'none': None}
  tree = {'w': np.ones([2, 3], int), 'b': jnp.ones([]), 'none': None}
  checks.check_like(params, direction=tree)
  checks.check_like(params, direction=jax.eval_shape(lambda: tree))


@pytest.mark.parametrize(
  ('tree', 'message'),
  [
    ({'v': jnp.ones(3)}, r"^direction must be like the .*'w'.* got .*'v'"),
    (jnp.ones(3), r"^direction must be like the .*'w'.*, got PyTreeDef\(\*"),
    (
      {'w': [jnp.ones([3, 1])]},
      r"^direction\['w'\]\[0\] must .* parameter, \[3\], got \[3, 1\]",
    ),
  ],
  ids=['name', 'bare array', 'shape'],
)
def test_a_tree_unlike_the_parameters_is_told(tree, message):
  with pytest.raises(ValueError, match=message):
    checks.check_like({'w': [jnp.ones(3)]}, direction=tree)


@pytest.mark.parametrize(
  'batch',
  [
    np.ones(4),
    {'x': np.ones((4, 2)), 'y': (jnp.ones(4), None)},
    [jax.ShapeDtypeStruct((4, 3), jnp.float32)],
    jax.random.split(jax.random.key(0), 4),
  ],
  ids=['array', 'tree', 'shapes', 'random keys'],
)
def test_num_examples_is_the_length_all_arrays_share(batch):
  assert checks.num_examples(batch) == 4


def test_num_examples_is_static_under_jit():
  ones = jax.jit(lambda batch: jnp.ones(checks.num_examples(batch)))
  assert ones({'x': np.ones((3, 2))}).shape == (3,)


@pytest.mark.parametrize(
  ('batch', 'message'),
  [
    ({}, r'^the batch holds no array, got \{\}; pass arrays with'),
    ({'x': None}, r"^the batch holds no array, got \{'x': None\}; pass"),
    (
      {'x': np.ones(3), 'y': 2.0},
      r"^batch\['y'\] is a scalar; every array of a batch needs a leading",
    ),
    (1.0, '^batch is a scalar'),
    (
      {'x': np.ones((3, 2)), 'y': [np.ones(2)], 'z': np.ones(3)},
      r"^the leading axes of a batch must be equal, got \['x'\]: 3, "
      r"\['y'\]\[0\]: 2, \['z'\]: 3\.",
    ),
    (np.ones((0, 2)), '^the batch is empty; it needs at least one example'),
  ],
  ids=['no leaf', 'only none', 'scalar', 'bare scalar', 'ragged', 'empty'],
)
def test_what_is_no_batch_meets_a_sentence(batch, message):
  with pytest.raises(ValueError, match=message):
    checks.num_examples(batch)


@pytest.mark.parametrize('value', [3, 3.5, np.float32(3), jnp.array(4)])
def test_values_from_the_minimum_on_pass(value):
  checks.check_at_least(3, size=value)


@pytest.mark.parametrize('value', [2.9, -3, NAN, INF, -INF])
def test_a_value_below_the_minimum_is_named(value):
  message = f'^size must be finite and at least 3, got {value}'
  with pytest.raises(ValueError, match=message):
    checks.check_at_least(3, other=3, size=value)


@pytest.mark.parametrize(
  'made',
  [
    adaopt.norm_test(0.5),
    adaopt.capped_growth(2.0),
    jnp.maximum,
    len,
    lambda statistics: 3.0,
    jax.jit(jnp.sin),
    functools.partial(adaopt.norm_test, 0.5),
  ],
)
def test_a_function_that_was_made_passes(made):
  checks.check_made('of the statistics', criterion=made)


@pytest.mark.parametrize(
  'factory',
  [
    adaopt.norm_test,
    adaopt.debiased_norm_test,
    adaopt.all_of,
    adaopt.capped_growth,
    adaopt.batch_size.hysteresis,
  ],
)
def test_a_factory_left_uncalled_is_named_with_the_remedy(factory):
  name = factory.__name__
  message = (
    f'^criterion must be a function of x, and {name} makes one: call it, as in '
    rf'{name}\('
  )
  with pytest.raises(ValueError, match=message):
    checks.check_made('of x', other=len, criterion=factory)


@pytest.mark.parametrize('value', [None, 'max', 0.1])
def test_what_cannot_be_called_was_not_made_either(value):
  message = f'^policy must be a function of x, got {value!r}'
  with pytest.raises(ValueError, match=message):
    checks.check_made('of x', policy=value)


@pytest.mark.parametrize(
  'optimizer',
  [
    optax.adam(0.1),
    adaopt.schedule_batch_size(8),
    optax.MultiSteps(optax.sgd(0.1), 2),
    optax.contrib.mechanize(optax.sgd(0.1)),
  ],
)
def test_an_optimizer_passes(optimizer):
  checks.check_optimizer(optimizer)


@pytest.mark.parametrize(
  ('optimizer', 'message'),
  [
    (None, r'got None\.$'),
    (0.1, r'got 0\.1\.$'),
    ('adam', r"got 'adam'\.$"),
    (optax.adamw, r'got <function adamw .*>; call it first, as in adamw\('),
    (lambda rate: optax.sgd(rate), 'got <function .*; call it first'),
    (optax.adam(0.1).init, 'got <function .*; call it first'),
  ],
  ids=['none', 'number', 'string', 'uncalled', 'a factory', 'half of one'],
)
def test_what_is_no_optimizer_is_named(optimizer, message):
  with pytest.raises(
    ValueError, match=f'must be an optax optimizer, {message}'
  ):
    checks.check_optimizer(optimizer)


@pytest.mark.parametrize(
  'rate',
  [0, 0.1, np.float64(1), jnp.bfloat16(0.5), optax.constant_schedule(1)],
)
def test_a_learning_rate_passes(rate):
  checks.check_learning_rate(rate)


def test_a_traced_learning_rate_passes():
  def double(rate):
    checks.check_learning_rate(rate)
    return 2 * rate

  assert jnp.isnan(jax.jit(double)(NAN))


@pytest.mark.parametrize(
  ('rate', 'message'),
  [
    *((bad, f'must be finite, got {bad}') for bad in (NAN, INF, -INF)),
    (-0.1, 'must be at least 0, got -0.1: updates descend with a positive'),
    *(
      (bad, f'must be a number, got {re.escape(repr(bad))}')
      for bad in (None, '0.5', [0.1], 1j, np.ones(2))
    ),
  ],
)
def test_what_is_no_learning_rate_is_named(rate, message):
  with pytest.raises(ValueError, match=f'^learning_rate {message}'):
    checks.check_learning_rate(rate)


@pytest.mark.parametrize(
  ('leaf', 'message'),
  [
    (len, "the function 'len'"),
    ('text', "the string 'text'"),
    (np.array(['a', 'b']), 'of type <U1'),
    (np.array([None]), 'of type object'),
    (np.array(['2020-01-01'], 'datetime64[D]'), r'of type datetime64\[D\]'),
  ],
  ids=['function', 'string', 'strings', 'objects', 'dates'],
)
def test_what_is_not_an_array_of_numbers_is_named(leaf, message):
  with pytest.raises(
    ValueError, match=rf"^parameter \['a'\] is {message}, which has no gradient"
  ):
    checks.check_params({'a': leaf})
  with pytest.raises(
    ValueError, match=rf"^dataset\['a'\] is {message}; a dataset holds only"
  ):
    checks.check_arrays(other=jnp.ones(2), dataset={'a': leaf})
  with pytest.raises(ValueError, match=rf"^batch\['a'\] is {message}"):
    checks.num_examples({'a': leaf})


def test_no_parameter_at_all_is_told():
  with pytest.raises(ValueError, match='hold no array; there is nothing to'):
    checks.check_params({'w': None})


def test_arrays_of_any_number_and_keys_pass():
  checks.check_arrays(
    batch={
      'image': np.zeros((2, 3), np.uint8),
      'label': [1, 2],
      'mask': jnp.ones(2, bool),
      'half': jnp.ones(2, jnp.bfloat16),
      'key': jax.random.split(jax.random.key(0), 2),
      'none': None,
    }
  )
