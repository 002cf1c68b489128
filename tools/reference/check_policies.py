"""Checks what the engine keeps, and what it then answers, against an independent implementation of every cache policy.

    check_policies.py --bin build/release/bin [--quick] [--only WORD ...] [--model NAME ...] [--prompt NAME ...] [--jobs 2]

`policy_definitions.py` writes the policies out in float64 NumPy, `masked_decoder.py` runs transformers' decoder in float64 with
evicted entries masked. For demo weights (`models/demo`) and for random models with 1, 2, 4 and 7 query heads per KV head, every prompt is
read once by the engine with `--dump`; the dumped inputs of the layers give Q, K and V here. Each case is then one engine run in float32:

  kept      the sets of `--kept` are those of the definition. Where they differ, scores changed by a relative 1e-5 or less must give the
            engine's sets exactly; such a case counts as a near-tie and is printed with the smallest change that explains it.
  decode    the log-probability of every generated token equals that of the masked decoder fed the same tokens (and the engine's kept
            sets), within 2e-4, and each generated token is the most likely one, within the same. Policies that evict while
            decoding do so here by the definition, so a wrong eviction shows.
  logits    `score --logits` of a fixed answer: every row within 1e-3 of the row's standard deviation.
  refusals  what the definitions forbid ends with status 2.

One line per case, a summary, exit status 1 if anything differs. Deterministic. `--quick` takes about ten minutes on two busy cores.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

import policy_definitions as pd
from masked_decoder import Decoder, MaskedCache, Prompt
from policy_cases import MODELS, ROOT, Case, make_cases, parsed, prompts, random_model, refusals

TIE = 1e-5            # largest relative change of a score that may explain a different choice
LOGPROB = 2e-4        # nats
LOGITS = 1e-3         # of the row's standard deviation
CHAIN = 3e-5          # relative error of one layer
GENERATED = (8, 24)   # tokens; more of policies that evict while decoding


# ---------------------------------------------------------------------------------------------------------------------
# One case


def expected(case: Case, part: pd.Part, model, planes_of) -> list:
    """Kept positions per layer and head; `planes_of(layer)` gives the score planes."""
    options, alpha, beta = parsed(case)
    base, n = pd.budget_tokens(case, part.n, model, options, beta), part.n
    if base == n:
        return [[list(range(n))] * model.kv_heads] * model.layers
    sinks, recent = pd.protected_spans(case.policy, options, base)
    budgets = pd.layer_budgets(case.allocator, model.layers, base, n, sinks + recent, beta)
    if case.policy == "uniform":
        return [[pd.evenly_spaced(options, base, here, n)] * model.kv_heads for here in budgets]
    return [pd.select(planes_of(l), case.policy, options, case.allocator, alpha, base, here, n) for l, here in enumerate(budgets)]


def smallest_change(case, part, model, planes, wanted, got) -> float | None:
    """The smallest of a few relative changes of the scores in dispute that turns the definition's choice into the engine's."""
    for change in (1e-9, 1e-8, 1e-7, 1e-6, 3e-6, TIE, 3e-5, 1e-4, 1e-3):
        moved = []
        for l in range(model.layers):
            layer = []
            for plane in planes(l):
                plane = np.array(plane, dtype=float)
                for g in range(model.kv_heads):
                    mine, theirs = set(wanted[l][g]), set(got[l][g])
                    for j in mine ^ theirs:
                        plane[g, j] += (1 if j in theirs else -1) * change * abs(plane[g, j])
                layer.append(plane)
            moved.append(tuple(layer))
        if expected(case, part, model, lambda l: moved[l]) == got:
            return change
    return None


def check_random(case, part, model, got) -> str | None:
    """random is defined by its properties only."""
    options, _, beta = parsed(case)
    base, n = pd.budget_tokens(case, part.n, model, options, beta), part.n
    sinks, recent = pd.protected_spans("random", options, base)
    budgets = pd.layer_budgets(case.allocator, model.layers, base, n, sinks + recent, beta)
    fixed = set(range(sinks)) | set(range(n - recent, n))
    for l, heads in enumerate(got):
        for kept in heads:
            if len(kept) != min(budgets[l], n) or (base < n and not fixed <= set(kept)):
                return f"layer {l} keeps {len(kept)} of {budgets[l]}"
    free = n - len(fixed)
    chosen = [tuple(k) for heads in got for k in heads if 8 <= len(k) - len(fixed) <= free - 8]
    return "two heads or layers made the same choice" if len(set(chosen)) < len(chosen) else None


def difference(wanted, got) -> str:
    for l, (mine, theirs) in enumerate(zip(wanted, got)):
        for g, (a, b) in enumerate(zip(mine, theirs)):
            if a != b:
                return f"layer {l} head {g}: definition alone {sorted(set(a) - set(b))[:6]}, engine alone {sorted(set(b) - set(a))[:6]}"
    return "shapes differ"


def check_kept(case, prompt, model, got) -> tuple[str, str]:
    """("ok" | "near-tie" | "WRONG", detail)"""
    part = prompt.part(case.when)
    if got["tokens"] != part.n:
        return "WRONG", f"the part has {part.n} tokens, the engine says {got['tokens']}"
    if case.policy == "random":
        wrong = check_random(case, part, model, got["layers"])
        return ("WRONG", wrong) if wrong else ("ok", "")
    options, _, beta = parsed(case)
    base, known = pd.budget_tokens(case, part.n, model, options, beta), {}

    def planes(layer):
        if layer not in known:
            known[layer] = pd.scores(part, layer, case.policy, options, base)
            assert all(np.isfinite(p).all() for p in known[layer])
        return known[layer]

    wanted = expected(case, part, model, planes)
    if wanted == got["layers"]:
        return "ok", ""
    change = None if case.policy in ("uniform", "full") else smallest_change(case, part, model, planes, wanted, got["layers"])
    if change is not None and change <= TIE:
        return "near-tie", f"explained by {change:g}"
    return "WRONG", difference(wanted, got["layers"]) + (f"; a change of {change:g} would explain it" if change else "")


def masked(case, prompt, model, kept) -> MaskedCache:
    part = prompt.part(case.when)
    options, _, beta = parsed(case)
    base = pd.budget_tokens(case, part.n, model, options, beta)
    return MaskedCache(prompt, part, kept["layers"], case.policy, options, base)


def check_answer(case, prompt, model, kept, answer) -> tuple[float, float]:
    """(largest error of a log-probability, largest shortfall of a generated token against the most likely one)."""
    cache = masked(case, prompt, model, kept)
    worst = short = 0.0
    logits = cache.last
    for i, (token, logprob) in enumerate(zip(answer["ids"], answer["logprobs"])):
        table = logits.log_softmax(-1)
        worst = max(worst, abs(float(table[token]) - logprob))
        short = max(short, float(table.max() - table[token]))
        if i + 1 < len(answer["ids"]):
            logits = cache.step(token)
    return worst, short


def check_logits(case, prompt, model, kept, ids, rows) -> float:
    """Largest error of a logit, in standard deviations of its row."""
    cache = masked(case, prompt, model, kept)
    worst, logits = 0.0, cache.last
    for i, row in enumerate(rows):
        worst = max(worst, float(np.abs(logits.numpy() - row).max() / logits.std()))
        if i + 1 < len(rows):
            logits = cache.step(ids[i])
    return worst


# ---------------------------------------------------------------------------------------------------------------------
# Running


class Tally:
    def __init__(self):
        self.counts = {"ok": 0, "near-tie": 0, "WRONG": 0}
        self.lines, self.worst = [], {"logprob": 0.0, "logits": 0.0, "chain": 0.0}

    def add(self, status: str, name: str, detail: str = "") -> None:
        self.counts[status] += 1
        line = f"{status:8} {name}" + (f": {detail}" if detail else "")
        print(line, flush=True)
        if status != "ok":
            self.lines.append(line)


class Engine:
    def __init__(self, bin_dir: Path, model: Path, work: Path):
        self.program, self.model, self.work = bin_dir / "purekv", model, work

    def call(self, command: str, prompt: list, *flags) -> subprocess.CompletedProcess:
        words = [self.program, command, "-m", self.model, "--dtype", "f32", "-t", "1", *prompt, *flags]
        return subprocess.run([str(w) for w in words], capture_output=True, text=True)

    def run(self, number: int, command: str, prompt: list, *flags) -> tuple[dict, dict]:
        """The result object and the kept sets."""
        kept = self.work / f"kept{number}.json"
        done = self.call(command, prompt, "--json", "-", "--kept", kept, *flags)
        if done.returncode:
            raise RuntimeError(f"status {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout), json.loads(kept.read_text())


def check_prompt(label: str, engine: Engine, decoder: Decoder, words: list, quick: bool, only, pool, tally: Tally) -> None:
    dump = engine.work / "dump"
    engine.run(0, "ask", words, "-n", "1", "--kv-policy", "full", "--dump", dump)
    prompt = Prompt(decoder, dump)
    tally.worst["chain"] = max(tally.worst["chain"], prompt.chain)
    tally.add("ok" if prompt.chain < CHAIN else "WRONG", f"{label} {prompt.n} tokens, layers", f"relative error {prompt.chain:.1e}")
    chosen = [c for c in make_cases(prompt, decoder, quick) if all(w in f"{label} {c.name()}" for w in only)]
    answer = prompt.ids[-9:-1]  # any tokens will do

    def work(item):
        number, case = item
        try:
            asked = engine.run(2 * number, "ask", words, "-n", str(GENERATED[case.policy in pd.HOLDS]), *case.flags())
            if number % 5 and case.policy not in pd.HOLDS:
                return asked, None
            logits = engine.work / f"logits{number}.npy"
            flags = ["--answer-ids", ",".join(map(str, answer)), "--logits", logits, *case.flags()]
            scored = engine.run(2 * number + 1, "score", words, *flags)
            return asked, (*scored, np.load(logits))
        except RuntimeError as error:
            return error, None

    for case, (asked, scored) in zip(chosen, pool.map(work, enumerate(chosen))):
        name = f"{label} {case.name()}"
        if isinstance(asked, Exception):
            tally.add("WRONG", name, str(asked))
            continue
        result, kept = asked
        status, detail = check_kept(case, prompt, decoder, kept)
        count = np.mean([len(k) for heads in kept["layers"] for k in heads])
        if abs(result["kv"]["tokens_kept_mean"] - count - (prompt.n - kept["tokens"])) > 1e-3:
            status, detail = "WRONG", f"{detail} tokens_kept_mean {result['kv']['tokens_kept_mean']} of {count}"
        error, short = check_answer(case, prompt, decoder, kept, result["answers"][0])
        tally.worst["logprob"] = max(tally.worst["logprob"], error)
        if error > LOGPROB or short > LOGPROB:
            status, detail = "WRONG", f"{detail} log-probabilities off by {error:.1e}, generated token behind by {short:.1e}"
        if scored:
            _, same, rows = scored
            error = check_logits(case, prompt, decoder, same, answer, rows)
            tally.worst["logits"] = max(tally.worst["logits"], error)
            if error > LOGITS or same != kept:
                status, detail = "WRONG", f"{detail} logits off by {error:.1e} deviations"
                detail += "" if same == kept else ", ask and score keep different sets"
        tally.add(status, name, detail.strip())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=ROOT / "build/release/bin", help="folder of purekv and purekv-make-random-model")
    parser.add_argument("--quick", action="store_true", help="short prompts, every third variant")
    parser.add_argument("--only", nargs="*", default=[], help="only cases whose line holds all these words")
    parser.add_argument("--model", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--prompt", nargs="*", default=None, help="only these prompts (video, text, ..)")
    parser.add_argument("--jobs", type=int, default=2, help="engine runs at a time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    tally = Tally()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(args.jobs) as pool:
        for name in args.model:
            work = Path(temporary) / name
            work.mkdir()
            shape = MODELS[name]
            folder = ROOT / "models/demo" if shape is None else random_model(args.bin, work / "model", **shape)
            engine, decoder = Engine(args.bin, folder, work), Decoder(folder)
            for label, words in prompts(name, args.quick).items():
                if args.prompt is None or label in args.prompt:
                    check_prompt(f"{name}/{label}", engine, decoder, words, args.quick, args.only, pool, tally)
            if name == "demo" and not args.only:
                for flags in refusals():
                    status = engine.call("ask", ["-p", "Hello"], "-n", "1", *flags).returncode
                    tally.add("ok" if status == 2 else "WRONG", "refusal " + " ".join(flags), "" if status == 2 else f"status {status}")
    print("\n" + "\n".join(tally.lines))
    counts = ", ".join(f"{v} {k}" for k, v in tally.counts.items())
    print(f"{counts}; largest errors:", ", ".join(f"{k} {v:.1e}" for k, v in tally.worst.items()))
    return 1 if tally.counts["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
