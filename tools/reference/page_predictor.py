"""page_predictor/: a predictor of pages with random numbers, a history, and what PyTorch makes of it. In double, so that only the engine's own rounding tells."""
import json

import numpy as np
import torch
from torch import nn

from layout import OUT, save_npy
from random_weights import unit_values

ROWS, PAGES = 64, 150
SHAPES = {"conv1.weight": (16, 1, 3, 3), "conv1.bias": (16,), "conv2.weight": (32, 16, 3, 3), "conv2.bias": (32,), "conv3.weight": (1, 32, 1), "conv3.bias": (1,)}


def numbers(name: str, shape, scale: float) -> np.ndarray:
    values = unit_values("page_predictor." + name, 0, 0, int(np.prod(shape)))
    return (values * scale).astype(np.float32).reshape(shape)


def forward(tensors: dict, rows: np.ndarray) -> np.ndarray:
    """[64, pages] -> [pages]"""
    given = {name: torch.from_numpy(value).double() for name, value in tensors.items()}
    x = torch.from_numpy(rows).double()[None, None]
    x = nn.functional.conv2d(x, given["conv1.weight"], given["conv1.bias"], padding=1).relu()
    x = nn.functional.conv2d(x, given["conv2.weight"], given["conv2.bias"], padding=1).relu()
    return nn.functional.conv1d(x.mean(dim=2), given["conv3.weight"], given["conv3.bias"])[0, 0].float().numpy()


def write_safetensors(path, tensors: dict, metadata: dict) -> None:
    header, at = {"__metadata__": metadata}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(value.tobytes() for value in tensors.values()))


def main() -> None:
    tensors = {name: numbers(name, shape, 0.6 if name.startswith("conv1") else 0.2) for name, shape in SHAPES.items()}
    rows = np.abs(numbers("rows", (ROWS, PAGES), 1.0)) ** 4  # few are large, as probabilities are
    write_safetensors(OUT / "page_predictor/predictor.safetensors", tensors, {"fingerprint": "0123456789abcdef0123456789abcdef"})
    save_npy(OUT / "page_predictor/rows.npy", rows)
    save_npy(OUT / "page_predictor/scores.npy", forward(tensors, rows))


if __name__ == "__main__":
    main()
