"""Compares what the engine keeps and answers with transformers and kvpress, on the demo model's held-out videos, in float32.

    compare.py [--program build/release/bin/purekv] [--model models/demo] [--short 8] [--medium 4] [--budgets 0.5,0.2,0.1,0.05]
               [--no-library] [--workers 2] [--output FILE.md]

transformers reads each mp4 and question by itself (PyAV, its processor, its M-RoPE positions), and so does `purekv ask`. Entries are really
evicted on both sides; new tokens get their true positions. README.md says what each column means. Every eighth question is also compared with
both sides' defaults. Exit status 1 if something that must agree does not. Deterministic.
"""
import argparse
import collections
import json
import math
import multiprocessing
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import torch

import kvpress_side as kp
from transformers_side import TOOLS, Model, Prompt, cut, hf, pd

ROOT = TOOLS.parent
UNDERFLOW = 1e-37  # float32 tells scores below this apart badly or not at all
TIE = 1e-5      # largest relative difference of two scores between which two float32 programs may choose differently
LOGPROB = 2e-3  # nats
LIMIT = 160     # tokens of an answer


@dataclass(frozen=True)
class Setting:
    """A policy of the engine and a press. `press(n, base, prompt)` gives the press' name, its arguments, and what its restated score
    needs more; `must`: the two definitions are the same, so kept sets and answers must be."""
    policy: str
    options: tuple
    press: Callable
    must: bool
    note: str

    def name(self) -> str:
        return " ".join([self.policy, *(f"{k}={v}" for k, v in self.options)])


AUTHORS_EA = (("epsilon", 0), ("recent", 0))


def matched():
    """The engine's options and the press' arguments set to one definition. The engine caps spans by shares of the budget; so are the press'."""
    sinks = lambda base: min(4, base // 4)
    true_place = lambda p: {"first": p.next_position}
    plain = (("sinks", 0), ("recent", 0))
    return [
        Setting("snapkv", (("window", 64),), lambda b, p: ("SnapKVPress", {"window_size": min(64, b // 2)}, {}), True, "window_size=min(64, B/2)"),
        Setting("knorm", plain, lambda b, p: ("KnormPress", {}, {}), True, ""),
        Setting("keydiff", plain, lambda b, p: ("KeyDiffPress", {}, {}), True, ""),
        Setting("expected-attention", AUTHORS_EA, lambda b, p: ("ExpectedAttentionPress", {"n_sink": sinks(b)}, true_place(p)), True,
                "n_sink=min(4, B/4), M-RoPE's next positions"),
        Setting("streaming-llm", (), lambda b, p: ("StreamingLLMPress", {"n_sink": sinks(b)}, {}), True, "n_sink=min(4, B/4), one out per step"),
    ]


def defaults():
    """Both sides as they come; but tova and expected-attention, which protect more here, as their authors have them."""
    counted = lambda p: {"first": p.n}
    return [
        Setting("snapkv", (), lambda b, p: ("SnapKVPress", {}, {}), False, "window of 32, at most B/2; kvpress 64 always"),
        Setting("knorm", (), lambda b, p: ("KnormPress", {}, {}), False, "first 4 and last 32 protected, at most B/4 and B/2; kvpress none"),
        Setting("keydiff", (), lambda b, p: ("KeyDiffPress", {}, {}), False, "first 4 and last 32 protected, at most B/4 and B/2; kvpress none"),
        Setting("expected-attention", AUTHORS_EA, lambda b, p: ("ExpectedAttentionPress", {}, counted(p)), False,
                "horizon behind the largest M-RoPE position; kvpress behind the count of tokens"),
        Setting("streaming-llm", (), lambda b, p: ("StreamingLLMPress", {}, {}), False, "4 sinks, at most B/4, and one out per step; kvpress 4 always, grows"),
        Setting("tova", (("sinks", 0), ("recent", 0)), lambda b, p: ("TOVAPress", {}, {}), False, "last token not protected, goes on evicting; kvpress protects it, grows"),
    ]


RESTATED = {"SnapKVPress": kp.snapkv, "KnormPress": kp.knorm, "KeyDiffPress": kp.keydiff, "ExpectedAttentionPress": kp.expected_attention,
            "StreamingLLMPress": kp.streaming_llm, "TOVAPress": kp.tova}


# ---------------------------------------------------------------------------------------------------------------------
# Sets


@dataclass
class Sets:
    """Kept sets of two sides, counted over layers and KV heads."""
    cells: int = 0
    equal: int = 0
    ties: int = 0         # the scores in dispute differ by a relative TIE at most
    underflow: int = 0    # they are too small for float32
    jaccard: float = 0.0
    gap: float = 0.0      # largest relative difference of scores in dispute, underflow apart

    def add(self, other):
        for name in ("cells", "equal", "ties", "underflow", "jaccard"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.gap = max(self.gap, other.gap)

    def agree(self) -> bool:
        return self.equal + self.ties + self.underflow == self.cells

    def share(self) -> float:
        return self.jaccard / self.cells


def compare_sets(ours, theirs, score=None) -> Sets:
    """`score(l)` [G, N] decides whether a difference is a tie: the worst score that one side alone kept against the best of the other."""
    out = Sets()
    for l, (a_heads, b_heads) in enumerate(zip(ours, theirs)):
        for g, (a, b) in enumerate(zip(a_heads, b_heads)):
            a, b = set(a), set(b)
            out.cells += 1
            out.jaccard += len(a & b) / len(a | b)
            if a == b:
                out.equal += 1
            elif score is not None and len(a) == len(b):
                disputed = score(l)[g, sorted(a ^ b)].double()
                size = float(disputed.abs().max())
                if size < UNDERFLOW:
                    out.underflow += 1
                else:
                    gap = float(disputed.max() - disputed.min()) / size if math.isfinite(size) else math.inf
                    out.gap = max(out.gap, gap)
                    out.ties += gap <= TIE
    return out


def definition(prompt: Prompt, setting: Setting, base: int):
    """(the engine's own definition applied to transformers' tensors [L][G][B], its scores)"""
    options = dict(pd.DEFAULTS[setting.policy]) | dict(setting.options)
    memory = {}

    def planes(layer):
        if layer not in memory:
            memory[layer] = pd.scores(prompt.part, layer, setting.policy, options, base)
        return memory[layer]
    layers = range(len(prompt.keys))
    kept = [pd.select(planes(l), setting.policy, options, "uniform", 0.2, base, base, prompt.n) for l in layers]
    return kept, lambda l: torch.from_numpy(np.ascontiguousarray(planes(l)[0]))


# ---------------------------------------------------------------------------------------------------------------------
# The engine


class Engine:
    def __init__(self, program, model, work):
        self.program, self.model, self.work = program, model, work

    def ask(self, video, question, *flags):
        kept = self.work / "kept.json"
        words = [self.program, "ask", "-m", self.model, "--dtype", "f32", "-t", 1, "--video", video, "-p", question, "-n", LIMIT,
                 "--json", "-", "--kept", kept, *flags]
        done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"purekv: status {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout), json.loads(kept.read_text())

    def setting(self, video, question, setting: Setting, budget: float):
        flags = ["--kv-policy", setting.policy, "--kv-budget", budget]
        for key, value in setting.options:
            flags += ["--kv-option", f"{key}={value}"]
        return self.ask(video, question, *flags)


# ---------------------------------------------------------------------------------------------------------------------
# One question


class Row:
    """Sums of one setting (of one budget, for defaults)."""

    def __init__(self):
        self.sets, self.library, self.restated, self.own = Sets(), Sets(), Sets(), Sets()
        self.asked = self.same = self.same_library = self.counts = self.pairs = 0
        self.logprob = 0.0


class Comparison:
    """Everything about some videos. Those of several processes can be added up."""

    def __init__(self):
        self.rows = collections.defaultdict(Row)
        self.full = Row()
        self.wrong = []
        self.questions = self.videos = 0

    def add(self, other) -> None:
        for key, row in other.rows.items():
            self.rows[key] = total([self.rows[key], row])
        self.full = total([self.full, other.full])
        self.wrong += other.wrong
        self.questions += other.questions
        self.videos += other.videos


class Worker:
    """Compares one video at a time."""

    def __init__(self, args):
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        self.work = tempfile.TemporaryDirectory()
        self.budgets, self.model = args.budgets, Model(args.model)
        self.engine = Engine(args.program, args.model, Path(self.work.name))
        self.library = kp.Library(self.model) if args.library else None
        self.folder = args.model / "eval"

    def video(self, questions, number: int) -> Comparison:
        self.rows, self.full, self.wrong = collections.defaultdict(Row), Row(), []
        path = self.folder / questions[0]["video"]
        frames = hf.read_video(str(path))
        for i, question in enumerate(questions):
            self.question(path, frames, question, (i - number) % 8 == 0)  # another type of question for each video
        done = Comparison()
        done.rows, done.full, done.wrong = self.rows, self.full, self.wrong
        done.questions, done.videos = len(questions), 1
        return done

    def question(self, video, frames, question, with_defaults: bool) -> None:
        settings = [(i, s, b) for i, s in enumerate(matched() + (defaults() if with_defaults else [])) for b in self.budgets]
        text = question["prompt"]
        prompt = self.model.read(self.model.batch(text, frames))
        self._full(question["id"], prompt, self.engine.ask(video, text)[0])
        prepared = [self._prepare(prompt, s, b) for _, s, b in settings]
        answers = self._answers(prompt, settings, prepared)
        for (i, setting, budget), mine, answer in zip(settings, prepared, answers):
            name = f"{question['id']}: {setting.name()} at {budget:g}"
            self._count(name, self.rows[i, budget], prompt, setting, budget, mine, answer, *self.engine.setting(video, text, setting, budget))

    def _fail(self, line: str) -> None:
        self.wrong.append(line)

    def _full(self, name, prompt, result) -> None:
        every = [[list(range(prompt.n))] * self.model.kv_heads] * self.model.layers
        ids, logprobs = self.model.answers(prompt, [cut(prompt, every)], LIMIT, [None])[0]
        answer = result["answers"][0]
        if result["prompt"]["ids"] != prompt.batch["input_ids"][0].tolist():
            self._fail(f"{name}: prompt ids differ")
        self.full.asked += 1
        self.full.same += ids == answer["ids"]
        if ids != answer["ids"]:
            self._fail(f"{name}: full cache: transformers answers {ids}, the engine {answer['ids']}")
            return
        self.full.logprob = max(self.full.logprob, max(abs(a - b) for a, b in zip(logprobs, answer["logprobs"])))

    def _prepare(self, prompt, setting, budget):
        """(restated score of a layer, restated kept sets, the library's, the caches that answer: of both)"""
        base = max(1, pd.floor(budget * prompt.n))
        press, arguments, more = setting.press(base, prompt)
        kept = base if setting.must else kp.count(prompt.n, budget)
        memory = {}

        def score(layer):
            if layer not in memory:
                memory[layer] = RESTATED[press](prompt.part, layer, **arguments, **more)
            return memory[layer]
        restated = [kp.best(score(l), kept) for l in range(self.model.layers)]
        if self.library is None:
            return score, restated, restated, [cut(prompt, restated)]
        ratio = 1 - (base + 0.5) / prompt.n if setting.must else 1 - budget
        made = getattr(kp.kvpress, press)(compression_ratio=ratio, **arguments)
        cache, found = self.library.run(prompt, made, more.get("first", prompt.n) - prompt.n)
        # In the order of positions where entries are evicted while decoding: those are named by their place.
        left = cut(prompt, found) if setting.policy in pd.HOLDS else [(layer.keys[0], layer.values[0]) for layer in cache.layers]
        return score, restated, found, [left] if found == restated else [left, cut(prompt, restated)]

    def _answers(self, prompt, settings, prepared) -> list:
        """Per setting the answer from the press' cache, and from that of its restated definition."""
        answers = [None] * len(settings)
        holds = [setting.must and setting.policy in pd.HOLDS for _, setting, _ in settings]
        for hold in (False, True):
            members = [(i, cache) for i, mine in enumerate(prepared) if holds[i] == hold for cache in mine[3]]
            if not members:
                continue
            places = [settings[i][1].press(cache[0][0].shape[1], prompt)[1]["n_sink"] if hold else None for i, cache in members]
            for (i, _), answer in zip(members, self.model.answers(prompt, [cache for _, cache in members], LIMIT, places)):
                answers[i] = (answers[i] or []) + [answer]
        return [(found[0], found[-1]) for found in answers]

    def _count(self, name, row, prompt, setting, budget, mine, answers, result, kept) -> None:
        score, restated, found, _ = mine
        base = max(1, pd.floor(budget * prompt.n))
        engine = result["answers"][0]
        row.asked += 1
        row.counts += len(found[0][0]) != base
        row.library.add(compare_sets(kept["layers"], found, score))
        row.same_library += answers[0][0] == engine["ids"]
        row.same += answers[1][0] == engine["ids"]
        if self.library is not None:
            same = compare_sets(restated, found, score)
            row.restated.add(same)
            # Where the window is larger than the budget its scores tie, and the library's top-k breaks ties as it likes.
            if not same.agree() and (setting.must or setting.policy != "snapkv" or len(restated[0][0]) >= 64):
                self._fail(f"{name}: the library keeps other sets than its restated definition, scores differ by up to {same.gap:.1e}")
        own, planes = definition(prompt, setting, base)
        same = compare_sets(kept["layers"], own, planes)
        row.own.add(same)
        if not same.agree():
            self._fail(f"{name}: the engine keeps other sets than its definition on transformers' tensors, scores differ by up to {same.gap:.1e}")
        sets = compare_sets(kept["layers"], restated, score if setting.must else None)
        row.sets.add(sets)
        if not setting.must:
            return
        if not sets.agree():
            self._fail(f"{name}: the engine and kvpress' definition keep different sets, scores differ by up to {sets.gap:.1e}")
        if sets.equal == sets.cells:
            ids, logprobs = answers[1]
            row.pairs += 1
            if ids != engine["ids"]:
                self._fail(f"{name}: equal sets, but transformers answers {ids}, the engine {engine['ids']}")
                return
            error = max(abs(a - b) for a, b in zip(logprobs, engine["logprobs"]))
            row.logprob = max(row.logprob, error)
            if error > LOGPROB:
                self._fail(f"{name}: log-probabilities differ by {error:.1e}")


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def total(rows) -> Row:
    out = Row()
    for row in rows:
        for name in ("sets", "library", "restated", "own"):
            getattr(out, name).add(getattr(row, name))
        for name in ("asked", "same", "same_library", "counts", "pairs"):
            setattr(out, name, getattr(out, name) + getattr(row, name))
        out.logprob = max(out.logprob, row.logprob)
    return out


def outcome(sets: Sets) -> str:
    if not sets.cells:
        return "not run"
    ties = f", {sets.ties} near-ties" if sets.ties else ""
    small = f", {sets.underflow} underflow" if sets.underflow else ""
    return f"{sets.equal} of {sets.cells}{ties}{small}"


def tables(comparison: Comparison, budgets, library: bool) -> str:
    first, rows, full = len(matched()), comparison.rows, comparison.full
    every, must = total(rows.values()), total(rows[i, b] for i in range(first) for b in budgets)
    sets = must.sets.cells // must.asked
    lines = [f"{comparison.videos} videos, {comparison.questions} questions; kvpress "
             f"{'as installed' if library else 'not installed or not asked for: restated definitions alone'}.", "",
             "| purekv | kvpress, one definition | sets equal to the definition's | to the library's | answers equal to the definition's | to the library's "
             "| log-probabilities off by |", "|---|---|---|---|---|---|---|",
             f"| full | transformers alone | | | {full.same} of {full.asked} | | {full.logprob:.1e} |"]
    for i, s in enumerate(matched()):
        row = total(rows[i, b] for b in budgets)
        library = outcome(row.library) if library else "not run"
        answers = f"{row.same_library} of {row.asked}" if library else "not run"
        lines.append(f"| {s.name()} | {s.note} | {outcome(row.sets)} | {library} | {row.same} of {row.asked} | {answers} | {row.logprob:.1e} |")
    if (first, budgets[0]) in rows:
        shares = " | ".join(f"{b:g}" for b in budgets)
        lines += ["", f"| both as they come | the difference | {shares} | answers equal | purekv's definition in transformers |",
                  "|---|---|" + "---|" * len(budgets) + "---|---|"]
        for i, s in enumerate(defaults(), first):
            row = total(rows[i, b] for b in budgets)
            overlap = " | ".join(f"{rows[i, b].library.share():.3f}" for b in budgets)
            lines.append(f"| {s.name()} | {s.note} | {overlap} | {row.same_library} of {row.asked} | {outcome(row.own)} |")
    lines += ["", f"The engine's definitions on transformers' tensors: {outcome(every.own)} sets; scores of near-ties differ by up to {every.own.gap:.1e}.",
              f"One definition for both: answers compared token by token where all {sets} sets are "
              f"equal: {must.pairs} of {must.asked}; scores of near-ties differ by up to {must.sets.gap:.1e}.",
              f"kvpress' restated definitions against the library: {outcome(every.restated)}; scores of near-ties differ by up to {must.restated.gap:.1e}.",
              f"Budgets that kvpress rounds to another count (defaults): {every.counts} of {every.asked - must.asked}."]
    lines += ["", f"{len(comparison.wrong)} things that must agree do not"]
    return "\n".join(lines) + "\n"


_worker = None


def start_worker(args) -> None:
    global _worker
    _worker = Worker(args)


def compare_video(questions, number: int) -> Comparison:
    return _worker.video(questions, number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/bin/purekv")
    parser.add_argument("--model", type=Path, default=ROOT / "models/demo")
    parser.add_argument("--short", type=int, default=8, help="videos of about 200 visual tokens")
    parser.add_argument("--medium", type=int, default=4, help="videos of about 800 visual tokens")
    parser.add_argument("--budgets", type=lambda text: [float(b) for b in text.split(",")], default=[0.5, 0.2, 0.1, 0.05])
    parser.add_argument("--no-library", dest="library", action="store_false", help="restated definitions alone, even if kvpress is installed")
    parser.add_argument("--workers", type=int, default=2, help="videos at a time")
    parser.add_argument("--output", type=Path, help="the tables; written again after every video")
    args = parser.parse_args()
    args.library = args.library and kp.kvpress is not None
    by_video = collections.defaultdict(list)
    for line in (args.model / "eval/questions.jsonl").read_text().splitlines():
        question = json.loads(line)
        by_video[question["video"]].append(question)
    of_length = lambda length: [v for v in by_video.values() if v[0]["length"] == length][: getattr(args, length)]
    wanted = of_length("medium") + of_length("short")
    everything = Comparison()
    # Forked processes would inherit torch's locked threads.
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), start_worker, (args,)) as pool:
        for job in as_completed([pool.submit(compare_video, questions, i) for i, questions in enumerate(wanted)]):
            done = job.result()
            everything.add(done)
            for line in done.wrong:
                print(f"WRONG {line}", file=sys.stderr, flush=True)
            print(f"{everything.videos} of {len(wanted)} videos, {len(everything.wrong)} wrong", file=sys.stderr, flush=True)
            if args.output:
                args.output.write_text(tables(everything, args.budgets, args.library))
    print(tables(everything, args.budgets, args.library))
    return 1 if everything.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
