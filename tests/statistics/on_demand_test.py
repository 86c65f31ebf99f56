"""If these fail, a step pays for statistics that nothing reads.

Compiled programs are compared by what XLA says that they cost.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn

import adaopt
from adaopt import criteria, training


class Dense(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.tanh(nn.LayerNorm()(nn.Dense(32)(x)))
    return nn.Dense(8)(nn.Dense(32)(x))


class Convolutions(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.tanh(nn.Conv(4, (3, 3), (2, 2))(x))
    return nn.Dense(8)(x.reshape(len(x), -1))


class Attention(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
    return nn.Dense(8)(x)


class Embedding(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    return nn.Dense(8)(nn.Embed(50, 16)(tokens))


# A network, and the shape and type of an example.
NETWORKS = {
  'dense': (Dense(), (16,), float),
  'cnn': (Convolutions(), (8, 8, 3), float),
  'attention': (Attention(), (6, 16), float),
  'embedding': (Embedding(), (5,), int),
}
BATCH_SIZE = 16  # of an estimator
MICRO = 1024  # of a step: its update costs little beside the gradient


@functools.cache
def setting(name, batch_size):
  """A loss, parameters and examples."""
  model, shape, dtype = NETWORKS[name]
  x = jnp.zeros((batch_size, *shape), dtype)
  params = model.init(jax.random.key(0), x[:1])
  return lambda p, x: jnp.mean(model.apply(p, x) ** 2), params, x


def cost(function, *args):
  """The floating-point operations and temporary bytes of a program."""
  compiled = jax.jit(function).lower(*args).compile()
  return (
    compiled.cost_analysis()['flops'],
    compiled.memory_analysis().temp_size_in_bytes,
  )


NORM = adaopt.norm_test(0.5)
ALONG = 'variance_along_mean'


def handed_to(criterion, loss_fn, **options):
  """A step that hands its statistics to a criterion and to no one else."""
  estimate = adaopt.value_and_statistics(loss_fn, **options)

  def step(params, batch):
    loss, statistics = estimate(params, batch)
    return loss, statistics.mean, criterion(statistics)

  return step


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'criterion', 'only'),
  [(name, NORM, ('variance',)) for name in NETWORKS]
  + [
    ('dense', adaopt.inner_product_test(0.5), (ALONG,)),
    (
      'dense',
      adaopt.augmented_inner_product_test(0.5, nu=0.5),
      ('variance', ALONG),
    ),
    ('dense', adaopt.coordinate_norm_test(0.5), ('coordinate_variance',)),
    ('cnn', adaopt.coordinate_norm_test(0.5), ('coordinate_variance',)),
  ],
)
def test_a_jitted_step_computes_only_what_its_test_reads(name, criterion, only):
  loss_fn, *args = setting(name, BATCH_SIZE)
  found = cost(handed_to(criterion, loss_fn), *args)
  alone = cost(handed_to(criterion, loss_fn, only=only), *args)
  assert found == pytest.approx(alone, rel=0.01)


def test_all_statistics_cost_more_than_one():
  """Without it the test above could not fail."""
  loss_fn, *args = setting('dense', BATCH_SIZE)
  every = cost(adaopt.value_and_statistics(loss_fn), *args)
  alone = cost(handed_to(NORM, loss_fn), *args)
  assert all(a > 1.5 * b for a, b in zip(every, alone, strict=True))


def draw(dataset, seed, positions):
  del seed
  return dataset[positions % MICRO]


@functools.cache
def step_flops(name, optimizer):
  """The operations of a whole training step of one micro-batch in a loop."""
  loss_fn, params, x = setting(name, MICRO)
  step = adaopt.train_step(
    loss_fn,
    optimizer,
    micro_batch_size=MICRO,
    draw=draw,
    driver=training.traced,
  )
  return cost(step, adaopt.init_train_state(params, optimizer), x)[0]


@functools.cache
def plain_flops(name):
  """The same of the loop that one would write by hand, with a plain update."""
  loss_fn, params, x = setting(name, MICRO)

  def step(params, x, count):
    def body(i, total):
      batch = draw(x, 0, i * MICRO + jnp.arange(MICRO))
      found = jax.value_and_grad(loss_fn)(params, batch)
      return jax.tree.map(jnp.add, total, found)

    zeros = jnp.zeros([]), jax.tree.map(jnp.zeros_like, params)
    loss, gradient = jax.lax.fori_loop(0, count, body, zeros)
    descend = lambda p, g: p - 0.1 * g / count
    return loss / count, jax.tree.map(descend, params, gradient)

  return cost(step, params, x, 1)[0]


@functools.cache
def adapted_by(criterion):
  return adaopt.adadagrad(
    0.1, criterion, init_batch_size=MICRO, max_batch_size=4 * MICRO
  )


def of_layer_norm(statistics):
  """A criterion that reads the noise of a LayerNorm's tensors alone."""
  noise = [
    variance
    for path, variance in jax.tree_util.tree_leaves_with_path(
      statistics.variance
    )
    if 'LayerNorm' in jax.tree_util.keystr(path)
  ]
  assert len(noise) == 2
  return criteria.ratio(sum(noise), criteria.squared_norm(statistics))


def of_size(statistics):
  """A criterion that reads no noise."""
  return 2.0 * statistics.batch_size


SCHEDULE = optax.chain(adaopt.schedule_batch_size(MICRO), adaopt.adagrad(0.1))
ADASCALE = optax.chain(
  adaopt.schedule_batch_size(MICRO),
  adaopt.scale_by_adascale(base_batch_size=MICRO),
  adaopt.adagrad(0.1),
)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dense', 'attention', 'embedding'])
def test_where_nothing_is_read_a_step_is_one_of_plain_gradients(name):
  assert step_flops(name, SCHEDULE) == pytest.approx(
    plain_flops(name), rel=0.01
  )


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='as CPUs need it')
def test_a_convolution_in_a_loop_costs_no_more_than_plain_gradients():
  """There the mean is contracted from factors; see `drivers`."""
  assert step_flops('cnn', SCHEDULE) <= plain_flops('cnn')


def test_a_criterion_that_reads_no_noise_costs_what_a_schedule_costs():
  assert step_flops('dense', adapted_by(of_size)) == pytest.approx(
    step_flops('dense', SCHEDULE), rel=0.001
  )


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dense', 'attention', 'embedding'])
def test_a_norm_test_costs_a_step_what_it_costs_an_estimator(name):
  loss_fn, *args = setting(name, MICRO)
  alone, _ = cost(handed_to(NORM, loss_fn, only=('variance',)), *args)
  assert step_flops(name, adapted_by(NORM)) == pytest.approx(alone, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dense', 'attention'])
def test_the_noise_of_two_tensors_costs_less_than_that_of_all(name):
  nothing = step_flops(name, SCHEDULE)
  two = step_flops(name, adapted_by(of_layer_norm))
  every = step_flops(name, adapted_by(NORM))
  assert nothing < two < every
  assert two < 1.03 * nothing
  assert two - nothing < 0.5 * (every - nothing)


def test_noise_that_is_read_in_every_step_costs_what_a_test_costs():
  assert step_flops('dense', ADASCALE) == pytest.approx(
    step_flops('dense', adapted_by(NORM)), rel=0.01
  )


def test_noise_along_the_mean_costs_a_second_pass_and_no_other_statistic():
  nothing = step_flops('dense', SCHEDULE)
  along = step_flops('dense', adapted_by(adaopt.inner_product_test(0.5)))
  # A pass forward with tangents, beside one forward and one back.
  assert 1.5 * nothing < along < 2.1 * nothing
