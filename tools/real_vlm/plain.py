"""Plain text that is on any Debian machine: licences, the documentation strings of Python's library, its sources.

A sixteenth of the files, by a hash of their names, is held out.
"""
import ast
import hashlib
import sysconfig
from pathlib import Path

import numpy as np

import language

LICENCES = Path("/usr/share/common-licenses")


def documents(held_out):
    """The texts, one per file, in an order that does not depend on the machine's directory listing."""
    files = [p for p in sorted(LICENCES.glob("*")) if p.is_file()] if LICENCES.is_dir() else []
    library = Path(sysconfig.get_paths()["stdlib"])
    files += sorted(p for part in (".", "asyncio", "email", "json", "unittest", "logging", "http", "importlib") for p in library.glob(f"{part}/*.py"))
    out = []
    for path in files:
        if (int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % 16 == 0) != held_out:
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        if path.suffix == ".py":
            try:
                tree = ast.parse(text)
            except SyntaxError:
                continue
            docs = [ast.get_docstring(n) for n in ast.walk(tree)
                    if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
            out.append("\n\n".join(d for d in docs if d))
        out.append(text)
    return [t for t in out if len(t) > 2000]


class Texts:
    """Random stretches of the documents as ids. Half of them stand as a user's message and the rest of the stretch as its answer."""

    def __init__(self, packer, held_out=False):
        self.packer = packer
        self.parts = [np.array(packer.tok.encode(t, add_special_tokens=False).ids, np.int64) for t in documents(held_out)]
        sizes = np.array([min(len(p), 20000) for p in self.parts], float)
        self.share = sizes / sizes.sum()

    def draw(self, rng, count, length):
        out = np.empty((count, length), np.int64)
        for row in out:
            part = self.parts[rng.choice(len(self.parts), p=self.share)]
            at = int(rng.integers(max(1, len(part) - length)))
            text = part[at:at + length].tolist()
            if rng.random() < 0.5:
                head, middle = self.packer.ids(self.head()), self.packer.ids("<|im_end|>\n<|im_start|>assistant\n")
                cut = int(rng.integers(8, length // 2))
                text = head + text[:cut] + middle + text[cut:]
            text = (text + [self.packer.pad] * length)[:length]
            row[:] = text
        return out

    @staticmethod
    def head():
        return language.HEAD.removesuffix("<|vision_start|>")
