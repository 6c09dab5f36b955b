"""Launches of Triton kernels that are done again by a native call: bit for bit what Triton's own launch gives the
driver, and by Triton itself wherever Triton would have launched something else.

The module with the stand-ins takes the place of the installed one, so that part is in a process of its own.
"""

from __future__ import annotations

import copy
import os
import struct
import threading
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

pytest.importorskip("triton.language", reason="triton is not installed")

from triton import knobs
from triton.runtime import driver

import cmake_builds
import launches
from fastbert_kernels.layer_norm import LayerNorm
from fastbert_kernels.triton import elementwise, fp8_rows
from fastbert_kernels.triton.kept import KeptKernel, plain_launch
from helpers.programs import assert_passes_in_its_own_process
from helpers.triton_interpreter import INTERPRETING
from launches import triton_driver

HERE = "FASTBERT_TEST_KEPT_LAUNCHES"
STAND_INS = launches.Launches() if os.environ.get(HERE) else None

pytestmark = [
    pytest.mark.skipif(INTERPRETING, reason="the interpreter has no variants"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu launches for real"),
]
with_stand_ins = pytest.mark.skipif(STAND_INS is None, reason="needs the stand-ins")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
STREAM = 0x77


@pytest.mark.proof
@pytest.mark.skipif(STAND_INS is not None or cmake_builds.missing() is not None, reason=str(cmake_builds.missing()))
def test_everything_with_stand_ins_in_a_process_of_its_own():
    assert_passes_in_its_own_process(__file__, HERE)


class TritonsLauncher:
    """In place of the one in C: remembers what the driver would be given, as `launches.DriverLaunch` has it."""

    given: ClassVar[list[dict[str, object]]] = []

    def __init__(self, source, metadata):
        self._types, self._metadata = list(source.signature.values()), metadata

    def __call__(self, *arguments):
        blocks, rows, columns, stream, function, _metadata, _lazy, _enter, _exit = arguments[:9]
        assert (rows, columns) == (1, 1)
        # As driver.c of Triton 3.9 and the launcher that 3.6 generates do it.
        bits = [parameter_bits(*pair) for pair in zip(self._types, arguments[9:], strict=True)]
        parameters = [*(found for found in bits if found is not None), 0, 0]
        threads, shared = 32 * self._metadata.num_warps, self._metadata.shared
        self.given.append(as_dict(function, blocks, threads, shared, stream, len(parameters), parameters))


def parameter_bits(kind, value):
    if kind == "constexpr":
        return None
    if kind.startswith("*"):
        return value.data_ptr()
    return struct.unpack("<I", struct.pack({"i32": "<i", "fp32": "<f"}[kind], value))[0]


def as_dict(*values):
    names = [name for name, _ in launches.DriverLaunch._fields_]
    return dict(zip(names, values, strict=True))


def of_driver():
    last = STAND_INS.last_of_driver
    own = [getattr(last, name) for name, _ in launches.DriverLaunch._fields_[:-1]]
    return as_dict(*own, list(last.parameters[: last.count]))


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Fresh kernels, and launchers that remember."""
    stand_in = triton_driver.StandIn()
    stand_in.launcher_cls = TritonsLauncher
    stand_in.get_current_stream = lambda device: STREAM
    monkeypatch.setattr(driver, "_active", stand_in)
    monkeypatch.setattr(TritonsLauncher, "given", [])
    kept = [(module, name) for module in (elementwise, fp8_rows) for name in ("_add_layer_norm", "_bias_activation")]
    kernels = {place: getattr(*place)._kernel for place in [*kept, (fp8_rows, "_round")]}

    def forget():  # what was loaded has another launcher
        for place, kernel in kernels.items():
            kernel.device_caches.clear()
            monkeypatch.setattr(*place, KeptKernel(kernel))

    forget()
    if STAND_INS is not None:
        STAND_INS.set_current(stream=STREAM)
    yield
    for place in kernels:
        for compiled in getattr(*place)._asked.values():
            compiled.module = None  # of no driver that would unload it
    forget()


def who_launched(call):
    """Return "the driver", "Triton" or None, with what it was given."""
    natively, by_triton = STAND_INS.count, len(TritonsLauncher.given)
    call()
    natively, by_triton = STAND_INS.count - natively, len(TritonsLauncher.given) - by_triton
    assert natively + by_triton <= 1
    if natively:
        return "the driver", of_driver()
    return ("Triton", TritonsLauncher.given[-1]) if by_triton else (None, None)


def by_triton(monkeypatch, call):
    with monkeypatch.context() as patched:
        patched.setattr(KeptKernel, "launch_again", lambda *arguments: False)
        who, given = who_launched(call)
    assert who == "Triton"
    return given


def norm_call(rows, columns, dtype, vectors=None, epsilon=1e-12, kind="standard"):
    values, residual = torch.randn(2, rows, columns).to(dtype)
    bias, weight, norm_bias = (torch.randn(columns).to(vectors or dtype) for _ in range(3))
    return lambda: elementwise.add_layer_norm_(values, bias, residual, LayerNorm(weight, norm_bias, epsilon, kind))


def normalise(tensors, epsilon):
    return elementwise.add_layer_norm_(*tensors[:3], LayerNorm(*tensors[3:], epsilon))


def activation_call(rows, columns, dtype, vectors=None, activation="gelu"):
    values, bias = torch.randn(rows, columns).to(dtype), torch.randn(columns).to(vectors or dtype)
    return lambda: elementwise.bias_activation_(values, bias, activation)


def fp8_calls(rows, columns):
    """The kernels that write FP8, on memory that stays."""
    matrices = torch.randn(2, rows, columns).bfloat16()
    vectors = torch.randn(3, columns).bfloat16()
    made = torch.empty(rows, columns, dtype=torch.float8_e4m3fn), torch.empty(rows, 1)
    launch = fp8_rows._launch
    return [
        lambda: launch(fp8_rows._round, (matrices[0], *made)),
        lambda: launch(fp8_rows._bias_activation, (matrices[0], vectors[0], *made), GELU=True),
        lambda: launch(
            fp8_rows._add_layer_norm,
            (matrices[0], vectors[0], matrices[1], *vectors[1:], *made),
            (1e-12,),
            UNBIASED=False,
        ),
    ]


def plain_norm_call(dtype=torch.float32):
    return norm_call(5, 64, dtype)


@with_stand_ins
class TestWithStandIns:
    @pytest.mark.parametrize(
        ("dtype", "vectors", "columns"),
        [
            *((dtype, dtype, 768) for dtype in DTYPES),
            *((torch.bfloat16, torch.float32, columns) for columns in (1, 5, 16, 100)),
        ],
    )
    @pytest.mark.parametrize("make", [norm_call, activation_call])
    def test_what_the_driver_gets(self, monkeypatch, make, dtype, vectors, columns):
        # Triton makes a constant of 1 and relies on multiples of 16, unless told not to.
        for rows in (3, 1, 2, 16, 17, 48, 255, 4096):
            for _ in range(2):  # other memory
                call = make(rows, columns, dtype, vectors)
                call()  # by Triton, the first time of this kind
                who, given = who_launched(call)
                assert given == by_triton(monkeypatch, call)
                addresses = given["parameters"][: 5 if make is norm_call else 2]
                assert who == ("Triton" if any(address % 16 for address in addresses) else "the driver")

    @pytest.mark.parametrize("which", range(3))
    def test_what_the_driver_gets_in_fp8(self, monkeypatch, which):
        for rows, columns in ((3, 64), (16, 768), (255, 3072)):
            call = fp8_calls(rows, columns)[which]
            call()
            who, given = who_launched(call)
            assert who == "the driver" and given == by_triton(monkeypatch, call)

    def test_options_are_kernels_of_their_own(self, monkeypatch):
        calls = [
            *(
                norm_call(7, 64, torch.float32, epsilon=e, kind=k)
                for e in (1e-12, 1e-5)
                for k in ("standard", "unbiased")
            ),
            *(activation_call(7, 64, torch.float32, activation=name) for name in elementwise.ACTIVATIONS),
        ]
        for call in calls + calls[::-1]:
            call()
        found = [who_launched(call) for call in calls]
        assert [who for who, _ in found] == ["the driver"] * len(calls)
        assert [given for _, given in found] == [by_triton(monkeypatch, call) for call in calls]
        assert len({given["function"] for _, given in found}) == 4

    def test_weights_may_ask_for_gradients(self):
        rows = torch.randn(4, 64)
        bias = torch.nn.Parameter(torch.randn(64))
        with torch.inference_mode():
            found = [who_launched(lambda: elementwise.bias_activation_(rows, bias, "gelu"))[0] for _ in range(2)]
        assert found == ["Triton", "the driver"]

    def test_tensors_of_another_kind_go_to_triton(self, monkeypatch):
        memory = torch.randn(4097).bfloat16()
        bias = torch.randn(64).bfloat16()
        odd_bias = torch.randn(65).bfloat16()[1:]
        rows = memory[:320].view(5, 64)
        usual = [rows, bias, rows.clone(), bias.clone(), bias.clone()]
        for _ in range(2):
            normalise(usual, 1e-12)
            elementwise.bias_activation_(rows, bias, "gelu")
        assert who_launched(lambda: normalise(usual, 1e-12))[0] == "the driver"
        odd = memory[1:321].view(5, 64)
        for place, other in [
            (0, odd),
            (0, rows.float()),
            (0, rows.half()),
            (1, odd_bias),
            (2, odd),
            (2, rows.float()),
            (2, rows.t().contiguous().t()),
            (3, odd_bias),
            (3, bias.float()),
            (4, odd_bias),
            (4, bias[None]),
        ]:
            given = [*usual[:place], other, *usual[place + 1 :]]
            call = lambda given=given: normalise(given, 1e-12)  # noqa: E731
            assert who_launched(call)[0] == "Triton", (place, other.dtype)
        wider = torch.randn(5, 128).bfloat16()
        call = lambda: elementwise.bias_activation_(wider, torch.randn(128).bfloat16(), "gelu")  # noqa: E731
        assert who_launched(call)[0] == "Triton"
        assert who_launched(lambda: normalise(usual, 1))[0] == "Triton"  # an integer
        for given in (bias[None, None], torch.randn(128).bfloat16()[::2]):  # the first of their kind
            monkeypatch.setattr(elementwise, "_bias_activation", KeptKernel(elementwise._bias_activation._kernel))
            call = lambda given=given: elementwise.bias_activation_(rows, given, "gelu")  # noqa: E731
            assert [who_launched(call)[0] for _ in range(2)] == ["Triton"] * 2
        for nobody in (rows[:0], rows[:, :0]):
            assert who_launched(lambda nobody=nobody: elementwise.bias_activation_(nobody, bias, "gelu"))[0] is None

    def test_refused_as_before(self):
        rows, bias = torch.randn(64, 64), torch.randn(64)
        elementwise.bias_activation_(rows, bias, "gelu")
        with pytest.raises(ValueError, match="contiguous"):
            elementwise.bias_activation_(rows.t(), bias, "gelu")
        with pytest.raises(ValueError, match="unknown activation"):
            elementwise.bias_activation_(rows, bias, "swish")

    @pytest.mark.parametrize("context", [0, 2])
    def test_another_context_goes_to_triton(self, context):
        call = plain_norm_call()
        call()
        STAND_INS.set_current(context=context, stream=STREAM)
        assert [who_launched(call)[0] for _ in range(2)] == ["Triton"] * 2
        STAND_INS.set_current(context=1, stream=STREAM)
        assert who_launched(call)[0] == "the driver"

    def test_the_current_stream(self):
        call = plain_norm_call()
        call()
        for stream in (0, 5):
            STAND_INS.set_current(stream=stream)
            assert who_launched(call)[1]["stream"] == stream

    @pytest.mark.parametrize("name", ["launch_enter_hook", "launch_exit_hook"])
    def test_whoever_looks_on_sees_every_launch(self, name):
        call = plain_norm_call()
        call()
        hook = getattr(knobs.runtime, name)
        hook.add(print)
        try:
            assert who_launched(call)[0] == "Triton"
        finally:
            hook.remove(print)
        assert who_launched(call)[0] == "the driver"

    def test_a_hook_of_the_kernel_is_called(self, monkeypatch):
        call = plain_norm_call()
        call()
        monkeypatch.setattr(elementwise._add_layer_norm._kernel, "pre_run_hooks", [lambda *a, **k: None])
        assert who_launched(call)[0] == "Triton"

    def test_threads(self):
        calls = [norm_call(rows, 64, torch.float32) for rows in range(1, 9)]
        threads = [threading.Thread(target=lambda c=c: [c() for _ in range(50)]) for c in calls for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(who_launched(call)[0] == "the driver" for call in calls)


class TestPlainLaunch:
    """What is read from a compiled kernel, and what is not taken for known."""

    @pytest.fixture
    def compiled(self):
        rows, bias = torch.randn(5, 64), torch.randn(64)
        elementwise.bias_activation_(rows, bias, "gelu")
        (found,) = elementwise._bias_activation._asked.values()
        return found, (rows, bias)

    def changed(self, compiled, **changes):
        double = SimpleNamespace(
            metadata=compiled.metadata,
            src=SimpleNamespace(signature=compiled.src.signature, attrs=compiled.src.attrs),
            asm={"ptx": compiled.asm["ptx"]},
            function=compiled.function,
        )
        for name, value in changes.items():
            holder = double.src if name in ("signature", "attrs") else double
            setattr(holder, name, value)
        return double

    def test_known(self, compiled):
        kernel, tensors = compiled
        wanted = kernel.function, 32 * kernel.metadata.num_warps, kernel.metadata.shared
        assert plain_launch(kernel, tensors, 0) == plain_launch(self.changed(kernel), tensors, 0) == wanted

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("num_ctas", 2),
            ("global_scratch_size", 16),
            ("profile_scratch_size", 16),
            ("launch_cooperative_grid", True),
            ("launch_pdl", True),
            ("shared", 1 << 17),
            ("num_warps", 4),
            ("name", "another"),
        ],
    )
    def test_other_metadata(self, compiled, name, value):
        kernel, tensors = compiled
        assert (
            plain_launch(self.changed(kernel, metadata=kernel.metadata._replace(**{name: value})), tensors, 0) is None
        )

    def test_metadata_that_are_not_there(self, compiled):
        kernel, tensors = compiled
        fields = kernel.metadata._asdict()
        for name in ("num_ctas", "global_scratch_size", "profile_scratch_size", "launch_pdl"):
            left = SimpleNamespace(**{key: value for key, value in fields.items() if key != name})
            assert plain_launch(self.changed(kernel, metadata=left), tensors, 0) is None

    def test_another_form(self, compiled):
        kernel, tensors = compiled
        ptx, signature, attrs = kernel.asm["ptx"], dict(kernel.src.signature), copy.deepcopy(kernel.src.attrs)
        last = f"{kernel.metadata.name}_param_4"
        others = [
            {"asm": {"ptx": ptx.replace(f"{last}\n", f"{last},\n\t.param .u64 one_more\n", 1)}},
            {"asm": {"ptx": ptx.replace(".param .u32", ".param .u64", 1)}},
            {"asm": {"ptx": ptx.replace(".reqntid 64", ".reqntid 128", 1)}},
            {"asm": {"ptx": ""}},
            {"signature": signature | {"num_rows": "i64"}},
            {"signature": signature | {"bias_ptr": "*bf16"}},
            {"signature": signature | {"bias_ptr": "tensordesc<fp32[4, 4]>"}},
            {"signature": signature | {"BLOCK_ROWS": "i32"}},
            {"attrs": attrs | {(2,): [["tt.divisibility", 16]]}},
            {"attrs": attrs | {(1,): []}},
            {"attrs": attrs | {(1,): [["tt.divisibility", 16], ["tt.pointer_range", 32]]}},
            {"function": None},
        ]
        for other in others:
            assert plain_launch(self.changed(kernel, **other), tensors, 0) is None, other
        assert plain_launch(kernel, tensors, 1) is None
        assert plain_launch(kernel, tensors[:1], 0) is None

    def test_without_the_compiled_module_triton_launches(self, compiled, monkeypatch):
        from fastbert_kernels import _extension

        monkeypatch.setattr(_extension, "load", lambda: (None, "is not built"))
        call = plain_norm_call()
        call()
        before = len(TritonsLauncher.given)
        call()
        assert len(TritonsLauncher.given) == before + 1
