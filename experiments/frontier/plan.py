"""The trials of a config: each is run once and remembered."""

import json
import math
import pathlib
from collections.abc import Callable

import ml_collections
from absl import logging

from adaopt.experiments import journal, schemes
from adaopt.experiments.frontier import search, training, trials

SCHEMES = ('schemes', 'fixed', 'batch_sizes', 'seed')
"""Of a config, what only some of its trials depend on."""

Run = Callable[[str, float, int], trials.Outcome]
"""(scheme, learning_rate, seed) → the outcome, new or from the file."""


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError unless a config is one of a frontier."""
  if 'fixed' not in config:
    raise ValueError(
      'the config has no fixed batch sizes to compare with; take one of '
      'experiments/configs/frontier.py.'
    )
  if config.init not in fixed_names(config):
    raise ValueError(
      f'init={config.init} must be one of the fixed batch sizes, '
      f'{", ".join(map(str, fixed_names(config)))}: its best learning rate is '
      'that of the schemes.'
    )


def shared(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """What all trials of a config depend on."""
  return ml_collections.ConfigDict(
    {name: value for name, value in config.items() if name not in SCHEMES}
  )


def fixed_names(config: ml_collections.ConfigDict) -> dict[int, str]:
  """Fixed batch size → what it is called, by rising size."""
  names = {
    scheme.held.batch_size: name for name, scheme in config.fixed.items()
  }
  return dict(sorted(names.items()))


def scheme_of(
  config: ml_collections.ConfigDict, name: str
) -> tuple[ml_collections.ConfigDict, dict[str, float]]:
  """A scheme with the optimizer of its config, and what its state is to hold.

  Raises:
    ValueError: If there is no scheme of that name.
  """
  known = config.fixed.to_dict() | config.schemes.to_dict()
  scheme = config.optimizer.to_dict() | schemes.lookup(known, 'scheme', name)
  held = scheme.pop('held', {})
  return ml_collections.ConfigDict(scheme), held


def remembering(
  config: ml_collections.ConfigDict,
  splits: training.Splits,
  path: pathlib.Path,
) -> Run:
  """How to run a trial once: what is in the file is not run again."""
  settings = shared(config).to_json(sort_keys=True)
  once = journal.remembering(path, settings)
  runners = {}

  def run(name, learning_rate, seed):
    scheme, held = scheme_of(config, name)
    key = scheme.to_json(sort_keys=True)

    def compute():
      if key not in runners:
        runners[key] = training.make_runner(config, scheme, splits)
      found = runners[key](held | {'step_size': learning_rate}, seed)
      logging.info(
        '%s, %g, %d: %s', name, learning_rate, seed, found._replace(curve=())
      )
      return found._asdict()

    trial = json.dumps([name, key, held, learning_rate, seed])
    return trials.outcome(once(trial, compute))

  return run


def fixed_rates(
  config: ml_collections.ConfigDict, run: Run
) -> dict[int, float]:
  """Fixed batch size → its best learning rate.

  The search at one size starts from the best rate of the size before, scaled
  by the rule of the config.
  """
  rates = {}
  names = fixed_names(config)

  def loss_of(size):
    return lambda rate: run(names[size], rate, config.seed).validation_loss

  for size in sorted(names, key=lambda b: abs(math.log(b / config.init))):
    near = min(rates, key=lambda b: abs(math.log(b / size)), default=None)
    guess = config.guess
    if near is not None:
      guess = rates[near] * _rounded((size / near) ** config.exponent)
    rates[size] = search.best_rate(loss_of(size), guess)
  return rates


def _rounded(ratio: float) -> float:
  """The nearest power of the grid's factor, so that all sizes share a grid."""
  return search.FACTOR ** round(math.log(ratio, search.FACTOR))
