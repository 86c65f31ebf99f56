"""Runs a program in a way, and compares."""

import collections
import contextlib

import hypothesis
import jax
import numpy as np

from tests.fuzz import programs, reference, ways

Counts = collections.Counter


def _is_finite(tree):
  return all(np.all(np.isfinite(x)) for x in jax.tree.leaves(tree))


def check(
  program: programs.Program, way: str, counts: Counts | None = None
) -> None:
  """Compares all that a way computes with `vmap(grad)`.

  Args:
    program: The program. It is rejected where it has no parameters or no
      finite gradients, or JAX refuses to differentiate it.
    way: A name in `ways.WAYS`.
    counts: Takes the numbers of programs, by feature, and of comparisons.

  Raises:
    AssertionError: If figures differ; anything else that adaopt raises.
  """
  counts = Counts() if counts is None else counts
  double = reference.is_double(program)
  with jax.enable_x64(True) if double else contextlib.nullcontext():
    try:
      losses = programs.losses_of(program)
      rows = reference.rows_of(program, losses) if losses.params else None
    except Exception as error:
      why = f'JAX raises {type(error).__name__}: {str(error)[:100]!r}'
      _reject(counts, why)
    if rows is None:
      _reject(counts, 'no parameters')
    if not _is_finite(rows):
      _reject(counts, 'not finite')
    compared = 0
    for comparison in ways.WAYS[way](program, losses, rows):
      _assert_close(comparison)
      compared += 1
  counts['programs'] += 1
  counts['comparisons'] += compared
  counts.update({f'way: {way}', *programs.words(program)})


def _reject(counts, why):
  counts[f'rejected: {why}'] += 1
  counts['rejected'] += 1
  hypothesis.reject()


def _assert_close(comparison):
  name, found, expected, error = comparison
  found, expected = (np.asarray(x, np.float64) for x in (found, expected))
  if found.shape != expected.shape:
    raise AssertionError(f'{name}: {found.shape} instead of {expected.shape}')
  excess = np.abs(found - expected) - error
  if not np.all(excess <= 0):
    raise AssertionError(
      f'{name}: {found} instead of {expected}, which is more than {error} away'
    )
