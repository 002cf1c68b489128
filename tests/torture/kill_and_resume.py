#!/usr/bin/env python3
"""Stops runs at random moments: evaluations that go on later, saved caches, and Ctrl-C for every subcommand.

A killed evaluation that is started again until it is done holds what an undisturbed one holds. Whatever the moment, no
output is half there. SIGINT ends any subcommand within 3 s, with the status 130 that a shell shows for it, and leaves no
temporary file.
"""
import csv
import json
import shutil
import signal
import sys
import time

import checks
import harness
import materials
from checks import want
from harness import Failure

INTERRUPT_S = 3.0
KILLS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
QUESTIONS = materials.DEMO / "eval/questions.jsonl"
IMAGE = materials.REFERENCE / "media/street.png"
# What a killed FileWriter or a probe for writing leaves behind, if anything.
LITTER = (".tmp.", ".purekv-probe.")


def rows_of(path):
    """Results without their times, in order. Every line has to be whole."""
    rows = [checks.parse(line, f"{path.name}:{number}") for number, line in enumerate(path.read_bytes().splitlines(), 1)]
    for row in rows:
        row.pop("time")
    return rows


def untimed(path):
    """The rows of a summary.csv without its columns of seconds."""
    rows = list(csv.reader(path.read_text().splitlines()))
    stays = [i for i, name in enumerate(rows[0]) if not name.endswith("_s")]
    return [[row[i] for i in stays] for row in rows]


class KillAndResume:
    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        self.settings = ["eval", "-m", materials.DEMO, "--data", QUESTIONS, "--lengths", "short", "--limit", 3, "--policies",
                         "snapkv,h2o+ada,purekv:sources=4", "--budgets", "0.5,0.1", "--when", "prompt,media", "-n", 12,
                         "--viewer-videos", 2, "-o"]
        undisturbed = folder / "undisturbed"
        self.seconds = self.program.must(self.settings + [undisturbed], limit_s=120).seconds
        self.rows = rows_of(undisturbed / "results.jsonl")
        self.summary = untimed(undisturbed / "summary.csv")
        self.names = harness.files_under(undisturbed)
        self.video = materials.DEMO_VIDEOS[0]
        self.saved = folder / "saved.pkv"
        self.ingest = ["ingest", "-m", materials.DEMO, "--video", materials.DEMO / "eval/long-00.mp4", "--kv-policy", "snapkv",
                       "--kv-budget", "0.9", "-o"]
        self.ingest_seconds = self.program.must(self.ingest + [self.saved]).seconds
        self.cases = [(self.evaluation, 4), (self.two_at_once, 1), (self.saving, 3), (self.interrupt, 8)]

    def end_early(self, running, rng, seconds, number):
        """Sends a signal at a random moment of a run that takes about `seconds`."""
        time.sleep(rng.random() * seconds)
        sent = time.monotonic()
        running.signal(number)
        outcome = self.program.finish(running, 120)
        return outcome, time.monotonic() - sent

    def check_interrupted(self, outcome, took):
        """After SIGINT: in time, and with 130 (which is also what a shell shows for a death by SIGINT), or done before it came."""
        if took > INTERRUPT_S * self.program.slowness:
            raise Failure(f"went on for {took:.1f} s after SIGINT", outcome)
        if outcome.status not in (0, 130, -signal.SIGINT):
            raise Failure(f"status {outcome.status} after SIGINT", outcome)
        if b"purekv: error" in outcome.err:
            raise Failure("an error line after SIGINT", outcome)

    # ---- Evaluations

    def check_whole_lines(self, place, outcome):
        """What a killed evaluation leaves: whole lines, and perhaps one that was cut short at the end."""
        results = place / "results.jsonl"
        if results.exists():
            for line in results.read_bytes().split(b"\n")[:-1]:
                try:
                    json.loads(line)
                except ValueError:
                    raise Failure(f"results.jsonl holds {line[:200]!r}", outcome) from None
        if (place / "run.json").exists():
            checks.parse((place / "run.json").read_bytes(), "run.json")

    def evaluation(self, rng, folder):
        """Killed and started again until it is done."""
        place = folder / "run"
        outcomes = []
        kills = rng.choice([1, 3, 6, 10])
        for _ in range(kills):
            number = rng.choice(KILLS)
            # Some right at the start; there, loading and reading back the results is what is met.
            seconds = self.seconds * rng.choice([0.1, 0.5, 1])
            outcome, took = self.end_early(self.program.start(self.settings + [place]), rng, seconds, number)
            outcomes.append(outcome)
            if number == signal.SIGINT:
                self.check_interrupted(outcome, took)
            elif outcome.status not in (0, -number):
                raise Failure(f"status {outcome.status} after {number.name}", *outcomes)
            if place.exists():
                self.check_whole_lines(place, outcome)
        outcome = self.program.must(self.settings + [place], limit_s=120)
        rows = rows_of(place / "results.jsonl")
        if rows != self.rows:
            raise Failure(self.difference(rows), *outcomes, outcome)
        if untimed(place / "summary.csv") != self.summary:
            raise Failure("summary.csv differs from the undisturbed run's", *outcomes, outcome)
        if not checks.parse((place / "run.json").read_bytes(), "run.json")["complete"]:
            raise Failure("run.json says that the run is not complete", *outcomes, outcome)
        names = {name for name in harness.files_under(place) if not any(part in name for part in LITTER)}
        if names != self.names:
            raise Failure(f"the directory holds {sorted(names ^ self.names)} more or less", *outcomes, outcome)
        self.program.must(["report", place, "-o", folder / "page.html"])

    def difference(self, rows):
        """The first difference from the undisturbed results, for people."""
        if len(rows) != len(self.rows):
            return f"{len(rows)} results, {len(self.rows)} undisturbed"
        for one, other in zip(rows, self.rows):
            for key in other:
                if one.get(key) != other[key]:
                    where = " ".join(str(other[name]) for name in ("id", "policy", "budget", "when"))
                    return f"{where}: {key} is {one.get(key)}, undisturbed {other[key]}"
        return "keys differ"

    def two_at_once(self, rng, folder):
        """A second evaluation into one directory is refused in one line; the first is not disturbed."""
        place = folder / "run"
        first = self.program.start(self.settings + [place])
        time.sleep(rng.random() * self.seconds)
        second = self.program.finish(self.program.start(self.settings + [place]), 120)
        outcome = self.program.finish(first, 120)
        if second.status != 0:
            harness.check_refusal(second, [str(place)])
        # The second may have come first to the directory, or after the first was done.
        if outcome.status != 0 and second.status != 0:
            raise Failure("neither of two evaluations into one directory got through", outcome, second)
        if outcome.status != 0:
            harness.check_refusal(outcome, [str(place)])
        rows = rows_of(place / "results.jsonl")
        if rows != self.rows:
            raise Failure(self.difference(rows), outcome, second)

    # ---- Saved caches

    def saving(self, rng, folder):
        """ingest stopped: the file is not there, or whole; one that was there before is still there, or replaced."""
        target = folder / "saved.pkv"
        older = rng.random() < 0.5
        if older:
            shutil.copy(self.saved, target)
        number = rng.choice(KILLS)
        outcome, took = self.end_early(self.program.start(self.ingest + [target]), rng, self.ingest_seconds * 1.1, number)
        if number == signal.SIGINT:
            self.check_interrupted(outcome, took)
            self.check_no_litter(folder, outcome)
        if (outcome.status == 0 or older) and not target.exists():
            raise Failure("no file, though ingest succeeded or one was there before", outcome)
        if target.exists() and target.read_bytes() != self.saved.read_bytes():
            raise Failure("the saved cache is neither absent nor whole", outcome)

    def check_no_litter(self, folder, outcome):
        for name in sorted(harness.files_under(folder)):
            if any(part in name for part in LITTER):
                raise Failure(f"left behind: {name}", outcome)

    # ---- Ctrl-C

    def commands(self, folder):
        """Every subcommand, with outputs, and long enough to be stopped in the middle."""
        model = ["-m", materials.DEMO]
        video = ["--video", materials.DEMO / "eval/long-01.mp4"]
        outputs = ["--json", folder / "result.json", "--kept", folder / "kept.json"]
        kv = ["--kv-policy", "h2o", "--kv-budget", "0.5"]
        return {
            "ask": ["ask", *model, *video, *kv, *outputs, "-p", "Describe the video.", "-p", "And?", "-n", 3000, "--temp", 5],
            "ask --report": ["ask", *model, *video, *kv, *outputs, "-p", "Describe the video.", "--report", folder / "page.html"],
            "ask --dump": ["ask", *model, *video, *outputs, "-p", "Describe the video.", "--dump", folder / "dump"],
            "ask --cache": ["ask", *model, "--cache", self.saved, "-p", "What?", "-n", 2000, "--temp", 5, *outputs],
            "score": ["score", *model, *video, *kv, *outputs, "-p", "Describe the video.", "--answer", "First a square. " * 40, "--against",
                      "full", "--logits", folder / "logits.npy"],
            "ingest": [*self.ingest, folder / "out.pkv", *outputs],
            "bench": ["bench", *model, "--prompt-tokens", "2000", "--repeats", 3, "-n", 100],
            "calibrate": ["calibrate", *model, "--set", QUESTIONS, "--samples", 2, "-o", folder / "profile.json"],
            "eval": [*self.settings, folder / "run"],
            "report": ["report", self.folder / "undisturbed", "-o", folder / "page.html", "--svg", folder / "charts"],
            "inspect": ["inspect", *model, "--tensors", "--json", folder / "inspect.json"],
            "policies": ["policies", "--json", folder / "policies.json"],
        }

    def interrupt(self, rng, folder):
        name, arguments = rng.choice(sorted(self.commands(folder).items()))
        # Half of them early: while files are opened and weights are loaded.
        seconds = rng.choice([0.02, 0.1, 0.3, 2])
        outcome, took = self.end_early(self.program.start(arguments), rng, seconds, signal.SIGINT)
        self.check_interrupted(outcome, took)
        self.check_no_litter(folder, outcome)
        try:
            self.check_whole_outputs(name, folder)
        except Failure as failure:
            raise Failure(str(failure), outcome) from None

    @staticmethod
    def check_whole_outputs(name, folder):
        """A file that is there is whole."""
        for path in folder.rglob("*.json"):
            checks.parse(path.read_bytes(), f"{name}: {path.name}")
        for path in folder.rglob("*.html"):
            want(path.read_bytes().rstrip().endswith(b"</html>"), f"{name}: half a page")
        for path in folder.rglob("*.npy"):
            checks.read_npy(path)


def main():
    options = harness.options_of(__doc__)
    program, folder = harness.begin(options, "kill")
    untouched = harness.Untouched(materials.DEMO, materials.DATA)
    loop = KillAndResume(program, folder)

    def case(rng, place):
        methods, weights = zip(*loop.cases)
        rng.choices(methods, weights)[0](rng, place)

    status = harness.run_loop("kill_and_resume", options, program, folder, case)
    untouched.check()
    return status


if __name__ == "__main__":
    sys.exit(main())
