"""Checks what the engine keeps, and what it then answers, against an independent implementation of every cache policy.

    check_policies.py --bin build/release/bin [--quick] [--only WORD ...] [--jobs 2] [--work DIR]

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

One line per case, a summary, exit status 1 if anything differs. Deterministic. `--quick` takes a few minutes on two cores.
"""
import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import cases as tiny
import policy_definitions as pd
import tokenizer_files
from layout import HERE, OUT, write_json
from masked_decoder import Decoder, MaskedCache, Prompt

ROOT = HERE.parent.parent
TIE = 1e-5            # largest relative change of a score that may explain a different choice
LOGPROB = 2e-4        # nats
LOGITS = 1e-3         # of the row's standard deviation
CHAIN = 3e-5          # relative error of one layer
GENERATED = (8, 24)     # tokens; more of policies that evict while decoding


@dataclass(frozen=True)
class Case:
    policy: str
    options: tuple = ()          # (("window", "16"), ...)
    allocator: str = "uniform"
    when: str = "prompt"
    budget: float | None = None
    tokens: int | None = None
    bytes: str | None = None

    def flags(self) -> list[str]:
        out = ["--kv-policy", self.policy, "--kv-when", self.when]
        for name in ("budget", "tokens", "bytes"):
            if getattr(self, name) is not None:
                out += [f"--kv-{name}", str(getattr(self, name))]
        if self.allocator != "uniform":
            out += ["--kv-allocator", self.allocator]
        for key, value in self.options:
            out += ["--kv-option", f"{key}={value}"]
        return out

    def name(self) -> str:
        size = next((f"{n}={getattr(self, n)}" for n in ("budget", "tokens", "bytes") if getattr(self, n) is not None), "all")
        return " ".join([self.policy, self.allocator, self.when, size, *(f"{k}={v}" for k, v in self.options)])


def parsed(case: Case) -> tuple[dict, float, float]:
    """The policy's options with their defaults filled in, alpha and beta."""
    options, shared = dict(pd.DEFAULTS[case.policy]), {"alpha": 0.2, "beta": 20.0}
    for key, value in case.options:
        target = shared if key in shared else options
        kind = type(target[key])
        target[key] = kind(value)
    return options, shared["alpha"], shared["beta"]


# ---------------------------------------------------------------------------------------------------------------------
# One case


def expected(case: Case, part: pd.Part, model, planes_of) -> list:
    """Kept positions per layer and head; `planes_of(layer)` gives the score planes."""
    options, alpha, beta = parsed(case)
    base, n = pd.budget_tokens(case, part.n, model), part.n
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
    base, n = pd.budget_tokens(case, part.n, model), part.n
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
    options, _, _ = parsed(case)
    base, known = pd.budget_tokens(case, part.n, model), {}

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
    options, _, _ = parsed(case)
    return MaskedCache(prompt, part, kept["layers"], case.policy, options, pd.budget_tokens(case, part.n, model))


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
# Models, prompts, cases


def random_model(bin_dir: Path, folder: Path, seed: int, **text) -> Path:
    config = tiny.flat(tokenizer_files.special_ids("tokenizer"))
    config.update(text)
    half = config["hidden_size"] // config["num_attention_heads"] // 2
    config["rope_scaling"]["mrope_section"] = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]
    config["rope_theta"] = 10000.0
    config["vision_config"]["out_hidden_size"] = config["hidden_size"]
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", tiny.preprocessor())
    write_json(folder / "generation_config.json", tiny.generation(tokenizer_files.special_ids("tokenizer")))
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.json"):
        shutil.copy(OUT / "tokenizer" / file, folder)
    subprocess.run([bin_dir / "purekv-make-random-model", "--seed", str(seed), "--dtype", "f32", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


MODELS = {  # name: seed and shape; None is models/demo
    "demo": None,
    "group1": dict(seed=3, hidden_size=192, num_attention_heads=3, num_key_value_heads=3, num_hidden_layers=3, intermediate_size=256),
    "group4": dict(seed=5, hidden_size=640, num_attention_heads=8, num_key_value_heads=2, num_hidden_layers=6, intermediate_size=512),
    "group7": dict(seed=7, hidden_size=896, num_attention_heads=14, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=512),
    "single": dict(seed=9, hidden_size=256, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1, intermediate_size=256)}

EVAL, MEDIA = ROOT / "models/demo/eval", OUT / "media"
WORDS = "the red circle moves to the left, then a blue square appears near the top and stays there. "
SMALL = ["--min-pixels", "9408", "--max-pixels", "18816"]


def prompts(name: str, quick: bool) -> dict[str, list[str]]:
    if name == "demo":
        out = {"tiny": ["--system", "", "-p", ""], "text": ["-p", WORDS * 4],
               "video": ["--video", EVAL / "short-00.mp4", "-p", "Describe the video."],
               "image": ["--image", MEDIA / "street.png", "--max-pixels", "40000", "-p", "What is shown?"]}
        if not quick:
            out |= {"video824": ["--video", EVAL / "medium-00.mp4", "-p", "Where does the red square appear?"],
                    "mixed": ["--image", MEDIA / "tower.png", "--video", EVAL / "short-01.mp4", "--max-pixels", "20000", "-p", "What differs?"],
                    "video3000": ["--video", EVAL / "long-00.mp4", "-p", "Describe the video."], "text3000": ["-p", WORDS * 120]}
        return out
    out = {"text": ["-p", WORDS], "video": ["--frames", MEDIA / "walk.npy", *SMALL, "-p", "What happens at the end?"]}
    if not quick:
        out |= {"images": ["--image", MEDIA / "tower.png", "--image", MEDIA / "button.png", "-p", "What's the difference?"], "text600": ["-p", WORDS * 8]}
    return out


def variants(layers: int) -> list[tuple]:
    """(policy, options, allocator) of every kind."""
    def opts(*texts):
        return tuple(tuple(t.split("=")) for t in texts)

    plain = [(p, (), "uniform") for p in pd.DEFAULTS if p != "full"]
    ada = [(p, (), "ada") for p in pd.DEFAULTS if p not in pd.NO_ADA]
    pyramid = [(p, (), "pyramid") for p in pd.DEFAULTS if p != "full"]
    more = [
        ("random", opts("seed=7", "sinks=0", "recent=0"), "uniform"), ("uniform", opts("sinks=0", "recent=5"), "uniform"),
        ("uniform", opts("sinks=9", "recent=0"), "pyramid"), ("streaming-llm", opts("sinks=0"), "uniform"), ("streaming-llm", opts("sinks=30"), "uniform"),
        ("h2o", opts("recent_ratio=0"), "uniform"), ("h2o", opts("recent_ratio=0.9"), "uniform"), ("h2o", opts("recent_ratio=0.13"), "ada"),
        ("tova", opts("beta=3"), "pyramid"), ("snapkv", opts("window=1", "kernel=7", "pool=max"), "uniform"), ("snapkv", opts("window=8", "pool=none"), "ada"),
        ("snapkv", opts("window=500", "kernel=1"), "uniform"), ("snapkv", opts("window=16", "kernel=31", "alpha=0.5"), "ada"), ("snapkv", opts("window=5", "beta=4"), "pyramid"),
        ("knorm", opts("sinks=0", "recent=0"), "uniform"), ("keydiff", opts("sinks=0", "recent=1"), "ada"), ("vnorm", opts("sinks=20", "recent=3", "alpha=0"), "ada"),
        ("vnorm", opts("recent=10", "alpha=1"), "ada"), ("vnorm", opts("sinks=2", "recent=3", "alpha=0.7"), "ada"),
        ("h2o", opts("recent_ratio=0.25", "alpha=0.8"), "ada"), ("keydiff", opts("alpha=0.9"), "ada"), ("keydiff", opts("sinks=2", "recent=7", "beta=1"), "pyramid"),
        ("expected-attention", opts("sinks=0", "horizon=1"), "uniform"), ("expected-attention", opts("covariance=0", "horizon=40"), "uniform"),
        ("expected-attention", opts("epsilon=0.01", "sinks=10"), "ada"),
        *[("csp", opts(f"combine={c}", *rest), a) for c in ("union", "concat", "intersect") for a, rest in (
            ("uniform", ()), ("uniform", ("window=300", "cross_ratio=0.3", "recent_ratio=0.1")), ("pyramid", ("window=12", "cross_ratio=0.8", "n=100")),
            ("uniform", ("window=1", "n=0")), ("uniform", ("window=40", "cross_ratio=1", "recent_ratio=0")), ("uniform", ("window=100000", "cross_ratio=0", "recent_ratio=0.3")))],
        ("purekv", opts("sources=0"), "uniform"), ("purekv", opts("sources=0", "window=20", "normalise=1"), "uniform"),
        ("purekv", opts("normalise=1", "sinks=0", "recent=0"), "uniform"), ("purekv", opts("heads=mean"), "ada"), ("purekv", opts("heads=mean", "vnorm=0", "sources=0"), "uniform"),
        ("purekv", opts("vnorm=0", "window=1"), "pyramid"), ("purekv", opts(f"sources={layers - 1}", "recent=3"), "uniform"),
        ("purekv", opts("window=100000", "recent=100", "sinks=50"), "uniform")]
    if layers > 3:
        more += [("purekv", opts("sources=1,3"), "uniform"), ("purekv", opts("sources=1,2,4", "window=50", "normalise=1"), "ada")]
    return [*plain, *ada, *pyramid, *more]


def make_cases(prompt: Prompt, decoder: Decoder, quick: bool) -> list[Case]:
    """Every variant (of long prompts, or when in a hurry, every third) with a size from a list that rotates."""
    entry = decoder.layers * decoder.kv_heads * 2 * decoder.head_dim * 4
    n = prompt.n
    sizes = [dict(budget=0.2), dict(tokens=1), dict(budget=0.5), dict(tokens=max(1, n - 1)), dict(budget=0.07), dict(bytes=str(entry * (n // 3) + entry - 1)),
             dict(tokens=2), dict(budget=0.9), dict(tokens=7), dict(tokens=n), dict(bytes=f"{max(1, entry * (n // 4) // 1024)}K"), dict(budget=0.35),
             dict(tokens=3), dict(budget=1.0), dict(budget=0.1), dict(tokens=n + 500)]
    step = 3 if n > 700 or quick else 1
    out, start = [Case("full")], n * 7 + decoder.layers
    for at, (policy, options, allocator) in enumerate(variants(decoder.layers), start):
        if at % step == 0:
            when = "media" if prompt.media_end and at // step % 3 else "prompt"
            out.append(Case(policy, options, allocator, when, **sizes[at * 7 // step % len(sizes)]))
    return out


def refusals() -> list[list[str]]:
    base = [["--kv-policy", p, "--kv-allocator", "ada"] for p in pd.NO_ADA if p != "full"]
    return [*[b + ["--kv-budget", "0.2"] for b in base], ["--kv-policy", "full", "--kv-allocator", "pyramid"], ["--kv-policy", "full", "--kv-allocator", "ada"],
            *[["--kv-policy", p, "--kv-budget", "0.2", "--kv-option", o] for p, o in (
                ("csp", "n=1000001"), ("csp", "n=-1"), ("csp", "combine=or"), ("snapkv", "pool=min"), ("snapkv", "kernel=4"), ("snapkv", "window=0"),
                ("h2o", "recent_ratio=1.5"), ("knorm", "window=3"), ("purekv", "sources=99"), ("purekv", "heads=each"), ("tova", "sinks=1"))],
            ["--kv-policy", "h2o", "--kv-budget", "0.2", "--kv-when", "media"], ["--kv-policy", "h2o", "--kv-bytes", "100"], ["--kv-policy", "h2o", "--kv-budget", "0"], ["--kv-policy", "h2o", "--kv-budget", "1.1"], ["--kv-policy", "h2o", "--kv-tokens", "0"]]


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
            scored = engine.run(2 * number + 1, "score", words, "--answer-ids", ",".join(map(str, answer)), "--logits", logits, *case.flags())
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
                status, detail = "WRONG", f"{detail} logits off by {error:.1e} deviations" + ("" if same == kept else ", ask and score keep different sets")
        tally.add(status, name, detail.strip())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=ROOT / "build/release/bin", help="folder of purekv and purekv-make-random-model")
    parser.add_argument("--quick", action="store_true", help="short prompts, one budget per variant")
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
    print(", ".join(f"{v} {k}" for k, v in tally.counts.items()) + "; largest errors: " + ", ".join(f"{k} {v:.1e}" for k, v in tally.worst.items()))
    return 1 if tally.counts["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
