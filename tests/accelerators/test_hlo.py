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
    pair = "(f32[1024]{0:T(1024)S(1)}, f32[1024]{0:T(1024)}, u32[]{:S(2)})"
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


def fused(*, operands, results, lines):
    """Return the traffic of one fusion of arrays `(name, shape)`."""
    given = [f"%{name} = {shape} parameter({number})" for number, (name, shape) in enumerate(operands)]
    names = ", ".join(f"%{name}" for name, _ in operands)
    entries = [*given, f"ROOT %f = {results} fusion({names}), kind=kLoop, calls=%inner"]
    blocks = [
        "%inner (p: f32[]) -> f32[] {",
        *given,
        *lines,
        "}",
        "",
        "ENTRY %main (p: f32[]) -> f32[] {",
        *entries,
        "}",
    ]
    text = "\n".join(line if line.endswith("{") or line in ("}", "") else f"  {line}" for line in blocks)
    return Program(f"HloModule m\n\n{text}\n").whole()


LONG, SHORT, CHIP = "f32[1024]{0}", "f32[16]{0}", "f32[1024]{0:T(1024)S(1)}"


def test_an_operand_of_which_a_part_and_the_whole_are_read_counts_once():
    lines = [
        "%s = f32[16]{0} slice(%a), slice={[0:16]}",
        f"%n = {LONG} negate(%a)",
        f"ROOT %t = ({SHORT}, {LONG}) tuple(%s, %n)",
    ]
    traffic = fused(operands=[("a", LONG)], results=f"({SHORT}, {LONG})", lines=lines)
    assert traffic.bytes_moved == 4 * (1024 + 16 + 1024)


def test_an_update_of_an_array_that_the_fusion_makes_writes_all_of_it():
    lines = [
        "%z = f32[] constant(0)",
        f"%b = {LONG} broadcast(%z), dimensions={{}}",
        f"ROOT %u = {LONG} dynamic-update-slice(%b, %a, %i)",
    ]
    traffic = fused(operands=[("a", SHORT), ("i", "s32[]")], results=LONG, lines=lines)
    assert traffic.bytes_moved == 4 * (16 + 1 + 1024)


def test_an_array_that_is_updated_and_also_read_is_read():
    lines = [
        f"%n = {LONG} negate(%a)",
        f"%u = {LONG} dynamic-update-slice(%a, %b, %i)",
        f"ROOT %t = ({LONG}, {LONG}) tuple(%u, %n)",
    ]
    operands = [("a", LONG), ("b", SHORT), ("i", "s32[]")]
    traffic = fused(operands=operands, results=f"({LONG}, {LONG})", lines=lines)
    assert traffic.bytes_moved == 4 * ((1024 + 16 + 1) + (16 + 1024))


def test_a_result_on_the_chip_does_not_reduce_what_others_write():
    lines = [
        f"%u = {CHIP} dynamic-update-slice(%a, %b, %i)",
        f"%n = {LONG} negate(%a)",
        f"ROOT %t = ({CHIP}, {LONG}) tuple(%u, %n)",
    ]
    operands = [("a", CHIP), ("b", SHORT), ("i", "s32[]")]
    traffic = fused(operands=operands, results=f"({CHIP}, {LONG})", lines=lines)
    assert traffic.bytes_moved == 4 * ((16 + 1) + 1024)


NESTED = """HloModule m

%innermost (r0: f32[1024]) -> f32[16] {
  %r0 = f32[1024]{0} parameter(0)
  ROOT %s = f32[16]{0} slice(%r0), slice={[0:16]}
}

%same (s0: f32[1024]) -> f32[1024] {
  ROOT %s0 = f32[1024]{0} parameter(0)
}

%inner (q0: f32[1024], q1: f32[1024]) -> f32[1024] {
  %q0 = f32[1024]{0} parameter(0)
  %q1 = f32[1024]{0} parameter(1)
  %x = f32[16]{0} fusion(%q0), kind=kLoop, calls=%innermost
  %y = f32[1024]{0} fusion(%q1), kind=kLoop, calls=%same
  ROOT %z = f32[1024]{0} custom-call(%x, %y), custom_call_target="x"
}

ENTRY %main (a: f32[1024], b: f32[1024]) -> f32[1024] {
  %a = f32[1024]{0} parameter(0)
  %b = f32[1024]{0} parameter(1)
  ROOT %f = f32[1024]{0} fusion(%a, %b), kind=kOutput, calls=%inner
}
"""


def test_what_an_inner_fusion_reads_of_an_operand_counts():
    assert Program(NESTED).whole().bytes_moved == 4 * (16 + 1024 + 1024)


def test_slices_and_updates_between_main_memory_and_the_chip_count_one_side():
    place = "%i = s32[] parameter(1)"
    size = "dynamic_slice_sizes={16}"
    chip = "f32[16]{0:T(16)S(1)}"
    assert moved(f"%a = {LONG} parameter(0)", place, f"ROOT %s = {chip} dynamic-slice(%a, %i), {size}") == 4 * (16 + 1)
    assert moved(f"%a = {CHIP} parameter(0)", place, f"ROOT %s = {SHORT} dynamic-slice(%a, %i), {size}") == 4 * (1 + 16)
    update = f"ROOT %u = {LONG} dynamic-update-slice(%a, %b, %i)"
    assert moved(f"%a = {LONG} parameter(0)", place, f"%b = {chip} parameter(2)", update) == 4 * (1 + 16)


def test_a_scattered_and_gathered_sum_is_one_all_reduce():
    lines = (
        f"%a = {LONG} parameter(0)",
        "%s = f32[256]{0} reduce-scatter(%a), dimensions={0}, to_apply=%sum",
        f"ROOT %g = {LONG} all-gather(%s), dimensions={{0}}",
    )
    assert Program(entry(*lines)).whole().all_reduced_bytes == 4 * 1024
    traffic = fused(operands=[("a", LONG)], results=LONG, lines=[f"ROOT %r = {LONG} all-reduce(%a), to_apply=%sum"])
    assert traffic.all_reduced_bytes == 4 * 1024


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
