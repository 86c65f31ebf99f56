"""Strategies that draw programs."""

from hypothesis import strategies as st

from tests.fuzz import programs, ways
from tests.fuzz.blocks import BLOCKS
from tests.fuzz.functions import FUNCTIONS
from tests.fuzz.layers import LAYERS
from tests.fuzz.weights import BY_EXAMPLE, WEIGHTS

SHARP = frozenset(
  {
    'cond by: hidden',
    'counted_while',
    'dense of: sorted',
    'dense of: straight-through',
    'dense_of_positions of: sorted',
    'dense_of_positions of: straight-through',
    'function name: abs',
    'function name: argsort',
    'function name: clip',
    'function name: cummax',
    'function name: max',
    'function name: pool',
    'function name: relu',
    'function name: sort',
    'function name: top_k',
    'gated of: sorted',
    'gated of: straight-through',
  }
)
"""What jumps or bends: rounding may carry it to the other side."""

WIDE = frozenset(
  {
    'complex_product',
    'dense of: solved',
    'dense_of_positions of: solved',
    'gated of: solved',
    'function name: fourier',
  }
)
"""What JAX does not have for half precision."""

slots = st.sampled_from('abc')
widths = st.sampled_from([3, 1, 2, 4, 6])
small = st.sampled_from([2, 1, 3])
flags = st.booleans()
words = lambda *names: st.sampled_from(names)
of = words(*WEIGHTS, *BY_EXAMPLE)

OPTIONS = {
  'attention': dict(
    slot=slots, heads=words(1, 2), width=words(2, 3), causal=flags
  ),
  'bias': dict(slot=slots),
  'bilinear': dict(slot=slots, width=widths),
  'complex_product': dict(slot=slots, width=widths),
  'conv1d': dict(
    slot=slots,
    width=widths,
    size=small,
    stride=words(1, 2),
    dilation=words(1, 2),
    padding=words('SAME', [[1, 2]], [[3, 0]]),
  ),
  'conv2d': dict(
    slot=slots, size=small, width=small, padding=words('SAME', 'VALID')
  ),
  'conv_transposed': dict(slot=slots, width=widths, stride=words(1, 2)),
  'counted_while': dict(slot=slots),
  'dead': dict(slot=slots, how=words('stopped', 'times zero', 'floor')),
  'dense': dict(slot=slots, of=of, width=widths),
  'dense_of_positions': dict(slot=slots, of=of, width=widths),
  'depthwise': dict(slot=slots, size=small, multiple=words(1, 2)),
  'dropout': {},
  'function': dict(name=words(*FUNCTIONS)),
  'gated': dict(slot=slots, of=of),
  'inputs_again': {},
  'layer_norm': dict(slot=slots),
  'lookup': dict(
    slot=slots,
    rows=words(3, 7, 40),
    mode=words('clip', 'fill', 'wrap'),
    keys=words('int32', 'int8', 'uint8'),
  ),
  'low_precision_product': dict(slot=slots, width=widths),
  'masked': dict(slot=slots),
  'of_one_example': dict(slot=slots),
  'one_hot': dict(slot=slots, rows=words(3, 7)),
  'outer': dict(slot=slots),
  'own_matrices': dict(slot=slots, width=widths),
  'penalty': dict(slot=slots),
  'positions': dict(slot=slots),
  'rms_norm': dict(slot=slots),
  'scalar': dict(slot=slots),
  'scale': dict(slot=slots),
  'scattered': dict(slot=slots, how=words('add', 'set', 'multiply')),
  'segments': {},
  'tied': dict(slot=slots, rows=widths),
  'window': dict(slot=slots),
  'written': dict(slot=slots),
  'both': {},
  'checkpoint': dict(
    policy=words(
      'nothing_saveable',
      'everything_saveable',
      'dots_saveable',
      'dots_with_no_batch_dims_saveable',
    )
  ),
  'cond': dict(slot=slots, by=words('data', 'hidden', 'parameter', 'constant')),
  'counted': dict(length=words(2, 1, 3), adds=flags),
  'custom_jvp': {},
  'custom_vjp': {},
  'jit': {},
  'layers': dict(
    length=words(2, 1, 3),
    how=words('plain', 'emits', 'reverse', 'unrolled'),
    remat=flags,
    shared=words('', 'a', 'b', 'c'),
    adds=flags,
  ),
  'narrow': {},
  'residual': {},
  'rows': dict(mapped=flags),
  'switch': {},
  'time': dict(
    slot=slots,
    init=words('zeros', 'learned', 'row'),
    how=words('all', 'last', 'reverse'),
    remat=flags,
    adds=words('', 'rows', 'states'),
  ),
  'twice': {},
}

# Those that matrix products, lookups and loops make of gradients are the most.
_FREQUENT = ('dense', 'dense', 'dense', 'function', 'lookup', 'tied', 'bias')
_LOOPS = ('layers', 'layers', 'time', 'checkpoint', 'cond')
_OTHERS = frozenset({'both', 'cond', 'switch', 'time', 'twice'})


@st.composite
def layer(draw, depth):
  """A layer, or a block of layers that nest `depth` deep at most."""
  if not depth or not draw(st.booleans()):
    kind = draw(st.sampled_from([*_FREQUENT, *LAYERS]))
    options = draw(st.fixed_dictionaries(OPTIONS[kind]))
    return programs.Layer(kind, options)
  kind = draw(st.sampled_from([*_LOOPS, *BLOCKS]))
  options = draw(st.fixed_dictionaries(OPTIONS[kind]))
  inner = sequence(depth - 1, most=2)
  body = draw(inner)
  other = draw(inner) if kind in _OTHERS else ()
  return programs.Layer(kind, options, body, other)


def sequence(depth, most):
  return st.lists(layer(depth), min_size=1, max_size=most).map(tuple)


LARGEST = 7
"""The most layers of a program, at all depths."""


def _size(layers):
  return sum(1 + _size(x.body) + _size(x.other) for x in layers)


networks = sequence(depth=2, most=3).filter(lambda x: _size(x) <= LARGEST)


DTYPES = (
  *[('float64',) * 3] * 4,
  ('float32', 'float32', 'float32'),
  ('float32', 'float32', 'bfloat16'),
  ('float32', 'float32', 'float16'),
  ('float32', 'bfloat16', 'float32'),
  ('float32', 'float16', 'float16'),
  ('bfloat16', 'bfloat16', 'float32'),
  ('bfloat16', 'float32', 'bfloat16'),
  ('float16', 'float16', 'float32'),
)
"""Of parameters, of what is computed, and of what is computed in fewer bits."""


@st.composite
def program(draw):
  """A program. What jumps, and what wants bits, is computed in float64."""
  params, compute, narrow = draw(st.sampled_from(DTYPES))
  drawn = programs.Program(
    draw(networks),
    length=draw(st.sampled_from([2, 1, 3, 5, 9])),
    width=draw(widths),
    head=draw(st.sampled_from(sorted(programs.HEADS))),
    mean=draw(st.sampled_from(['examples', 'examples', 'tokens', 'classes'])),
    batched=draw(st.sampled_from(['vmap', 'vmap', 'unrolled', 'map'])),
    params=params,
    compute=compute,
    narrow=narrow,
    samples=draw(st.sampled_from([4, 6])),
    group_size=draw(st.sampled_from([1, 2, 3])),
    seed=draw(st.integers(0, 3)),
  )
  if (SHARP | WIDE).intersection(programs.words(drawn)):
    drawn = drawn._replace(
      params='float64', compute='float64', narrow='float64'
    )
  return drawn


# The first is the most thorough, and cheap.
way = st.sampled_from(['reductions', *ways.WAYS])
