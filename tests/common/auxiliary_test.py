"""If these fail, the rows of examples are averaged, or tables come in rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt import training
from adaopt._common import auxiliary

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
PARAMS = np.float32([1.0, -0.5, 2.0])


def with_rows(params, batch):
  outputs = batch @ params
  aux = {
    'output': outputs,
    'features': (batch, jnp.round(10 * batch).astype(jnp.int32)),
    'high': outputs > 0,
    'mean': jnp.mean(outputs),
    'table': jnp.arange(10.0),
    'one': jnp.mean(outputs, keepdims=True),
    'count': jnp.sum(outputs > 0),
  }
  return jnp.mean((outputs - 1) ** 2), aux


def ways(loss_fn, size):
  options = dict(has_aux=True)
  estimate = lambda **more: jax.jit(
    adaopt.value_and_statistics(loss_fn, group_size=size, **more, **options)
  )
  found = {'all': estimate(), 'mean': estimate(only=())}
  if size == 1:
    found['norms'] = jax.jit(
      adaopt.per_example.squared_norms(loss_fn, **options)
    )
  return found


@pytest.mark.slow
@pytest.mark.parametrize('size', [1, 2, 10])
def test_rows_come_back_in_order_and_the_rest_is_averaged(size):
  outputs = X @ PARAMS
  for run in ways(with_rows, size).values():
    (_, aux), *_ = run(PARAMS, X)
    np.testing.assert_allclose(aux['output'], outputs, 1e-5, 1e-6)
    floats, integers = aux['features']
    np.testing.assert_array_equal(floats, X)
    np.testing.assert_array_equal(integers, np.round(10 * X))
    assert integers.dtype == jnp.int32
    np.testing.assert_array_equal(aux['high'], outputs > 0)
    assert aux['high'].dtype == bool
    np.testing.assert_allclose(aux['mean'], np.mean(outputs), 1e-5)
    np.testing.assert_allclose(aux['table'], np.arange(10), 1e-6)
    assert aux['one'].shape == (1,)
    np.testing.assert_allclose(aux['one'][0], np.mean(outputs), 1e-5)
    np.testing.assert_allclose(aux['count'], size * np.mean(outputs > 0), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('size', [1, 2])
def test_rows_in_half_precision_stay_as_the_loss_returned_them(size):
  half = jnp.asarray(X, jnp.bfloat16)
  params = jnp.asarray(PARAMS, jnp.bfloat16)
  for run in ways(with_rows, size).values():
    (_, aux), *_ = run(params, half)
    assert aux['output'].dtype == aux['features'][0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(aux['features'][0], half)
    assert aux['mean'].dtype == jnp.float32
    np.testing.assert_allclose(
      np.float32(aux['output']), np.float32(half) @ PARAMS, 0.02, 0.05
    )


@pytest.mark.slow
def test_rows_of_a_masked_batch_are_all_there():
  run = adaopt.value_and_statistics(with_rows, has_aux=True)
  mask = np.arange(20) < 15
  (_, aux), _ = run(PARAMS, X, mask=mask)
  np.testing.assert_allclose(aux['output'], X @ PARAMS, 1e-5, 1e-6)
  np.testing.assert_allclose(aux['mean'], np.mean(X[:15] @ PARAMS), 1e-5)


def test_an_aux_of_nothing_comes_back():
  loss_fn = lambda params, batch: (jnp.mean(batch @ params), {'a': None})
  (_, aux), _ = adaopt.value_and_statistics(loss_fn, has_aux=True)(PARAMS, X)
  assert aux == {'a': None}


@pytest.mark.slow
def test_a_loss_of_fixed_size_is_believed_at_its_leading_axis():
  loss_fn = lambda params, batch: (
    jnp.mean(batch.reshape(2, 3) @ params),
    {'rows': batch[:, 0], 'table': jnp.ones(5)},
  )
  run = adaopt.value_and_statistics(loss_fn, group_size=2, has_aux=True)
  (_, aux), _ = run(PARAMS, X)
  np.testing.assert_array_equal(aux['rows'], X[:, 0])
  assert aux['table'].shape == (5,)


def test_which_leaves_are_rows_is_told_by_shapes_alone():
  aux_of = lambda batch: with_rows(PARAMS, batch)[1]
  rows = auxiliary.by_example(aux_of, jax.eval_shape(lambda: X), 10)
  assert {name for name, x in rows.items() if all(jax.tree.leaves(x))} == {
    'output',
    'features',
    'high',
  }


def keyed(params, batch):
  return jnp.mean(batch @ params), {'a': {'key': jax.random.key(0)}}


@pytest.mark.parametrize('only', [('variance',), ()])
@pytest.mark.parametrize('size', [1, 2])
def test_a_key_in_aux_meets_a_sentence(only, size):
  run = adaopt.value_and_statistics(
    keyed, has_aux=True, only=only, group_size=size
  )
  sentence = r"aux\['a'\]\['key'\] is key<fry>, which cannot be averaged"
  with pytest.raises(ValueError, match=sentence):
    run(PARAMS, X)
  with pytest.raises(ValueError, match=sentence):
    adaopt.per_example.squared_norms(keyed, has_aux=True)(PARAMS, X)


@pytest.mark.slow
@pytest.mark.parametrize('driver', [training.traced, training.dispatched])
@pytest.mark.parametrize(
  ('loss_fn', 'sentence'),
  [
    (keyed, r"aux\['a'\]\['key'\] is key<fry>, which cannot be averaged"),
    (
      lambda params, batch: (jnp.mean(batch @ params), {'o': batch @ params}),
      r"aux\['o'\] \[\d\] has a row for each example.* return a metric",
    ),
  ],
)
@pytest.mark.parametrize('size', [1, 2])
def test_a_step_refuses_what_it_cannot_average(driver, loss_fn, sentence, size):
  optimizer = optax.chain(adaopt.schedule_batch_size(4), optax.sgd(0.1))
  step = adaopt.train_step(
    loss_fn,
    optimizer,
    micro_batch_size=2,
    has_aux=True,
    driver=driver,
    group_size=size,
  )
  with pytest.raises(ValueError, match=sentence):
    step(adaopt.init_train_state(PARAMS, optimizer), X)
