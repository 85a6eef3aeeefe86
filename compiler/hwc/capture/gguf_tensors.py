"""A GGUF file's tensors under transformers' names: which there must be, and their values as transformers wants them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc.capture.arrived import Rows
from hwc.capture.gguf_config import Decoder
from hwc.errors import IntegrityError, MachineError, UsageError
from hwc.gguf_file import GgufFile, GgufTensor

if TYPE_CHECKING:
    import numpy as np

CHUNK_VALUES = 1 << 22
"""Values made float at a time: 16 MiB."""
GROUP = 32
ZEROS = {"Q4_0": 8, "Q5_0": 128, "Q8_0": 128}
"""Code that stands for zero in a type that has no offset."""
IN_GROUPS = (*ZEROS, "Q4_1")
"""Types whose codes and scales can be kept as they are."""
_UNUSED = ("rope_freqs.weight",)
"""Read by the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A tensor of the file and what becomes of it."""

    source: GgufTensor
    name: str
    """As transformers has it."""
    interleaved_rows: int = 0
    """Rows of one head, where llama.cpp brought the two halves of each head into turns; 0 where it did not."""
    plus_one: bool = False
    """The file holds 1 + weight, as llama.cpp does for Gemma's norms."""

    @property
    def rows(self) -> int:
        """Rows to read one after the other; a vector whose entries change places has one value a row."""
        return self.source.values // self.columns

    @property
    def columns(self) -> int:
        """Values a row."""
        return 1 if self.interleaved_rows and len(self.source.shape) == 1 else self.source.shape[-1]


def place(file: GgufFile, sizes: Decoder) -> list[Placed]:
    """Match the file's tensors with those the architecture has, sorted by transformers' names.

    Raises IntegrityError naming a tensor that is missing or of another shape, UsageError for one that the architecture
    does not know: leaving it out would give another model.
    """
    expected = _expected(sizes)
    found = {name: tensor for name, tensor in file.tensors.items() if name not in _UNUSED}
    for name in expected:
        if name not in found:
            raise file.damaged(f"the GGUF file has no tensor `{name}`")
    for name in found:
        if name not in expected:
            raise UsageError(
                f"tensor `{name}` is of no {sizes.architecture} model that is supported", where=file.parts.where
            )
    return sorted((_placed(file, sizes, found[name], *expected[name]) for name in expected), key=lambda one: one.name)


def _placed(file: GgufFile, sizes: Decoder, source: GgufTensor, name: str, shape: tuple[int, ...]) -> Placed:
    if source.shape != shape:
        raise file.damaged(f"tensor `{source.name}` has shape {list(source.shape)}, where {list(shape)} is expected")
    turned = sizes.architecture == "llama" and (".attn_q." in source.name or ".attn_k." in source.name)
    plus_one = sizes.architecture == "gemma3" and source.name.endswith("norm.weight")
    return Placed(
        source=source, name=name, interleaved_rows=sizes.head_dim if turned else 0, plus_one=plus_one
    )


def _expected(sizes: Decoder) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return GGUF name to transformers' name and shape, for every tensor there must be."""
    vocabulary, hidden = sizes.vocabulary, sizes.hidden
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "token_embd.weight": ("model.embed_tokens.weight", (vocabulary, hidden)),
        "output_norm.weight": ("model.norm.weight", (hidden,)),
    }
    if not sizes.tied:
        expected["output.weight"] = ("lm_head.weight", (vocabulary, hidden))
    block = _linears(sizes) | _norms(sizes)
    for number in range(sizes.blocks):
        for name, (target, shape) in block.items():
            expected[f"blk.{number}.{name}"] = (f"model.layers.{number}.{target}", shape)
    return expected


def _linears(sizes: Decoder) -> dict[str, tuple[str, tuple[int, ...]]]:
    hidden, inner = sizes.hidden, sizes.inner
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    linears: dict[str, tuple[str, tuple[int, ...]]] = {
        "attn_q": ("self_attn.q_proj", (queries, hidden)),
        "attn_k": ("self_attn.k_proj", (keys, hidden)),
        "attn_v": ("self_attn.v_proj", (keys, hidden)),
        "attn_output": ("self_attn.o_proj", (hidden, queries)),
        "ffn_gate": ("mlp.gate_proj", (inner, hidden)),
        "ffn_up": ("mlp.up_proj", (inner, hidden)),
        "ffn_down": ("mlp.down_proj", (hidden, inner)),
    }
    biased = ["attn_q", "attn_k", "attn_v"] if sizes.attention_bias or sizes.architecture == "qwen2" else []
    if biased and sizes.architecture != "qwen2":
        biased.append("attn_output")
    weights = {f"{name}.weight": (f"{target}.weight", shape) for name, (target, shape) in linears.items()}
    return weights | {f"{name}.bias": (f"{linears[name][0]}.bias", linears[name][1][:1]) for name in biased}


def _norms(sizes: Decoder) -> dict[str, tuple[str, tuple[int, ...]]]:
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    if sizes.architecture == "gemma3":
        names |= {
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        }
    norms: dict[str, tuple[str, tuple[int, ...]]]
    norms = {f"{name}.weight": (f"{target}.weight", (sizes.hidden,)) for name, target in names.items()}
    if sizes.architecture in ("gemma3", "qwen3"):
        for letter in "qk":
            norms[f"attn_{letter}_norm.weight"] = (f"self_attn.{letter}_norm.weight", (sizes.head_dim,))
    return norms


def chunks(file: GgufFile, placed: Placed) -> Iterator[np.ndarray]:
    """Yield a tensor as float32 [rows, columns], some rows at a time, as transformers wants them.

    Raises IntegrityError for a value that is not finite, UsageError for a type without float values.
    """
    import numpy as np

    for rows in _raw(file, placed):
        values = _dequantise(placed, rows)
        if placed.plus_one:
            values = values - np.float32(1)
        if not np.isfinite(values).all():
            raise _not_finite(file, placed)
        yield values


def _not_finite(file: GgufFile, placed: Placed) -> IntegrityError:
    return IntegrityError(
        f"tensor `{placed.source.name}` holds NaN or infinity", where=file.parts.where,
        hint="the weights are damaged; get the file again",
    )


def _raw(file: GgufFile, placed: Placed) -> Iterator[np.ndarray]:
    """Yield the stored bytes of some rows at a time, uint8 [rows, row bytes], each head's halves put back in place."""
    import numpy as np

    source, head = placed.source, placed.interleaved_rows
    if placed.columns % source.type.block_values:
        raise UsageError(f"tensor `{source.name}` is stored as {source.type.name}", where=file.parts.where)
    row_bytes = placed.columns // source.type.block_values * source.type.block_bytes
    step = max(1, CHUNK_VALUES // placed.columns)
    if head:
        step = max(1, step // head) * head
    for start in range(0, placed.rows, step):
        count = min(step, placed.rows - start)
        payload = file.parts.read(source.offset_bytes + start * row_bytes, count * row_bytes)
        rows = np.frombuffer(payload, np.uint8).reshape(count, row_bytes)
        if head:
            rows = rows.reshape(-1, head // 2, 2, row_bytes).swapaxes(1, 2).reshape(count, row_bytes)
        yield rows


def _dequantise(placed: Placed, rows: np.ndarray) -> np.ndarray:
    import numpy as np

    try:
        import gguf
    except ImportError as error:
        raise MachineError("weights in a GGUF file need the package gguf", hint="pip install gguf") from error
    kind = placed.source.type.name
    try:
        with np.errstate(all="ignore"):  # what is not finite is told by its tensor's name
            values: np.ndarray = gguf.dequantize(rows, gguf.GGMLQuantizationType[kind])
    except (KeyError, NotImplementedError) as error:  # what gguf raises of types that are new to it, or have no code
        raise UsageError(f"tensor `{placed.source.name}` is of type {kind}, which has no float values here") from error
    return values


def quantised_rows(file: GgufFile, placed: Placed) -> Iterator[Rows]:
    """Take a tensor of one of IN_GROUPS apart, some rows at a time, with nothing rounded.

    The low nibble of byte i is value i of a group and the high one is value i + 16; Q5_0 has their fifth bits apart.
    Raises IntegrityError for a scale or an offset that is not finite.
    """
    import numpy as np

    kind = placed.source.type.name
    for raw in _raw(file, placed):
        blocks = raw.reshape(len(raw), -1, placed.source.type.block_bytes)
        scales, offsets = _halves(blocks, 0), _halves(blocks, 2) if kind == "Q4_1" else None
        for part in (scales, offsets):
            if part is not None and not np.isfinite(part).all():
                raise _not_finite(file, placed)
        codes = _codes(kind, blocks)
        if offsets is not None:  # at scale 0 a group holds one value, its offset: that is code 0 at any scale
            codes *= scales[:, :, None] != 0
            scales = np.where(scales == 0, np.float16(1), scales)
        yield Rows(codes=codes.reshape(len(raw), placed.columns), scales=scales, offsets=offsets)


def _halves(blocks: np.ndarray, at: int) -> np.ndarray:
    """Return the float16 that begins at a byte of every block."""
    import numpy as np

    found: np.ndarray = np.ascontiguousarray(blocks[:, :, at : at + 2]).view("<f2")[:, :, 0]
    return found


def _codes(kind: str, blocks: np.ndarray) -> np.ndarray:
    """Return uint8 [rows, groups, 32]: 0…15, or for Q8_0 and Q5_0 the file's signed number plus 128."""
    import numpy as np

    if kind == "Q8_0":
        return blocks[:, :, 2:] ^ np.uint8(0x80)
    nibbles = blocks[:, :, -GROUP // 2 :]
    low = np.concatenate([nibbles & 15, nibbles >> 4], axis=2)
    if kind != "Q5_0":
        return low
    fifth = np.unpackbits(blocks[:, :, 2:6], axis=2, bitorder="little")
    codes: np.ndarray = (low | fifth << 4) + np.uint8(ZEROS[kind] - 16)
    return codes
