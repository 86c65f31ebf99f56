"""Exact reductions over per-example gradients, at the cost of a gradient.

A gradient for every example takes batch × parameters of memory. Their norms,
squares and inner products can be computed without them, from factors that a
batched backward pass computes anyway. `factorise` finds the factors in the
gradient of any JAX function; `sums` and `products` reduce them.

Take the loss of one sample x in a network of two layers:

>>> import jax
>>> import jax.numpy as jnp
>>> def loss(params, x):
...   hidden = jnp.sin(x @ params['v'])
...   return jnp.sum(jnp.sin(hidden @ params['w'])), ()
>>> params = {'v': jnp.full([4, 3], 0.1), 'w': jnp.full([3, 2], 0.2)}
>>> gradient = jax.grad(loss, has_aux=True)

`inlining.flatten` turns the jaxpr of its gradient into a flat program. Its
inputs are a, b = params and c = x. Every line is an equation, `output [shape] =
primitive inputs`:

>>> from adaopt.per_example.program import inlining, ir, printing
>>> jaxpr = jax.make_jaxpr(lambda *args: gradient(*args)[0])
>>> flat = inlining.flatten(jaxpr(params, jnp.ones(4)))
>>> print(printing.text(flat, ir.needed(flat.equations, flat.outputs)))
d [3] = dot_general c a
e [3] = sin d
f [3] = cos d
g [2] = dot_general e b
h [2] = cos g
i [2] = broadcast_in_dim 1
j [2] = mul i h
k [2, 3] = dot_general j e
l [3, 2] = transpose k
m [3] = dot_general j b
n [3] = mul m f
o [3, 4] = dot_general n c
p [4, 3] = transpose o
>>> printing.names(flat, flat.outputs)
['p', 'l']

`cut.find_tail` follows each output back to its factors. The tail of p is cut
off behind n and c, which are the output cotangent and the input of the first
layer; that of l behind j and e.

>>> from adaopt.per_example import cut
>>> per_sample = ir.dependents(flat.equations, flat.inputs[2:])
>>> space = cut.weight_space(flat, [], per_sample)
>>> for output in flat.outputs:
...   tail = cut.find_tail(flat, output, per_sample, space)
...   print('factors:', *printing.names(flat, tail.factors))
...   print(printing.text(flat, tail.equations))
factors: n c
o [3, 4] = dot_general n c
p [4, 3] = transpose o
factors: j e
k [2, 3] = dot_general j e
l [3, 2] = transpose k

`factorise` traces, cuts, and evaluates what is left for all samples under
`vmap`. Here are J = 5 samples with weights w_j = 1. There is no array of shape
[5, 4, 3] or [5, 3, 2]:

>>> from adaopt.per_example import factorisation, reductions
>>> samples = jnp.linspace(-1, 1, 20).reshape(5, 4)
>>> factored = factorisation.factorise(loss, params, samples, jnp.ones(5))
>>> [factored.factors[v].shape for t in factored.tails for v in t.factors]
[(5, 3), (5, 4), (5, 2), (5, 3)]

A rule contracts the factors. For a dense layer, p = c nᵀ has the squared norm
‖c‖² ‖n‖²:

>>> n, c = (factored.factors[v] for v in factored.tails[0].factors)
>>> sums = reductions.sums(factored)
>>> expected = jnp.sum(c**2, 1) * jnp.sum(n**2, 1)
>>> bool(jnp.allclose(sums.norms['v'], expected))
True
>>> gradients, _ = jax.vmap(gradient, (None, 0))(params, samples)
>>> bool(jnp.allclose(sums.norms['v'], jnp.sum(gradients['v'] ** 2, (1, 2))))
True

Glossary:
  chunk: Samples whose gradients are materialised at once.
  contraction: An equation linear in each input: a matrix product, a
    convolution, or rows added to zeros (`cut.CONTRACTIONS`).
  equation, value: One primitive of a flat program; a number that stands for an
    input, a constant or an output of an equation.
  factor: A per-sample value where a tail starts, [J, ...].
  fixed: Equal in all steps of a loop. The opposite is varying.
  hoist: To compute after a loop what it computed in every step.
  lane: The chunks of one device; its sums are added to the others' at the end.
  materialise: To compute the gradient of every sample of a chunk.
  move: An equation that moves elements or changes their width (`cut.MOVES`).
  preference: The order in which rules are tried, by what is read.
  rule: How to reduce the gradients of one kind of tail.
  sample: What one loss and one gradient g_j, j < J, belong to.
  shared: Equal for all samples. The opposite is per-sample.
  source: A value that followed equations start from; for a tail a factor or a
    shared value.
  square: g gᴴ of a gradient that is a matrix, on its smaller side.
  stack: A gradient that a scan emits, a slice in every step (`stacks`).
  sum: An equation that adds two values (`cut.SUMS`).
  tail: The last equations of a gradient, which are not evaluated per sample.
  weight: w_j, which multiplies the loss and the gradient of sample j.
  weight space: The values as large as a parameter that only make gradients
    (`cut.weight_space`).
"""

from adaopt.per_example.clipping import clipped_sum, normalized_sum
from adaopt.per_example.estimates import (
  inner_products,
  mean_of_signs,
  second_moment,
  squared_norms,
)
from adaopt.per_example.weighting import weighted_sum

__all__ = [
  'clipped_sum',
  'inner_products',
  'mean_of_signs',
  'normalized_sum',
  'second_moment',
  'squared_norms',
  'weighted_sum',
]


def __dir__() -> list[str]:
  return __all__
