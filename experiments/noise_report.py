"""The instrument in a run, beside the noise scale of the whole data set.

python -m adaopt.experiments.noise_report --workdir=DIR --data_dir=DIR

Trains an MLP on Fashion-MNIST by Adam with batches of 128 that never change and
`adaopt.noise_scale` in the chain. Every 16 steps v and ‖∇F‖² are computed over
all 60 000 examples too, and averaged with the same half-life. Then the
parameters are held and the instrument sees 500 more batches, so that nothing
moves but the noise. The signal-to-noise ratio by coordinate (GSNR) is measured
too, by these batches and over all examples, of which is the evidence for
stopping.

Writes the table and the advice (noise.md), the picture (noise.png), and both
noise scales as JSON lines and TensorBoard events.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

import adaopt
from adaopt import noise, transforms
from adaopt.experiments import (
  command_line,
  datasets,
  files,
  losses,
  models,
  options,
  records,
  results,
)
from adaopt.experiments.plots import noise as noise_plots

_TRAINED = flags.DEFINE_integer(
  'trained_examples', 300_000, 'Examples to train on.', lower_bound=128
)

BATCH_SIZE = 128
HALF_LIFE = 20_000
EXACT_INTERVAL = 16 * BATCH_SIZE
REPORT_INTERVAL = 10 * EXACT_INTERVAL
HELD_STEPS = 500
CHUNK = 1000


def whole(
  loss_fn: adaopt.LossFn, params: optax.Params, dataset: dict[str, jax.Array]
) -> adaopt.GradientStatistics:
  """The statistics of a whole data set, as of one batch, in chunks."""
  only = ('coordinate_variance',)
  estimate = adaopt.value_and_statistics(loss_fn, only=only)

  def of_chunk(chunk):
    _, statistics = estimate(params, chunk)
    return statistics.mean, transforms.mean_of_squares(statistics)

  chunks = jax.tree.map(lambda x: x.reshape(-1, CHUNK, *x.shape[1:]), dataset)
  average = lambda tree: jax.tree.map(lambda x: jnp.mean(x, 0), tree)
  mean, second = map(average, jax.lax.map(of_chunk, chunks))
  n = len(dataset['label'])
  return adaopt.GradientStatistics(
    jnp.int32(n),
    mean,
    coordinate_variance=jax.tree.map(
      lambda s, g: n / (n - 1) * jnp.maximum(s - g * g, 0), second, mean
    ),
  )


def exact(statistics: adaopt.GradientStatistics) -> jax.Array:
  """(v, ‖∇F‖²) of a whole data set, in total and of every tensor. [1 + T, 2].

  As of independent draws: v is the mean of ‖g_i − ∇F‖² over the n examples.
  """
  sums = lambda tree: jnp.stack([jnp.sum(x) for x in jax.tree.leaves(tree)])
  n = statistics.batch_size
  v = (n - 1) / n * sums(statistics.coordinate_variance)
  signal = sums(jax.tree.map(jnp.square, statistics.mean))
  x = jnp.stack([v, signal], 1)
  return jnp.concatenate([jnp.sum(x, 0, keepdims=True), x])


def hold(
  loss_fn: adaopt.LossFn,
  params: optax.Params,
  dataset: dict[str, jax.Array],
  *,
  num_steps: int = HELD_STEPS,
) -> tuple[noise.NoiseReport, jax.Array, noise.PerTensor]:
  """The instruments at fixed parameters, in a loop without an optimizer.

  Returns the report, v / ‖ḡ‖² of each batch by itself, [num_steps], and the
  average debiased GSNR.
  """
  instrument = optax.chain(
    adaopt.noise_scale(half_life=1e9),
    noise.average_of(noise.debiased_gradient_snr, half_life=1e9),
  )
  only = ('variance', 'coordinate_variance')
  estimate = adaopt.value_and_statistics(loss_fn, only=only)
  number = len(dataset['label'])

  @jax.jit
  def step(state, key):
    at = jax.random.randint(key, [BATCH_SIZE], 0, number)
    batch = jax.tree.map(lambda x: x[at], dataset)
    _, statistics = estimate(params, batch)
    _, state = instrument.update(statistics.mean, state, statistics=statistics)
    return state, adaopt.norm_test(1.0)(statistics)

  state, alone = instrument.init(params), []
  for key in jax.random.split(jax.random.key(1), num_steps):
    state, single = step(state, key)
    alone.append(single)
  report = adaopt.noise_report(state, params)
  return report, jnp.stack(alone), optax.tree.get(state, 'average')


def record_of(report: noise.NoiseReport) -> dict[str, float]:
  """A report as one record: three numbers of every row by its name."""
  record = {'examples': report.examples, 'batch_size': report.batch_size}
  for row in (report.total, *report.tensors):
    for field in ('noise_scale', 'standard_error', 'low'):
      record[f'{row.name}/{field}'] = getattr(row, field)
  return record


def table(report: noise.NoiseReport, truth: np.ndarray) -> str:
  """The instrument at fixed parameters beside the whole data set."""
  lines = [['tensor', 'whole data set', 'instrument', '±', 'errors apart']]
  rows = report.total, *report.tensors
  for row, scale in zip(rows, truth[:, 0] / truth[:, 1], strict=True):
    apart = (row.noise_scale - scale) / row.standard_error
    numbers = scale, row.noise_scale, row.standard_error
    lines.append([row.name, *(f'{x:.0f}' for x in numbers), f'{apart:.1f}'])
  return results.markdown(lines)


def snr_table(
  report: noise.NoiseReport,
  found: noise.PerTensor,
  statistics: adaopt.GradientStatistics,
) -> str:
  """GSNR by batches and over all examples, and the evidence of the latter."""
  lines = [['tensor', 'GSNR, all', 'GSNR, batches', 'stopping, all']]
  names = [row.name for row in (report.total, *report.tensors)]
  columns = [
    noise.gradient_snr(statistics),
    found,
    noise.stopping_evidence(statistics),
  ]
  for name, *numbers in zip(names, *map(jax.tree.leaves, columns), strict=True):
    lines.append([name, *(f'{float(x):.3g}' for x in numbers)])
  return results.markdown(lines)


def train(
  loss_fn: adaopt.LossFn,
  params: optax.Params,
  dataset: dict[str, jax.Array],
  measure: Callable[[optax.Params], np.ndarray],
) -> Iterator[tuple[optax.Params, noise.NoiseReport, np.ndarray]]:
  """Trains with the instrument.

  Yields in intervals the parameters, the report, and the averages of what
  `measure` found, [1 + T, 2].
  """
  optimizer = optax.chain(
    adaopt.schedule_batch_size(BATCH_SIZE),
    adaopt.noise_scale(half_life=HALF_LIFE),
    optax.adam(1e-3),
  )
  decay = 2.0 ** (-EXACT_INTERVAL / HALF_LIFE)
  average, weight = 0.0, 0.0
  for state, metrics in adaopt.fit(
    loss_fn, optimizer, params, dataset, num_examples=_TRAINED.value
  ):
    if int(metrics.examples) % EXACT_INTERVAL == 0:
      average = decay * average + (1 - decay) * measure(state.params)
      weight = decay * weight + (1 - decay)
    if int(metrics.examples) % REPORT_INTERVAL == 0:
      report = adaopt.noise_report(state.opt_state, state.params)
      yield state.params, report, average / weight


def main() -> None:
  """Trains, holds, and writes what the instrument says."""
  dataset = jax.device_put(options.load(datasets.load_fashion_mnist).train)
  folder, model = options.make_workdir(), models.MLP()
  mean = losses.mean(model)
  loss_fn = lambda params, batch: mean({'params': params}, batch)
  measure = jax.jit(lambda params: exact(whole(loss_fn, params, dataset)))
  first = model.init(jax.random.key(0), dataset['input'][:1])['params']
  reports, scales = [], []
  log = records.open_log(folder, 0, 0)
  for found in train(loss_fn, first, dataset, measure):
    held, report, average = found
    names = [row.name for row in (report.total, *report.tensors)]
    ratios = average[:, 0] / average[:, 1]
    record = dict(zip(names, ratios.tolist(), strict=True))
    records.write(log, 'train', record_of(report))
    records.write(log, 'eval', {'examples': report.examples} | record)
    reports.append(report)
    scales.append(record)
  records.flush(log)
  records.close(log)
  columns = {name: np.array([s[name] for s in scales]) for name in names}
  noise_plots.save(reports, columns, folder / 'noise.png')
  still, alone, snr = hold(loss_fn, held, dataset)
  text = '\n\n'.join(
    [
      adaopt.noise_table(report),
      adaopt.noise_advice(report),
      'At the end of training, with parameters held:',
      table(still, np.asarray(measure(held), float)),
      snr_table(still, snr, whole(loss_fn, held, dataset)),
      f'A batch of {BATCH_SIZE} by itself, v / ‖ḡ‖²: {jnp.mean(alone):.0f} on '
      f'average, {jnp.max(alone):.0f} at most.',
    ]
  )
  files.write(folder / 'noise.md', text + '\n')
  print(text)


if __name__ == '__main__':
  command_line.run(main, ['workdir'], ['data_dir'])
