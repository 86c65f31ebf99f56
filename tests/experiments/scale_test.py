"""A scanned transformer on meshes costs what its plain gradient costs."""

import pytest

from adaopt.experiments.benchmarks import collectives, scale, scanned

SMALL = scanned.Size(
  layers=2, width=64, heads=4, vocabulary=16, length=32, batch_size=16
)


VARIANCE = {'variance': ('variance',)}


def costs(name, layers):
  size = SMALL._replace(layers=layers)
  return scale.costs(size, scale.LAYOUTS[name], 8, VARIANCE)


def check(plain, variance):
  assert variance.memory <= 1.3 * plain.memory
  assert variance.flops <= 1.1 * plain.flops
  assert scale.sent(variance, 8) <= 1.05 * scale.sent(plain, 8)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['data parallel', 'tensor parallel'])
def test_the_variance_costs_a_plain_gradient_on_a_mesh(name):
  check(**costs(name, 2))


@pytest.mark.slow
def test_so_does_every_layer_that_is_fully_sharded():
  few, many = (costs('FSDP', layers) for layers in (2, 8))
  check(**few)
  growth = {name: many[name].memory - few[name].memory for name in few}
  assert growth['variance'] <= 1.3 * growth['plain']
  outside_loops = lambda cost: sum(
    each.size for each in cost.collectives if not each.in_loop
  )
  assert outside_loops(many['variance']) == outside_loops(few['variance'])


PROGRAM = """HloModule jit_f

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %z = f32[] add(%x, %y)
}

%inner (p: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %a = f32[4,2]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add
}

%body (p: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %w = (s32[], f32[4,2]) while(%p), condition=%more, body=%inner, \
backend_config={"known_trip_count":{"n":"3"}}
  %c = f32[100]{0} add(%w, %w)
}

%more (p: (s32[], f32[4,2])) -> pred[] {
  ROOT %m = pred[] constant(1)
}

ENTRY %main (x: f32[4,2]) -> f32[4,2] {
  %w = (s32[], f32[4,2]) while(%x), condition=%more, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %b = (bf16[10]{0}, pred[6]{0}) all-gather-start(%y), \
replica_groups=mesh['i'=2,'j'=4] {'j'}, dimensions={0}
  %r = f32[2]{0} reduce-scatter(%y), replica_groups=[2,4]<=[8], to_apply=%add
  %q = f32[] all-reduce(%y), replica_groups={}, to_apply=%add
}
"""


def test_collectives_of_a_program():
  found = collectives.collectives(PROGRAM)
  assert found == [
    ('all-reduce', 8, 32, 2, 15, True),
    ('all-gather', 16, 26, 4, 1, False),
    ('reduce-scatter', 2, 8, 4, 1, False),
    ('all-reduce', 1, 4, None, 1, False),
  ]
  # Of S bytes of an array, S (n − 1)/n are sent to scatter or gather it.
  assert [collectives.sent(each, 8) for each in found] == [
    15 * 32,
    26 * 3 / 4,
    32 * 3 / 4,
    2 * 4 * 7 / 8,
  ]
