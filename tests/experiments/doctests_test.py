"""The doctests of the experiments, imported as `adaopt.experiments`."""

import doctest
import importlib
import pkgutil

import pytest

from adaopt import experiments

PEERS = ('clipping_peers', 'peers', 'torch_networks')
"""Modules that need PyTorch, which the tests do not install."""


MODULES = [
  module.name
  for module in pkgutil.walk_packages(
    experiments.__path__, 'adaopt.experiments.'
  )
  if module.name.split('.')[-1] not in PEERS
]


@pytest.mark.parametrize('name', MODULES)
def test_examples_print_what_they_show(name):
  failed, _ = doctest.testmod(importlib.import_module(name))
  assert failed == 0
