"""gguf/: a file written by the gguf package, with metadata of every type and blocks of every format that is read, and the values that the
package gives them. The blocks are random, with the largest, the smallest and signed zero scales among them."""
import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from layout import OUT, save_npy
from random_weights import element_words

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
# Where a block has 16-bit floating-point scales.
SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
# 0, -0, smallest, -smallest, largest subnormal, smallest normal, 1, -largest, largest
EXTREMES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xFBFF, 0x7BFF]


def random_bytes(name: str, count: int) -> np.ndarray:
    return (element_words("gguf." + name, 0, 0, count) >> np.uint64(40)).astype(np.uint8)


def finite(numbers: np.ndarray, exponent: int) -> np.ndarray:
    """Bits of floating-point numbers; where they are no finite ones, a bit of the exponent is cleared."""
    bad = (numbers & exponent) == exponent
    return np.where(bad, numbers & ~numbers.dtype.type(exponent & -exponent), numbers)


def blocks_of(name: str, rows: int, per_row: int) -> np.ndarray:
    """[rows, bytes]"""
    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    raw = random_bytes(name, rows * per_row * size)
    if elements == 1:
        kind, exponent = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}[name]
        numbers = finite(raw.view(kind), exponent)
        if name == "F16":
            numbers[: len(EXTREMES)] = EXTREMES
        return numbers.view(np.uint8).reshape(rows, -1)
    blocks = raw.reshape(rows * per_row, size)
    for place, at in enumerate(SCALES[name]):
        scales = finite(blocks[:, at : at + 2].copy().view(np.uint16)[:, 0], 0x7C00)
        count = min(len(scales), len(EXTREMES))
        scales[:count] = np.roll(EXTREMES, -3 * place)[:count]
        blocks[:, at : at + 2] = scales.astype("<u2")[:, None].view(np.uint8)
    return blocks.reshape(rows, per_row * size)


def main() -> None:
    folder = OUT / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(folder / "blocks.gguf", "test")
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_uint32("test.u32", 4000000000)
    writer.add_int32("test.i32", -2000000000)
    writer.add_float32("test.f32", 0.1)
    writer.add_uint64("test.u64", 2**64 - 1)
    writer.add_int64("test.i64", -(2**63))
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "a\nb\u00e9")
    writer.add_array("test.strings", ["", "\u2581the", "x" * 300])
    writer.add_array("test.ints", [-1, 0, 2147483647])
    writer.add_array("test.floats", [0.5, -1000.0])
    writer.add_array("test.bools", [True, False])
    values = []
    for name in TYPES:
        kind = GGMLQuantizationType[name]
        raw = blocks_of(name, 4, {1: 9, 32: 5, 256: 3}[GGML_QUANT_SIZES[kind][0]])
        writer.add_tensor(name.lower(), raw, raw_dtype=kind)
        if name == "F32":
            values.append(raw.view("<f4"))
        elif name == "F16":
            values.append(raw.view("<f2").astype(np.float32))
        else:
            values.append(dequantize(raw, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    flat = np.concatenate([v.reshape(-1) for v in values]).astype("<f4")
    assert np.isfinite(flat).all()
    save_npy(folder / "values.npy", flat)


if __name__ == "__main__":
    main()
