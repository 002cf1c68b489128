"""How far purekv and llama.cpp are from a file's own weights: the same GGUF file in both, against its matrices expanded to bf16.

    tools/peers/fidelity.py REFERENCE.gguf FILE.gguf --data out/long-context --length 1k --texts 3

REFERENCE.gguf is what tools/real_models/quantised.py leaves of FILE.gguf (matrices in bf16). Over summaries and code of the long-context
benchmark (tools/long_context/make.py) the reference answers, and both engines are led along its answer: mean KL(reference || engine) per token
and equal first choices.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import llama_cpp
import numpy
from run_llamacpp import decode, load

HERE = pathlib.Path(__file__).resolve().parent


def purekv(program, *arguments):
    done = subprocess.run([str(part) for part in (program, *arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout


def log_softmax(logits):
    logits = logits.astype(numpy.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - numpy.log(numpy.exp(logits).sum(-1, keepdims=True))


def of_llamacpp(context, prompt, answer, batch):
    """Logits that predict each token of the answer, read as it is decoded: the prompt in batches, then token by token."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(context)))
    rows = []
    for piece in [prompt, *([token] for token in answer[:-1])]:
        decode(context, piece, batch)
        rows.append(numpy.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (vocabulary,)).copy())
    return log_softmax(numpy.stack(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=pathlib.Path)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="where tools/long_context/make.py put the benchmark")
    parser.add_argument("--length", default="1k")
    parser.add_argument("--texts", type=int, default=3, help="summaries, and as many files of code")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--purekv", default=HERE.parents[1] / "build/release/bin/purekv")
    arguments = parser.parse_args()
    questions = [json.loads(line) for line in (arguments.data / "questions.jsonl").read_text().splitlines()]
    chosen = []
    for kind in ("summary", "code"):
        chosen += [q for q in questions if q["type"] == kind and q["length"] == arguments.length][: arguments.texts]

    read = []  # prompt ids, answer ids, the reference's log probabilities, purekv's
    for question in chosen:
        asked = ["--context", arguments.data / question["text_file"], "-p", question["prompt"]]
        said = json.loads(purekv(arguments.purekv, "ask", "-m", arguments.reference, *asked, "-n", arguments.tokens, "--json", "-"))
        answer = said["answers"][0]["ids"]
        with tempfile.TemporaryDirectory() as folder:
            def logits(model):
                file = pathlib.Path(folder) / "logits.npy"
                purekv(arguments.purekv, "score", "-m", model, *asked, "--answer-ids", ",".join(map(str, answer)), "--logits", file)
                return log_softmax(numpy.load(file))
            read.append((said["prompt"]["ids"], answer, logits(arguments.reference), logits(arguments.file)))

    _, context = load(argparse.Namespace(
        model=str(arguments.file), warm_up=0, prompt_tokens=[max(len(one[0]) for one in read)], new_tokens=arguments.tokens, batch=512,
        ubatch=512, threads=arguments.threads, kv="f16", flash="auto"))
    right, engines = [], {"purekv": [], "llama.cpp": []}
    for prompt, answer, reference, ours in read:
        right.append(reference)
        engines["purekv"].append(ours)
        engines["llama.cpp"].append(of_llamacpp(context, prompt, answer, 512)[:, : reference.shape[-1]])
    right = numpy.concatenate(right)
    print("| engine | tokens | mean KL to bf16 | equal first choices |\n|---|---:|---:|---:|")
    for name, rows in engines.items():
        rows = numpy.concatenate(rows)
        kl = (numpy.exp(right) * (right - rows)).sum(-1).mean()
        print(f"| {name} | {len(right)} | {kl:.2g} | {100 * (right.argmax(-1) == rows.argmax(-1)).mean():.1f} % |")


if __name__ == "__main__":
    main()
