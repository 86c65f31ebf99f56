"""A notebook that does not run, or shows what it would not print."""

import pathlib
import re

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted(pathlib.Path(__file__).parents[1].glob('notebooks/*.ipynb'))
each = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)


def outputs(notebook):
  return [
    output
    for cell in notebook.cells
    if cell.cell_type == 'code'
    for output in cell.outputs
  ]


def words(notebook):
  """What was printed, but for numbers, which differ between machines."""
  printed = ' '.join(output.get('text', '') for output in outputs(notebook))
  return re.sub(r'[\d.e+-]+', '#', printed).split()


@each
def test_a_notebook_is_short_and_was_run_from_top_to_bottom(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  assert len(notebook.cells) <= 10
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  counts = [cell.execution_count for cell in code]
  assert counts == list(range(1, len(code) + 1))
  assert any('image/png' in o.get('data', {}) for o in outputs(notebook))


@pytest.mark.slow
@each
def test_a_notebook_runs_and_prints_what_it_shows(path):
  notebook = nbformat.read(path, as_version=4)
  shown = words(notebook)
  nbclient.NotebookClient(
    notebook, timeout=300, kernel_name='python3'
  ).execute()
  assert words(notebook) == shown
