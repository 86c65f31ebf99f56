"""Counts the programs that XLA compiles for training steps."""

import jax

# The names of the functions that adaopt's drivers compile.
PROGRAMS = ('jit(step)', 'jit(micro_step)', 'jit(update)')

_compiled: list[str] = []


def _listen(event: str, seconds: float, *, fun_name: str = '', **_) -> None:
  del seconds
  if (
    event == '/jax/core/compile/backend_compile_duration'
    and fun_name in PROGRAMS
  ):
    _compiled.append(fun_name)


jax.monitoring.register_event_duration_secs_listener(_listen)


def names() -> list[str]:
  """The step programs compiled so far in this process, in order."""
  return list(_compiled)


def count() -> int:
  """The number of step programs compiled so far in this process."""
  return len(_compiled)
