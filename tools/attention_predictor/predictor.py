"""The predictor in PyTorch, dumped rows, and which pages a step reads: what docs/policies.md says under "Looking up", a second time."""
import json
import pathlib

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

HISTORY = 64


class Predictor(nn.Module):
    """[n, 64, pages] probabilities -> [n, pages] scores. The layers' names are those of the file."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv1d(32, 1, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.conv3(self.conv2(self.conv1(rows[:, None]).relu()).relu().mean(dim=2))[:, 0]

    def save(self, path: pathlib.Path, fingerprint: str, scale: float) -> None:
        """Of a predictor that was trained on probabilities times `scale`: ReLU lets a factor through, so that the file's takes them as they are."""
        tensors = {name: value.detach().clone().contiguous() for name, value in self.state_dict().items()}
        tensors["conv1.weight"] *= scale
        tensors["conv3.weight"] /= scale
        tensors["conv3.bias"] /= scale
        save_file(tensors, str(path), metadata={"fingerprint": fingerprint})

    @classmethod
    def load(cls, path: pathlib.Path) -> "Predictor":
        model = cls()
        model.load_state_dict(load_file(str(path)))
        return model.eval()


class Dump:
    """A directory that purekv-dump-rows wrote."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        about = json.loads((path / "rows.json").read_text())
        self.fingerprint, self.page, self.tokens, self.prompt = about["fingerprint"], about["page"], about["tokens"], about["prompt_tokens"]
        self.kv_heads, self.layers = about["kv_heads"], about["layers"]
        self.maxima = np.load(path / "maxima.npy")  # [layers, heads, rows, pages]
        self.mass = np.load(path / "mass.npy")
        self.rows = self.maxima.shape[2]

    def grouped(self, array: np.ndarray) -> np.ndarray:
        """[layers, heads, ..] -> [layers * kv_heads, group, ..]"""
        layers, heads = array.shape[:2]
        return array.reshape(layers * self.kv_heads, heads // self.kv_heads, *array.shape[2:])

    def length(self, row: int) -> int:
        """Entries of a head when the row attends, its own among them."""
        return self.tokens - self.rows + row + 1


def dumps_below(folder: pathlib.Path) -> list[Dump]:
    found = [Dump(path.parent) for path in sorted(folder.glob("**/rows.json"))]
    if not found:
        raise SystemExit(f"{folder}: no rows.json below it: purekv-dump-rows writes them")
    return found


def candidates(length: int, most: int, page: int, sinks: int = 64, local: int = 64) -> tuple[int, int, int]:
    """Pages first .. end - 1, and how many of them are read."""
    first, near = min(sinks, most // 4) // page, min(local, most // 2) // page
    pages = -(-length // page)
    return first, max(first, pages - max(1, near)), max(1, most // page - first - near)
