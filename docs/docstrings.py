"""Docstrings as they stand in the code, for Sphinx: formulas are set in TeX.

Formulas are written in Unicode, in paragraphs of their own. Every other letter
that reStructuredText would read as markup, such as | or *, is escaped.
"""

import re
import textwrap

SECTION = re.compile(
  r'(Args|Attributes|Example|Examples|Glossary|Raises|References|Returns):$'
)
LITERAL = re.compile(r'(``.+?``|`[^`]+`_?_?)', re.DOTALL)
SUPERSCRIPTS = str.maketrans('⁰¹²³⁴⁵⁶⁷⁸⁹⁻ᵀᴴ', '0123456789-TH')
SUBSCRIPTS = str.maketrans('₀₁₂₃₄₅₆₇₈₉', '0123456789')
SYMBOLS = {
  '‖': r'\Vert ',
  '⟨': r'\langle ',
  '⟩': r'\rangle ',
  '·': r'\cdot ',
  '−': '-',
  '←': r'\leftarrow ',
  '→': r'\to ',
  '∘': r'\circ ',
  '½': r'\tfrac12 ',
  '⅓': r'\tfrac13 ',
  '%': r'\%',
  '&': r'\&',
  'ḡ': r'\bar g',
  'Ḡ': r'\bar G',
  'v̂': r'\hat v',
  'm̂': r'\hat m',
  'ν̂': r'\hat ν',
}
OPERATORS = ['max', 'min', 'log', 'exp', 'det', 'sup', 'inf']


def _closing(text, start):
  """Where the bracket that opens at start is closed."""
  depth = 0
  for i in range(start, len(text)):
    depth += {'(': 1, '{': 1, ')': -1, '}': -1}.get(text[i], 0)
    if depth == 0:
      return i
  return None


def _operand(text):
  """A bracket, or a letter with its index; and what follows."""
  if text.startswith(('(', '{')) and (end := _closing(text, 0)):
    return text[1:end], text[end + 1 :]
  end = re.match(r'(.(_\w+)?)?', text).end()
  return text[:end], text[end:]


def _braced(text, mark, command):
  """`mark(…)` as `command{…}`, and so what else a mark applies to."""
  done = ''
  while mark in text:
    before, text = text.split(mark, 1)
    inner, text = _operand(text)
    done += f'{before}{command}{{{_braced(inner, mark, command)}}}'
  return done + text


def _words(match):
  text = match.group()
  if text in OPERATORS:
    return rf'\{text} '
  return rf'\text{{{text}}}'


def tex(line):
  """A line of Unicode as TeX."""
  line = line.rstrip()
  names = re.findall(r'`[^`]*`', line)
  line = re.sub(r'`[^`]*`', '\0', line)
  line = _braced(_braced(line, '^', '^'), '√', r'\sqrt')
  line = re.sub(
    '([⁰¹²³⁴⁵⁶⁷⁸⁹⁻ᵀᴴ]+)',
    lambda found: f'^{{{found.group().translate(SUPERSCRIPTS)}}}',
    line,
  )
  line = re.sub(
    '([₀₁₂₃₄₅₆₇₈₉]+)',
    lambda found: f'_{{{found.group().translate(SUBSCRIPTS)}}}',
    line,
  )
  line = line.replace('^{½}', '^{1/2}').replace('^{⅓}', '^{1/3}')
  for symbol, command in SYMBOLS.items():
    line = line.replace(symbol, command)
  line = re.sub(r'_([\w∥*]+)', r'_{\1}', line)
  line = re.sub(r'  +', r' \\quad ', line)
  line = re.sub(
    r'(?<![\\A-Za-z_])[A-Za-z]{2,}(?:,? [A-Za-z]{2,})*(?![A-Za-z])',
    _words,
    line,
  )
  for name in names:
    escaped = name.strip('`').replace('_', r'\_')
    line = line.replace('\0', rf'\texttt{{{escaped}}}', 1)
  return line


def _is_formula(block):
  """A paragraph without words that says what something is."""
  text = ' '.join(block)
  plain = re.sub(r'`[^`]*`|_\w+|_\{\w+\}', '', text)
  words = re.findall(r'[A-Za-z]{3,}', plain)
  return bool(re.search('[=≥≤←]', text)) and all(
    word in (*OPERATORS, 'softmin', 'conj', 'goodput', 'seconds')
    for word in words
  )


def _escape(line):
  parts = LITERAL.split(line)
  for i in range(0, len(parts), 2):
    parts[i] = re.sub(r'([|*])', r'\\\1', parts[i])
    parts[i] = re.sub(r'(?<=\w)_(?=[\s,.;:)\\]|$)', r'\_', parts[i])
  return ''.join(parts)


def _escape_block(lines):
  """Literals may go on over the end of a line."""
  return _escape('\n'.join(lines)).split('\n')


def _math(block):
  lines = [tex(line.strip()) for line in block]
  body = ' \\\\\n   '.join(lines)
  return ['.. math::', '', *f'   {body}'.split('\n'), '']


def _paragraph(block, in_prose):
  """What becomes of one paragraph."""
  if any(line.lstrip().startswith('>>>') for line in block):
    return block
  if in_prose and block[0].startswith('  '):
    if all(line.isascii() for line in block):
      return [
        '.. code-block:: python',
        '',
        *textwrap.indent(textwrap.dedent('\n'.join(block)), '   ').split('\n'),
      ]
    return _math(block)
  if in_prose and _is_formula(block):
    return _math(block)
  if block[0].startswith('|'):
    return ['::', '', *(f'   {line}' for line in block)]
  return _escape_block(block)


def translate(lines):
  """The lines of a docstring as reStructuredText."""
  found, block, in_prose = [], [], True
  for line in [*lines, '']:
    if line.strip():
      if SECTION.match(line):
        in_prose = False
      block.append(line)
    elif block:
      found += [*_paragraph(block, in_prose), '']
      block = []
  return found


def process(app, what, name, obj, options, lines):
  """Before napoleon reads it."""
  del app, what, name, obj, options
  lines[:] = translate(lines)


def skip(app, what, name, obj, skipped, options):
  """Fields of a NamedTuple have no page: its docstring has them."""
  del app, what, name, options
  return skipped or type(obj).__name__ == '_tuplegetter'


def setup(app):
  app.setup_extension('sphinx.ext.autodoc')
  app.connect('autodoc-process-docstring', process, priority=100)
  app.connect('autodoc-skip-member', skip)
  return {'parallel_read_safe': True}
