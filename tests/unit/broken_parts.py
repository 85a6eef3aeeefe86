"""Broken descriptors: a right one with one mistake each, the key that has to be named, and the words."""

from dataclasses import dataclass
from pathlib import Path

CHIP = (Path(__file__).parents[1] / "data" / "descriptors" / "npu-7.toml").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Broken:
    """One mistake."""

    named: str
    old: str
    new: str
    key: str
    told: str
    """Part of the message."""

    def text(self) -> str:
        assert CHIP.count(self.old) >= 1, f"{self.named}: {self.old!r} is no longer in the descriptor"
        return CHIP.replace(self.old, self.new, 1)


def broken(named: str, old: str, new: str, key: str, told: str = "") -> Broken:
    return Broken(named=named, old=old, new=new, key=key, told=told)


UNREADABLE = [
    broken("an unknown key", "\nisa =", "\nisaa =", "hardware.core.isaa", "unknown key"),
    broken("no title", 'title = "NPU', 'titel = "NPU', "titel", "unknown key"),
    broken("zero clock", "clock_hz = 1.2e9", "clock_hz = 0", "hardware.units.npu.clock_hz", "greater than 0"),
    broken(
        "a negative bandwidth",
        "read_bytes_per_s = 273e9",
        "read_bytes_per_s = -1",
        "hardware.memories.dram.read_bytes_per_s",
        "greater than 0",
    ),
    broken("an infinite rate", "flop_per_s = 96e9", "flop_per_s = inf", "hardware.units.rvv.rates", "finite"),
    broken("no number", "tdp_w = 60", 'tdp_w = "sixty"', "hardware.power.tdp_w", "number"),
    broken(
        "zero cores",
        "count = 4\nclock_hz = 1.5e9\nvlen",
        "count = 0\nclock_hz = 1.5e9\nvlen",
        "hardware.core.count",
        "greater than or equal to 1",
    ),
    broken(
        "a spread upside down",
        "{ low = 5, base = 8, high = 14 }",
        "{ low = 14, base = 8, high = 5 }",
        "hardware.power.idle_w",
        "low ≤ base ≤ high",
    ),
    broken("rows without columns", "columns = 128\n", "", "hardware.units.npu", "belong together"),
    broken(
        "more flop/s than cells and clock",
        "flop_per_s = 78.6e12, pj_per_flop = { low = 0.07",
        "flop_per_s = 786e12, pj_per_flop = { low = 0.07",
        "hardware.units.npu",
        "more than 1 × 128×128 cells",
    ),
    broken(
        "a unit without rates",
        'rates = [\n  { activations = "float32", weights = "float32", accumulator = "float32", flop_per_s = 96e9',
        'rates = []\nother = [\n  { activations = "float32", weights = "float32", '
        'accumulator = "float32", flop_per_s = 96e9',
        "hardware.units.rvv.other",
        "unknown key",
    ),
    broken(
        "an element type nobody has",
        'activations = "int32"',
        'activations = "int31"',
        "hardware.units.rvv.rates.2.activations",
        "should be",
    ),
    broken("two memories of one level", "level = 2", "level = 1", "hardware", "both level 1"),
    broken("a memory behind no link", "bus_bits = 256", 'bus_bits = 256\nvia = "cxl"', "memories.dram.via", "no entry"),
    broken(
        "a figure without a source",
        '"hardware" = { kind',
        '"hardware.core" = { kind',
        "hardware.units.npu.clock_hz",
        "no entry in [sources]",
    ),
    broken(
        "a source of no figure",
        "[sources]\n",
        '[sources]\n"hardware.cores" = { kind = "assumed" }\n',
        "hardware.cores",
        "names no figure",
    ),
    broken(
        "a data sheet without a name",
        'kind = "assumed", where = "the design',
        'kind = "datasheet", x = "the design',
        "sources.hardware.x",
        "unknown key",
    ),
    broken(
        "measured by nobody",
        '{ kind = "assumed", where = "the design of this example chip" }',
        '{ kind = "measured" }',
        "sources.hardware",
        "needs `where`",
    ),
    broken(
        "hypothetical figures as facts",
        'hardware_status = "emulated"',
        'hardware_status = "hypothetical"',
        "hardware.core.clock_hz",
        "has to be { low, base, high }",
    ),
    broken("a rule for no unit", 'unit = "npu"', 'unit = "tpu"', "legality[0].unit", "no entry of [hardware.units]"),
    broken(
        "a rule for no kernel",
        'action = "native"',
        'action = "kernel"\nkernel = "gemm"',
        "legality[0].kernel",
        "no entry of [kernels]",
    ),
    broken(
        "a rejection without a reason",
        'action = "host"\nreason = "',
        'action = "host"\n#reason = "',
        "legality.4",
        "needs a `reason`",
    ),
    broken("an operation nobody knows", 'ops = ["sort"]', 'ops = ["sorting"]', "legality.4.ops", "sort"),
    broken("emulated without an emulator", 'driver = "emulated"', 'driver = "none"', "execution", "belong together"),
    broken("a feature without its sign", '"+zfh"]', '"zfh"]', "lowering.cpu_features", "match pattern"),
    broken("llvm-cpu without a CPU", 'cpu = "generic-rv64"\n', "", "lowering.cpu", "needed with llvm-cpu"),
    broken(
        "a build and the reason against it", 'kind = "asic"', 'kind = "asic"\nnot_built = "why not"', "not_built", ""
    ),
    broken(
        "hand-over without its reason", "[placement]", "[vendor]\nhand_over = true\n\n[placement]", "not_built", "why"
    ),
    broken("a coverage gate above all", "coverage_gate = 0.9", "coverage_gate = 1.9", "placement.coverage_gate", "1"),
    broken(
        "a format with a path in it", 'format = "rv64gcv-npu-v1"', 'format = "../npu"', "lowering.format", "pattern"
    ),
]
"""What the schema refuses."""

CONTRADICTIONS = [
    broken(
        "more bandwidth than the bus",
        "read_bytes_per_s = 273e9",
        "read_bytes_per_s = 500e9",
        "hardware.memories.dram.read_bytes_per_s",
        "a bus of 256 bits carries 2.731e+11",
    ),
    broken(
        "more bandwidth than the link it comes by",
        "bus_bits = 256\nbus_transfers_per_s = 8.533e9",
        'via = "pcie"',
        "hardware.memories.dram.read_bytes_per_s",
        "link `pcie` carries 3.15e+10",
    ),
    broken(
        "SRAM slower than DRAM",
        "read_bytes_per_s = 1.229e12",
        "read_bytes_per_s = 100e9",
        "hardware.memories.sram.read_bytes_per_s",
        "is slower",
    ),
    broken(
        "SRAM larger than DRAM",
        "size_bytes = 16777216\nread",
        "size_bytes = 68719476736\nread",
        "hardware.memories.sram.size_bytes",
        "is larger",
    ),
    broken(
        "SRAM dearer to read than DRAM",
        "read_pj_per_byte = { low = 32, base = 40, high = 56 }",
        "read_pj_per_byte = 0.5",
        "hardware.memories.sram.read_pj_per_byte",
        "is dearer",
    ),
    broken(
        "a tile larger than SRAM",
        "stack_limit_bytes = 131072",
        "matmul_tile_bytes = 33554432",
        "lowering.matmul_tile_bytes",
        "does not fit",
    ),
    broken(
        "an array larger than SRAM",
        "size_bytes = 16777216\nread",
        "size_bytes = 32768\nread",
        "hardware.units.npu.rows",
        "does not fit",
    ),
    broken(
        "a peak that its power does not allow", "tdp_w = 60", "tdp_w = 6", "hardware.units.npu.rates", "draw at least"
    ),
    broken("chips that nothing joins", 'peer = "chip"', 'peer = "network"', "hardware.system.chips", 'peer = "chip"'),
    broken(
        "a link that no memory feeds",
        "bytes_per_s = 100e9",
        "bytes_per_s = 5e12",
        "hardware.links.neighbours.bytes_per_s",
        "more than any memory",
    ),
    broken("another vector length in the features", "+zvl256b", "+zvl512b", "lowering.cpu_features", "512 bits"),
    broken(
        "another vector length in the core",
        "vlen_bits = 256\n\n# Weights",
        "vlen_bits = 128\n\n# Weights",
        "hardware.core.vlen_bits",
        "128 bits",
    ),
    broken("another vector length in the emulator", "vlen=256", "vlen=128", "execution.emulator.cpu", "128 bits"),
    broken("no vector length", "vlen_bits = 256  #", "#", "lowering.vlen_bits", "absent"),
    broken(
        "vectors that no core has",
        "flop_per_s = 96e9, pj_per_flop = { low = 3",
        "flop_per_s = 960e9, pj_per_flop = { low = 3",
        "hardware.units.rvv.rates",
        "cores of 8 pipes",
    ),
    broken(
        "a rule that never fits",
        'ops = ["sort"]\n',
        'ops = ["matmul"]\nelements = ["int8"]\n',
        "legality[4]",
        "legality[2] always does",
    ),
]
"""What parses, and cannot be."""

ILL_TOOLED = [
    broken("an unknown feature", '"+zfh"]', '"+zwarp"]', "lowering.cpu_features", "`+zwarp`"),
    broken("an unknown CPU", 'cpu = "generic-rv64"', 'cpu = "npu-9000"', "lowering.cpu", "`npu-9000`"),
    broken("an unknown instruction set", "riscv64-unknown-elf", "warp64-unknown-elf", "lowering.triple", "warp64"),
    broken("an unknown ABI", 'abi = "lp64d"', 'abi = "lp99z"', "lowering.abi", "`lp99z`"),
    broken(
        "an ABI that the features do not carry",
        '"+d", "+c", "+v", "+zvl256b", "+zfh"]',
        '"+c"]',
        "lowering.abi",
        "needs a feature",
    ),
    broken("an encoding nobody writes", 'int4 = "i4-grouped"', 'int4 = "i3-grouped"', "encoding.int4", "i3-grouped"),
    broken("codes nobody makes", 'fp8 = "e4m3-bits"', 'fp6 = "e3m2"', "encoding.fp6", "known: int4"),
    broken(
        "fitted efficiencies that are nowhere",
        'kind = "asic"',
        'kind = "asic"\ncalibration = "fitted.json"',
        "calibration",
        "no file fitted.json",
    ),
    broken(
        "a kernel whose source is nowhere",
        "[placement]",
        '[kernels.gemm]\npattern = "matmul_f32"\nsymbol = "gemm"\nsource = "gemm.c"\n\n[vendor]\ncompiler = ["cc"]\n\n'
        "[placement]",
        "kernels.gemm.source",
        "no file gemm.c",
    ),
    broken(
        "a kernel outside the descriptor's folder",
        "[placement]",
        '[kernels.gemm]\npattern = "matmul_f32"\nsymbol = "gemm"\nsource = "../../etc/passwd"\n\n[vendor]\n'
        'compiler = ["cc"]\n\n[placement]',
        "kernels.gemm.source",
        "leaves its folder",
    ),
    broken(
        "a kernel that nothing compiles",
        "[placement]",
        '[kernels.gemm]\npattern = "matmul_f32"\nsymbol = "gemm"\nsource = "gemm.c"\n\n[placement]',
        "vendor.compiler",
        "sources to compile",
    ),
]
"""What parses and does not contradict itself, and what compiler, files or tools answer otherwise."""
