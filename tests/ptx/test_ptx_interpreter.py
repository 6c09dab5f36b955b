"""The interpreter of PTX itself: what it must report, each planted in a few instructions, and the same without it."""

from __future__ import annotations

import pytest
import torch
from ptx_interpreter import GlobalMemory, Kind, Machine, Module, Refused, block_run

THREADS = 64
# Each thread's input is at [%rd1], its output at [%rd2]; %r1 is its number, [%r2] its word of shared memory, [%r3] that
# of the lane beside it and [%r4] that of the same lane of the other warp.
KERNEL = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry kernel(.param .u64 .ptr .global .align 4 kernel_param_0, .param .u64 kernel_param_1)
.maxntid 64, 1, 1
{
    .reg .pred %p<9>;
    .reg .b32 %r<20>;
    .reg .b64 %rd<9>;
    .shared .align 16 .b8 words[256];
    ld.param.u64 %rd3, [kernel_param_0];
    ld.param.u64 %rd4, [kernel_param_1];
    mov.u32 %r1, %tid.x; // a comment; with a semicolon
    mov.u32 %r10, %ctaid.x;
    mul.wide.u32 %rd5, %r1, 4;
    add.s64 %rd1, %rd3, %rd5;
    mad.wide.u32 %rd2, %r1, 4, %rd4;
    shl.b32 %r11, %r1, 2;
    mov.u32 %r12, words;
    add.s32 %r2, %r12, %r11;
    xor.b32 %r13, %r11, 4;
    add.s32 %r3, %r12, %r13;
    xor.b32 %r14, %r11, 128;
    add.s32 %r4, %r12, %r14;
    ld.global.nc.u32 %r5, [%rd1];
    setp.lt.u32 %p1, %r1, 32;
    setp.lt.u32 %p2, %r1, 16;
    BODY
    ret;
}
"""
STORE, COPY = "st.shared.u32 [%r2], %r5;", "cp.async.ca.shared.global [%r2], [%rd1], 4, 4; cp.async.commit_group;"
OUT, FROM_LANE, FROM_WARP = "st.global.u32 [%rd2], %r6;", "ld.shared.u32 %r6, [%r3];", "ld.shared.u32 %r6, [%r4];"
BARRIER, WARP_BARRIER, WAIT = "bar.sync 0;", "bar.warp.sync -1;", "cp.async.wait_group 0;"
SHUFFLE = "shfl.sync.bfly.b32 %r6|%p3, %r5, 1, 31, -1;"


def run(body: str, seed: int | None = None, blocks: int = 1, **options: bool):
    """Return the findings and the outputs of 64 threads with inputs 100 to 163."""
    memory = GlobalMemory()
    addresses = [memory.place("in", torch.arange(100, 100 + THREADS, dtype=torch.int32))]
    addresses.append(memory.allocate("out", (THREADS,), torch.int32))
    kernel = Module(KERNEL.replace("BODY", body)).kernel("kernel")
    parameters = b"".join(address.to_bytes(8, "little") for address in addresses)
    findings = Machine(kernel, THREADS, **options).run(memory, parameters, (blocks,), seed=seed)
    return findings, memory.tensor("out")


RIGHT = {
    "between warps": (STORE + BARRIER + FROM_WARP + OUT, 32),
    "within a warp": (STORE + WARP_BARRIER + FROM_LANE + OUT, 1),
    "a copy": (COPY + WAIT + BARRIER + FROM_WARP + OUT, 32),
    "a shuffle": (SHUFFLE + OUT, 1),
    "read, then written": (STORE + BARRIER + FROM_WARP + BARRIER + "st.shared.u32 [%r2], 7;" + OUT, 32),
    "lanes that come one after the other": ("@%p2 bra A; add.s32 %r5, %r5, 0; A: " + SHUFFLE + OUT, 1),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_right_programs_are_right(name, seed):
    body, distance = RIGHT[name]
    findings, out = run(body, seed)
    assert findings == []
    assert out.tolist() == [100 + (thread ^ distance) for thread in range(THREADS)]


WRONG = {
    "no barrier between warps": (Kind.RACE, STORE + FROM_WARP + OUT),
    "a barrier of warps between warps": (Kind.RACE, STORE + WARP_BARRIER + FROM_WARP + OUT),
    "no barrier within a warp": (Kind.RACE, STORE + FROM_LANE + OUT),
    "a shuffle is no barrier": (Kind.RACE, STORE + SHUFFLE + FROM_LANE + OUT),
    "written while read": (Kind.RACE, STORE + BARRIER + FROM_WARP + "st.shared.u32 [%r2], 7;" + OUT),
    "written while read in the warp": (Kind.RACE, STORE + BARRIER + FROM_LANE + "st.shared.u32 [%r2], 7;" + OUT),
    "written twice": (Kind.RACE, STORE + "st.shared.u32 [%r4], %r1;"),
    "written twice at once": (Kind.RACE, "st.shared.u32 [words], %r1;"),
    "one byte of a word": (Kind.RACE, STORE + "@%p1 ld.shared.u8 %r6, [%r4+3];"),
    "nobody wrote it": (Kind.UNINITIALISED, FROM_LANE),
    "one byte that nobody wrote": (Kind.UNINITIALISED, "st.shared.u8 [%r2], %r5; ld.shared.u16 %r6, [%r2];"),
    "an output that nobody wrote": (Kind.UNINITIALISED, "ld.global.u32 %r6, [%rd2];"),
    "read as if nobody wrote it": (Kind.NOT_READ_ONLY, OUT + "ld.global.nc.u32 %r6, [%rd2];"),
    "behind the input": (Kind.OUT_OF_BOUNDS, "ld.global.u32 %r6, [%rd1+4];"),
    "before the output": (Kind.OUT_OF_BOUNDS, "st.global.u32 [%rd2+-4], %r5;"),
    "behind shared memory": (Kind.OUT_OF_BOUNDS, "st.shared.u32 [%r2+4], %r5;"),
    "off its size": (Kind.MISALIGNED, "@%p1 ld.global.u32 %r6, [%rd1+2];"),
    "a pair off its size": (Kind.MISALIGNED, "@%p1 st.shared.v2.u32 [%r2], {%r5, %r5};"),
    "into the input": (Kind.WRITE_TO_INPUT, "st.global.u32 [%rd1], %r5;"),
    "no wait": (Kind.COPY_IN_FLIGHT, COPY + BARRIER + FROM_WARP + WAIT),
    "a wait for all but one": (Kind.COPY_IN_FLIGHT, COPY + "cp.async.wait_group 1;" + BARRIER + FROM_WARP + WAIT),
    "written while it is copied to": (Kind.COPY_IN_FLIGHT, COPY + STORE + WAIT),
    "a wait and no barrier": (Kind.RACE, COPY + WAIT + FROM_WARP),
    "a copy while others read": (Kind.RACE, STORE + BARRIER + FROM_WARP + COPY + WAIT),
    "no wait at all": (Kind.COPY_NOT_AWAITED, COPY),
    "two barriers": (Kind.DIVERGENT_BARRIER, "@%p1 bra A; bar.sync 0; bra B; A: bar.sync 0; B:"),
    "half of the warps are gone": (Kind.EXITED_LANES, "@%p1 ret; bar.sync 0;"),
    "half of the lanes are gone": (Kind.EXITED_LANES, "@%p2 ret;" + SHUFFLE),
    "half of the lanes shuffle": (Kind.DEADLOCK, "@%p2 bra A;" + SHUFFLE + "A: bar.sync 0;"),
    "a trap": (Kind.TRAP, "@%p2 bra A; trap; A:"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_what_is_wrong_is_reported(name, seed):
    kind, body = WRONG[name]
    findings, _ = run(body, seed)
    assert kind in [finding.kind for finding in findings]


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize(
    "body",
    [
        "st.global.u32 [%rd2], %r10;",
        "setp.eq.u32 %p4, %r10, 0; @%p4 st.global.u32 [%rd2], %r5; @!%p4 ld.global.u32 %r6, [%rd2];",
    ],
)
def test_blocks_that_meet_are_reported(body, seed):
    """No barrier orders blocks."""
    assert {finding.kind for finding in run(body, seed, blocks=2)[0]} == {Kind.RACE}


def test_readers_of_earlier_blocks_are_remembered():
    """Every block reads the input; the last writes into it."""
    findings, _ = run("setp.eq.u32 %p4, %r10, 2; @%p4 st.global.u32 [%rd1], %r5;", blocks=3)
    assert {finding.kind for finding in findings} == {Kind.WRITE_TO_INPUT, Kind.RACE}


@pytest.mark.parametrize(("other", "is_race"), [("0f3F800001", False), ("0f3F800100", True)])
@pytest.mark.parametrize(
    "order",
    [
        "mov.b32 %r6, 0f3F800000; @%p2 mov.b32 %r6, {}; st.shared.u32 [words], %r6;",
        "st.shared.u32 [words], 1065353216; @%p1 st.shared.u32 [words], {};",
    ],
)
def test_copies_that_may_round(other, is_race, order):
    """1 and the next float, or one further away, written to one place."""
    assert [finding.kind for finding in run(order.format(other))[0]] != []
    assert bool(run(order.format(other), copies_may_round=True)[0]) == is_race


def test_what_does_not_end_is_reported(monkeypatch):
    monkeypatch.setattr(block_run, "MOST_STEPS", 1000)
    assert [finding.kind for finding in run("A: add.s32 %r5, %r5, 1; bra A;")[0]] == [Kind.ENDLESS]


@pytest.mark.parametrize(
    "body",
    [
        "sin.approx.f32 %r6, %r5;",
        "ld.global.v2.u32 %r6, [%rd1];",
        "add.s32 %r6, %r5;",
        "shfl.sync.bfly.b32 %r6|%p3, %r5, 1, 31, 65535;",
        "shfl.sync.bfly.b32 %r6|%p3, %r5, 1, 7199, -1;",
        "add.s64 %rd3, %r5, 1;",
        "mov.u32 %r6, nothing;",
        "bar.sync 0, 32;",
        "bar.sync 1;",
        "@%p1 bar.sync 0;",
    ],
)
def test_what_it_does_not_know_it_refuses(body):
    with pytest.raises(Refused):
        run(body)


@pytest.mark.parametrize(
    ("opcode", "operands", "expected"),
    [
        ("div.s32", (-7, 2), -3),
        ("rem.s32", (-7, 2), -1),
        ("shr.s32", (-8, 40), -1),
        ("shr.u32", (-8, 40), 0),
        ("shl.b32", (3, 31), -(1 << 31)),
        ("shl.b32", (3, 32), 0),
        ("mul.hi.s32", (-1, 5), -1),
        ("mul.hi.u32", (-1, 5), 4),
        ("bfe.u32", (0xABCD, 4, 8), 0xBC),
        ("bfe.s32", (0xABCD, 4, 8), -68),
        ("bfi.b32", (0x5, 0xABCD, 8, 4), 0xA5CD),
        ("prmt.b32", (0x33221100, 0x77665544, 0x7531), 0x77553311),
        ("prmt.b32", (0x00000080, 0, 0x9911), 0),
        ("prmt.b32", (0x00008000, 0, 0x9911), -(1 << 16) | 0x8080),
        ("add.f32", ("0f3F800000", "0f40000000"), 0x40400000),
        ("copysign.f32", ("0fBF800000", "0f40000000"), -0x40000000),
        ("min.f32", ("0f7FC00000", "0f40000000"), 0x40000000),
        ("fma.rm.f32", ("0f3F800001", "0f3F800001", "0f00000000"), 0x3F800002),
        ("fma.rn.ftz.f32", ("0f00000001", "0f3F800000", "0f00000001"), 0),
        ("cvt.rn.bf16x2.f32", ("0f3F800000", "0f3F808000"), 0x3F803F80),
        ("cvt.rn.bf16x2.f32", ("0f3F818000", "0f7F800001"), 0x3F827FFF),
        ("cvt.sat.f32.f32", ("0f40000000",), 0x3F800000),
        ("cvt.sat.f32.f32", ("0f7FC00000",), 0),
        ("cvt.s32.s8", (0x1FF,), -1),
    ],
)
def test_instructions_compute_what_the_manual_says(opcode, operands, expected):
    moves = "".join(f"mov.b32 %r{15 + i}, {operand};" for i, operand in enumerate(operands))
    registers = ", ".join(f"%r{15 + i}" for i in range(len(operands)))
    findings, out = run(f"{moves} {opcode} %r6, {registers}; {OUT}")
    assert findings == [] and out.tolist() == [expected] * THREADS


@pytest.mark.parametrize("unordered", [False, True])
@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons_with_a_nan(name, unordered):
    body = f"setp.{name}{'u' if unordered else ''}.f32 %p4, 0f7FC00000, 0f3F800000; selp.u32 %r6, 1, 0, %p4; {OUT}"
    assert run(body)[1].tolist() == [int(unordered)] * THREADS
