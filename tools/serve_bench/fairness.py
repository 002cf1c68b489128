#!/usr/bin/env python3
"""What people are to each other on one `purekv serve`: how much faster eight answers grow together than one after the other, and how a long
prompt that is being read delays the answers and first words of others. Python's standard library alone.

    fairness.py DIRECTORY [--shape qwen2.5-vl-3b --layers 4] [--tokens 16000]

DIRECTORY: of a model with random weights of that shape; it is made where there is none, with the demo model's tokenizer, whose vocabulary is
filled up so that every token has a text.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import threading
import time

from bench import Server, purekv

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "models/demo"
WORD = "red "


def make_model(directory, shape, layers):
    if (directory / "tokenizer.json").exists():
        return
    program = ROOT / "build/release/bin/purekv-make-random-model"
    subprocess.run([str(program), "--shape", shape, "--layers", str(layers), str(directory)], check=True)
    config, demo = (json.loads((one / "config.json").read_text()) for one in (directory, DEMO))
    config.update({name: value for name, value in demo.items() if name.endswith("token_id")})
    config["eos_token_id"] = -1 % config["vocab_size"]  # answers are as long as they may be
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer_config.json", "chat_template.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        shutil.copy(DEMO / name, directory / name)
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    known = set(vocabulary.values()) | {one["id"] for one in tokenizer["added_tokens"]}
    for number in range(config["vocab_size"]):
        if number not in known:
            vocabulary[f"w{number}_"] = number
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))


class Stream:
    """An answer on its way: when each of its pieces came."""

    def __init__(self, server, text, tokens, **settings):
        self.server, self.tokens, self.text, self.settings = server, tokens, text, settings
        self.times, self.usage, self.start = [], None, time.monotonic()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        body = {"model": "m", "messages": [{"role": "user", "content": self.text}], "max_tokens": self.tokens, "stream": True,
                "stream_options": {"include_usage": True}, "temperature": 0, **self.settings}
        for line in self.server.request("POST", "/v1/chat/completions", json.dumps(body)):
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise SystemExit(event["error"]["message"])
                self.usage = event.get("usage") or self.usage
                if event["choices"] and event["choices"][0]["delta"].get("content"):
                    self.times.append(time.monotonic())

    def wait(self):
        self.thread.join()
        return self

    def first(self):
        return self.times[0] - self.start

    def gaps(self, since=0.0, until=float("inf")):
        return [b - a for a, b in zip(self.times, self.times[1:]) if since <= a and b <= until]


def p95(values):
    values = sorted(values)
    return values[min(len(values) - 1, round(0.95 * len(values)))]


def batching(server):
    context = WORD * 1536  # a prefix ends with a whole block of 512
    Stream(server, context + "0", 4).wait()  # read, and kept
    rates = []
    for people in (1, 8):
        streams = [Stream(server, context + str(i), 64).wait() if people == 1 else Stream(server, context + str(i), 64) for i in range(people)]
        for one in streams:
            one.wait()
        seconds = max(one.times[-1] for one in streams) - min(one.times[0] for one in streams)
        rates.append(sum(len(one.times) - 1 for one in streams) / seconds)
    print(f"eight answers of 64 tokens on one prefix of 1,536: {rates[1]:.1f} tokens a second, one: {rates[0]:.1f}; {rates[1] / rates[0]:.2f} x", flush=True)


def fairness(server, tokens):
    ready = WORD * 1024
    Stream(server, ready + "0", 4).wait()
    quiet = Stream(server, "red", 64).wait().gaps()
    alone = Stream(server, "blue " + WORD * tokens, 1, purekv={"cache": "off"}).wait()
    answer = Stream(server, "red", 4000)
    while len(answer.times) < 8:
        time.sleep(0.01)
    long = Stream(server, "blue " + WORD * tokens, 1, purekv={"cache": "off"})
    time.sleep(alone.first() / 4)
    asked = Stream(server, ready + "1", 4)
    long.wait()
    asked.wait()
    gaps = answer.gaps(long.start, long.times[0])
    print(f"while {long.usage['prompt_tokens']} tokens are read: 95 % of the gaps between an answer's tokens are at most {1000 * p95(gaps):.0f} ms "
          f"(quiet: {1000 * p95(quiet):.0f} ms, median {1000 * statistics.median(quiet):.0f} ms), {p95(gaps) / p95(quiet):.2f} x, "
          f"the longest {1000 * max(gaps):.0f} ms; reading takes {long.first():.2f} s, alone {alone.first():.2f} s, {long.first() / alone.first():.2f} x; "
          f"who goes on from a prefix of {asked.usage['prompt_tokens_details']['cached_tokens']} tokens has a first token after {asked.first():.2f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--shape", default="qwen2.5-vl-3b")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16000)
    parser.add_argument("--program", default=str(ROOT / "build/release/bin/purekv"))
    options = parser.parse_args()
    make_model(options.directory, options.shape, options.layers)
    server = Server(purekv(options.program, options.directory, ["--max-tokens-limit", "8192"]))
    try:
        batching(server)
        fairness(server, options.tokens)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
