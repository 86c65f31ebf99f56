"""A formula of a docstring that the site does not set as it was meant."""

import pathlib
import sys

import pytest

DOCS = pathlib.Path(__file__).parents[1] / 'docs'


@pytest.fixture(scope='module')
def docstrings():
  sys.path.insert(0, str(DOCS))
  import docstrings

  sys.path.remove(str(DOCS))
  return docstrings


@pytest.mark.parametrize(
  ('line', 'expected'),
  [
    ('b ≥ v / (η² ‖ḡ‖²)', r'b ≥ v / (η^{2} \Vert \bar g\Vert ^{2})'),
    ('n^(−1/2)', 'n^{-1/2}'),
    ('e^{γ g} − 1', r'e^{γ g} - 1'),
    ('b_0 a^k', 'b_{0} a^{k}'),
    ('√(1 + √(a b))', r'\sqrt{1 + \sqrt{a b}}'),
    ('√V_k', r'\sqrt{V_{k}}'),
    ('tr C^½', r'\text{tr} C^{1/2}'),
    ('max_i ‖a_i‖', r'\max _{i} \Vert a_{i}\Vert '),
    ('γ of `step_size`', r'γ \text{of} \texttt{step\_size}'),
  ],
)
def test_a_line_is_set_in_tex(docstrings, line, expected):
  assert docstrings.tex(line) == expected


def test_a_docstring_becomes_its_parts(docstrings):
  docstring = [
    'The norm test.',
    '',
    'b ≥ v / ‖ḡ‖².',
    '',
    'Of |x| and x_ too.',
    '',
    'Args:',
    '  eta: η > 0.',
    '',
    'Example:',
    '  >>> print(2 * 3)',
    '  6',
  ]
  assert docstrings.translate(docstring) == [
    'The norm test.',
    '',
    '.. math::',
    '',
    r'   b ≥ v / \Vert \bar g\Vert ^{2}.',
    '',
    '',
    r'Of \|x\| and x\_ too.',
    '',
    'Args:',
    '  eta: η > 0.',
    '',
    'Example:',
    '  >>> print(2 * 3)',
    '  6',
    '',
  ]
