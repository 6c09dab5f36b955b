"""Tensors on their way into C++: one in the wrong place, too short, of another dtype, layout or device is an error.

Sizes differ wherever they may, so that two arguments look alike only where nothing about them tells them apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastbert_kernels import _extension
from fastbert_kernels.criteria import PARAMETERS, Criterion
from fastbert_kernels.layer_norm import LAYER_NORMS
from fastbert_kernels.ops import packing
from fastbert_kernels.ops.pooled_exit_head import POOLINGS
from fastbert_kernels.reference import ACTIVATIONS
from helpers.op_inputs import cast_head, compaction_inputs, cu_seqlens_of, head_tensors, map_tensors

native, REASON = _extension.load()
if native is None:
    pytest.skip(REASON, allow_module_level=True)

T, B, N, H, ORIGINAL = 11, 4, 3, 6, 9  # tokens, samples, labels, hidden size, samples of the original batch
C, HEADS, INNER, LAYERS = 8, 2, 10, 2  # narrow size, attention heads, intermediate size, layers
LENGTHS = [3, 1, 5, 2]
RULE = ("entropy", 0)


def rows():
    """hidden, cu_seqlens."""
    return torch.randn(T, H), cu_seqlens_of(LENGTHS)


def results():
    """logits, uncertainty, history, keep."""
    return torch.empty(B, N), torch.empty(B), torch.empty(B, 2, dtype=torch.int32), torch.empty(B, dtype=torch.bool)


def history():
    return torch.zeros(B, 2, dtype=torch.int32)


def matrix(outputs, depth):
    return packing.packed_matrix(torch.randn(outputs, depth), torch.randn(outputs), "float32")


def layer_arguments():
    shapes = ((3 * H, H), (H, H), (INNER, H), (H, INNER))
    positions = torch.randn(HEADS, 2 * max(LENGTHS) - 1)
    return [
        *(matrix(*shape) for shape in shapes),
        torch.ones(4, H),
        1e-12,
        "standard",
        HEADS,
        "gelu",
        "float32",
        positions,
    ]


def head_arguments():
    return [matrix(C, H), cast_head(head_tensors(H, C, HEADS, N), torch.float32), "tanh", "tanh"]


def encoder_arguments():
    layers = [native.EncoderLayer(*layer_arguments()) for _ in range(LAYERS)]
    return [layers, [None, native.AttentiveHead(*head_arguments())]]


def pack_arguments(outputs=37):
    memory = torch.empty(native.packed_matrix_bytes(outputs, H, "float32"), dtype=torch.uint8)
    return [torch.randn(outputs, H), torch.randn(outputs), "float32", memory]


def compact_arguments():
    given = compaction_inputs(LENGTHS, [True, False, True, False], width=H, original=ORIGINAL, labels=N)
    hidden, cu_seqlens, _, sample_index, speed, history, *_ = given
    outputs = [torch.empty_like(x) for x in (hidden, cu_seqlens, sample_index, speed, history)]
    return [*given, (*outputs, torch.empty(2, dtype=torch.int32))]


def embed_arguments():
    tables = [torch.randn(rows, H) for rows in (7, 5, 2)]
    ids = [torch.randint(len(table), (T,)).index_fill(0, torch.tensor(2), len(table) - 1) for table in tables]
    return [*ids, *tables, torch.ones(H), torch.zeros(H), 1e-12, "standard", torch.empty(T, H)]


def run_arguments():
    speeds = (torch.rand(LAYERS), torch.ones(LAYERS, dtype=torch.bool))
    written = (torch.empty(B, N), torch.empty(B), torch.empty(B, dtype=torch.int64))
    survivors = compact_arguments()[-1]
    encoder = native.Encoder(*encoder_arguments())
    return [*rows(), torch.rand(B), history(), 0, LAYERS - 1, *RULE, *speeds, encoder, written, survivors]


# Arguments that each function and class of the module takes.
CALLS: dict[str, Callable[[], list]] = {
    "compact": compact_arguments,
    "embed": embed_arguments,
    "pack_matrix": pack_arguments,
    "PackedMatrix": lambda: [pack_arguments(37)[-1], 37, H, "float32"],
    "EncoderLayer": layer_arguments,
    "AttentiveHead": head_arguments,
    "PooledHead": lambda: [[matrix(5, H), matrix(N, 5)], "first", "tanh"],
    "Encoder": encoder_arguments,
    "run_span": run_arguments,
    "attentive_head_cpu": lambda: [
        *(*rows(), torch.rand(B), native.AttentiveHead(*head_arguments()), results(), history(), *RULE)
    ],
    "pool": lambda: [*rows(), "first", torch.empty(B, H)],
    "attention_pooling": lambda: [*rows(), torch.randn(B, HEADS, H), torch.empty(B, HEADS, H)],
    "hashed_bag": lambda: [
        *(torch.randn(16, N), torch.randn(N), torch.arange(T), rows()[1], torch.rand(B), results(), *RULE)
    ],
    "pack_texts": lambda: [
        *torch.ones(3, B, 5).long(),
        (*torch.empty(3, B, 5).long(), torch.empty(B + 1, dtype=torch.int32)),
    ],
    "decide": lambda: [torch.randn(B, N), torch.rand(B), results(), history(), *RULE],
}
# Those that have names of their own, so that none can take another's place.
BY_NAME = {"pack_texts": {"vocabulary": 7, "num_segments": 2, "uncounted": 0}}
# They take neither tensors nor what is made of tensors.
PLAIN = {"count_threads_with", "cpu_instruction_set", "cpu_instruction_sets", "cpu_tile_rows"}
PLAIN |= {"packed_matrix_bytes", "product_operand", "start_profile", "stop_profile", "time_products"}
PLAIN |= {"cuda_kernels_unavailable"}
# They refuse every tensor that is not on a GPU; tests/gpu and tests/engine/test_cuda_ends.py call them.
CUDA = {"DepthGraph", "depth_graph_unsupported", "CudaHead", "CudaAttentiveHead", "CudaPooledHead", "let_out"}
# It takes tensors of any kind once, and leaves later ones of another kind to its caller: test_kept_launches.py.
KEPT = {"KeptLaunch"}
# They take lists of Python objects: tests/hosts/test_unchanged.py.
OBJECTS = {"entries_hold", "modules_hold", "tensors_hold"}

EXPORTED = {name for name, value in vars(native).items() if callable(value) and not name.startswith("_")}
FUNCTIONS = sorted(EXPORTED - PLAIN - CUDA - KEPT - OBJECTS)  # one without a case in CALLS fails


def tensors_of(arguments) -> list[Tensor]:
    """The tensors among the arguments and inside of them, in order."""
    found = []
    for value in arguments:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found.extend(tensors_of(value))
    return found


def places(name: str) -> range:
    return range(len(tensors_of(CALLS[name]())))


def call(name: str, change: Callable[[list], None]) -> None:
    arguments = CALLS[name]()
    tensors = tensors_of(arguments)
    change(tensors)
    left = iter(tensors)
    run(name, map_tensors(lambda _: next(left), arguments))


def run(name: str, arguments: list) -> None:
    getattr(native, name)(*arguments, **BY_NAME.get(name, {}))


def refused(name: str, change: Callable[[list], None]) -> str:
    with pytest.raises((TypeError, ValueError, IndexError)) as error:
        call(name, change)
    return str(error.value)


def strided(tensor: Tensor) -> Tensor:
    """The same values with a gap behind each."""
    return tensor.unsqueeze(-1).repeat_interleave(2, -1)[..., 0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_arguments_as_they_are(name):
    call(name, lambda tensors: None)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_two_in_each_others_place(name):
    for i, j in itertools.combinations(places(name), 2):

        def swap(tensors, i=i, j=j):
            tensors[i], tensors[j] = tensors[j], tensors[i]

        one, other = (tensors_of(CALLS[name]())[place] for place in (i, j))
        if one.shape != other.shape or one.dtype != other.dtype:
            refused(name, swap)


def kind(value):
    """Return what may tell an argument from another one: for what stands for tensors their shapes, else the value."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, (tuple, list)):
        return [kind(item) for item in value]
    return value if isinstance(value, (str, int, float)) or value is None else id(value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_two_arguments_in_each_others_place(name):
    for i, j in itertools.combinations(range(len(CALLS[name]())), 2):
        arguments = CALLS[name]()
        arguments[i], arguments[j] = arguments[j], arguments[i]
        if kind(arguments[i]) != kind(arguments[j]):
            with pytest.raises((TypeError, ValueError, IndexError)):
                run(name, arguments)


def test_layers_of_a_head_and_parts_of_an_encoder_in_each_others_place():
    layers, pooling, activation = CALLS["PooledHead"]()
    with pytest.raises(ValueError, match="a layer of the pooled head must be a matrix"):
        native.PooledHead(layers[::-1], pooling, activation)
    layers, heads = encoder_arguments()
    with pytest.raises(TypeError, match="must be of type EncoderLayer, not AttentiveHead"):
        native.Encoder([layers[0], heads[-1]], heads)
    with pytest.raises(TypeError, match="must be of type PooledHead, not EncoderLayer"):
        native.Encoder(layers, [None, layers[0]])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_row_or_column_too_few(name):
    for place in places(name):
        for dimension, size in enumerate(tensors_of(CALLS[name]())[place].shape):

            def shorten(tensors, place=place, dimension=dimension, size=size):
                tensors[place] = tensors[place].narrow(dimension, 0, size - 1).contiguous()

            refused(name, shorten)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_another_dtype_of_the_same_or_another_size(name):
    for place, dtype in itertools.product(places(name), (torch.int32, torch.float32, torch.int64, torch.float64)):
        if tensors_of(CALLS[name]())[place].dtype != dtype:

            def cast(tensors, place=place, dtype=dtype):
                tensors[place] = tensors[place].to(dtype)

            assert "must be torch." in refused(name, cast)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gaps_between_elements(name):
    for place in places(name):

        def spread(tensors, place=place):
            tensors[place] = strided(tensors[place])

        assert "must be contiguous" in refused(name, spread)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_memory_and_no_tensor(name):
    for place in places(name):

        def send_away(tensors, place=place):
            tensors[place] = tensors[place].to("meta")

        def replace(tensors, place=place):
            tensors[place] = tensors[place].numpy()

        assert "has no memory that can be read: it is a torch.strided tensor" in refused(name, send_away)
        assert "must be a torch.Tensor, not ndarray" in refused(name, replace)


@pytest.mark.parametrize("name", ["run_span", "attentive_head_cpu", "pool", "attention_pooling"])
@pytest.mark.parametrize("bounds", [[0, 3, 2, 9, 11], [0, 3, 4, 9, 12], [1, 3, 4, 9, 11], [0, -1, 4, 9, 11]])
def test_bounds_outside_the_rows(name, bounds):
    arguments = CALLS[name]()
    arguments[1] = torch.tensor(bounds, dtype=torch.int32)
    with pytest.raises(ValueError, match="cu_seqlens must begin with 0, not decrease and end within the 11 rows"):
        getattr(native, name)(*arguments)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("EncoderLayer", 7, -1, "-1 attention heads do not divide the hidden size 6"),
        ("EncoderLayer", 7, 4, "4 attention heads do not divide"),
        ("EncoderLayer", 8, "tanh", "activation gelu or relu, not tanh"),
        ("EncoderLayer", 9, "int8", "attention multiplies in float32 or bfloat16, not int8"),
        ("EncoderLayer", 10, torch.zeros(HEADS, 8), "each distance from 1 - P to P - 1, not 8 columns"),
        ("EncoderLayer", 1, matrix(H, H + 1), r"attention_output must be a matrix \[6, 6\], not \[6, 7\]"),
        ("AttentiveHead", 0, matrix(C, H + 1), "projection_weight must have shape"),
        ("AttentiveHead", 2, "identity", "has tanh behind its projection"),
        ("PackedMatrix", 1, -37, "at least one row"),
        ("PackedMatrix", 3, "int8", "packed weights must have shape"),
        ("run_span", 4, -1, "of 2 layers cannot go from -1 to 1"),
        ("run_span", 4, 1, "of 2 layers cannot go from 1 to 1"),
        ("run_span", 5, 3, "of 2 layers cannot go from 0 to 3"),
        ("run_span", 5, 2, "room for survivors where it ends before the last layer, and only there"),
        ("run_span", 12, None, "room for survivors where it ends before the last layer, and only there"),
        ("decide", 4, "surprise", "unknown name 'surprise'; the compiled module knows entropy, "),
        ("pool", 2, "median", "unknown name 'median'; the compiled module knows first, mean, max"),
    ],
)
def test_numbers_and_names(name, place, value, message):
    arguments = CALLS[name]()
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        getattr(native, name)(*arguments)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if RULE[0] in CALLS[name]()])
@pytest.mark.parametrize("criterion", Criterion)
def test_a_parameter_has_the_bounds_that_python_knows(name, criterion):
    arguments = CALLS[name]()
    place = arguments.index(RULE[0])
    known = PARAMETERS.get(criterion)
    smallest = known.smallest if known else 0
    arguments[place : place + 2] = [criterion.value, smallest]
    run(name, arguments)
    for wrong in (-1, smallest - 1) if known else (-1, 1):
        arguments[place + 1] = wrong
        bound = f"at least {smallest}" if known else "0"
        with pytest.raises(ValueError, match=f"parameter of {criterion.value} must be {bound}, not {wrong}"):
            run(name, arguments)


def test_memory_that_is_not_where_the_kernels_read_it():
    memory = torch.empty(native.packed_matrix_bytes(5, H, "float32") + 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="packed weights must begin at an address that 64 divides"):
        native.PackedMatrix(memory[4:], 5, H, "float32")


def test_every_name_is_known_on_both_sides():
    assert set(native.names["Criterion"]) == {criterion.value for criterion in Criterion}
    assert set(native.names["Activation"]) == set(ACTIVATIONS)
    assert set(native.names["Pooling"]) == set(POOLINGS)
    assert set(native.names["LayerNormKind"]) == set(LAYER_NORMS)
    assert set(native.names["DType"]) == {"float32", "bfloat16", "int8", "float16"}
    assert all(getattr(torch, name).is_floating_point for name in native.names["DType"] if name != "int8")
