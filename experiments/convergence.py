"""Checks the rates of AdAdaGrad-Norm where the full gradient is available.

python -m adaopt.experiments.convergence --workdir=DIR --data_dir=DIR

Every step draws a new batch, uniformly without replacement, so the theory's
expectations over batches are known: with V the covariance of the n examples'
gradients, E‖g_B − ∇F‖² = (1 − b/n) tr V / b, which is 0 at b = n.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

import adaopt
from adaopt import training
from adaopt.experiments import (
  command_line,
  datasets,
  options,
  rates,
  results,
  robust,
)
from adaopt.experiments.datasets import libsvm
from adaopt.experiments.plots import rates as rate_plots

_DATASET = flags.DEFINE_enum(
  'dataset', 'a9a', list(libsvm.SETS), 'The LIBSVM set.'
)
_STEPS = flags.DEFINE_integer(
  'num_steps', 1000, 'K, the steps of each run.', lower_bound=1
)

FIXED_SIZES = (2, 16, 128)
ETA, LOOSE_ETA, THETA, NU = 0.5, 0.9, 0.5, 1.0
MICRO_BATCH_SIZE = 1024

Exact = Callable[[jax.Array], adaopt.GradientStatistics]
"""Weights → the statistics of all n examples."""


class Scheme(NamedTuple):
  """An optimizer that holds a batch size, and the test to check it by."""

  optimizer: optax.GradientTransformationExtraArgs
  eta: float  # of the exact-variance norm test


def with_exact_statistics(
  hold: optax.GradientTransformationExtraArgs, exact: Exact
) -> optax.GradientTransformationExtraArgs:
  """Makes the test that sets a batch size see all examples, not the batch."""

  def update(updates, state, params, **extra_args):
    del extra_args
    return jax.lax.cond(
      state.test_due,
      lambda: hold.update(updates, state, params, statistics=exact(params)),
      lambda: hold.update(updates, state, params, statistics=None),
    )

  return optax.GradientTransformationExtraArgs(hold.init, update)


def make_schemes(exact: Exact, num_examples: int) -> dict[str, Scheme]:
  """Schemes with fixed batch sizes and with tests, by name."""

  def adapt(criterion):
    return adaopt.adapt_batch_size(
      criterion, init_batch_size=2, max_batch_size=num_examples
    )

  def norm(hold, eta):
    return Scheme(optax.chain(hold, adaopt.adagrad_norm(1.0)), eta)

  sizes = {str(size): size for size in FIXED_SIZES if size < num_examples}
  fixed = {
    f'AdaGrad-Norm, b = {name}': norm(adaopt.schedule_batch_size(size), ETA)
    for name, size in (sizes | {'n': num_examples}).items()
  }
  augmented = adapt(adaopt.augmented_inner_product_test(THETA, NU))
  return fixed | {
    f'AdAdaGrad-Norm, norm test, η = {ETA}': norm(
      adapt(adaopt.norm_test(ETA)), ETA
    ),
    f'AdAdaGrad-Norm, norm test, η = {LOOSE_ETA}': norm(
      adapt(adaopt.norm_test(LOOSE_ETA)), LOOSE_ETA
    ),
    f'AdAdaGrad-Norm, exact norm test, η = {ETA}': norm(
      with_exact_statistics(adapt(adaopt.norm_test(ETA)), exact), ETA
    ),
    # Implies the norm test with η² = θ² + ν².
    f'AdAdaGrad-Norm, augmented test, θ = {THETA}, ν = {NU}': norm(
      augmented, (THETA**2 + NU**2) ** 0.5
    ),
    f'AdAdaGrad, coordinate-wise test, η = {ETA}': Scheme(
      optax.chain(adapt(adaopt.coordinate_norm_test(ETA)), adaopt.adagrad(0.1)),
      ETA,
    ),
  }


def observe(
  statistics: adaopt.GradientStatistics, batch_size: jax.Array, eta: float
) -> rates.Trace:
  """Evaluates the exact-variance tests of a batch size at one point.

  `statistics` are those of all n examples, with `coordinate_variance`.
  """
  n = statistics.batch_size
  signal = jnp.square(statistics.mean)
  noise = statistics.coordinate_variance * ((n - batch_size) / n / batch_size)
  return rates.Trace(
    batch_size,
    jnp.sum(signal),
    jnp.sum(noise) / jnp.sum(signal),
    jnp.mean(noise <= eta**2 * signal),
  )


def trace(
  scheme: Scheme,
  dataset: dict[str, jax.Array],
  exact: Exact,
  *,
  num_steps: int,
  num_seeds: int,
) -> rates.Trace:
  """Runs a scheme, all steps and all seeds in one program.

  Each run starts from its own weights, N(0, 1).
  """
  step = adaopt.train_step(
    robust.loss_fn,
    scheme.optimizer,
    micro_batch_size=MICRO_BATCH_SIZE,
    driver=training.traced,
  )

  def body(state, seed):
    batch_size = optax.tree.get(state.opt_state, 'batch_size')
    seen = observe(exact(state.params), batch_size, scheme.eta)
    # The first b examples of a fresh shuffle: independent of other steps.
    state = state._replace(seed=seed, examples=jnp.zeros([], jnp.int32))
    state, _ = step(state, dataset)
    return state, seen

  def run(seed):
    weights_key, shuffles_key = jax.random.split(jax.random.key(seed))
    w = jax.random.normal(weights_key, dataset['input'].shape[1:])
    state = adaopt.init_train_state(w, scheme.optimizer)
    shuffles = jax.random.bits(shuffles_key, [num_steps], jnp.uint32)
    return jax.lax.scan(body, state, shuffles)[1]

  runs = jax.jit(lambda seeds: jax.lax.map(run, seeds))
  return jax.tree.map(np.asarray, runs(jnp.arange(num_seeds)))


def main() -> None:
  """Runs every scheme; writes tables and a picture."""
  dataset = jax.device_put(
    options.load(datasets.DATASETS[_DATASET.value]).train
  )
  folder = options.make_workdir()
  estimate = adaopt.value_and_statistics(robust.loss_fn)
  exact = lambda w: estimate(w, dataset)[1]
  n = len(dataset['label'])
  rows, traces = [], {}
  for name, scheme in make_schemes(exact, n).items():
    begin = time.perf_counter()
    traces[name] = trace(
      scheme,
      dataset,
      exact,
      num_steps=_STEPS.value,
      num_seeds=options.SEEDS.value,
    )
    rows += rates.summarise(name, traces[name], eta=scheme.eta, num_examples=n)
    results.save(rows, rates.tables(rows), folder, 'convergence')
    print(f'{name}: {time.perf_counter() - begin:.1f} s', flush=True)
  rate_plots.save(traces, rows, folder / 'convergence.png')
  print(rates.tables(rows))
  print(f'Picture: {folder / "convergence.png"}')


if __name__ == '__main__':
  command_line.run(main, ['workdir'], ['data_dir', 'seeds'])
