"""Weights in files, as NumPy has them: what is merged needs no framework."""
import json

import numpy as np

import language

SCALE = 2.0  # an update is SCALE * b @ a


def read(path):
    """{name: float32 array} of a safetensors file of bf16 and f32 tensors."""
    file = np.memmap(path, np.uint8, "r")
    begin = 8 + int(file[:8].view("<u8")[0])
    out = {}
    for name, tensor in json.loads(file[8:begin].tobytes()).items():
        if name == "__metadata__":
            continue
        data = file[begin + tensor["data_offsets"][0]:begin + tensor["data_offsets"][1]]
        if tensor["dtype"] == "BF16":
            values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif tensor["dtype"] == "F32":
            values = np.frombuffer(data, "<f4").copy()
        else:
            raise ValueError(f"{path}: {name} is {tensor['dtype']}; BF16 and F32 are read")
        out[name] = values.reshape(tensor["shape"])
    return out


def to_bf16(values):
    """The upper halves of float32 numbers, rounded to the nearest, and to even halfway."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + (0x7fff + ((bits >> 16) & 1))) >> 16).astype("<u2")


def write(path, arrays, bf16=True):
    """A safetensors file of them, in the order of their names."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, values in sorted(arrays.items()):
        end = at + values.size * (2 if bf16 else 4)
        header[name] = {"dtype": "BF16" if bf16 else "F32", "shape": list(values.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, values in sorted(arrays.items()):
            file.write((to_bf16(values) if bf16 else np.ascontiguousarray(values, "<f4")).tobytes())


def untrained_tower(directory, cfg):
    """The tower of a demo model; the last product of its merger, whose size is the decoder's, is zero."""
    seen = {k: v for k, v in read(f"{directory}/model.safetensors").items() if k.startswith("visual.")}
    seen["visual.merger.mlp.2.weight"] = np.zeros((cfg.hidden_size, seen["visual.merger.mlp.0.weight"].shape[0]), np.float32)
    seen["visual.merger.mlp.2.bias"] = np.zeros(cfg.hidden_size, np.float32)
    return seen


def merged(reader, trained):
    """The decoder of the GGUF in float32 with trained factors added to it. Summed in float64: every machine rounds to the same."""
    state = language.weights(reader)
    for name, a in trained.items():
        if name.endswith(".low_rank.a"):
            weight, b = name.replace("low_rank.a", "weight"), trained[name[:-1] + "b"]
            update = b.astype(np.float64) @ a.astype(np.float64)
            state[weight] = (state[weight] + SCALE * update).astype(np.float32)
    return state
