"""The count of memory traffic against counts by hand, and against XLA's own analysis of programs for this CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbunet_jax.accelerators.hlo import Program

FLOATS = 1024


def entry(*lines):
    return (
        "HloModule m\n\nENTRY %main (a: f32[1024]) -> f32[1024] {\n"
        + "\n".join(f"  {line}" for line in lines)
        + "\n}\n"
    )


def moved(*lines, **others):
    return Program(entry(*lines), **others).whole().bytes_moved


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile(compiler_options={"xla_backend_optimization_level": 1})


def xla_bytes(program):
    analysis = program.cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["bytes accessed"]


def test_operands_and_results_count_once_and_names_cost_nothing():
    assert moved(
        "%a = f32[1024]{0} parameter(0)",
        "%b = f32[2,512]{1,0} bitcast(%a)",
        "%c = f32[2,512]{1,0} add(%b, %b)",
        "%t = (f32[2,512]{1,0}) tuple(%c)",
        "ROOT %d = f32[2,512]{1,0} get-tuple-element(%t), index=0",
    ) == 4 * FLOATS * (2 + 1)


@pytest.mark.parametrize(
    ("shape", "bytes_"),
    [
        # the batch of 16 fills one eighth of the 128 lanes
        ("bf16[16,256,256,8]{0,3,2,1:T(8,128)(2,1)}", 2 * 256 * 256 * 8 * 128),
        ("bf16[128,256,256,8]{0,3,2,1:T(8,128)(2,1)}", 2 * 256 * 256 * 8 * 128),
        ("f32[3,3,4,32]{3,2,1,0:T(4,128)}", 4 * 3 * 3 * 4 * 128),
        ("f32[5]{0:T(128)}", 4 * 128),
        ("u8[12582912,1]{0,1:T(4,128)(4,1)}", 4 * 12582912),
        ("f32[]{:T(128)}", 4),
        ("pred[3,5]{1,0}", 15),
        ("f8e4m3fn[64]{0}", 64),
        ("s4[64]{0}", 32),
    ],
)
def test_the_padding_of_a_layout_is_moved_too(shape, bytes_):
    assert moved(f"%a = {shape} parameter(0)", f"ROOT %b = {shape} negate(%a)") == 2 * bytes_


def test_memory_on_the_chip_costs_nothing():
    line = "%b = f32[1024]{0:T(1024)S(1)} negate(%a)"
    lines = ("%a = f32[1024]{0:T(1024)} parameter(0)", line, "ROOT %c = f32[1024]{0:T(1024)} negate(%b)")
    assert moved(*lines) == 4 * FLOATS * 2
    assert moved(*lines, main_memories=frozenset({0, 1})) == 4 * FLOATS * 4


def test_a_prefetch_counts_what_it_reads():
    pair = "(f32[1024]{0:T(1024)}, f32[1024]{0:T(1024)S(1)}, u32[]{:S(2)})"
    assert (
        moved(
            "%a = f32[1024]{0:T(1024)} parameter(0)",
            f"%b = {pair} copy-start(%a)",
            "ROOT %c = f32[1024]{0:T(1024)S(1)} copy-done(%b)",
        )
        == 4 * FLOATS
    )
    part = "((f32[1024]{0:T(128)}), f32[128]{0:T(128)S(1)}, s32[]{:S(2)})"
    assert (
        moved(
            "%a = f32[1024]{0:T(128)} parameter(0)",
            f"%b = {part} slice-start(%a), slice={{[0:128]}}",
            "ROOT %c = f32[128]{0:T(128)S(1)} slice-done(%b)",
        )
        == 4 * 128
    )


FUSED = """HloModule m

%reads (p0: f32[1024], p1: s32[]) -> f32[16] {
  %p0 = f32[1024]{0} parameter(0)
  %p1 = s32[] parameter(1)
  %b = f32[1024]{0} bitcast(%p0)
  %s = f32[16]{0} dynamic-slice(%b, %p1), dynamic_slice_sizes={16}
  ROOT %n = f32[16]{0} negate(%s)
}

%writes (q0: f32[1024], q1: f32[16], q2: s32[]) -> f32[1024] {
  %q0 = f32[1024]{0} parameter(0)
  %q1 = f32[16]{0} parameter(1)
  %q2 = s32[] parameter(2)
  ROOT %u = f32[1024]{0} dynamic-update-slice(%q0, %q1, %q2)
}

ENTRY %main (a: f32[1024], i: s32[]) -> f32[1024] {
  %a = f32[1024]{0} parameter(0)
  %i = s32[] parameter(1)
  %r = f32[16]{0} fusion(%a, %i), kind=kLoop, calls=%reads
  ROOT %w = f32[1024]{0} fusion(%a, %r, %i), kind=kLoop, calls=%writes
}
"""


def test_a_fusion_that_reads_or_updates_a_part_moves_that_part():
    traffic = Program(FUSED).whole()
    index, part = 4, 4 * 16
    assert traffic.bytes_moved == (part + index + part) + (part + index + part)
    assert traffic.kernels == 2


LOOP = """HloModule m

%body (s: (s32[], f32[1024])) -> (s32[], f32[1024]) {
  %s = (s32[], f32[1024]{0}) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %x = f32[1024]{0} get-tuple-element(%s), index=1
  %r = f32[1024]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%sum
  %y = f32[1024]{0} negate(%r)
  ROOT %t = (s32[], f32[1024]{0}) tuple(%n, %y)
}

%cond (s: (s32[], f32[1024])) -> pred[] {
  %s = (s32[], f32[1024]{0}) parameter(0)
  ROOT %p = pred[] constant(true)
}

ENTRY %main (a: f32[1024]) -> (s32[], f32[1024]) {
  %a = f32[1024]{0} parameter(0)
  %z = s32[] constant(0)
  %c = f32[1024]{0} copy(%a)
  %t = (s32[], f32[1024]{0}) tuple(%z, %c)
  ROOT %w = (s32[], /*index=1*/f32[1024]{0}) while(%t), condition=%cond, body=%body
}
"""


def test_a_step_is_the_body_of_the_loop():
    step = Program(LOOP).step()
    assert (step.bytes_moved, step.kernels, step.all_reduced_bytes) == (4 * 4 * FLOATS, 2, 4 * FLOATS)
    assert Program(LOOP).whole().bytes_moved == 6 * 4 * FLOATS


def test_scratch_space_of_a_library_is_not_traffic_and_a_result_of_bytes_is():
    assert (
        moved(
            "%a = f32[1024]{0} parameter(0)",
            'ROOT %c = (f32[1024]{0}, u8[4096]{0}) custom-call(%a), custom_call_target="x"',
        )
        == 2 * 4 * FLOATS
    )
    assert moved("%a = f32[1024]{0} parameter(0)", "ROOT %c = u8[4096]{0} bitcast-convert(%a)") == 2 * 4 * FLOATS


def test_a_text_of_another_format_is_refused():
    with pytest.raises(ValueError, match="no entry computation"):
        Program("module @jit_f { func.func public @main() }")


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x: jnp.tanh(x) + 1, [(512, 256)]),
        (lambda x, y: x @ y, [(512, 256), (256, 128)]),
        (lambda x: x.sum(axis=1), [(512, 256)]),
        (lambda x, y: jnp.concatenate([x, y], axis=1), [(512, 256), (512, 64)]),
    ],
)
def test_the_count_of_small_programs_agrees_with_xlas_analysis(function, shapes):
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    program = compiled(function, *arrays)
    # XLA counts intermediate results inside a fusion in some cases, and constants
    assert Program(program.as_text()).whole().bytes_moved == pytest.approx(xla_bytes(program), rel=0.02)
