"""A name that is public by accident, or one that has no home."""

import importlib
import inspect
import pkgutil
import types

import pytest

import adaopt

ROOMS = [
  name
  for _, name, is_package in pkgutil.iter_modules(adaopt.__path__)
  if is_package and not name.startswith('_')
]


def public(module):
  return {name for name in vars(module) if not name.startswith('_')}


def test_the_package_shows_what_it_lists_and_nothing_else():
  assert public(adaopt) == set(adaopt.__all__)
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
