"""A new descriptor's text: a commented template, or another target's file under a new name."""

from __future__ import annotations

import json
import re

from hwc.errors import UsageError

TEMPLATE = '''\
# A chip for hwc. `hwc targets check NAME` tells what is missing and what cannot be right; `hwc targets show NAME` how
# each figure reads. Lines that begin with #: are switched off: fill them in and remove the two signs.
# The way from a data sheet to figures a router can use: docs/how-to/add-a-target.md
name = NAME
title = TITLE
kind = "asic"                      # cpu, gpu or asic
# available: can be bought · emulated: its code is executed by an emulator · hypothetical: nobody has seen it, and every
# figure has to be { low, base, high } · software: no hardware at all
hardware_status = "hypothetical"
# Why hwc makes no code for it; delete the line when [lowering] below is filled in.
not_built = "its compiler is not described yet"
#: price = "asic-NAME"             # entry of the newest targets/prices/*.toml; without one no cost is told

# How code is made. The compiler's own names: `hwc targets check` asks it whether it knows them.
#: [lowering]
#: backend = "llvm-cpu"
#: cpu = "generic-rv64"
#: triple = "riscv64-unknown-elf"
#: abi = "lp64d"
#: cpu_features = ["+m", "+a", "+f", "+d", "+c", "+v", "+zvl256b"]
#: vlen_bits = 256                 # has to be what +zvl…b says: other lengths compute wrongly, without a fault
#: format = "mychip-v1"            # the chip's own name for its executables; a runtime without it refuses them
#: attributes = { sram_bytes = 16777216 }  # facts for your compiler, which executables carry
#: opt_level = "O3"

# "none": compiled or predicted here, run elsewhere · "emulated": executed instruction by instruction
[execution]
driver = "none"

#: [execution.emulator]            # with driver = "emulated"
#: program = "qemu-riscv64"
#: cpu = "rv64,v=true,vlen=256,elen=64"

# How packed weights lie in memory; `hwc schemes show w4a16` lists the encodings.
#: [encoding]
#: int4 = "i4-grouped"
#: int8 = "i8-grouped"
#: fp8 = "e4m3-bits"

# Figures. Units are in the key names; an undisclosed figure is left out and never guessed by hwc. Peak rates are dense,
# for the whole chip, a multiply-add counted as two; data sheets often print them "with sparsity", twice as much.
#: [hardware.core]                 # what runs compiled code
#: isa = "rv64gcv"
#: count = 4
#: clock_hz = { low = 1.0e9, base = 1.5e9, high = 2.0e9 }
#: vlen_bits = 256

[hardware.units.matrix]
kind = "matrix"
#: rows = 128                      # cells along the reduction; with clock_hz they bound the rates
#: columns = 128
#: clock_hz = { low = 1.0e9, base = 1.2e9, high = 1.5e9 }
[[hardware.units.matrix.rates]]    # one for each triple of types
activations = "bfloat16"
weights = "bfloat16"
accumulator = "float32"
flop_per_s = { low = 20e12, base = 30e12, high = 40e12 }
#: pj_per_flop = { low = 0.2, base = 0.4, high = 0.8 }

#: [hardware.units.vector]         # everything that is not a matrix product
#: kind = "vector"
#: [[hardware.units.vector.rates]]
#: activations = "float32"
#: weights = "float32"
#: accumulator = "float32"
#: flop_per_s = { low = 50e9, base = 96e9, high = 200e9 }

#: [hardware.memories.sram]        # level 1 is nearest to the units
#: level = 1
#: size_bytes = { low = 8e6, base = 16e6, high = 32e6 }
#: read_bytes_per_s = { low = 0.5e12, base = 1.2e12, high = 2e12 }
#: read_pj_per_byte = { low = 0.6, base = 1.2, high = 2.5 }

[hardware.memories.dram]
level = 2
size_bytes = { low = 16e9, base = 32e9, high = 64e9 }
read_bytes_per_s = { low = 100e9, base = 200e9, high = 300e9 }
#: bus_bits = 256                  # with bus_transfers_per_s it bounds the bandwidth
#: bus_transfers_per_s = { low = 6.4e9, base = 8.5e9, high = 10.7e9 }
#: read_pj_per_byte = { low = 30, base = 40, high = 60 }

#: [hardware.links.pcie]           # bytes_per_s of one chip, in each direction; data sheets often add both
#: peer = "host"                   # chip, host or network
#: bytes_per_s = { low = 14e9, base = 28e9, high = 31e9 }

#: [hardware.overheads]
#: dispatch_s = { low = 1e-6, base = 3e-6, high = 10e-6 }
#: invocation_s = { low = 5e-6, base = 20e-6, high = 80e-6 }

#: [hardware.power]
#: tdp_w = { low = 40, base = 60, high = 90 }

# What it can run: the first rule that fits decides; native | kernel | host | emulate | reject.
#: [[legality]]
#: ops = ["matmul", "conv"]
#: elements = ["bfloat16"]
#: action = "native"
#: unit = "matrix"

#: [[legality]]
#: ops = ["sort"]
#: action = "host"
#: reason = "there is no sort on the chip"

#: [placement]
#: otherwise = "emulate"
#: otherwise_reason = "computed on the control core"
#: coverage_gate = 0.9             # least share of a model's arithmetic on the chip itself

# Kernels of yours in C, linked where their pattern matches: docs/how-to/add-a-target.md
#: [vendor]
#: compiler = ["riscv64-linux-gnu-gcc", "-march=rv64gcv", "-mabi=lp64d"]

# Where each figure comes from: datasheet | measured | estimated | assumed; the longest key that fits a figure counts.
[sources]
"hardware" = { kind = "assumed", where = "nothing yet: replace these figures by your chip's" }
'''
SWITCHED_OFF = "#: "


def template(name: str) -> str:
    """Return the commented template; it parses as it stands."""
    title = f"{name} (to be described)"
    text = TEMPLATE.replace("name = NAME", f"name = {json.dumps(name)}").replace("= TITLE", f"= {json.dumps(title)}")
    return text.replace("NAME", name)


def copied(text: str, name: str, origin: str) -> str:
    """Return another descriptor's text under a new name and title, without what was fitted to the other chip.

    Raises UsageError if its name or title does not stand on a line of its own before the first table.
    """
    head, table, rest = text.partition("\n[")
    titled = json.dumps(f"{name} (described as {origin})", ensure_ascii=False)
    for key, value in (("name", json.dumps(name)), ("title", titled)):
        written = f"{key} = {value}".replace("\\", r"\\")
        head, count = re.subn(rf"^{key}\s*=.*$", written, head, flags=re.MULTILINE)
        if count != 1:
            raise UsageError(f"`{key}` of {origin} stands on no line of its own", hint="copy the file by hand")
    head = re.sub(r"^calibration\s*=.*\n", "", head + "\n", flags=re.MULTILINE).removesuffix("\n")
    return head + table + rest
