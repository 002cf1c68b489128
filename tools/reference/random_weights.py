"""Model weights from a hash: the same bits from Python and from C++, so that tests need no weight files.

A tensor is a pure function of (published name, shape, seed). `element_words` and `tensor_f32` are the whole rule:

    h0  = FNV-1a 64 over the bytes of the published name
    x_i = (h0 xor (seed * 0x9E3779B97F4A7C15)) + i            mod 2^64, i = flat row-major element index
    z_i = splitmix64 finaliser of x_i
    u_i = float32(z_i >> 40) * 2^-23 - 1                      exact in float32, in [-1, 1)
    w_i = float32(offset) + float32(scale) * u_i              two float32 roundings, no fused multiply-add

    name ends with ".bias"   offset 0, scale 0.1 sqrt(3)                    (standard deviation 0.1)
    other 1-D (norm weight)  offset 1, scale 0.1 sqrt(3)
    everything else          offset 0, scale 1.5 sqrt(3) / sqrt(fan_in)     fan_in = product of shape[1:]

bf16 and f16 files hold the float32 value rounded to nearest even. Only NumPy is needed. As a program it writes a
complete Hugging Face directory:

    random_weights.py --config config.json --out DIR --seed 7 --dtype bf16 [--layout language_model] [--shards 2] [FILE ...]
"""
import argparse
import json
import math
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
DTYPES = {"f32": ("F32", 4), "bf16": ("BF16", 2), "f16": ("F16", 2)}
CHUNK = 1 << 22  # elements hashed at a time: 32 MiB of 64-bit words


def fnv1a64(data: bytes) -> int:
    h = 14695981039346656037
    for byte in data:
        h = ((h ^ byte) * 1099511628211) & MASK
    return h


def element_words(name: str, seed: int, begin: int, count: int) -> np.ndarray:
    """uint64 z_i for i in [begin, begin + count)."""
    base = (fnv1a64(name.encode("utf-8")) ^ ((seed * GOLDEN) & MASK)) + begin
    z = np.arange(count, dtype=np.uint64) + np.uint64((base + GOLDEN) & MASK)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def unit_values(name: str, seed: int, begin: int, count: int) -> np.ndarray:
    """float32 u_i in [-1, 1)."""
    top = (element_words(name, seed, begin, count) >> np.uint64(40)).astype(np.float32)
    return top * np.float32(2.0 ** -23) - np.float32(1.0)


def offset_and_scale(name: str, shape) -> tuple[float, float]:
    if name.endswith(".bias"):
        return 0.0, 0.1 * math.sqrt(3.0)
    if len(shape) == 1:
        return 1.0, 0.1 * math.sqrt(3.0)
    return 0.0, 1.5 * math.sqrt(3.0) / math.sqrt(math.prod(shape[1:]))


def tensor_f32(name: str, shape, seed: int) -> np.ndarray:
    """The float32 tensor of this published name, before rounding to the disk dtype."""
    offset, scale = offset_and_scale(name, shape)
    total = math.prod(shape)
    out = np.empty(total, dtype=np.float32)
    for begin in range(0, total, CHUNK):
        n = min(CHUNK, total - begin)
        out[begin:begin + n] = np.float32(offset) + np.float32(scale) * unit_values(name, seed, begin, n)
    return out.reshape(shape)


def encode(values: np.ndarray, dtype: str) -> bytes:
    """float32 values as little-endian disk bytes."""
    if dtype == "f32":
        return values.astype("<f4").tobytes()
    if dtype == "f16":
        return values.astype("<f2").tobytes()
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def projection(hidden: int) -> np.ndarray:
    """The [hidden, 4] float32 matrix that golden stages are multiplied with: u_i of the name "projection", seed 0."""
    return unit_values("projection", 0, 0, hidden * 4).reshape(hidden, 4)


# ---------------------------------------------------------------------------------------------------------------------
# Which tensors a Qwen2-VL / Qwen2.5-VL / Qwen3-VL directory has


def text_fields(config: dict) -> dict:
    """Text settings: `text_config` where there is one, the root otherwise (the published, flat form)."""
    return config.get("text_config", config)


def is_tied(config: dict) -> bool:
    if config["model_type"] == "qwen3_vl" and "tie_word_embeddings" in config:
        return config["tie_word_embeddings"]
    return bool(text_fields(config).get("tie_word_embeddings", config.get("tie_word_embeddings", False)))


def tensor_shapes(config: dict) -> dict[str, tuple]:
    """Published tensor name -> shape, in model order."""
    text, vision = text_fields(config), config["vision_config"]
    windowed, newest = config["model_type"] == "qwen2_5_vl", config["model_type"] == "qwen3_vl"
    shapes: dict[str, tuple] = {}

    def linear(name, out_features, in_features, bias=True):
        shapes[name + ".weight"] = (out_features, in_features)
        if bias:
            shapes[name + ".bias"] = (out_features,)

    def norm(name, size, bias):
        shapes[name + ".weight"] = (size,)
        if bias:
            shapes[name + ".bias"] = (size,)

    # In Qwen2-VL's vision_config `hidden_size` is the output width and `embed_dim` the tower's own.
    width = vision["hidden_size"] if windowed or newest else vision["embed_dim"]
    out_width = vision["out_hidden_size"] if windowed or newest else vision["hidden_size"]
    channels = vision.get("in_channels", vision.get("in_chans", 3))
    merge = vision["spatial_merge_size"] ** 2
    shapes["visual.patch_embed.proj.weight"] = (width, channels, vision["temporal_patch_size"], vision["patch_size"], vision["patch_size"])
    if newest:
        shapes["visual.patch_embed.proj.bias"] = (width,)
        shapes["visual.pos_embed.weight"] = (vision["num_position_embeddings"], width)
    for i in range(vision["depth"]):
        block = f"visual.blocks.{i}."
        norm(block + "norm1", width, not windowed)
        norm(block + "norm2", width, not windowed)
        linear(block + "attn.qkv", 3 * width, width)
        linear(block + "attn.proj", width, width)
        if windowed:
            inner = vision["intermediate_size"]
            linear(block + "mlp.gate_proj", inner, width)
            linear(block + "mlp.up_proj", inner, width)
            linear(block + "mlp.down_proj", width, inner)
        elif newest:
            linear(block + "mlp.linear_fc1", vision["intermediate_size"], width)
            linear(block + "mlp.linear_fc2", width, vision["intermediate_size"])
        else:
            inner = int(width * vision["mlp_ratio"])
            linear(block + "mlp.fc1", inner, width)
            linear(block + "mlp.fc2", width, inner)
    mergers = {"visual.merger": width}
    if newest:
        mergers.update({f"visual.deepstack_merger_list.{i}": merge * width for i in range(len(vision["deepstack_visual_indexes"]))})
    for merger, normed in mergers.items():
        norm(merger + (".norm" if newest else ".ln_q"), normed, not windowed)
        linear(merger + (".linear_fc1" if newest else ".mlp.0"), merge * width, merge * width)
        linear(merger + (".linear_fc2" if newest else ".mlp.2"), out_width, merge * width)

    hidden, inner = text["hidden_size"], text["intermediate_size"]
    dim = text["head_dim"] if newest else hidden // text["num_attention_heads"]
    q_width, kv_width = dim * text["num_attention_heads"], dim * text["num_key_value_heads"]
    shapes["model.embed_tokens.weight"] = (text["vocab_size"], hidden)
    for i in range(text["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        norm(layer + "input_layernorm", hidden, False)
        norm(layer + "post_attention_layernorm", hidden, False)
        linear(layer + "self_attn.q_proj", q_width, hidden, bias=not newest)
        linear(layer + "self_attn.k_proj", kv_width, hidden, bias=not newest)
        linear(layer + "self_attn.v_proj", kv_width, hidden, bias=not newest)
        if newest:
            norm(layer + "self_attn.q_norm", dim, False)
            norm(layer + "self_attn.k_norm", dim, False)
        linear(layer + "self_attn.o_proj", hidden, q_width, bias=False)
        linear(layer + "mlp.gate_proj", inner, hidden, bias=False)
        linear(layer + "mlp.up_proj", inner, hidden, bias=False)
        linear(layer + "mlp.down_proj", hidden, inner, bias=False)
    norm("model.norm", hidden, False)
    if not is_tied(config):
        shapes["lm_head.weight"] = (text["vocab_size"], hidden)
    return shapes


def disk_name(name: str, layout: str) -> str:
    """The name in the file: as published, or as transformers >= 4.52 holds it in memory."""
    if layout == "language_model":
        if name.startswith("visual."):
            return "model." + name
        if name.startswith("model."):
            return "model.language_model." + name[len("model."):]
    return name


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def write_safetensors(path: Path, names: list[str], shapes: dict, seed: int, dtype: str, layout: str) -> None:
    code, size = DTYPES[dtype]
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        end = at + math.prod(shapes[name]) * size
        header[disk_name(name, layout)] = {"dtype": code, "shape": list(shapes[name]), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)))
        out.write(text)
        for name in names:
            out.write(encode(tensor_f32(name, shapes[name], seed), dtype))


def write_model(config: dict, out: Path, seed: int, dtype: str, layout: str = "published", shards: int = 1, files=()) -> None:
    """config.json, the weights and copies of `files` in `out`; with shards > 1 also model.safetensors.index.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for file in files:
        shutil.copy(file, out / Path(file).name)
    shapes = tensor_shapes(config)
    size = DTYPES[dtype][1]
    total = sum(math.prod(s) for s in shapes.values()) * size
    if shards == 1:
        write_safetensors(out / "model.safetensors", list(shapes), shapes, seed, dtype, layout)
        return
    groups: list[list[str]] = [[] for _ in range(shards)]
    done = 0
    for name, shape in shapes.items():
        groups[min(shards - 1, done * shards // total)].append(name)
        done += math.prod(shape) * size
    weight_map = {}
    for i, names in enumerate(groups):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        write_safetensors(out / file, names, shapes, seed, dtype, layout)
        weight_map.update({disk_name(n, layout): file for n in names})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_tensors(config: dict, shapes: dict, out: Path, seed: int, dtype: str) -> None:
    """config.json and one file of tensors of these names and shapes, for models that tensor_shapes does not know."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_safetensors(out / "model.safetensors", list(shapes), shapes, seed, dtype, "published")


def checksums(config: dict, seed: int, dtype: str) -> dict:
    """Published name -> shape, CRC-32 of the disk bytes, first float32 values: to check another implementation."""
    result = {}
    for name, shape in tensor_shapes(config).items():
        values = tensor_f32(name, shape, seed)
        first = [float(v) for v in values.reshape(-1)[:2]]
        result[name] = {"shape": list(shape), "crc32": zlib.crc32(encode(values, dtype)), "first": first}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--layout", choices=["published", "language_model"], default="published")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("files", nargs="*", help="further files to copy: tokenizer.json, preprocessor_config.json ...")
    args = parser.parse_args()
    config = json.loads(args.config.read_text())
    write_model(config, args.out, args.seed, args.dtype, args.layout, args.shards, args.files)


if __name__ == "__main__":
    main()
