"""A name that is public by accident, or one that has no home."""

import configparser
import importlib
import inspect
import pathlib
import pkgutil
import subprocess
import sys
import types

import pytest

import adaopt

ROOMS = [
  name
  for _, name, is_package in pkgutil.iter_modules(adaopt.__path__)
  if is_package and not name.startswith('_')
]

ROOT = pathlib.Path(__file__).parents[1]


def shown(module):
  """A public package or module, and those that it shows."""
  yield module
  for name in module.__all__:
    value = getattr(module, name)
    if isinstance(value, types.ModuleType):
      yield from shown(value)


def public(module):
  return {name for name in vars(module) if not name.startswith('_')}


def test_the_package_shows_what_it_lists_and_nothing_else():
  # Other tests import the scripts, which are installed beside the library.
  assert public(adaopt) - {'experiments'} == set(adaopt.__all__)
  assert adaopt.__all__ == sorted(adaopt.__all__)
  assert set(ROOMS) < set(adaopt.__all__)


def test_every_module_has_a_room():
  modules = [
    name
    for _, name, is_package in pkgutil.iter_modules(adaopt.__path__)
    if not is_package
  ]
  assert modules == []


@pytest.mark.parametrize('room', ROOMS)
def test_a_room_shows_what_it_lists_and_its_modules(room):
  module = importlib.import_module(f'adaopt.{room}')
  assert module.__all__ == sorted(module.__all__)
  named = {
    name
    for name in public(module)
    if not isinstance(getattr(module, name), types.ModuleType)
  }
  modules = {name for _, name, _ in pkgutil.iter_modules(module.__path__)}
  assert named == set(module.__all__) - modules
  # A module with the name of a function would be hidden by it.
  assert not named & modules


@pytest.mark.parametrize('name', adaopt.__all__)
def test_a_daily_name_is_that_of_a_room_and_documented(name):
  value = getattr(adaopt, name)
  if name in ROOMS or name in ('Batch', 'LossFn', 'Criterion'):
    return
  homes = [
    room
    for room in ROOMS
    if getattr(importlib.import_module(f'adaopt.{room}'), name, None) is value
  ]
  assert len(homes) == 1
  assert inspect.getdoc(value)


@pytest.mark.parametrize(
  'module', list(shown(adaopt)), ids=lambda module: module.__name__
)
def test_dir_shows_the_public_names_alone(module):
  assert dir(module) == sorted(module.__all__)


@pytest.mark.parametrize(
  'module', list(shown(adaopt)), ids=lambda module: module.__name__
)
def test_public_functions_are_annotated(module):
  for name in module.__all__:
    value = getattr(module, name)
    if inspect.isfunction(value):
      signature = inspect.signature(value)
      parts = [p.annotation for p in signature.parameters.values()]
      assert inspect.Signature.empty not in parts, name
      assert signature.return_annotation is not signature.empty, name


def test_setup_lists_every_folder_of_code():
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  folders = {
    '.'.join(file.parent.relative_to(ROOT).parts)
    for top in ('adaopt', 'experiments')
    for file in (ROOT / top).rglob('*.py')
  }
  listed = setup['options']['packages'].split()
  assert sorted(listed) == sorted(
    f'adaopt.{name}' if name.startswith('experiments') else name
    for name in folders
  )


def test_an_import_leaves_out_what_few_need():
  heavy = {'flax', 'grain', 'matplotlib', 'orbax', 'scipy.optimize', 'sklearn'}
  program = 'import sys, adaopt; print(*sys.modules)'
  run = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert not heavy & set(run.stdout.split())
