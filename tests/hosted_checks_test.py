"""A hosted check that calls what the Makefile does not have."""

import itertools
import pathlib
import re

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / '.github' / 'workflows').glob('*.yml'))
TARGETS = set(
  itertools.chain.from_iterable(
    line.split()
    for line in re.findall(
      r'^\.PHONY:(.*)$', (ROOT / 'Makefile').read_text(), re.MULTILINE
    )
  )
)


def commands(job):
  """The commands of a job, once for every value of its matrix."""
  matrix = job.get('strategy', {}).get('matrix', {})
  for values in itertools.product(*matrix.values()):
    for step in job['steps']:
      command = step.get('run', '')
      for name, value in zip(matrix, values, strict=True):
        command = command.replace(f'${{{{ matrix.{name} }}}}', value)
      yield command


@pytest.mark.parametrize('file', WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_calls_targets_that_exist(file):
  jobs = yaml.safe_load(file.read_text())['jobs'].values()
  called = [
    target
    for job in jobs
    for command in commands(job)
    for target in re.findall(r'\bmake ([\w-]+)', command)
  ]
  assert called or '.ci/run' in file.read_text()
  assert set(called) <= TARGETS
