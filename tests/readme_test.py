"""An example in the README that does not run as it stands."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).parents[1] / 'README.md'
EXAMPLES = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)


def test_readme_has_examples():
  assert len(EXAMPLES) == 16


@pytest.mark.parametrize('example', EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs_and_prints(example, capsys):
  exec(compile(example, str(README), 'exec'), {'__name__': '__main__'})
  numbers = capsys.readouterr().out.split()
  assert numbers
  assert 'nan' not in numbers
