"""Which optimizer maximises which margin: steepest descent in several norms.

python -m adaopt.experiments.large_steps.geometries \
  --workdir=DIR [--data_dir=DIR]

Every method runs on every problem for the same number of steps. Its margin
min m_i is divided by each norm of its parameters, and by the most that is
possible in that norm.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from sklearn import datasets as sklearn_datasets

from adaopt import logistic
from adaopt.experiments import command_line, datasets, options, results
from adaopt.experiments.large_steps import separable
from adaopt.experiments.plots import geometries as geometries_plots
from adaopt.logistic import geometry, multiclass


class Setting(NamedTuple):
  """Methods, norms and maximal margins for two classes, or for k."""

  make_problem: Callable[..., Any]
  # (norm → schedule) → the methods by name
  methods: Callable[[Callable[[str], Callable]], dict[str, logistic.Method]]
  norms: dict[str, geometry.Geometry]
  row: Callable[[jax.Array], jax.Array]  # features of an example → A_i, or Δ_ic
  maxima: dict[str, Callable[..., Any]]  # norm → what has margin and gap


OF_TWO = Setting(
  logistic.make_problem,
  lambda schedule_in: {
    'LR+GD, γ = 10': logistic.lr_gd(10.0),
    'NLR, γ = 1': logistic.normalized_lr_gd(1.0),
    'perceptron': logistic.perceptron(),
    'coordinate descent': logistic.coordinate_descent(schedule_in('sum')),
    'normalised GD': logistic.normalized_gd(schedule_in('euclidean')),
    'sign descent': logistic.sign_descent(schedule_in('max')),
  },
  {
    'sum': geometry.SUM,
    'euclidean': geometry.EUCLIDEAN,
    'max': geometry.MAX,
  },
  lambda features: features,
  {
    'sum': logistic.max_margin_l1,
    'euclidean': logistic.max_margin,
    'max': logistic.max_margin_linf,
  },
)
OF_CLASSES = Setting(
  multiclass.make_problem,
  lambda schedule_in: {
    'LR+GD, γ = 10': multiclass.lr_gd(10.0),
    'NLR, γ = 1': multiclass.normalized_lr_gd(1.0),
    'perceptron': multiclass.perceptron(),
    'sign descent': multiclass.sign_descent(schedule_in('max')),
    'sign descent, β = 0.9': multiclass.sign_descent(schedule_in('max'), 0.9),
    'normalised GD': multiclass.normalized_gd(schedule_in('euclidean')),
    'normalised GD, β = 0.9': multiclass.normalized_gd(
      schedule_in('euclidean'), 0.9
    ),
    'spectral descent': multiclass.spectral_descent(schedule_in('spectral')),
    'Muon, β = 0.9': multiclass.spectral_descent(schedule_in('spectral'), 0.9),
  },
  {
    'max': geometry.MAX,
    'euclidean': geometry.EUCLIDEAN,
    'spectral': geometry.SPECTRAL,
  },
  lambda features: jnp.stack([features, -features]),
  {
    'max': multiclass.max_margin_max,
    'euclidean': multiclass.max_margin,
    'spectral': multiclass.max_margin_spectral,
  },
)


def _digits(data_dir):
  del data_dir
  images, labels = sklearn_datasets.load_digits(return_X_y=True)
  return images / 16, labels


def _pair(data_dir):
  del data_dir
  pair = separable.digits_pair((3, 9))
  return pair.features, pair.labels


def _mnist(data_dir):
  """The first 2000 images."""
  train = datasets.DATASETS['mnist'](data_dir).train
  return train['input'][:2000].reshape(2000, -1) / 255, train['label'][:2000]


PROBLEMS = {
  'digits_3_9': (_pair, OF_TWO),
  'digits': (_digits, OF_CLASSES),
  'mnist': (_mnist, OF_CLASSES),
}
"""Name → data_dir → (features, labels), and the setting."""

_PROBLEMS = flags.DEFINE_multi_enum(
  'margins_of',
  ['digits_3_9', 'digits'],
  list(PROBLEMS),
  'Problem to run; may be repeated. Default: those that need no files.',
)
_STEPS = flags.DEFINE_integer(
  'descent_steps', 5000, 'Steps of every method.', lower_bound=1
)
_ETA = flags.DEFINE_float(
  'eta',
  10.0,
  'η of steps that change no margin by more than η / √(t + 1).',
  lower_bound=1e-9,
)


class Row(NamedTuple):
  """One method on one problem, its margins over the most that is possible."""

  problem: str
  method: str
  iterations: int  # until the first solution, else all
  solved: bool
  sum: float  # NaN where a norm is of another setting
  euclidean: float
  max: float
  spectral: float


class Curves(NamedTuple):
  """The margins of a method after some of its steps, over the maxima."""

  steps: np.ndarray  # [checkpoints]
  ratios: dict[str, np.ndarray]  # norm → [checkpoints]


def checkpoints(steps: int) -> np.ndarray:
  """Up to 80 numbers of steps, evenly spaced in the logarithm."""
  return np.unique(np.geomspace(1, steps, 80).astype(int))


@jax.jit(static_argnums=0)
def _run(method, problem, waits):
  """Margins and parameters after each wait, and the first solution."""

  def advance(_, carry):
    state, first = carry
    state = method.step(state, problem)
    solved = jnp.all((state.margins > 0) | (problem.weights == 0))
    return state, jnp.where(solved, jnp.minimum(first, state.count), first)

  def wait(carry, steps):
    carry = jax.lax.fori_loop(0, steps, advance, carry)
    state, _ = carry
    margins = jnp.where(problem.weights > 0, state.margins, jnp.inf)
    return carry, (jnp.min(margins), state.params)

  never = jnp.int32(jnp.iinfo(jnp.int32).max)
  carry, seen = jax.lax.scan(wait, (method.init(problem), never), waits)
  return carry[1], seen


def maxima(setting: Setting, features: Any, labels: Any) -> dict[str, float]:
  """Upper bounds on the margins, by norm."""
  found = {
    name: find(features, labels) for name, find in setting.maxima.items()
  }
  return {name: float(one.margin + one.gap) for name, one in found.items()}


def measure(
  setting: Setting,
  method: logistic.Method,
  problem: Any,
  most: dict[str, float],
  steps: int,
) -> tuple[int, Curves]:
  """Runs a method and compares its margins with the most that is possible.

  Returns the steps until the first solution, more than all if there was none,
  and the margins.
  """
  at = checkpoints(steps)
  first, (margins, params) = _run(method, problem, np.diff(at, prepend=0))
  ratios = {
    name: np.asarray(margins / jax.lax.map(norm.norm, params)) / most[name]
    for name, norm in setting.norms.items()
  }
  return int(first), Curves(at, ratios)


def schedules(
  setting: Setting, features: Any, eta: float
) -> Callable[[str], Callable[[jax.Array], jax.Array]]:
  """Norm → schedule: η / (R √(t + 1)), R the largest dual norm of a row."""

  def schedule_in(norm):
    dual_norm = setting.norms[norm].dual_norm
    lengths = jax.lax.map(lambda h: dual_norm(setting.row(h)), features)
    return lambda t: eta / (jnp.max(lengths) * jnp.sqrt(t + 1.0))

  return schedule_in


def rows_of(
  name: str, curves: dict[str, Curves], firsts: dict[str, int]
) -> list[Row]:
  """A row for each method of a problem, after its last step."""
  rows = []
  for method, curve in curves.items():
    steps = int(curve.steps[-1])
    last = {norm: float(ratio[-1]) for norm, ratio in curve.ratios.items()}
    missing = dict.fromkeys(('sum', 'euclidean', 'max', 'spectral'), np.nan)
    rows.append(
      Row(
        problem=name,
        method=method,
        iterations=min(firsts[method], steps),
        solved=firsts[method] <= steps,
        **missing | last,
      )
    )
  return rows


def table(rows: list[Row]) -> str:
  """The rows in Markdown.

  Example:
    >>> from adaopt.experiments.large_steps import geometries
    >>> row = geometries.Row(
    ...   'digits', 'sign descent', 20, False, float('nan'), 0.5, 0.987, -0.1)
    >>> print(geometries.table([row]))
    | problem | method       | iterations | sum | euclidean | max   | spectral |
    |---------|--------------|------------|-----|-----------|-------|----------|
    | digits  | sign descent | > 20       |     | 0.500     | 0.987 | -0.100   |
  """
  lines = [['problem', 'method', 'iterations', *Row._fields[4:]]]
  for row in rows:
    count = f'{row.iterations}' if row.solved else f'> {row.iterations}'
    ratios = ['' if np.isnan(x) else f'{x:.3f}' for x in row[4:]]
    lines.append([row.problem, row.method, count, *ratios])
  return results.markdown(lines)


def main() -> None:
  """Runs every method on every problem; writes a table and a picture."""
  jax.config.update('jax_enable_x64', True)
  rows, curves = [], {}
  for name in _PROBLEMS.value:
    begin = time.perf_counter()
    load, setting = PROBLEMS[name]
    try:
      features, labels = load(options.DATA_DIR.value)
      most = maxima(setting, features, labels)
    except (OSError, ValueError, RuntimeError) as error:
      sys.exit(str(error))
    folder = options.make_workdir()
    problem = setting.make_problem(features, labels)
    schedule_in = schedules(setting, problem.features, _ETA.value)
    found = {
      method: measure(setting, run, problem, most, _STEPS.value)
      for method, run in setting.methods(schedule_in).items()
    }
    curves[name] = {method: curve for method, (_, curve) in found.items()}
    firsts = {method: first for method, (first, _) in found.items()}
    rows += rows_of(name, curves[name], firsts)
    results.save(rows, table(rows), folder, 'geometries')
    geometries_plots.save(curves, folder / 'geometries.png')
    print(f'{name}: {time.perf_counter() - begin:.1f} s', flush=True)
  print(table(rows))
  print(f'Picture: {folder / "geometries.png"}')


if __name__ == '__main__':
  command_line.run(main, ['workdir'], ['data_dir'])
