#!/usr/bin/env python3
"""How fast `purekv serve` is: many people who ask about one long context or video. Python's standard library alone.

    bench.py MODEL --video FILE [--flags "--kv-policy purekv --kv-budget 0.2"]   people ask about a video
    bench.py MODEL --text FILE                                                  about a text, which is every prompt's beginning

Each person asks, waits for the whole answer, and asks again, until all questions have been answered. What is printed: for each number of people
answers per minute, tokens per second, time to the first token (median and 95th percentile); then what a question takes on its own when the
context has not been read before and when it has. Answers have exactly --tokens tokens where the model does not end them before.
"""
import argparse
import base64
import http.client
import json
import pathlib
import re
import shlex
import statistics
import subprocess
import threading
import time

QUESTIONS = ["What is it about?", "What comes first?", "What comes last?", "Describe it in one sentence.", "Which things are there?", "What changes?",
             "How many parts does it have?", "What is most important?", "What is at the beginning?", "What is missing?", "Who would need it?",
             "What is the longest part?", "Which colours are there?", "What is said twice?", "Where does it take place?", "What should one do next?"]


def purekv(program, model, flags):
    return [program, "serve", "-m", str(model), "--port", "0", "--served-model-name", "m", *flags]


class Server:
    """A server that is asked in OpenAI's form. port: where the command lets it listen; None: its first line says where."""

    def __init__(self, command, port=None):
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE if port is None else subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, text=True)
        self.address = ("127.0.0.1", port)
        if port is None:
            match = re.fullmatch(r"listening on http://(.*):(\d+)\n", self.process.stdout.readline())
            if match is None:
                raise SystemExit("the server did not start")
            self.address = (match[1], int(match[2]))
        while not self.ready():
            if self.process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with status {self.process.returncode}")
            time.sleep(0.1)

    def ready(self):
        try:
            return self.request("GET", "/health").status == 200
        except OSError:
            return False

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection(*self.address, timeout=3600)
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        response.connection = connection  # lives as long as the response
        return response

    def ask(self, messages, tokens, **settings):
        """(seconds to the first token, seconds in all, tokens, tokens of the prompt that had been read before)"""
        body = {"model": "m", "messages": messages, "max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True},
                "temperature": 0, **settings}
        start, first, usage = time.monotonic(), None, None
        response = self.request("POST", "/v1/chat/completions", json.dumps(body))
        if response.status != 200:
            raise SystemExit(response.read().decode())
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise SystemExit(event["error"]["message"])
            usage = event.get("usage") or usage
            if first is None and event["choices"] and event["choices"][0]["delta"].get("content"):
                first = time.monotonic() - start
        seconds = time.monotonic() - start
        cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        return first or seconds, seconds, usage["completion_tokens"], cached

    def peak(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2**20

    def stop(self):
        self.process.terminate()
        self.process.wait()


def run(server, people, chats, tokens):
    """All chats by so many people at once: rows of Server.ask, and the seconds that it took."""
    waiting, rows, lock = list(chats), [], threading.Lock()

    def person():
        while True:
            with lock:
                if not waiting:
                    return
                chat = waiting.pop(0)
            row = server.ask(chat, tokens)
            with lock:
                rows.append(row)

    threads = [threading.Thread(target=person) for _ in range(people)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows, time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--video", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("--program", default=str(pathlib.Path(__file__).resolve().parents[2] / "build/release/bin/purekv"))
    parser.add_argument("--flags", type=shlex.split, default=[], help="further flags of purekv serve")
    parser.add_argument("--people", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 8])
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    if (options.video is None) == (options.text is None):
        parser.error("one of --video and --text is needed")
    if options.video:
        url = "data:video/mp4;base64," + base64.b64encode(options.video.read_bytes()).decode()
        about = lambda question: [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": question}]}]  # noqa: E731
    else:
        text = options.text.read_text(encoding="utf-8")
        about = lambda question: [{"role": "user", "content": f"{text}\n\n{question}"}]  # noqa: E731
    questions = [QUESTIONS[i % len(QUESTIONS)] for i in range(options.questions)]
    server = Server(purekv(options.program, options.model, options.flags))
    try:
        cold = server.ask(about("What is this?"), options.tokens)
        warm = [server.ask(about(question), options.tokens) for question in QUESTIONS[:3]]
        print("| people | answers a minute | tokens/s | first token, median | 95 % |\n|---|---|---|---|---|")
        for people in options.people:
            rows, seconds = run(server, people, [about(question) for question in questions], options.tokens)
            first = sorted(row[0] for row in rows)
            print(f"| {people} | {60 * len(rows) / seconds:.1f} | {sum(row[2] for row in rows) / seconds:.1f} | {statistics.median(first):.3f} s "
                  f"| {first[min(len(first) - 1, round(0.95 * len(first)))]:.3f} s |", flush=True)
        print(f"\nFirst token when the context is read for the question: {cold[0]:.3f} s; when it has been read before: "
              f"{statistics.median(row[0] for row in warm):.3f} s ({warm[0][3]} tokens of the prompt). Peak memory {server.peak():.2f} GiB.")
    finally:
        server.stop()


if __name__ == "__main__":
    main()
