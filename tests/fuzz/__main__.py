"""Draws random programs for a while: python tests/fuzz --minutes=60

Compares the reductions of their per-example gradients with vmap(grad), prints
what it drew and every program that failed, minimised; exits with 1 if any did.
`make fuzz` runs it.
"""

import collections
import itertools
import pathlib
import resource
import sys
import time
import traceback

import hypothesis
import jax
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tests import conftest  # noqa: F401  # compiles as tests do
from tests.fuzz import checking, drawing, programs

# Thousands of programs, none of them twice.
jax.config.update('jax_enable_compilation_cache', False)

_MINUTES = flags.DEFINE_float('minutes', 60, 'How long to draw.', lower_bound=0)
_FUZZ_SEED = flags.DEFINE_integer('fuzz_seed', 0, 'Seed of the programs.')

PROGRAMS_A_ROUND = 10
"""So few that hypothesis draws each of them anew."""

ROUNDS_A_CACHE = 3
"""After which the compiled programs are dropped, or memory would grow."""


def run_round(
  seed: int, counts: checking.Counts, seen: set[str], until: float
) -> bool:
  """Draws programs, and prints one that fails; returns whether one did.

  Args:
    seed: Of the round.
    counts: Takes what was drawn.
    seen: All programs that were drawn, and what they were drawn for.
    until: When to stop.
  """
  failed = []

  @hypothesis.seed(seed)
  @hypothesis.settings(
    max_examples=PROGRAMS_A_ROUND,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    report_multiple_bugs=False,
  )
  @hypothesis.given(program=drawing.program(), way=drawing.way)
  def draw(program, way):
    if not failed:
      if time.monotonic() > until or repr((program, way)) in seen:
        return
      seen.add(repr((program, way)))
    try:
      # What is tried to make a failure smaller does not count.
      checking.check(program, way, checking.Counts() if failed else counts)
    except hypothesis.errors.UnsatisfiedAssumption:
      raise
    except Exception as error:
      failed.append((program, way, error))
      raise

  try:
    draw()
  except hypothesis.errors.HypothesisException as error:
    print(f'{type(error).__name__}: {error}', flush=True)
  except Exception:  # what was raised is in `failed`
    pass
  if failed:
    for which, (program, way, error) in (
      ('drawn', failed[0]),
      ('minimised', failed[-1]),
    ):
      print(f'\nFAILED, as {which}, in the way {way!r}:')
      print(programs.program_text(program))
      traceback.print_exception(error)
    sys.stdout.flush()
  return bool(failed)


def _print(counts, failures, begin):
  seconds = time.monotonic() - begin
  memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
  print(
    f'{seconds:.0f} s, {counts["programs"]} programs, '
    f'{counts["comparisons"]} comparisons, {counts["rejected"]} rejected, '
    f'{failures} failures; at most {memory} MiB.',
    flush=True,
  )


def main(argv: list[str]) -> None:
  """Draws until the time is over; exits with 1 if anything failed."""
  del argv
  counts, failures, seen = collections.Counter(), 0, set()
  begin = time.monotonic()
  until = begin + 60 * _MINUTES.value
  for number in itertools.count():
    failures += run_round(hash((_FUZZ_SEED.value, number)), counts, seen, until)
    if number % ROUNDS_A_CACHE == 0:
      jax.clear_caches()
    _print(counts, failures, begin)
    if time.monotonic() > until:
      break
  for name, count in sorted(counts.items()):
    print(f'{count:7d} {name}')
  sys.exit(failures > 0)


if __name__ == '__main__':
  app.run(main)
