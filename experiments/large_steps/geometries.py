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
import pandas as pd
from absl import flags
from sklearn import datasets as sklearn_datasets

from adaopt import logistic
from adaopt.experiments import command_line, datasets, options, results
from adaopt.experiments.large_steps import separable, solutions
from adaopt.experiments.plots import large_steps as pictures
from adaopt.logistic import geometry, multiclass


class Setting(NamedTuple):
  """Methods, norms and maximal margins for two classes, or for k."""

  make_problem: Callable[..., Any]
  # (norm → schedule) → the methods by name
  methods: Callable[[Callable[[str], Callable]], dict[str, logistic.Method]]
  row: Callable[[jax.Array], jax.Array]  # features of an example → A_i, or Δ_ic
  # Name → the norm, and what finds the largest margin in it.
  norms: dict[str, tuple[geometry.Geometry, Callable[..., Any]]]


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
  lambda features: features,
  {
    'sum': (geometry.SUM, logistic.max_margin_l1),
    'euclidean': (geometry.EUCLIDEAN, logistic.max_margin),
    'max': (geometry.MAX, logistic.max_margin_linf),
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
  lambda features: jnp.stack([features, -features]),
  {
    'max': (geometry.MAX, multiclass.max_margin_max),
    'euclidean': (geometry.EUCLIDEAN, multiclass.max_margin),
    'spectral': (geometry.SPECTRAL, multiclass.max_margin_spectral),
  },
)


def _digits(data_dir):
  del data_dir
  images, labels = sklearn_datasets.load_digits(return_X_y=True)
  return images / 16, labels


def _mnist(data_dir):
  """The first 2000 images."""
  train = datasets.DATASETS['mnist'](data_dir).train
  return train['input'][:2000].reshape(2000, -1) / 255, train['label'][:2000]


PROBLEMS = {
  'digits_3_9': (lambda data_dir: separable.digits_pair((3, 9))[:2], OF_TWO),
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


NORMS = ('sum', 'euclidean', 'max', 'spectral')


class Curves(NamedTuple):
  """The margins of a method over the most that is possible, by norm."""

  steps: np.ndarray  # [checkpoints]
  ratios: dict[str, np.ndarray]  # norm → [checkpoints]
  first: int  # steps until the first solution, more than all: never


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
    name: find(features, labels) for name, (_, find) in setting.norms.items()
  }
  return {name: float(one.margin + one.gap) for name, one in found.items()}


def measure(
  setting: Setting,
  method: logistic.Method,
  problem: Any,
  most: dict[str, float],
  steps: int,
) -> Curves:
  """Runs a method and compares its margins with the most that is possible."""
  at = np.unique(np.geomspace(1, steps, 80).astype(int))
  first, (margins, params) = _run(method, problem, np.diff(at, prepend=0))
  ratios = {
    name: np.asarray(margins / jax.lax.map(norm.norm, params)) / most[name]
    for name, (norm, _) in setting.norms.items()
  }
  return Curves(at, ratios, int(first))


def schedules(
  setting: Setting, features: Any, eta: float
) -> Callable[[str], Callable[[jax.Array], jax.Array]]:
  """Norm → schedule: η / (R √(t + 1)), R the largest dual norm of a row."""

  def schedule_in(name):
    norm, _ = setting.norms[name]
    lengths = jax.lax.map(lambda h: norm.dual_norm(setting.row(h)), features)
    return lambda t: eta / (jnp.max(lengths) * jnp.sqrt(t + 1.0))

  return schedule_in


def summarise(problem: str, curves: dict[str, Curves]) -> pd.DataFrame:
  """A row for each method of a problem, after its last step."""
  rows = []
  for method, curve in curves.items():
    steps = curve.steps[-1]
    rows.append(
      {
        'problem': problem,
        'method': method,
        # Until the first solution, else all.
        'iterations': min(curve.first, steps),
        'solved': curve.first <= steps,
        # NaN where a norm is of another setting.
        **dict.fromkeys(NORMS, np.nan),
        **{norm: ratio[-1] for norm, ratio in curve.ratios.items()},
      }
    )
  return pd.DataFrame(rows)


def _ratio(norm):
  """From a row to the ratio in a norm, blank where there is none."""
  return lambda row: f'{getattr(row, norm):.3f}'.replace('nan', '')


COLUMNS: dict[str, results.Cell] = {
  'problem': lambda row: row.problem,
  'method': lambda row: row.method,
  'iterations': solutions.iterations,
  **{norm: _ratio(norm) for norm in NORMS},
}


def main() -> None:
  """Runs every method on every problem; writes a table and a picture."""
  jax.config.update('jax_enable_x64', True)
  frames, curves = [], {}
  for name in _PROBLEMS.value:
    begin = time.perf_counter()
    load, setting = PROBLEMS[name]
    features, labels = options.load(load)
    try:
      most = maxima(setting, features, labels)
    except (ValueError, RuntimeError) as error:  # Of data, or of the LP solver.
      sys.exit(str(error))
    folder = options.make_workdir()
    problem = setting.make_problem(features, labels)
    schedule_in = schedules(setting, problem.features, _ETA.value)
    curves[name] = {
      method: measure(setting, run, problem, most, _STEPS.value)
      for method, run in setting.methods(schedule_in).items()
    }
    frames.append(summarise(name, curves[name]))
    rows = pd.concat(frames)
    table = results.table(rows, COLUMNS)
    results.save(rows, table, folder, 'geometries')
    pictures.geometries(curves, folder / 'geometries.png')
    print(f'{name}: {time.perf_counter() - begin:.1f} s', flush=True)
  print(table)
  print(f'Picture: {folder / "geometries.png"}')


if __name__ == '__main__':
  command_line.run(main, ['workdir'], ['data_dir'])
