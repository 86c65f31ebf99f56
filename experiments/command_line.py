"""How the scripts read their command lines: a sentence for every mistake."""

import difflib
import functools
import inspect
import pathlib
import re
import runpy
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ml_collections
from absl import app, flags

from adaopt.experiments import options

CONFIGS = pathlib.Path(__file__).parent / 'configs'


def nearest(name: str, known: Iterable[str]) -> str:
  """The names that are like a wrong one, as the end of a sentence."""
  near = difflib.get_close_matches(name, known, cutoff=0.5)
  return f'; the nearest: {", ".join(near)}' if near else ''


def run(
  main: Callable[[], None],
  required: Sequence[str] = (),
  optional: Sequence[str] = (),
) -> None:
  """Runs a script.

  It needs the required flags, and shares the optional ones with others.
  """
  module = sys.modules[main.__module__]

  def start(argv):
    del argv
    options.quiet()
    main()

  parser = functools.partial(parse, module, required, optional)
  app.run(start, flags_parser=parser)


def parse(
  module: types.ModuleType,
  required: Sequence[str],
  optional: Sequence[str],
  argv: list[str],
) -> list[str]:
  """Parses the flags, or ends the script with a sentence or the help."""
  asked = {'--help', '-help', '-h', '--helpshort', '-helpshort'} & set(argv)
  try:
    path = _value_of('config', argv) if 'config' in required else None
    if asked:
      print(_help(module, required, optional, path))
      sys.exit(0)
    if path is not None:
      _check_config(path, argv)
    rest = flags.FLAGS(argv)
    if rest[1:]:
      raise ValueError(f'unexpected arguments: {" ".join(rest[1:])}.')
    for name in required:
      if flags.FLAGS[name].value is None:
        raise ValueError(f'--{name} is missing: {flags.FLAGS[name].help}')
  except (flags.Error, ValueError) as error:
    sys.exit(f'{error}\nSee --help.')
  return rest


def _value_of(name, argv):
  """The value of a flag among unparsed arguments, or None."""
  for i, argument in enumerate(argv):
    found = re.fullmatch(rf'--?{name}(?:=(.*))?', argument)
    if found:
      return found[1] if found[1] is not None else (argv[i + 1 :] or [None])[0]
  return None


def load(path: str) -> ml_collections.ConfigDict:
  """The config of a path, or of FILE:NAME.

  Raises:
    ValueError: If there is no such file, or it does not take that name.
  """
  file, *name = path.split(':', 1)
  if not pathlib.Path(file).is_file():
    near = nearest(file, map(str, configs()))
    raise ValueError(f'there is no config file {file!r}{near}.')
  try:
    get_config = runpy.run_path(file).get('get_config')
  except SyntaxError as error:
    raise ValueError(f'{file} is not Python: {error}.') from error
  if get_config is None:
    raise ValueError(f'{file} is no config: it has no function get_config().')
  if name and not inspect.signature(get_config).parameters:
    raise ValueError(f'{file} takes nothing behind a colon; got {name[0]!r}.')
  return get_config(*name)


def configs() -> Iterator[pathlib.Path]:
  """The paths of the configs that there are, as one types them here."""
  here = pathlib.Path.cwd()
  for path in sorted(CONFIGS.glob('*.py')):
    if path.name not in ('__init__.py', 'common.py'):
      yield path.relative_to(here) if here in path.parents else path


def _check_config(path, argv):
  """Raises ValueError for a config, or a key of it, that there is not."""
  config = load(path)
  for argument in argv:
    found = re.match(r'--?(?:no)?config\.([^=]*)', argument)
    if found:
      _check_key(config, found[1])


def _check_key(config, key):
  within = config
  for name in re.split(r'[.\[]', key):
    if isinstance(within, list | tuple):
      return  # ml_collections tells what is wrong with an index.
    if not isinstance(within, ml_collections.ConfigDict):
      raise ValueError(f'--config.{key}: {within!r} holds no {name!r}.')
    if name not in within:
      near = nearest(name, within)
      raise ValueError(f'--config.{key}: the config has no {name!r}{near}.')
    within = within[name]


def _line(flag):
  default = '' if flag.default is None else f' Default: {flag.default}.'
  return f'  --{flag.name}: {flag.help}{default}'


def _help(module, required, optional, path):
  """What a script does and takes; with a config, what that takes."""
  own = [flag.name for flag in flags.FLAGS.get_flags_for_module(module)]
  section = lambda names: [_line(flags.FLAGS[name]) for name in names]
  lines = [module.__doc__.strip(), '', 'Required:', *section(required)]
  lines += ['', 'Optional:', *section([*optional, *own])]
  if 'config' in required:
    lines += ['', *(_described() if path is None else _keys(path))]
  return '\n'.join([*lines, '', '--helpfull lists the flags of all libraries.'])


def _described():
  """The configs that there are, and what each takes behind a colon."""
  yield 'Configs, with the data set of each; --config=… --help lists its keys:'
  for path in configs():
    found = runpy.run_path(str(path))
    config = found['get_config']()
    title = found['__doc__'].strip().split('\n')[0]
    yield f'  {path} ({config.dataset}): {title}'
    if 'TAKES' in found:
      yield f'    or {path}:NAME, one of {", ".join(found["TAKES"])}'


def _keys(path: str) -> Iterable[str]:
  """What overrides a config, and its schemes."""
  config = load(path)
  values: dict[str, Any] = dict(config.items())
  schemes = values.pop('schemes', {})
  yield f'Keys of {path}, and their values:'
  for name, value in sorted(values.items()):
    if not isinstance(value, ml_collections.ConfigDict):
      yield f'  --config.{name}={value}'
  yield 'Its schemes, for --schemes and --config.schemes.SCHEME.key=value:'
  for name, scheme in schemes.items():
    yield f'  {name}: {", ".join(scheme)}'
