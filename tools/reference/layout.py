"""Where things lie, and the few helpers every script shares."""
import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
OUT = HERE.parent.parent / "tests" / "data" / "reference"


def write_json(path: Path, value, compact: bool = False) -> None:
    """Deterministic JSON; number lists on one line each so that a diff stays readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if compact:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    else:
        text = _pretty(value, 0)
    path.write_text(text + "\n", encoding="utf-8")


def _pretty(value, depth: int) -> str:
    pad = " " * depth
    if isinstance(value, dict) and value:
        rows = [f"{pad} {json.dumps(k, ensure_ascii=False)}: {_pretty(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + pad + "}"
    if isinstance(value, list) and value and any(isinstance(v, dict) for v in value):
        return "[\n" + ",\n".join(pad + " " + _pretty(v, depth + 1) for v in value) + "\n" + pad + "]"
    return json.dumps(value, ensure_ascii=False)


def save_npy(path: Path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.ascontiguousarray(array))
