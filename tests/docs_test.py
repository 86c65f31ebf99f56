"""An example in the README or the documentation that does not run."""

import doctest
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
EXAMPLES = {
  f'{page.stem}-{i}': example
  for page in PAGES
  for i, example in enumerate(
    re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
  )
}


def test_the_readme_is_for_the_first_minute():
  assert len(PAGES[0].read_text().splitlines()) <= 150


def test_the_pages_have_examples():
  assert len(EXAMPLES) == 21


@pytest.mark.slow
@pytest.mark.parametrize('name', EXAMPLES)
def test_example_runs_and_prints(name, capsys):
  exec(compile(EXAMPLES[name], name, 'exec'), {'__name__': '__main__'})
  numbers = capsys.readouterr().out.split()
  assert numbers
  assert 'nan' not in numbers


def test_the_worked_program_is_what_the_code_prints():
  page = ROOT / 'docs' / 'how_it_works.md'
  fences = re.findall(r'```pycon\n(.*?)```', page.read_text(), re.DOTALL)
  example = doctest.DocTestParser().get_doctest(
    '\n'.join(fences), {}, page.name, page.name, 0
  )
  assert example.examples
  assert doctest.DocTestRunner().run(example).failed == 0
