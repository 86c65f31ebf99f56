"""The blocks of random programs: loops, branches, calls around other layers.

Each is (run, scope, h, body, other, **options) → h, where run(scope, layers, h)
runs the layers `body` or `other`.
"""

import jax
import jax.numpy as jnp

from tests.fuzz.layers import of_slot


def fitted(y, shape):
  """Cut or filled up to a shape."""
  y = y[: shape[0], : shape[1]]
  return jnp.pad(y, [(0, n - m) for n, m in zip(shape, y.shape, strict=True)])


def _kept(run, scope, layers, h):
  """Runs layers that leave the shape as it is."""
  return fitted(run(scope, layers, h), h.shape)


def _stepped(run, scope, layers, h, adds):
  """What a loop makes of h in a step: a sum, or bounded."""
  new = jnp.tanh(_kept(run, scope, layers, h))
  return h + new if adds else new


def names_of(run, scope, layers, h):
  """The slots and shapes of the parameters that layers read."""
  found = {}

  def param(slot, shape):
    found[slot, shape] = None
    return jnp.zeros(shape, h.dtype)

  jax.eval_shape(lambda h: run(scope._replace(param=param), layers, h), h)
  return list(found)


def residual(run, scope, h, body, other):
  del other
  return h + _kept(run, scope, body, h)


def both(run, scope, h, body, other):
  return _kept(run, scope, body, h) * jnp.tanh(_kept(run, scope, other, h))


def twice(run, scope, h, body, other):
  return run(scope, body, run(scope, (*body, *other), h))


def jit(run, scope, h, body, other):
  del other
  return jax.jit(lambda h: run(scope, body, h))(h)


def checkpoint(run, scope, h, body, other, policy):
  del other
  policy = getattr(jax.checkpoint_policies, policy)
  return jax.checkpoint(lambda h: run(scope, body, h), policy=policy)(h)


def narrow(run, scope, h, body, other):
  """Computed in fewer bits."""
  del other
  return run(scope, body, h.astype(scope.narrow)).astype(h.dtype)


def rows(run, scope, h, body, other, mapped):
  """Every row on its own, at once or one after the other."""
  del other
  of_row = lambda row: run(scope, body, row[None]).reshape(-1)
  if mapped:
    return jax.lax.map(of_row, h)
  return jax.vmap(of_row)(h)


def layers(run, scope, h, body, other, length, how, remat, shared, adds):
  """A scan over stacked layers, of which one slot may be shared by all."""
  del other
  names = names_of(run, scope, body, h)
  stacks = {
    name: scope.param(f'{name[0]}_of_{length}', (length, *name[1]))
    for name in names
    if name[0] != shared
  }

  def step(h, sliced):
    read = lambda slot, shape: (
      sliced[slot, shape]
      if (slot, shape) in sliced
      else scope.param(slot, shape)
    )
    h = _stepped(run, scope._replace(param=read), body, h, adds)
    return h, h if how == 'emits' else None

  if remat:
    step = jax.checkpoint(step)
  last, emitted = jax.lax.scan(
    step,
    h,
    stacks,
    length=length,
    reverse=how == 'reverse',
    unroll=2 if how == 'unrolled' else 1,
  )
  return last if emitted is None else last + jnp.mean(emitted, 0)


def time(run, scope, h, body, other, slot, init, how, remat, adds):
  """A scan over rows: a recurrent cell."""
  start = {
    'zeros': lambda: jnp.zeros_like(h[:1]),
    'learned': lambda: of_slot(scope, h, slot)(1, h.shape[1]),
    'row': lambda: h[:1],
  }[init]()

  def step(state, row):
    read = row[None] if adds == 'rows' else state + row[None]
    new = jnp.tanh(_kept(run, scope, body, read))
    new = state + new if adds else new
    seen = _kept(run, scope, other, new)[0] if other else new[0]
    return new, seen

  if remat:
    step = jax.checkpoint(step)
  last, seen = jax.lax.scan(step, start, h, reverse=how == 'reverse')
  return last if how == 'last' else seen


def counted(run, scope, h, body, other, length, adds):
  """A loop by number: all parameters are shared by its steps."""
  del other
  step = lambda _, h: _stepped(run, scope, body, h, adds)
  return jax.lax.fori_loop(0, length, step, h)


def cond(run, scope, h, body, other, slot, by):
  chosen = {
    'data': lambda: scope.example['token'][0] > 1,
    'hidden': lambda: jnp.sum(h) > 0,
    'parameter': lambda: scope.param(slot, ()) > 0,
    'constant': lambda: True,
  }[by]()
  return jax.lax.cond(
    chosen,
    lambda h: _kept(run, scope, body, h),
    lambda h: _kept(run, scope, other, h),
    h,
  )


def switch(run, scope, h, body, other):
  branches = [
    lambda h: _kept(run, scope, body, h),
    lambda h: _kept(run, scope, other, h),
    lambda h: h,
  ]
  return jax.lax.switch(scope.example['token'][-1] % 3, branches, h)


def _explicit(run, scope, h, body):
  """The layers as a function of their parameters, example and h."""
  params = {name: scope.param(*name) for name in names_of(run, scope, body, h)}

  def function(params, example, h):
    read = lambda slot, shape: params[slot, shape]
    return run(scope._replace(param=read, example=example), body, h)

  return function, (params, scope.example, h)


def custom_vjp(run, scope, h, body, other):
  """A backward pass of its own, and so no forward mode."""
  del other
  function, arguments = _explicit(run, scope, h, body)
  custom = jax.custom_vjp(function)
  custom.defvjp(lambda *args: jax.vjp(function, *args), lambda pull, g: pull(g))
  return custom(*arguments)


def custom_jvp(run, scope, h, body, other):
  del other
  function, arguments = _explicit(run, scope, h, body)
  custom = jax.custom_jvp(function)
  custom.defjvp(lambda primals, tangents: jax.jvp(function, primals, tangents))
  return custom(*arguments)


BLOCKS = {
  block.__name__: block
  for block in (
    both,
    checkpoint,
    cond,
    counted,
    custom_jvp,
    custom_vjp,
    jit,
    layers,
    narrow,
    residual,
    rows,
    switch,
    time,
    twice,
  )
}
