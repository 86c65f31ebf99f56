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

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import AxisType, NamedSharding
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

  shape: Callable[[int], tuple[int, ...]]  # of the mesh, by devices
  axes: tuple[str, ...]
  specs: Any  # of the parameters


LAYOUTS = {
  'data parallel': Layout(lambda d: (d,), ('data',), scanned.REPLICATED),
  'FSDP': Layout(lambda d: (d,), ('data',), scanned.FULLY_SHARDED),
  'tensor parallel': Layout(
    lambda d: (d // 4, 4), ('data', 'model'), scanned.TENSORS
  ),
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
  compiled = jax.jit(function).lower(*args).compile()
  return Cost(
    1e-6 * compiled.memory_analysis().temp_size_in_bytes,
    1e-9 * compiled.cost_analysis()['flops'],
    collectives.collectives(compiled.as_text()),
  )


def on_one_device(size: scanned.Size) -> tuple[Any, tuple[Any, Any], Any]:
  """The loss, the shapes of its arguments, and where gradients are to lie."""
  tokens = jax.ShapeDtypeStruct((size.batch_size, size.length + 1), jnp.int32)
  return scanned.loss_of(size), (scanned.shapes(size), tokens), None


def on_mesh(
  size: scanned.Size, layout: Layout, num_devices: int
) -> tuple[Any, tuple[Any, Any], Any]:
  """As `on_one_device`, on a mesh."""
  mesh = jax.make_mesh(
    layout.shape(num_devices),
    layout.axes,
    axis_types=(AxisType.Auto,) * len(layout.axes),
  )

  def constrain(x, names):
    spec = P(*(name if name in layout.axes else None for name in names))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

  def place(tree, specs):
    return jax.tree.map(
      lambda x, spec: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
      ),
      tree,
      specs,
    )

  _, (params, tokens), _ = on_one_device(size)
  specs = layout.specs
  if specs is scanned.REPLICATED:
    specs = jax.tree.map(lambda x: P(), params)
  args = place(params, specs), place(tokens, P('data'))
  shardings = jax.tree.map(lambda x: x.sharding, args[0])
  return scanned.loss_of(size, constrain), args, shardings


def costs(
  place: Callable[..., Any],
  *args: Any,
  read: Mapping[str, tuple[str, ...]],
) -> dict[str, Cost]:
  """The cost of a plain gradient, and of what statistics read beside it."""
  loss_fn, args, shardings = place(*args)

  def laid_out(gradient):
    if shardings is None:
      return gradient
    return jax.lax.with_sharding_constraint(gradient, shardings)

  def plain(params, tokens):
    value, gradient = jax.value_and_grad(loss_fn)(params, tokens)
    return value, laid_out(gradient)

  def measured(only):
    estimate = adaopt.value_and_statistics(loss_fn, only=only)

    def of(params, tokens):
      value, statistics = estimate(params, tokens)
      return value, statistics._replace(mean=laid_out(statistics.mean))

    return of

  found = {'plain': cost(plain, *args)}
  return found | {
    name: cost(measured(only), *args) for name, only in read.items()
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
  growth = lambda name: many[name].memory - few[name].memory if many else 0.0
  plain = few['plain']
  plain_sent = sent(plain, num_devices)
  for name, one in few.items():
    own_sent = sent(one, num_devices)
    cells = (one.memory, growth(name), one.flops, own_sent)
    units = (1, SIZE.layers, 1, 1)
    if name != 'plain':
      units = (plain.memory, growth('plain'), plain.flops, plain_sent)
    suffix = '' if name == 'plain' else ' ×'
    timing.print_row(
      name,
      *(
        f'{x / unit:.2f}{suffix}' if unit else '–'
        for x, unit in zip(cells, units, strict=True)
      ),
      f'{1e6 * (own_sent - plain_sent):.0f}',
    )


def print_seconds() -> None:
  """Seconds of a gradient on one device, as multiples of a plain one."""
  loss_fn, (_, tokens), _ = on_one_device(SIZE)
  params = scanned.normal(SIZE, jax.random.key(0))
  tokens = jax.random.randint(
    jax.random.key(1), tokens.shape, 0, SIZE.vocabulary
  )
  functions = {'plain': jax.value_and_grad(loss_fn)}
  for name, only in READ.items():
    functions[name] = adaopt.value_and_statistics(loss_fn, only=only)
  compiled = {
    name: jax.jit(function).lower(params, tokens).compile()
    for name, function in functions.items()
  }
  medians = timing.in_turns(
    {
      name: functools.partial(program, params, tokens)
      for name, program in compiled.items()
    }
  )
  timing.print_header('one device', 'ms', '× plain')
  for name, ms in medians.items():
    timing.print_row(name, f'{ms:.0f}', f'{ms / medians["plain"]:.2f}')


def main() -> None:
  devices = NUM_DEVICES.value
  jax.config.update('jax_num_cpu_devices', devices)
  timing.print_machine()
  deep = lambda size: size._replace(layers=2 * size.layers)
  if not ON_MESHES.value:
    few, many = (
      costs(on_one_device, size, read=READ) for size in (SIZE, deep(SIZE))
    )
    print_costs('one device', few, many, 1)
    few = costs(on_one_device, GPT2_SMALL, read=READ)
    print_costs('one device, GPT-2 small', few, None, 1)
    print_seconds()
    return
  size = SIZE._replace(batch_size=2 * devices, width=WIDTH.value)
  noisy = {name: only for name, only in READ.items() if only}
  for name, layout in LAYOUTS.items():
    few, many = (
      costs(on_mesh, each, layout, devices, read=noisy)
      for each in (size, deep(size))
    )
    print_costs(f'{name}, {devices} devices', few, many, devices)


if __name__ == '__main__':
  command_line.run(main, optional=['repeats'])
