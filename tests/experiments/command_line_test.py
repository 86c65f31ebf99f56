"""A command line that ends in a traceback, or a help that leaves out flags."""

import sys

import pytest
from absl.testing import flagsaver

from adaopt.experiments import command_line, compare, convergence
from adaopt.experiments.frontier import __main__ as frontier
from adaopt.experiments.large_steps import __main__ as large_steps

DIGITS = 'experiments/configs/digits.py'
CONFIGURED = ['config', 'workdir'], ['data_dir', 'seeds', 'schemes']


def said(monkeypatch, module, required, optional, arguments):
  """What a script prints or ends with; it must not run."""
  argv = ['script', *arguments]
  monkeypatch.setattr(sys, 'argv', argv)
  with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
    command_line.parse(module, required, optional, argv)
  return ended.value.code


# That of ml_collections, which reads a config by it.
@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--config=experiments/configs/digit.py'], f'the nearest: {DIGITS}'),
    (['--config', '../digits.py'], "there is no config file '../digits.py'"),
    (['--config='], "there is no config file ''"),
    (['--config=setup.cfg'], 'setup.cfg is not Python'),
    (['--config=experiments/files.py'], 'no function get_config()'),
    ([f'--config={DIGITS}:mnist'], "nothing behind a colon; got 'mnist'"),
    (['--config=experiments/configs/frontier.py:x'], "unknown workload 'x'"),
    (
      [f'--config={DIGITS}', '--config.num_exmples=3'],
      "the config has no 'num_exmples'; the nearest: num_examples",
    ),
    (
      [f'--config={DIGITS}', '--config.schemes.adagrad8.batch_size=3'],
      "the config has no 'adagrad8'; the nearest: adagrad_8",
    ),
    (
      [f'--config={DIGITS}', '--config.schemes.adagrad_8.batch_size.x=3'],
      "8 holds no 'x'",
    ),
    ([f'--config={DIGITS}', '--config.num_examples=many'], "'many'"),
    ([f'--config={DIGITS}', '--seedz=3'], 'Did you mean: seeds'),
    ([f'--config={DIGITS}', '--seeds=0'], '0 is not a positive integer'),
    ([f'--config={DIGITS}'], '--workdir is missing: Folder of the results'),
    (['--workdir=w'], '--config is missing: The config file'),
    ([f'--config={DIGITS}', '--workdir=w', 'a', 'b'], 'arguments: a b.'),
  ],
)
def test_every_mistake_is_a_sentence(monkeypatch, arguments, words):
  sentence = said(monkeypatch, compare, *CONFIGURED, arguments)
  assert words in sentence
  assert sentence.endswith('\nSee --help.')
  assert 'Traceback' not in sentence


@pytest.mark.parametrize(
  ('module', 'flags', 'first'),
  [
    (compare, CONFIGURED, ['config', 'workdir', 'data_dir', 'seeds']),
    (frontier, CONFIGURED, ['config', 'workdir', 'data_dir', 'seeds']),
    (
      convergence,
      (['workdir'], ['data_dir', 'seeds']),
      ['workdir', 'data_dir', 'seeds', 'dataset'],
    ),
    (large_steps, (['workdir'], ['data_dir']), ['workdir', 'data_dir']),
  ],
)
def test_help_lists_required_flags_first(
  monkeypatch, capsys, module, flags, first
):
  assert said(monkeypatch, module, *flags, ['--help']) == 0
  text = capsys.readouterr().out
  places = [text.index(f'\n  --{name}: ') for name in first]
  assert places == sorted(places)
  assert text.index('Required:') < places[0] < text.index('Optional:')
  for path in command_line.configs():
    assert (str(path) in text) == ('config' in first)
  if 'config' in first:
    assert 'frontier.py:NAME, one of digits, digits_shifted' in text


def test_help_with_a_config_lists_what_it_takes(monkeypatch, capsys):
  arguments = [f'--config={DIGITS}', '--help']
  assert said(monkeypatch, compare, *CONFIGURED, arguments) == 0
  text = capsys.readouterr().out
  assert '--config.num_examples=100000' in text
  assert 'adagrad_8: batch_size, learning_rate, optimizer' in text
