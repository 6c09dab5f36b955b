"""Faults of the kernels with tile registers, which tests/tile_model runs on modelled tiles."""

from faults.fault import Fault

FAULTS = [
    Fault(
        "attention: what is left of a step stays",
        "csrc/cpu/isa/bfloat16_format.h",
        "out[j] = 0;",
        "out[j] = out[0];",
        "test_tile_attention.py",
    ),
    Fault(
        "configuration: a row too few",
        "csrc/cpu/isa/tile_operand.h",
        "const int64_t first = rows < kRowsOfTile ? rows : kRowsOfTile,",
        "const int64_t first = rows < kRowsOfTile ? rows : kRowsOfTile - 1,",
        "test_tile_products.py",
    ),
    Fault(
        "configuration: that of the tile before",
        "csrc/cpu/isa/tile_operand.h",
        "if (rows != configured_) {",
        "if (configured_ == 0) {",
        "test_tile_products.py",
    ),
    Fault("sums are not zeroed", "csrc/cpu/isa/tile_operand.h", "    _tile_zero(1);\n", "", "test_tile_products.py"),
    Fault(
        "operands in the wrong order",
        "csrc/cpu/isa/tile_operand.h",
        "_tile_dpbusd(0, 4, 6);",
        "_tile_dpbusd(0, 6, 4);",
        "test_tile_products.py",
    ),
    Fault(
        "measured in a thread without permission",
        "csrc/cpu/isa/tile_choice.cpp",
        "  if (!thread_has_tiles()) return 0;\n",
        "",
        "test_tile_engine.py",
    ),
]
