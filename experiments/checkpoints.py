"""Checkpoints of a state and what goes with it, whole or not at all."""

import errno
import hashlib
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

OVERHEAD = 2**18
"""Bytes that a checkpoint may take beside its arrays."""


def open_folder(folder: pathlib.Path) -> ocp.CheckpointManager:
  """Opens the checkpoints in a folder; the last two are kept.

  What an earlier process had only begun to save is deleted.
  """
  return ocp.CheckpointManager(
    folder.resolve(),
    options=ocp.CheckpointManagerOptions(
      max_to_keep=2,
      enable_async_checkpointing=False,
      cleanup_tmp_directories=True,
    ),
  )


def _layout(state: Any) -> list[str]:
  """The path, type and shape of each array in a state."""
  return [
    f'{jax.tree_util.keystr(path)}: {leaf.dtype}{list(leaf.shape)}'
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  ]


def _digest(state: Any) -> str:
  """A hash of all values, however they are sharded."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(state):
    if not leaf.is_fully_addressable:
      leaf = multihost_utils.process_allgather(leaf, tiled=True)
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()


def save(
  manager: ocp.CheckpointManager,
  step: int,
  state: Any,
  progress: dict[str, Any],
) -> None:
  """Saves the state of a new step; a crash leaves older checkpoints intact.

  Args:
    manager: From `open_folder`.
    step: The number of steps done; one that is saved already is left alone.
    state: A pytree of arrays; what lies in parts is saved in parts.
    progress: What else a run needs to resume: what JSON can hold.

  Raises:
    OSError: If the disk is full or fails; it names the folder.
  """
  if step in manager.all_steps():
    return
  _check_room(manager.directory, state)
  made_of = {'layout': _layout(state), 'digest': _digest(state)}
  try:
    manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        progress=ocp.args.JsonSave(progress),
        made_of=ocp.args.JsonSave(made_of),
      ),
    )
  except (OSError, ValueError) as error:
    number = _errno(error)
    if number is None:
      raise
    path = manager.directory / str(step)
    raise OSError(number, os.strerror(number), str(path)) from error


def _check_room(folder, state):
  """Raises before orbax begins: its threads each print what they fail of."""
  needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + OVERHEAD
  if shutil.disk_usage(folder).free < needed:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _errno(error):
  """The number of the system's error, which tensorstore has in its text."""
  found = re.search(r"os_error_code='(\d+)'", str(error))
  return int(found[1]) if found else getattr(error, 'errno', None)


def _restore(manager, step, like, check):
  read = ocp.args.JsonRestore()
  found = manager.restore(
    step, args=ocp.args.Composite(progress=read, made_of=read)
  )
  if found.made_of['layout'] != _layout(like):
    raise ValueError('it has other parameters or another optimizer')
  check(found.progress)
  args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
  state = manager.restore(step, args=args).state
  if found.made_of['digest'] != _digest(state):
    raise ValueError('its values differ from those that were saved')
  return state, found.progress


def _set_aside(manager, steps):
  """Renames steps: orbax saves no step before the newest one it sees."""
  for step in steps:
    aside = manager.directory / f'damaged_{step}'
    shutil.rmtree(aside, ignore_errors=True)  # from earlier damage
    (manager.directory / str(step)).rename(aside)
    logging.warning(
      'Checkpoint %d was renamed to %s for inspection; it is safe to delete.',
      step,
      aside,
    )
  manager.reload()


def latest(
  manager: ocp.CheckpointManager,
  like: Any,
  check: Callable[[dict[str, Any]], None] = lambda progress: None,
) -> tuple[Any, dict[str, Any]] | None:
  """The newest checkpoint that is whole, or None if there are none.

  Args:
    manager: From `open_folder`.
    like: A state of the same structure, shapes and types, where what is
      restored is to lie.
    check: Raises ValueError if what else a checkpoint needs is not there.

  Returns:
    The state and the progress. A damaged checkpoint is skipped with a warning
    that names it, and renamed once an older one has been restored, so that the
    steps after that one are saved again.

  Raises:
    ValueError: If there are checkpoints but none can be used.
  """
  reasons = {}
  for step in sorted(manager.all_steps(), reverse=True):
    # Orbax raises many types of errors for files that it cannot read.
    try:
      found = _restore(manager, step, like, check)
    except Exception as error:  # pylint: disable=broad-except
      reasons[step] = str(error).split('\n')[0][:200]
      logging.warning(
        'Skipping the checkpoint %s/%d: it is damaged or from another run '
        '(%s).',
        manager.directory,
        step,
        reasons[step],
      )
    else:
      _set_aside(manager, reasons)
      return found
  if reasons:
    raise ValueError(
      f'none of the checkpoints in {manager.directory} can be used: '
      + '; '.join(reasons.values())
      + '. Delete the folder to restart the run from scratch.'
    )
  return None
