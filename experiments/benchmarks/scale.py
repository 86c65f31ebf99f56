"""What statistics cost beside a plain gradient, from the compiled programs.

  python -m adaopt.experiments.benchmarks.scale
  python -m adaopt.experiments.benchmarks.scale --on_meshes --num_devices=8
  python -m adaopt.experiments.benchmarks.scale --on_meshes --num_devices=8 \
    --width=512

Memory, FLOPs and what a device sends to others in rings, for a scanned
transformer under remat: on one device, and with data parallelism, FSDP and
D/4 × 4 tensor parallelism, two examples a device. FLOPs count the body of a
loop once, bytes as often as it runs. FSDP needs a width that D divides.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import adaopt
from adaopt.experiments import command_line
from adaopt.experiments.benchmarks import collectives, scanned, timing

NUM_DEVICES = flags.DEFINE_integer(
  'num_devices', 8, 'Simulated devices; a multiple of 4.', lower_bound=4
)
WIDTH = flags.DEFINE_integer(
  'width', 256, 'd on meshes, a multiple of num_devices.', lower_bound=8
)
ON_MESHES = flags.DEFINE_bool(
  'on_meshes', False, 'Compile for meshes of devices, and time nothing.'
)
SIZE = scanned.Size(
  layers=8, width=256, heads=4, vocabulary=64, length=128, batch_size=16
)
GPT2_SMALL = scanned.Size(
  layers=12,
  width=768,
  heads=12,
  vocabulary=50257,
  length=1024,
  batch_size=4,
  dtype=jnp.bfloat16,
)
READ = {
  'mean': (),
  'variance': ('variance',),
  'variance and v∥': ('variance', 'variance_along_mean'),
}


class Layout(NamedTuple):
  """How parameters and examples lie on a mesh."""

  axes: dict[str, int]  # and their sizes; −1: what is left of the devices
  specs: Any  # of the parameters


LAYOUTS = {
  'data parallel': Layout({'data': -1}, scanned.REPLICATED),
  'FSDP': Layout({'data': -1}, scanned.FULLY_SHARDED),
  'tensor parallel': Layout({'data': -1, 'model': 4}, scanned.TENSORS),
}


class Cost(NamedTuple):
  """What a compiled program takes on one device."""

  memory: float  # MB, temporary
  flops: float  # 10⁹
  collectives: list[collectives.Collective]


def sent(found: Cost, num_devices: int) -> float:
  """MB that a device sends in rings."""
  return 1e-6 * sum(
    collectives.sent(each, num_devices) for each in found.collectives
  )


def cost(function: Callable[..., Any], *args: Any) -> Cost:
  """The cost of a function, of arguments or of their shapes."""
  compiled = jax.jit(function).lower(*args).compile()
  return Cost(
    1e-6 * compiled.memory_analysis().temp_size_in_bytes,
    1e-9 * compiled.cost_analysis()['flops'],
    collectives.collectives(compiled.as_text()),
  )


def costs(
  size: scanned.Size,
  layout: Layout,
  num_devices: int,
  read: dict[str, tuple[str, ...]],
) -> dict[str, Cost]:
  """The cost of a plain gradient, and of what statistics read beside it."""
  devices = np.array(jax.devices()[:num_devices])
  mesh = jax.sharding.Mesh(
    devices.reshape(list(layout.axes.values())), tuple(layout.axes)
  )

  def constrain(x, names):
    spec = P(*(name if name in layout.axes else None for name in names))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

  def place(spec, tree):
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )

  loss_fn = scanned.loss_of(size, constrain)
  params = jax.tree.map(place, layout.specs, scanned.shapes(size))
  args = params, place(P('data'), scanned.tokens(size))
  laid_out = lambda gradient: jax.lax.with_sharding_constraint(
    gradient, jax.tree.map(lambda x: x.sharding, params)
  )

  def plain(params, tokens):
    value, gradient = jax.value_and_grad(loss_fn)(params, tokens)
    return value, laid_out(gradient)

  def measured(only):
    estimate = adaopt.value_and_statistics(loss_fn, only=only)

    def of(params, tokens):
      value, statistics = estimate(params, tokens)
      return value, statistics._replace(mean=laid_out(statistics.mean))

    return of

  functions = {name: measured(only) for name, only in read.items()}
  return {
    name: cost(function, *args)
    for name, function in ({'plain': plain} | functions).items()
  }


def print_costs(
  title: str,
  few: dict[str, Cost],
  many: dict[str, Cost] | None,
  num_devices: int,
) -> None:
  """A table: a plain gradient, and the others as multiples of it.

  `many` has twice the layers, for the growth of memory.
  """
  timing.print_header(
    title,
    'temporary MB',
    'growth a layer',
    'GFLOPs',
    'sent MB',
    'bytes sent beside plain',
  )
  figures = {
    name: (
      one.memory,
      (many[name].memory - one.memory) / SIZE.layers if many else 0.0,
      one.flops,
      sent(one, num_devices),
    )
    for name, one in few.items()
  }
  plain = figures['plain']
  for name, own in figures.items():
    cells = [f'{x:.2f}' for x in own]
    if name != 'plain':
      cells = [
        f'{x / unit:.2f} ×' if unit else '–'
        for x, unit in zip(own, plain, strict=True)
      ]
    timing.print_row(name, *cells, f'{1e6 * (own[-1] - plain[-1]):.0f}')


def print_seconds() -> None:
  """Milliseconds of a gradient on one device, and ratios to a plain one."""
  loss_fn, key = scanned.loss_of(SIZE), jax.random.key(1)
  params = scanned.normal(SIZE, jax.random.key(0))
  shape = scanned.tokens(SIZE).shape
  tokens = jax.random.randint(key, shape, 0, SIZE.vocabulary)
  functions = {'plain': jax.value_and_grad(loss_fn)} | {
    name: adaopt.value_and_statistics(loss_fn, only=only)
    for name, only in READ.items()
  }
  compiled = {
    name: timing.compiled(function, params, tokens)
    for name, function in functions.items()
  }
  timing.print_ratios(['time'], [(['one device'], compiled)])


def main() -> None:
  """Prints the costs on one device and its times, or the costs on meshes."""
  devices = NUM_DEVICES.value
  jax.config.update('jax_num_cpu_devices', devices)
  timing.print_machine()
  deep = lambda size: size._replace(layers=2 * size.layers)
  if not ON_MESHES.value:
    alone = LAYOUTS['data parallel'], 1, READ
    few, many = (costs(size, *alone) for size in (SIZE, deep(SIZE)))
    print_costs('one device', few, many, 1)
    few = costs(GPT2_SMALL, *alone)
    print_costs('one device, GPT-2 small', few, None, 1)
    print_seconds()
    return
  size = SIZE._replace(batch_size=2 * devices, width=WIDTH.value)
  noisy = {name: only for name, only in READ.items() if only}
  for name, layout in LAYOUTS.items():
    few, many = (
      costs(each, layout, devices, noisy) for each in (size, deep(size))
    )
    print_costs(f'{name}, {devices} devices', few, many, devices)


if __name__ == '__main__':
  command_line.run(main, optional=['repeats'])
