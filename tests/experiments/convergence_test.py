"""A wrong rate or noise, or a test that is reported to hold but does not."""

import csv
import gzip
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

import adaopt
from adaopt.experiments import convergence, rates, results, robust
from tests import oracles

N, D = 12, 3


def make_dataset(n=N):
  rng = np.random.default_rng(0)
  return {
    'input': rng.normal(size=(n, D)).astype(np.float32),
    'label': rng.integers(0, 2, n).astype(np.int32),
  }


def loss(w, dataset, penalty=1e-3):
  """The problem in float64."""
  inputs = dataset['input'].astype(np.float64)
  residuals = 2.0 * dataset['label'] - 1 - inputs @ w
  losses = np.log(1 + residuals**2 / 2)
  return losses.mean() + penalty * sum(x**2 / (1 + x**2) for x in w)


def gradient(w, dataset):
  """Central differences, exact to about 1e-9 here."""
  steps = 1e-5 * np.eye(len(w))
  f = lambda w: loss(w, dataset)
  return np.array([(f(w + s) - f(w - s)) / 2e-5 for s in steps])


def example_gradients(w, dataset):
  """g_i. [n, d]."""
  rows = range(len(dataset['label']))
  single = lambda i: {name: x[i : i + 1] for name, x in dataset.items()}
  return np.stack([gradient(w, single(i)) for i in rows])


def exact_of(dataset):
  estimate = adaopt.value_and_statistics(robust.loss_fn)
  return lambda w: estimate(w, jax.tree.map(jnp.asarray, dataset))[1]


@pytest.mark.parametrize('scale', [0.1, 1.0, 10.0])
def test_the_gradient_of_the_problem(scale):
  dataset = make_dataset()
  w = scale * np.array([1.0, -0.5, 2.0])
  value, found = jax.value_and_grad(robust.loss_fn)(jnp.array(w), dataset)
  np.testing.assert_allclose(value, loss(w, dataset), rtol=1e-5)
  # Twelve float32 terms of order 1.
  np.testing.assert_allclose(found, gradient(w, dataset), atol=1e-6)


def test_the_loss_curves_both_ways():
  batch = {'input': np.ones([1, 1]), 'label': np.ones([1])}
  curvature = jax.hessian(lambda x: robust.loss_fn(x, batch, penalty=0.0))
  # φ″(r) = (1 − r²/2) / (1 + r²/2)², at r = 1 and r = 2.
  np.testing.assert_allclose(curvature(jnp.zeros(1)), 2 / 9, rtol=1e-6)
  np.testing.assert_allclose(curvature(-jnp.ones(1)), -1 / 9, rtol=1e-6)


@pytest.mark.parametrize('size', [1, 2, 4, 5])
def test_noise_is_the_mean_over_all_batches(size):
  dataset, w = make_dataset(5), np.array([0.3, -0.2, 0.5])
  g = example_gradients(w, dataset)
  full = g.mean(0)
  batches = [list(b) for b in itertools.combinations(range(5), size)]
  errors = np.mean([(g[b].mean(0) - full) ** 2 for b in batches], 0)
  signal, eta = full**2, 0.7
  seen = convergence.observe(
    exact_of(dataset)(jnp.array(w)), jnp.array(size), eta
  )
  np.testing.assert_allclose(seen.squared_norm, signal.sum(), rtol=1e-4)
  np.testing.assert_allclose(
    seen.noise, errors.sum() / signal.sum(), rtol=1e-4, atol=1e-12
  )
  margins = errors - eta**2 * signal
  assert np.min(np.abs(margins)) > 1e-4  # No coordinate is a close call.
  np.testing.assert_allclose(seen.coordinates, np.mean(margins < 0))


def trace_of(name, dataset, num_steps, num_seeds=1):
  exact = exact_of(dataset)
  schemes = convergence.make_schemes(exact, len(dataset['label']))
  return convergence.trace(
    schemes[name],
    jax.tree.map(jnp.asarray, dataset),
    exact,
    num_steps=num_steps,
    num_seeds=num_seeds,
  )


def test_the_full_batch_is_gradient_descent_by_adagrad_norm():
  dataset, num_steps = make_dataset(), 20
  trace = trace_of('AdaGrad-Norm, b = n', dataset, num_steps, num_seeds=2)
  for seed in range(2):
    key, _ = jax.random.split(jax.random.key(seed))
    w = np.array(jax.random.normal(key, [D]), np.float64)
    total, expected = 0.0, []
    for _ in range(num_steps):
      g = gradient(w, dataset)
      expected.append(g @ g)
      total += g @ g
      w -= g / total**0.5
    np.testing.assert_allclose(
      trace.squared_norm[seed], expected, rtol=1e-3, atol=1e-9
    )
  assert np.all(trace.noise == 0)
  assert np.all(trace.coordinates == 1)


def test_the_exact_test_lags_by_one_step():
  dataset = make_dataset(200)
  trace = trace_of('AdAdaGrad-Norm, exact norm test, η = 0.5', dataset, 15)
  sizes, noise = trace.batch_size[0], trace.noise[0]
  # noise = (1 − b/n) v / (b ‖∇F‖²), from which v / (η² ‖∇F‖²) follows.
  open_to_growth = sizes[:-1] < 200
  required = noise * sizes / (1 - np.minimum(sizes, 199) / 200) / 0.25
  expected = np.maximum(sizes, np.ceil(required))
  expected = np.clip(expected, 2, 200)[:-1]
  grown = sizes[1:]
  # The ceiling of a float32 quotient may fall on either side.
  assert np.all(np.abs(grown - expected)[open_to_growth] <= 1)
  assert grown[0] > 2
  w = np.array(jax.random.normal(jax.random.split(jax.random.key(0))[0], [D]))
  first = oracles.norm_requirement(example_gradients(w, dataset), eta=0.5)
  assert sizes[1] == np.ceil(first)


@pytest.mark.parametrize('slope', [-0.5, -1.0, -2.0])
@pytest.mark.parametrize('last', [100, 1000])
def test_slopes_of_power_laws(slope, last):
  x = np.arange(1, last + 1)
  y = 7.0 * x**slope
  y[: last // rates.FIRST - 1] = 1e6  # What comes before does not count.
  np.testing.assert_allclose(rates.fit_slope(x, y), slope, rtol=1e-9)


@pytest.mark.parametrize('y', [np.zeros(100), np.ones(1)])
def test_no_slope_where_there_is_none_to_fit(y):
  assert np.isnan(rates.fit_slope(np.arange(1, len(y) + 1), y))


def test_what_a_row_says():
  trace = rates.Trace(
    batch_size=np.array([[2, 4, 8, 10]]),
    squared_norm=np.array([[4.0, 1.0, 2.0, 0.5]]),
    noise=np.array([[0.3, 0.6, 0.25, 0.0]]),
    coordinates=np.array([[0.5, 0.0, 1.0, 1.0]]),
  )
  (row,) = rates.summarise('scheme', trace, eta=0.5, num_examples=10)
  assert row.examples == 24
  assert row.squared_norm == 0.5
  assert row.held == 50
  assert row.below == 75
  assert row.holds == pytest.approx(100 / 3)
  assert row.nearly == pytest.approx(100 * 2 / 3)
  assert row.coordinates == 50
  assert row.all_coordinates == pytest.approx(100 / 3)
  np.testing.assert_array_equal(
    rates.running_min(trace.squared_norm), [[4, 1, 1, 0.5]]
  )
  np.testing.assert_array_equal(
    rates.running_mean(trace.squared_norm), [[4, 2.5, 7 / 3, 1.875]]
  )


@pytest.mark.parametrize(
  ('values', 'text'),
  [
    ([1.0], '1.00'),
    ([1.0, 3.0], '2.00 ± 1.41'),
    ([2.0, 2.0], '2.00'),
    ([None], ''),
    ([None, 1.0], '1.00'),
    ([float('nan'), 1.0], 'nan ± nan'),
  ],
)
def test_cells_are_mean_and_standard_deviation(values, text):
  assert results.mean_and_deviation(values, '.2f') == text


@pytest.mark.slow
def test_the_script_leaves_tables_and_a_picture(tmp_path):
  (tmp_path / 'libsvm').mkdir()
  rng = np.random.default_rng(0)
  lines = [
    f'{label:+d} ' + ' '.join(f'{k}:1' for k in np.sort(features))
    for label, features in zip(
      np.tile([1, -1], 20),
      rng.permuted(np.tile(np.arange(1, 124), (40, 1)), axis=1)[:, :14],
      strict=True,
    )
  ]
  for name in ('a9a.gz', 'a9a.t.gz'):
    with gzip.open(tmp_path / 'libsvm' / name, 'wt') as file:
      file.write('\n'.join(lines) + '\n')
  workdir = tmp_path / 'results'
  done = scripts.run(
    'convergence',
    f'--data_dir={tmp_path}',
    f'--workdir={workdir}',
    '--num_steps=30',
    '--seeds=2',
  )
  assert done.returncode == 0, done.stderr
  assert (workdir / 'convergence.png').stat().st_size > 0
  assert (workdir / 'convergence.md').read_text().strip() in done.stdout
  with (workdir / 'convergence.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len({row['scheme'] for row in rows}) == 8
  assert {row['seed'] for row in rows} == {'0', '1'}
  (fixed, *_) = rows
  assert fixed['scheme'] == 'AdaGrad-Norm, b = 2'
  assert fixed['examples'] == '60'


@pytest.mark.slow
def test_the_script_names_a_missing_file(tmp_path):
  done = scripts.run(
    'convergence', f'--data_dir={tmp_path}', f'--workdir={tmp_path}'
  )
  assert done.returncode == 1
  assert 'a9a' in done.stderr
  assert 'Traceback' not in done.stderr
