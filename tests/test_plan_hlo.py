"""Compiled text → what a device does: loops, groups, bytes, products. Programs whose numbers are known by hand."""

import itertools
import pathlib

import numpy as np
import pytest

from crab_jax.plan.hardware import Slice, TopologyError
from crab_jax.plan.hlo import HloError, Module, shapes_of
from crab_jax.plan.work import groups_of, measure

DATA = pathlib.Path(__file__).parent / "data"
LINE = [(i,) for i in range(4)]

LOOP = """\
HloModule m

%body (s: (s32[], f32[64], s32[], s32[])) -> (s32[], f32[64], s32[], s32[]) {
  %s = (s32[], f32[64], s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[64] get-tuple-element(%s), index=1
  %step = s32[] get-tuple-element(%s), index=2
  %end = s32[] get-tuple-element(%s), index=3
  %next = s32[] add(%i, %step)
  %y = f32[64] negate(%x)
  ROOT %t = (s32[], f32[64], s32[], s32[]) tuple(%next, %y, %step, %end)
}

%condition (s.1: (s32[], f32[64], s32[], s32[])) -> pred[] {
  %s.1 = (s32[], f32[64], s32[], s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %end.1 = s32[] get-tuple-element(%s.1), index=3
  %x.1 = f32[64] get-tuple-element(%s.1), index=1
  %some = pred[] custom-call(%x.1), custom_call_target="AnyLeft"
  %below = pred[] compare(%i.1, %end.1), direction=CONDITION
  ROOT %go = pred[] and(%below, %some)
}

ENTRY %main (p: f32[64]) -> f32[64] {
  %p = f32[64] parameter(0)
  %start = s32[] constant(START)
  %two = s32[] constant(2)
  %ten = s32[] constant(10)
  %copied = s32[] copy(%ten)
  %state = (s32[], f32[64], s32[], s32[]) tuple(%start, %p, %two, %copied)
  %loop = (s32[], f32[64], s32[], s32[]) while(%state), condition=%condition, body=%body
  ROOT %out = f32[64] get-tuple-element(%loop), index=1
}
"""


def times(text: str, opcode: str) -> list[int]:
    return [v.times for v in Module(text).visits() if v.instruction.opcode == opcode]


@pytest.mark.parametrize(("start", "direction", "expected"), [(1, "LT", 5), (0, "LE", 6), (10, "LT", 0), (0, "NE", 5)])
def test_loops_are_counted_from_their_counter(start, direction, expected):
    """Step and end travel in the state; whether all are done is not known, and taken to be "not yet"."""
    text = LOOP.replace("START", str(start)).replace("CONDITION", direction)
    assert times(text, "negate") == [expected]


def test_a_loop_that_says_how_often_it_runs_is_believed():
    told = 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
    text = LOOP.replace("START", "0").replace("CONDITION", "LT").replace("body=%body", told)
    assert times(text, "negate") == [7]


def test_a_loop_that_nobody_can_count_is_named_and_counts_once():
    text = LOOP.replace("constant(START)", 'custom-call(), custom_call_target="Random"').replace("CONDITION", "LT")
    work = measure(text, LINE, None)
    assert work.unknown_loops == ("loop",)
    assert work.traffic == pytest.approx(2 * 64 * 4, abs=64)


def test_loops_multiply():
    inner = LOOP.replace("START", "0").replace("CONDITION", "LT")
    outer = (
        inner.replace("ENTRY %main (p: f32[64]) -> f32[64] {", "%twice (p: f32[64]) -> f32[64] {")
        + """
%body2 (q: (s32[], f32[64])) -> (s32[], f32[64]) {
  %q = (s32[], f32[64]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %z = f32[64] get-tuple-element(%q), index=1
  %one = s32[] constant(1)
  %k = s32[] add(%j, %one)
  %w = f32[64] call(%z), to_apply=%twice
  ROOT %r = (s32[], f32[64]) tuple(%k, %w)
}

%condition2 (q.1: (s32[], f32[64])) -> pred[] {
  %q.1 = (s32[], f32[64]) parameter(0)
  %j.1 = s32[] get-tuple-element(%q.1), index=0
  %three = s32[] constant(3)
  ROOT %c = pred[] compare(%j.1, %three), direction=LT
}

ENTRY %all (a: f32[64]) -> f32[64] {
  %a = f32[64] parameter(0)
  %zero = s32[] constant(0)
  %begin = (s32[], f32[64]) tuple(%zero, %a)
  %outer = (s32[], f32[64]) while(%begin), condition=%condition2, body=%body2
  ROOT %last = f32[64] get-tuple-element(%outer), index=1
}
"""
    )
    assert times(outer, "negate") == [15]


def test_a_real_program_of_a_tpu():
    """Eight layers of tanh(x W) with remat and gradients, 16 chips that share the weights."""
    text = (DATA / "tpu_scan.hlo.txt").read_text(encoding="utf-8")
    where = Slice.parse("v5e:4x4")
    work = measure(text, [p for p in np.ndindex(4, 4)], where)
    assert work.unknown_loops == ()
    # Forwards, again for the backward pass, and two products for the gradients.
    assert work.flops == 8 * 4 * 2 * 128 * 1024 * 1024
    found = {(c.kind, c.times, c.bytes, len(c.group)) for c in work.collectives}
    weights = 1024 * 1024 * 2
    assert {("all-gather", 8, weights, 16), ("all-reduce", 8, weights, 16), ("all-reduce", 1, 4, 16)} == found
    # Most arrays stay on the chip: what travels are the weights of 8 layers (an eighth of the stack at a time, never
    # the stack), what was kept of them, and the update.
    stack = 8 * 64 * 1024 * 2
    assert 3 * stack < work.traffic < 6 * stack


FUSED = """\
HloModule m

%slices (stack: f32[8,1000], at: s32[]) -> f32[1000] {
  %stack = f32[8,1000] parameter(0)
  %at = s32[] parameter(1)
  %nought = s32[] constant(0)
  %layer = f32[1,1000] dynamic-slice(%stack, %at, %nought), dynamic_slice_sizes={1,1000}
  ROOT %flat = f32[1000] bitcast(%layer)
}

%updates (stack.1: f32[8,1000], new: f32[1000], at.1: s32[]) -> f32[8,1000] {
  %stack.1 = f32[8,1000] parameter(0)
  %new = f32[1000] parameter(1)
  %row = f32[1,1000] bitcast(%new)
  %at.1 = s32[] parameter(2)
  %nought.1 = s32[] constant(0)
  ROOT %put = f32[8,1000] dynamic-update-slice(%stack.1, %row, %at.1, %nought.1)
}

ENTRY %main (w: f32[8,1000], i: s32[]) -> f32[8,1000] {
  %w = f32[8,1000]{1,0} parameter(0)
  %i = s32[]{:S(6)} parameter(1)
  %one = f32[1000]{0:T(128)S(1)} fusion(%w, %i), kind=kLoop, calls=%slices
  %two = f32[1000]{0:T(128)} negate(%one)
  ROOT %three = f32[8,1000]{1,0} fusion(%w, %two, %i), kind=kLoop, calls=%updates
}
"""


def test_slices_count_as_what_they_touch_and_chip_memory_not_at_all():
    row = 1000 * 4
    read_slice, write_negated, read_new, write_slice = row, row, row, row
    assert measure(FUSED, LINE, None).traffic == read_slice + write_negated + read_new + write_slice


STARTED = """\
HloModule m

ENTRY %main (w: f32[8,1000]) -> f32[1000] {
  %w = f32[8,1000]{1,0} parameter(0)
  %s = ((f32[8,1000]{1,0}), f32[1,1000]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%w), slice={[3:4], [0:1000]}
  %d = f32[1,1000]{1,0:S(1)} slice-done(%s)
  %b = f32[1000]{0:S(1)} custom-call(%d), custom_call_target="ConcatBitcast"
  %c = (f32[1000]{0}, f32[1000]{0:S(1)}, u32[]{:S(2)}) copy-start(%b)
  ROOT %e = f32[1000]{0} copy-done(%c)
}
"""


def test_transfers_that_are_started_count_once():
    assert measure(STARTED, LINE, None).traffic == 1000 * 4 + 1000 * 4  # the slice in, the copy out


ASYNC = """\
HloModule m

%start (w: bf16[4,8]) -> (bf16[4,8], bf16[16,8]) {
  %w = bf16[4,8] parameter(0)
  %gather.1 = bf16[16,8] all-gather(%w), channel_id=3, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %begun = (bf16[4,8], bf16[16,8]) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%beside (w.1: bf16[4,8], whole: bf16[16,8], x: f32[100]) -> (f32[100], bf16[16,8]) {
  %w.1 = bf16[4,8] parameter(0)
  %whole = bf16[16,8] parameter(1)
  %x = f32[100] parameter(2)
  %gather.2 = bf16[16,8] all-gather(%w.1), channel_id=3, replica_groups={{0,1,2,3}}, dimensions={0}
  %y = f32[100] negate(%x)
  ROOT %both = (f32[100], bf16[16,8]) tuple(%y, %gather.2)
}

ENTRY %main (shard: bf16[4,8], v: f32[100]) -> f32[100] {
  %shard = bf16[4,8] parameter(0)
  %v = f32[100] parameter(1)
  %s = (bf16[4,8], bf16[16,8]) fusion(%shard), kind=kCustom, calls=%start
  %room = bf16[16,8] get-tuple-element(%s), index=1
  %b = (f32[100], bf16[16,8]) fusion(%shard, %room, %v), kind=kOutput, calls=%beside
  ROOT %out = f32[100] get-tuple-element(%b), index=0
}
"""


def test_a_collective_beside_several_fusions_counts_once():
    work = measure(ASYNC, LINE, None)
    (gather,) = work.collectives
    assert (gather.times, gather.bytes, gather.group) == (1, 16 * 8 * 2, (0, 1, 2, 3))
    assert work.traffic == 4 * 8 * 2 + 16 * 8 * 2 + 2 * 100 * 4


CALLED = """\
HloModule m

%apart (w: bf16[4,8], t: token[]) -> bf16[16,8] {
  %w = bf16[4,8] parameter(0)
  %t = token[] parameter(1)
  ROOT %gather = bf16[16,8] all-gather(%w), channel_id=3, replica_groups={{0,1,2,3}}, dimensions={0}
}, execution_thread="sparsecore"

ENTRY %main (shard: bf16[4,8]) -> bf16[16,8] {
  %shard = bf16[4,8] parameter(0)
  %s = ((bf16[4,8]), bf16[16,8], u32[]{:S(8)}) call-start(%shard), async_execution_thread="sparsecore", to_apply=%apart
  ROOT %d = bf16[16,8] call-done(%s)
}
"""


def test_what_another_core_does_counts_too():
    """On TPU7x collectives run on SparseCores."""
    work = measure(CALLED, LINE, None)
    (gather,) = work.collectives
    assert (gather.kind, gather.times, gather.bytes) == ("all-gather", 1, 16 * 8 * 2)
    assert work.traffic == 4 * 8 * 2 + 16 * 8 * 2


GROUPS = {
    "replica_groups={{0,1},{2,3}}, x": [(0, 1), (2, 3)],
    "replica_groups=[2,2]<=[4], x": [(0, 1), (2, 3)],
    "replica_groups=[2,2]<=[2,2]T(1,0), x": [(0, 2), (1, 3)],
    "replica_groups=mesh['a'=2,'b'=2] {'b'}, x": [(0, 1), (2, 3)],
    "replica_groups=mesh['a'=2,'b'=2] {'a'}, x": [(0, 2), (1, 3)],
    "replica_groups=mesh['a'=2,'b'=2] {'a','b'}, x": [(0, 1, 2, 3)],
    "replica_groups=mesh['a'=4] {'a':(2)2}, x": [(0, 1), (2, 3)],
    "source_target_pairs={{0,1},{1,2}}, x": [(0, 1), (1, 2)],
    "no groups": [(0, 1, 2, 3)],
}


@pytest.mark.parametrize("text", GROUPS)
def test_groups(text):
    assert groups_of(text, 4) == GROUPS[text]


def product(left: str, right: str, out: str, rest: str) -> str:
    return f"""\
HloModule m

ENTRY %main (a: f32[{left}], b: f32[{right}]) -> f32[{out}] {{
  %a = f32[{left}] parameter(0)
  %b = f32[{right}] parameter(1)
  ROOT %c = f32[{out}] {rest}
}}
"""


PRODUCTS = {
    "dot": (product("5,7", "7,3", "5,3", "dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}"), 5 * 7 * 3),
    "plain": (product("5,7", "7,3", "5,3", "convolution(%a, %b), dim_labels=bf_io->bf"), 5 * 7 * 3),
    # As a TPU writes a product with a batch of 4: of the taps of the window only the diagonal meets data.
    "batched": (
        product(
            "4,5,7", "4,7,3", "4,5,3",
            "convolution(%a, %b), window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0io->0bf",
        ),
        4 * 5 * 7 * 3,
    ),
    "padded": (
        product("1,6,2", "3,2,8", "1,6,8", "convolution(%a, %b), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f"),
        (6 * 3 - 2) * 2 * 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name):
    text, multiply_adds = PRODUCTS[name]
    assert measure(text, LINE, None).flops == 2 * multiply_adds


def test_text_without_a_program_is_refused():
    with pytest.raises(HloError, match="no ENTRY"):
        Module("not a program")


def test_shapes():
    first, second = shapes_of("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[])")
    assert (first.bytes, first.space, second.bytes, second.space) == (12, 1, 1, 0)


# --- slices -----------------------------------------------------------------------------------------------------------


def test_rings():
    flat = Slice.parse("v5e:16x16")
    everyone = list(itertools.product(range(16), range(16)))
    row = [(0, y) for y in range(16)]
    link = flat.chip.link
    assert flat.seconds(1e9, row) == pytest.approx(1e9 / (2 * link))  # a ring, both ways
    assert flat.seconds(1e9, everyone) == pytest.approx(1e9 / (4 * link))  # rings along both axes
    assert flat.seconds(1e9, row[:8]) == pytest.approx(1e9 / link)  # half a ring is a line
    assert flat.seconds(1e9, row[:1]) == 0.0


def test_devices_of_one_chip_share_its_links():
    cube = Slice.parse("tpu7x:2x2x2")
    assert (cube.chips, cube.devices) == (8, 16)
    assert cube.seconds(1e9, [(0, 0, 0), (0, 0, 0)]) == 0.0
    pair = [(0, 0, 0), (1, 0, 0)]
    assert cube.seconds(1e9, pair, rings=2) == 2 * cube.seconds(1e9, pair)


@pytest.mark.parametrize("name", ["v5e", "v5e:16", "v5e:4x4x4", "v9:2x2", "v5p:4x4", "v5e:0x4", "v5e: 4x4", ""])
def test_unknown_slices_are_answered_with_the_known_ones(name):
    with pytest.raises(TopologyError, match=r"v5e:\{1x1.*v5p:\{2x2x1.*tpu7x"):
        Slice.parse(name)


# --- kernels ----------------------------------------------------------------------------------------------------------

# As libtpu writes it: what is known of a kernel stands on a line of its own.
KERNEL = """\
HloModule m

ENTRY %main (q: bf16[4,1024,128], s: s32[1024,128]) -> bf16[4,1024,128] {
  %q = bf16[4,1024,128]{2,1,0} parameter(0)
  %s = s32[1024,128]{1,0} parameter(1)
  %mask = s8[1,4,4]{2,1,0} constant({...})
  %splash_mha_fwd_segmented.1 = (f32[256,128]{1,0}, bf16[4,1024,128]{2,1,0}) custom-call(%mask, %q, %q, %q, %s), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 256, \\"block_kv\\": 256, \\"block_q_dkv\\": 512, \\"block_q_dq\\": 1024}"
}}, metadata={op_name="jit(f)/pallas_call"}, backend_config={"custom_call_config":{"body":"TUzvUg=="}}
  %out = bf16[4,1024,128]{2,1,0} get-tuple-element(%splash_mha_fwd_segmented.1), index=1, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 256}"
}}
  ROOT %again = bf16[4,1024,128]{2,1,0} negate(%out)
}
"""  # noqa: E501
PRODUCT = 2 * 4 * 1024 * 1024 * 128  # all queries with all keys


@pytest.mark.parametrize(
    ("name", "products", "share"),
    [("splash_mha_fwd", 2, 10 / 16), ("splash_mha_dkv", 4, 3 / 4), ("splash_mha_dq", 3, 1)],
)
def test_products_in_attention_kernels_count_up_to_the_diagonal(name, products, share):
    work = measure(KERNEL.replace("splash_mha_fwd", name), LINE, None)
    assert work.flops == products * share * PRODUCT
    assert work.unknown_kernels == ()


def test_what_follows_a_kernel_is_read_too():
    assert times(KERNEL, "negate") == [1]
    large = 4 * 1024 * 128 * 2
    assert measure(KERNEL, LINE, None).traffic == (3 + 1 + 2) * large + 1024 * 128 * 4 + 256 * 128 * 4 + 16


def test_an_unknown_kernel_is_named():
    work = measure(KERNEL.replace("splash_mha_fwd", "another"), LINE, None)
    assert work.unknown_kernels == ("another_segmented.1",)
    assert work.flops == 0
