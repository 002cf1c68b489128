#!/usr/bin/env python3
"""Random draws from the product of all settings of ask, score, ingest and bench, with oracles on what comes out.

A run ends with exit status 0, or in one line that names a flag that was given. What succeeds has to agree with itself,
with docs/policies.md, and with other runs that must give the same: the same command again, policies that keep
everything, a saved cache, each question alone, the answer scored instead of generated.
"""
import sys

import draws
import harness
import materials
import outputs
from checks import want
from draws import Command
from harness import Failure

OUTPUTS = ("--json", "--kept", "--dump", "--report", "--logits", "-o")
# Whether a file has anything to say on these is known when it is read: then the line names the file.
ABOUT_FILES = ("--profile", "--video-start", "--video-end")


class CrossProduct:
    def __init__(self, program, folder):
        self.program = program
        self.catalogue = draws.Catalogue(program)
        self.models = [materials.demo_model()] + materials.reference_models(program, folder)

    def run(self, command, folder, typed=None, environment=None):
        """One run and all oracles on it alone. None: it was refused, as it may be.

        typed, environment: what of the command stands on the command line, and what in the environment.
        """
        typed, environment = typed or command, environment or {}
        folder.mkdir()
        outcome = self.program.run(typed.argv(), environment, cwd=folder)
        if outcome.status != 0:
            names = command.names() | set(environment)
            if outcome.status == 1:
                if not any(command.has(flag) for flag in ABOUT_FILES):
                    raise Failure("exit 1 where only flags can be wrong", outcome)
                names = {value for flag, value in command.pairs if flag in ("--profile", "--video")}
            harness.check_refusal(outcome, names)
            harness.check_files(folder, set(), [], outcome)
            return None
        wanted = [command.get(flag) for flag in OUTPUTS if command.get(flag, "-") != "-"]
        harness.check_files(folder, set(), wanted, outcome)
        try:
            for name in wanted:
                want((folder / name).exists(), f"exit 0, but no {name}")
            model = next(one for one in self.models if str(one.folder) == command.get("-m"))
            return outputs.judge(command, folder, outcome, self.catalogue, model) | {"outcome": outcome}
        except Failure as failure:
            raise Failure(str(failure), outcome) from None

    def must(self, command, folder, why, *before):
        """A run that succeeds because another one did."""
        found = self.run(command, folder)
        if found is None:
            raise Failure(f"refused, though {why}", *before, self.program.run(command.argv(), cwd=folder))
        return found

    # ---- Drawing

    def draw(self, rng, name):
        command = Command(name)
        draws.draw_model(rng, command, self.models)
        if name == "bench":
            command.add("--prompt-tokens", rng.choice(["1", "17", "64,100", "300"])).add("--repeats", 1)
            command.add("-n", rng.choice([0, 1, 5])).add("--format", rng.choice(["json", "json", "csv", "md"]))
            if rng.random() < 0.3:
                command.add("--depth", rng.choice(["0", "10", "0,100"]))
            if rng.random() < 0.4:
                command.add("--no-vision")
            draws.draw_kv(rng, command, self.catalogue, when=False)
            draws.draw_prefill(rng, command, self.catalogue)
            return command
        draws.draw_media(rng, command)
        draws.draw_kv(rng, command, self.catalogue)
        draws.draw_prefill(rng, command, self.catalogue)
        draws.draw_turns(rng, command, generated=name == "ask")
        command.add("--json", rng.choice(["-", "result.json"]))
        if rng.random() < 0.8:
            command.add("--kept", "kept.json")
        if rng.random() < 0.06:
            command.add("--dump", "dump")
        if name == "score":
            if len(command.all("-p")) > 1:
                command.add("-n", rng.choice([1, 3]))
            command.add(*rng.choice([("--answer", rng.choice(materials.ANSWERS)),
                                     ("--answer-ids", rng.choice(["5", "1,2,3", "400,17"]))]))
            if rng.random() < 0.4:
                command.add("--logits", "logits.npy")
            if rng.random() < 0.4:
                command.add("--against", "full")
        elif rng.random() < (0.1 if command.media() and len(command.all("-p")) == 1 else draws.SELDOM):
            command.add("--report", "report.html")
        elif rng.random() < (0.5 if command.media() and command.get("--kv-when") == "context" else draws.SELDOM):
            command.add("--independent")
        return command

    # ---- Cases

    def case(self, rng, folder):
        kind = rng.random()
        if kind < 0.2:
            return self.saved_case(rng, folder)
        command = self.draw(rng, "bench" if kind < 0.3 else "score" if kind < 0.5 else "ask")
        variant = rng.random()
        if variant < 0.12:
            return self.flawed_case(rng, command, folder)
        if variant < 0.2:
            typed, environment = draws.to_environment(rng, command)
            found = self.run(command, folder / "environment", typed, environment)
        else:
            found = self.run(command, folder / "one")
        if found and command.name == "ask":
            self.twin_case(rng, command, found, folder)

    def flawed_case(self, rng, command, folder):
        """Something is wrong, or perhaps is: whether it is refused depends, how it ends does not."""
        before = command.names()
        draws.draw_flaw(rng, command)
        folder = folder / "flawed"
        folder.mkdir()
        outcome = self.program.run(command.argv(), cwd=folder)
        if outcome.status == 0:
            return
        # A file that is named by nothing but junk is a failure of work, and names what was typed.
        typed = {value for _, value in command.pairs if value} if outcome.status == 1 else set()
        harness.check_refusal(outcome, before | command.names() | typed)

    def saved_case(self, rng, folder):
        """ingest and ask --cache, against one process that reads the media and the questions."""
        command = Command("ask")
        draws.draw_model(rng, command, self.models)
        draws.draw_media(rng, command, at_least=1)
        draws.draw_kv(rng, command, self.catalogue, when="context")
        draws.draw_prefill(rng, command, self.catalogue)
        draws.draw_turns(rng, command)
        command.add("--json", "-").add("--kept", "kept.json")
        if rng.random() < 0.3:
            command.add("--independent")
        whole = self.run(command, folder / "whole")
        if whole is None:
            return
        ingest = command.without(*draws.TURN_FLAGS, "--kv-when").renamed("ingest").add("-o", "saved.pkv")
        saved = self.must(ingest, folder / "saved", "ask takes the same settings", whole["outcome"])
        ask = command.without(*draws.MEDIA_FLAGS, *draws.KV_FLAGS, *draws.PREFILL_FLAGS)
        ask.add("--cache", folder / "saved/saved.pkv")
        again = self.must(ask, folder / "again", "the cache was made by ingest", saved["outcome"])
        self.equal(whole, again, "ask --cache", ids_only=False)
        if whole["kept"] != again["kept"] or whole["kept"] != saved["kept"]:
            raise Failure("the kept lists differ", whole["outcome"], saved["outcome"], again["outcome"])
        if saved["result"]["cache"]["bytes"] != (folder / "saved/saved.pkv").stat().st_size:
            raise Failure("cache.bytes is not the file's size", saved["outcome"])

    def twin_case(self, rng, command, found, folder):
        """Another run that must give the same answers."""
        kv, twin = found["result"]["kv"], None
        if command.has("--independent") and len(command.all("-p")) > 1:
            at = rng.randrange(len(command.all("-p")))
            alone = command.without("-p", "--independent").add("-p", command.all("-p")[at])
            other = self.must(alone, folder / "alone", "each question is answered alone", found["outcome"])
            a, b = found["result"]["answers"][at], other["result"]["answers"][0]
            if a["ids"] != b["ids"] or a["logprobs"] != b["logprobs"]:
                raise Failure(f"question {at} is answered {a['text']!r} with others, {b['text']!r} alone",
                              found["outcome"], other["outcome"])
            return
        if kv["policy"] == "full" and not kv["options"] and not command.has("--profile") and rng.random() < 0.5:
            # Nothing is evicted: what is not asked for, or asked for as everything, makes no difference.
            name = rng.choice([one for one in self.catalogue.policies if self.catalogue.policies[one]["decode"] == "grows"])
            twin = command.without("--kv-policy").add("--kv-policy", name)
            if name != "full":
                twin.add("--kv-budget", 1)
            other = self.run(twin, folder / "everything")
            if other is None:
                return  # st, for example, refuses policies that need scores
            return self.equal(found, other, f"{name} that keeps everything")
        other = self.must(command, folder / "again", "the same command succeeded", found["outcome"])
        self.equal(found, other, "the same command again")
        if found["kept"] != other["kept"]:
            raise Failure("the kept lists differ from those of the same command", found["outcome"], other["outcome"])

    @staticmethod
    def equal(one, other, what, ids_only=False):
        for a, b in zip(one["result"]["answers"], other["result"]["answers"], strict=True):
            for key in ("ids",) if ids_only else ("ids", "logprobs", "finish", "text"):
                if a[key] != b[key]:
                    raise Failure(f"{what}: {key} {b[key]} instead of {a[key]}", one["outcome"], other["outcome"])
        for key in ("tokens_full", "tokens_kept_mean", "bytes_full"):
            a, b = one["result"]["kv"][key], other["result"]["kv"][key]
            if a != b:
                raise Failure(f"{what}: kv.{key} {b} instead of {a}", one["outcome"], other["outcome"])


def main():
    options = harness.options_of(__doc__)
    program, folder = harness.begin(options, "cross-product")
    untouched = harness.Untouched(materials.DEMO, materials.DATA)
    product = CrossProduct(program, folder)
    status = harness.run_loop("cross_product", options, program, folder, product.case)
    untouched.check()
    return status


if __name__ == "__main__":
    sys.exit(main())
