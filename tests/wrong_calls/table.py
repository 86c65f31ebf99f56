"""The form of the table: public name × argument × wrong value → words.

A `Case` is a call that is right, and the kind of each of its arguments. A kind
is what may be passed wrongly in its place, each value with what the message
says to do; the rows are the product.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

NAN, INF = math.nan, math.inf


class Wrong(NamedTuple):
  """A wrong value."""

  value: Any
  remedy: str  # words that say what is right
  # Words that show the value. None: it is written out behind 'got'.
  shown: str | None = None


class Left(NamedTuple):
  """Stands for an argument that is left out."""


Kind = tuple[Wrong, ...]


class Case(NamedTuple):
  """A call of a public name, and what its arguments are."""

  public: Any
  valid: dict[str, Any]
  wrong: dict[str, Kind]
  call: Callable[..., Any] | None = None  # None: the public name itself
  # How a message names an argument where it is not by its own name.
  named: dict[str, str] = {}  # noqa: RUF012


class Row(NamedTuple):
  """A wrong call, and the words that its message has to hold."""

  public: Any
  call: Callable[..., Any]
  arguments: dict[str, Any]
  argument: str
  value: Any
  words: tuple[tuple[str, ...], ...]  # one of each has to be there


def kind(remedy: str, *values: Any, shown: str | None = None) -> Kind:
  """Values that are wrong for the same reason."""
  return tuple(Wrong(value, remedy, shown) for value in values)


def label(value: Any) -> str:
  """A short name of a value, the same in every process."""
  if isinstance(value, Left):
    return 'left out'
  if isinstance(value, str | bytes | int | float | complex | None):
    return repr(value)
  name = getattr(value, '__name__', None)
  return name or f'{type(value).__name__} {getattr(value, "shape", "")}'.strip()


def name_of(public: Any) -> str:
  """Where a public name is found, such as criteria.norm_test."""
  room, _, _ = public.__module__.removeprefix('adaopt.').partition('.')
  homes = public.__module__.split('.')
  # Their names are those of the methods they are of.
  room = next(
    (home for home in ('bounds', 'risks', 'multiclass') if home in homes), room
  )
  return f'{room}.{public.__qualname__}'.removeprefix('_common.')


def rows_of(case: Case) -> Iterator[Row]:
  """The rows of a case."""
  for argument, wrongs in case.wrong.items():
    for wrong in wrongs:
      arguments = {**case.valid, argument: wrong.value}
      if isinstance(wrong.value, Left):
        del arguments[argument]
      got = f'got {wrong.value!r}', f'got {wrong.value}'
      yield Row(
        case.public,
        case.call or case.public,
        arguments,
        argument,
        wrong.value,
        words=(
          (case.named.get(argument, argument),),
          got if wrong.shown is None else (wrong.shown,),
          (wrong.remedy,),
        ),
      )
