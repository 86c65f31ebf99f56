"""An example in the README or the documentation that does not run."""

import doctest
import pathlib
import re

import pytest

from tests import scripts

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
FENCES = {
  f'{page.stem}-{i}': example
  for page in PAGES
  for i, example in enumerate(
    re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
  )
}
SCRIPTS = {name: text for name, text in FENCES.items() if 'DEFINE_' in text}
EXAMPLES = {name: FENCES[name] for name in FENCES if name not in SCRIPTS}


def test_the_readme_is_for_the_first_minute():
  assert len(PAGES[0].read_text().splitlines()) <= 150


def test_the_pages_have_examples():
  assert len(EXAMPLES) == 23
  assert len(SCRIPTS) == 1


@pytest.mark.slow
@pytest.mark.parametrize('name', EXAMPLES)
def test_example_runs_and_prints(name, capsys):
  exec(compile(EXAMPLES[name], name, 'exec'), {'__name__': '__main__'})
  numbers = capsys.readouterr().out.split()
  assert numbers
  assert 'nan' not in numbers


@pytest.mark.slow
@pytest.mark.parametrize('name', SCRIPTS)
def test_a_script_runs_and_writes_its_table(name, tmp_path):
  script = tmp_path / f'{name}.py'
  script.write_text(SCRIPTS[name])
  done = scripts.python(str(script), f'--workdir={tmp_path / "out"}')
  (table,) = (tmp_path / 'out').glob('*.md')
  assert done.stdout == table.read_text()
  refused = scripts.python(str(script))
  assert refused.returncode
  assert '--workdir is missing' in refused.stderr


def test_the_worked_program_is_what_the_code_prints():
  page = ROOT / 'docs' / 'how_it_works.md'
  fences = re.findall(r'```pycon\n(.*?)```', page.read_text(), re.DOTALL)
  example = doctest.DocTestParser().get_doctest(
    '\n'.join(fences), {}, page.name, page.name, 0
  )
  assert example.examples
  assert doctest.DocTestRunner().run(example).failed == 0
