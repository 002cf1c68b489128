#!/usr/bin/env python3
"""What quantised weights cost on pretrained models, against the same weights in bf16.

    tools/real_models/quantised.py DIR --models smollm2,qwen0.5b          # an hour; DIR keeps models and results
    tools/real_models/quantised.py DIR --models smollm2 --lengths 1k,3k --texts 8 --tokens 64

The matrices of the models' GGUF files are expanded into bf16 first (DIR/MODEL.gguf): the reference. Then, over summaries and code of the long-context
benchmark (tools/long_context/make.py), the reference answers, and every form is led along its answer: mean KL(bf16 || form) per token and the
share of equal first choices. Needles are asked of every form with the full cache. `gguf` is the file itself, whose codes are those that were
expanded. Needs numpy and gguf; results stay in DIR/results.jsonl: the same command goes on.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
FORMS = {
    "int8": ["--weights", "int8"],
    "int4 G 32": ["--weights", "int4", "--weights-option", "group=32"],
    "int4 G 64": ["--weights", "int4"],
    "int4 G 64, down int8": ["--weights", "int4", "--weights-option", "down=int8"],
    "int4 G 128": ["--weights", "int4", "--weights-option", "group=128"],
    "int8, rows int8": ["--weights", "int8", "--weights-option", "activations=int8"],
    "Q4_0": [],
}


def expand(path, to, kind="BF16"):
    """The file with its matrices as bf16, or as Q4_0 (embedding and head: Q8_0)."""
    if to.is_file():
        return
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize, quantize
    reader = GGUFReader(str(path))
    part = to.with_suffix(".new")
    writer = GGUFWriter(str(part), reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim < 2:
            writer.add_tensor(tensor.name, values)
        else:
            held = GGMLQuantizationType[kind]
            if kind == "Q4_0" and tensor.name in ("token_embd.weight", "output.weight"):
                held = GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, quantize(values, held), raw_dtype=held)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(to)


def run(program, *arguments):
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{program} {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout


class Results:
    """One line per question and form; what is there is not asked again."""

    def __init__(self, path):
        self.path, self.rows = path, []
        if path.is_file():
            self.rows = [json.loads(line) for line in path.read_text().splitlines()]

    def find(self, **key):
        return next((row for row in self.rows if all(row.get(k) == v for k, v in key.items())), None)

    def add(self, **row):
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def file_of(arguments, model, form):
    if form == "gguf":
        return arguments.models_at / f"{model}.gguf"
    return arguments.directory / (f"{model}-Q4_0.gguf" if form == "Q4_0" else f"{model}.gguf")


def follow(arguments, results, model, question):
    """The reference's answer to one question, and every form along it."""
    names = [name for name in arguments.forms if not results.find(model=model, id=question["id"], form=name)]
    if not names:
        return
    reference = arguments.directory / f"{model}.gguf"
    asked = ["--context", arguments.data / question["text_file"], "-p", question["prompt"]]
    known = results.find(model=model, id=question["id"], form="bf16")
    if not known:
        answer = json.loads(run(arguments.program, "ask", "-m", reference, *asked, "-n", arguments.tokens, "--json", "-"))["answers"][0]["ids"]
        results.add(model=model, id=question["id"], form="bf16", ids=answer)
        known = results.rows[-1]
    if not known["ids"]:
        return
    given = ["--answer-ids", ",".join(map(str, known["ids"]))]
    with tempfile.TemporaryDirectory() as folder:
        def logits(source, flags):
            file = pathlib.Path(folder) / "logits.npy"
            run(arguments.program, "score", "-m", source, *asked, *given, *flags, "--logits", file)
            return log_softmax(np.load(file))
        right = logits(reference, [])
        for name in names:
            source = file_of(arguments, model, name)
            ours = logits(source, FORMS.get(name, []))
            kl = (np.exp(right) * (right - ours)).sum(-1)
            results.add(model=model, id=question["id"], form=name, kl=[round(float(x), 8) for x in kl],
                        agree=int((right.argmax(-1) == ours.argmax(-1)).sum()))


def needles(arguments, results, model, length):
    for name in ["bf16", *arguments.forms]:
        if results.find(model=model, needles=length, form=name):
            continue
        source = file_of(arguments, model, name)
        with tempfile.TemporaryDirectory() as folder:
            run(arguments.program, "eval", "-m", source, *FORMS.get(name, []), "--data", arguments.data / "questions.jsonl", "--types",
                "needle,lookup", "--lengths", length, "--policies", "full", "--budgets", "1", "--limit", arguments.needles, "-n", 24,
                "--viewer-videos", 0, "-o", folder)
            rows = [json.loads(line) for line in (pathlib.Path(folder) / "results.jsonl").read_text().splitlines()]
        results.add(model=model, needles=length, form=name, right=int(sum(row["score"] for row in rows)), of=len(rows))


def table(arguments, results):
    print("| model | texts | form | mean KL to bf16 | equal first choices | needles and lookups right |\n|---|---|---|---:|---:|---:|")
    for model in arguments.models:
        for length in arguments.lengths:
            for name in ["bf16", *arguments.forms]:
                rows = [row for row in results.rows if row["model"] == model and row["form"] == name and f"-{length}-" in row.get("id", "")]
                found = results.find(model=model, needles=length, form=name) or {"right": "", "of": ""}
                right = f"{found['right']} of {found['of']}"
                if name == "bf16":
                    print(f"| {model} | {length} | bf16 | | | {right} |")
                    continue
                kl = np.concatenate([row["kl"] for row in rows]) if rows else np.zeros(1)
                agree = sum(row["agree"] for row in rows) / max(1, len(kl))
                print(f"| {model} | {len(rows)} of {length}, {len(kl)} tokens | {name} | {kl.mean():.2g} | {100 * agree:.1f} % | {right} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--models", default="smollm2,qwen0.5b", type=lambda text: text.split(","))
    parser.add_argument("--models-at", type=pathlib.Path, default=ROOT / "real-models", help="where fetch.py put the files")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "out/long-context", help="where make.py put the benchmark")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/bin/purekv")
    parser.add_argument("--lengths", default="1k", type=lambda text: text.split(","))
    parser.add_argument("--texts", type=int, default=6, help="summaries, and as many files of code, per length")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--needles", type=int, default=10, help="and as many lookups, per length; 0: none")
    parser.add_argument("--forms", default=",".join([*FORMS, "gguf"]).replace("64, down", "64; down").replace("int8, rows", "int8; rows"),
                        type=lambda text: [name.replace(";", ",") for name in text.split(",")])
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.directory / "results.jsonl")
    questions = [json.loads(line) for line in (arguments.data / "questions.jsonl").read_text().splitlines()]
    for model in arguments.models:
        expand(arguments.models_at / f"{model}.gguf", file_of(arguments, model, "bf16"))
        if "Q4_0" in arguments.forms:
            expand(arguments.models_at / f"{model}.gguf", file_of(arguments, model, "Q4_0"), "Q4_0")
        for length in arguments.lengths:
            for kind in ("summary", "code"):
                chosen = [q for q in questions if q["type"] == kind and q["length"] == length][:arguments.texts]
                for question in chosen:
                    follow(arguments, results, model, question)
            if arguments.needles:
                needles(arguments, results, model, length)
    table(arguments, results)


if __name__ == "__main__":
    main()
