"""Sphinx: `make docs` builds the site, and fails on any warning."""

import importlib
import inspect
import os
import pathlib
import pkgutil
import shutil
import sys
import types

import jax

import adaopt

# The scripts of the gallery compile far more than they compute.
if jax.__version_info__ < (0, 12):  # Newer JAX ends at a flag it has no more.
  os.environ['XLA_FLAGS'] = '--xla_cpu_use_fusion_emitters=false'
jax.config.update('jax_disable_most_optimizations', True)

project = 'adaopt'
author = 'The adaopt authors'
release = version = adaopt.__version__
HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

extensions = [
  'docstrings',
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.autosummary',
  'sphinx.ext.napoleon',
  'sphinx.ext.viewcode',
  'sphinx_copybutton',
  'sphinx_gallery.gen_gallery',
]
exclude_patterns = ['build', 'examples', 'gallery/*.ipynb', 'gallery/*.py']
templates_path = ['templates']
html_theme = 'sphinx_book_theme'
html_title = 'adaopt'
html_theme_options = {
  'show_toc_level': 2,
  'home_page_in_toc': True,
  'navbar_persistent': [],  # the sidebar has the search
  'max_navbar_depth': 2,  # a sidebar with every name takes minutes to write
}
myst_enable_extensions = ['dollarmath', 'linkify']
myst_heading_anchors = 3
nb_execution_mode = 'off'  # the outputs are stored
default_role = 'py:obj'
autosummary_generate = True
autodoc_typehints = 'none'
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = [('Glossary', 'params_style')]
copybutton_prompt_text = '>>> |\\.\\.\\. '
copybutton_prompt_is_regexp = True
sphinx_gallery_conf = {
  'examples_dirs': 'examples',
  'gallery_dirs': 'gallery',
  'filename_pattern': '/',
  'download_all_examples': False,
  'show_memory': False,
  'abort_on_example_error': True,
}


def _rooms():
  """Public packages, and the modules that a room shows as such."""
  for _, name, is_package in pkgutil.iter_modules(adaopt.__path__):
    if is_package and not name.startswith('_'):
      room = importlib.import_module(f'adaopt.{name}')
      yield room
      for attribute in room.__all__:
        value = getattr(room, attribute)
        if isinstance(value, types.ModuleType):
          yield value


def _names(room):
  """What a room shows, but for modules, and for what it takes from others."""
  listed = getattr(room, '__all__', None) or [
    name
    for name, value in vars(room).items()
    if not name.startswith('_')
    and (inspect.isfunction(value) or inspect.isclass(value))
    and value.__module__ == room.__name__
  ]
  values = {name: getattr(room, name) for name in listed}
  return [
    name
    for name, value in values.items()
    if not isinstance(value, types.ModuleType)
  ]


def _write_rooms():
  """One page for each room, from which autosummary makes one for each name."""
  folder = HERE / 'api'
  folder.mkdir(exist_ok=True)
  rooms = list(_rooms())
  for room in rooms:
    name = room.__name__
    lines = [name, '=' * len(name), '', f'.. automodule:: {name}', '']
    lines += ['.. autosummary::', '   :toctree: names', '   :nosignatures:', '']
    lines += [f'   {each}' for each in sorted(_names(room))]
    (folder / f'{name}.rst').write_text('\n'.join(lines) + '\n')
  pages = [f'   {room.__name__}' for room in rooms]
  lines = ['API', '===', '', '.. toctree::', '   :maxdepth: 1', '', *pages]
  (folder / 'index.rst').write_text('\n'.join(lines) + '\n')


_write_rooms()
shutil.copytree(
  HERE.parent / 'notebooks', HERE / 'notebooks', dirs_exist_ok=True
)
