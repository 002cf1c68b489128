#!/usr/bin/env python3
"""Spoils one file that the program reads, and looks at how it takes it.

Whatever the bytes are, a run ends within 20 s and 1.5 GiB: with success, or in one line of valid UTF-8 that names the
file. No file is left behind, and none that was read is changed.
"""
import json
import os
import shutil
import sys

import harness
import materials
import mutations
from draws import Command
from harness import Failure

MODEL_JSON = ("config.json", "generation_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
              "tokenizer.json", "tokenizer_config.json", "chat_template.json")
RUN_FILES = ("results.jsonl", "run.json", "summary.csv", "summary.md", "problems.jsonl", "run.lock", "frames")
IMAGE = materials.REFERENCE / "media/button.png"
VIDEO = materials.DEMO_VIDEOS[1]


class Mutate:
    """Each target method puts a spoiled file into the folder and gives (command, names that an error may use, what was done)."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        self.models = [materials.demo_model()] + materials.reference_models(program, folder)
        self.caches = list(self.make_caches())
        self.run_folder = self.make_run()
        self.targets = [(self.pkv, 3), (self.media, 6), (self.model_json, 6), (self.template, 1), (self.vocabulary, 1),
                        (self.weights, 3), (self.profile, 2), (self.data, 3), (self.results, 3)]

    # ---- What is spoiled: made once

    def make_caches(self):
        """Saved caches of several policies and types, small ones."""
        for i, flags in enumerate((["--kv-policy", "full"], ["--kv-policy", "h2o", "--kv-tokens", "9"],
                                   ["--kv-policy", "purekv", "--kv-budget", "0.3", "--drop-layers", "4:0.5"],
                                   ["--kv-policy", "snapkv", "--kv-tokens", "7", "--kv-option", "decode_every=3", "--dtype", "f32"],
                                   ["--kv-policy", "full", "--prefill", "st", "--system", "Look."])):
            path = self.folder / f"cache-{i}.pkv"
            media = ["--image", IMAGE] if i % 2 else ["--video", materials.VIDEOS[0]]
            self.program.must(["ingest", "-m", materials.DEMO, *media, *flags, "-o", path])
            yield path.read_bytes()

    def make_run(self):
        """The directory of a small evaluation."""
        folder = self.folder / "run"
        self.program.must(["eval", "-m", materials.DEMO, "--data", materials.DEMO / "eval/questions.jsonl", "--limit", "2",
                           "--lengths", "short", "--policies", "snapkv,uniform", "--budgets", "0.5", "-n", "4", "-o", folder])
        return folder

    def model_copy(self, folder, model, but):
        """A model directory of links to another one's files, but for one."""
        place = folder / "model"
        place.mkdir()
        for name in os.listdir(model.folder):
            if name != but and not os.path.isdir(model.folder / name):
                os.symlink(model.folder / name, place / name)
        return place

    def spoil_text(self, rng, data):
        """JSON mostly as JSON, sometimes as bytes."""
        return mutations.spoil_bytes(rng, data) if rng.random() < 0.25 else mutations.spoil_json(rng, json.loads(data))

    # ---- Targets

    def pkv(self, rng, folder):
        data, what = mutations.spoil_pkv(rng, rng.choice(self.caches))
        path = folder / "spoiled.pkv"
        path.write_bytes(data)
        command = Command("ask").add("-m", materials.DEMO).add("--cache", path).add("-p", "What?").add("-n", 3)
        if rng.random() < 0.3:
            command.add("-p", "And?").add("--independent")
        return command.add("--json", "-"), [str(path)], what

    def media(self, rng, folder):
        flag = rng.choice(["--video", "--video", "--image", "--frames"])
        source = rng.choice({"--video": materials.VIDEOS + materials.DEMO_VIDEOS[:2], "--image": materials.IMAGES,
                             "--frames": materials.FRAMES}[flag])
        whole = data = source.read_bytes()
        what = source.name
        for _ in range(rng.choice([1, 1, 1, 3])):
            data, done = mutations.spoil_bytes(rng, data)
            what += ", " + done
        # Half of a file that says how long it is cannot pass for the whole.
        half = source.suffix in (".mp4", ".mkv", ".webm", ".avi") and len(data) * 2 <= len(whole) and whole.startswith(data)
        path = folder / ("spoiled" + rng.choice([source.suffix, source.suffix, ".bin", ""]))
        path.write_bytes(data)
        if rng.random() < 0.1:  # of another kind than the flag says
            flag = rng.choice(["--video", "--image", "--frames"])
        command = Command("ask").add("-m", materials.DEMO).add(flag, path).add("-p", "What?").add("-n", 1)
        if flag == "--video" and rng.random() < 0.7:
            command.add("--max-frames", 4)
        return command.add("--json", "-"), [str(path)], what + (", half" if half else "")

    def model_json(self, rng, folder):
        model = rng.choice(self.models)
        names = [name for name in MODEL_JSON if (model.folder / name).exists()]
        name = rng.choice(names + ["config.json"])
        data, what = self.spoil_text(rng, (model.folder / name).read_bytes())
        place = self.model_copy(folder, model, name)
        (place / name).write_bytes(data)
        # What contradicts another file may be said of either of the two.
        return self.model_command(rng, place), [str(place)], f"{model.name}/{name}: {what}"

    def template(self, rng, folder):
        """The text of the chat template."""
        model = self.models[0]
        text = json.loads((model.folder / "chat_template.json").read_text())["chat_template"]
        data, what = mutations.spoil_bytes(rng, text.encode())
        place = self.model_copy(folder, model, "chat_template.json")
        if rng.random() < 0.5:
            (place / "chat_template.json").write_text(json.dumps({"chat_template": data.decode("latin-1")}))
        else:
            (place / "chat_template.jinja").write_bytes(data)
        return self.model_command(rng, place), [str(place)], f"chat template: {what}"

    def vocabulary(self, rng, folder):
        """vocab.json and merges.txt, the older form of a tokenizer."""
        model = next(one for one in self.models if (one.folder / "merges.txt").exists())
        name = rng.choice(["vocab.json", "merges.txt"])
        data = (model.folder / name).read_bytes()
        data, what = self.spoil_text(rng, data) if name == "vocab.json" else mutations.spoil_bytes(rng, data)
        place = self.model_copy(folder, model, name)
        (place / name).write_bytes(data)
        return self.model_command(rng, place), [str(place)], f"{model.name}/{name}: {what}"

    def weights(self, rng, folder):
        model = rng.choice(self.models[1:])
        name = rng.choice([one for one in os.listdir(model.folder) if "safetensors" in one])
        data = (model.folder / name).read_bytes()
        data, what = self.spoil_text(rng, data) if name.endswith(".json") else mutations.spoil_safetensors(rng, data)
        place = self.model_copy(folder, model, name)
        (place / name).write_bytes(data)
        return self.model_command(rng, place), [str(place)], f"{model.name}/{name}: {what}"

    def model_command(self, rng, place):
        command = Command(rng.choice(["ask", "ask", "ask", "inspect", "score"])).add("-m", place)
        if command.name == "inspect":
            if rng.random() < 0.5:
                command.add("--frames-count", 8).add("--height", 100).add("--width", 100)
            if rng.random() < 0.5:
                command.add("--tensors")
            return command.add("--json", "-")
        if rng.random() < 0.8:
            command.add(*rng.choice([("--image", IMAGE), ("--video", VIDEO), ("--frames", materials.FRAMES[0])]))
        command.add("-p", "What colour is it?").add("--json", "-")
        if command.name == "score":
            return command.add("--answer", "It is red.")
        return command.add("-n", 2).add("--sampling-defaults", "model") if rng.random() < 0.5 else command.add("-n", 2)

    def profile(self, rng, folder):
        data, what = self.spoil_text(rng, (materials.DEMO / "profile.json").read_bytes())
        path = folder / "profile.json"
        path.write_bytes(data)
        command = Command("ask").add("-m", materials.DEMO).add("--image", IMAGE).add("-p", "What?").add("-n", 1)
        return command.add("--profile", path).add("--json", "-"), [str(path)], what

    def data(self, rng, folder):
        """A file of questions, in each of the formats."""
        kind = rng.choice(["purekv", "purekv", "video-mme", "mvbench", "milebench"])
        root = folder / "media"
        root.mkdir()
        if kind == "purekv":
            lines = (materials.DEMO / "eval/questions.jsonl").read_bytes().splitlines(keepends=True)[:3]
            if rng.random() < 0.8:
                at = rng.randrange(len(lines))
                text, what = mutations.spoil_json(rng, json.loads(lines[at]))
                lines[at] = text + b"\n"
                data = b"".join(lines)
            else:
                data, what = mutations.spoil_bytes(rng, b"".join(lines))
        else:
            data = (materials.DATA / f"eval/{kind}.json").read_bytes()[1:]  # its first byte tells the fuzzer the format
            data, what = self.spoil_text(rng, data)
        for name in ("1.webm", "abc.mp4"):
            os.symlink(materials.VIDEOS[0], root / name)
        os.symlink(materials.DEMO / "eval/short-00.mp4", root / "short-00.mp4")
        (root / "images").mkdir()
        os.symlink(materials.DATA / "media/colour_420.jpg", root / "images/a.jpg")
        path = root / ("data.jsonl" if kind == "purekv" else "data.json")
        path.write_bytes(data)
        command = Command("eval").add("-m", materials.DEMO).add("--data", path).add("--media-root", root).add("-n", 2)
        command.add("--policies", "uniform").add("--budgets", "0.5").add("-o", folder / "out")
        if rng.random() < 0.5:
            command.add("--data-format", kind)
        if rng.random() < 0.3:
            command.add("--keep-going")
        # What is wrong with the file as such is named by path and line; what only shows with the video, by that and the question.
        names = [str(root), str(folder / "out"), "short-00.mp4: question ", "images/a.jpg: question "]
        return command, names, f"{kind}: {what}"

    def results(self, rng, folder):
        """A file of a run's directory, for report or to go on with."""
        place = folder / "run"
        shutil.copytree(self.run_folder, place)
        name = rng.choice(["results.jsonl", "results.jsonl", "run.json", "frames"])
        if name == "frames":
            name = "frames/" + rng.choice(sorted(os.listdir(place / "frames")))
            data, what = mutations.spoil_bytes(rng, (place / name).read_bytes())
        elif name == "run.json" or rng.random() < 0.2:
            spoil = self.spoil_text if name == "run.json" else mutations.spoil_bytes
            data, what = spoil(rng, (place / name).read_bytes())
        else:
            lines = (place / name).read_bytes().splitlines(keepends=True)
            at = rng.randrange(len(lines))
            text, what = mutations.spoil_json(rng, json.loads(lines[at]))
            lines[at] = text + b"\n"
            data = b"".join(lines)
        (place / name).write_bytes(data)
        if rng.random() < 0.75:
            command = Command("report").add(None, place).add("-o", folder / "page.html").add("--svg", folder / "charts")
        else:
            command = Command("eval").add("-m", materials.DEMO).add("--data", materials.DEMO / "eval/questions.jsonl")
            command.add("--limit", 2).add("--lengths", "short").add("--policies", "snapkv,uniform").add("--budgets", "0.5")
            command.add("-n", 4).add("-o", place)
        return command, [str(place)], f"{name}: {what}"

    # ---- The case

    def case(self, rng, folder):
        methods, weights = zip(*self.targets)
        command, names, what = rng.choices(methods, weights)[0](rng, folder)
        before = harness.files_under(folder)
        read = {name: (folder / name).read_bytes() for name in before if name.startswith("spoiled") or name == "profile.json"}
        try:
            outcome = self.program.run(command.argv(), cwd=folder)
            if outcome.status != 0:
                # With --keep-going what was left out is listed, and what there is is summed up.
                others = ("purekv: left out: ", *(f"{count} results (" for count in range(9)))
                harness.check_refusal(outcome, names, others if command.has("--keep-going") else ())
            elif b"purekv: error" in outcome.err:
                raise Failure("an error line, but exit 0", outcome)
            elif what.endswith(", half") and b"purekv: warning: " not in outcome.err:
                raise Failure("half of a video was answered about without a word", outcome)
            outputs = [name for name in ("page.html", "charts", "out") if outcome.status == 0 or name == "out"]
            if command.name == "eval":
                outputs += ["run/" + name for name in RUN_FILES]
            harness.check_files(folder, before, outputs, outcome)
            for name, data in read.items():
                if (folder / name).read_bytes() != data:
                    raise Failure(f"{name} was changed", outcome)
        except Failure as failure:
            raise Failure(f"{failure} ({what})", *failure.outcomes) from None


def main():
    options = harness.options_of(__doc__)
    program, folder = harness.begin(options, "mutate")
    untouched = harness.Untouched(materials.DEMO, materials.DATA)
    mutate = Mutate(program, folder)
    status = harness.run_loop("mutate", options, program, folder, mutate.case)
    untouched.check()
    return status


if __name__ == "__main__":
    sys.exit(main())
