"""S13: SIGTERM: streams that run finish, requests that wait are told 503, nothing is left behind."""
import json
import os
import pathlib
import tempfile
import time

from common import ENDLESS, LONG, Ask, Server, chat, require, serving, text_part, video
from media_test import children
from serving import until

RUNNING, QUEUED, ROUNDS = 4, 4, 3


def run(_, __):
    waited = []
    temporary = pathlib.Path(serving.CLEAN["TMPDIR"])
    for nth in range(ROUNDS):
        with tempfile.TemporaryDirectory() as cache, Server("--max-batch", str(RUNNING), "--cache-dir", cache) as server:
            streams = [Ask(server, chat("What is a square?", **ENDLESS, max_tokens=4000, stream=True), identity=f"run-{i}") for i in range(RUNNING)]
            stages = lambda: {one["id"]: one["stage"] for one in server.get("/v1/purekv/status").json["jobs"]}
            require(until(lambda: sum(stages().get(f"run-{i}") == "decode" for i in range(RUNNING)) == RUNNING, 5), "not all streams run:", stages())
            # Streams and others, texts and what has been decoded.
            asked = [(video(LONG[0]), text_part("?")) if i == nth else ("b",) for i in range(QUEUED)]
            queued = [Ask(server, chat(*parts, max_tokens=5, stream=i % 2 == 1), identity=f"wait-{i}") for i, parts in enumerate(asked)]
            require(until(lambda: sum(one.startswith("wait") for one in stages()) == QUEUED, 2), "not all wait:", stages())
            begin = time.monotonic()
            server.signal()
            for one in queued:
                status, body = one.answer()
                require(status == 503 and json.loads(body)["error"]["code"] == "draining", "who waited was told", status, body[:200])
            told = time.monotonic() - begin
            for one in streams:
                status, body = one.answer()
                require(status == 200 and body.endswith(b"data: [DONE]\n\n") and body.count(b'"content":"') >= 100, "a stream ended with", body[-200:])
            require(server.wait() == 0, "the server ended with", server.process.returncode)
            waited.append((told, time.monotonic() - begin))
            require("error" not in server.stderr().lower(), server.stderr()[-500:])
            require(not children(server.process.pid), "media workers are left")
            require(not list(temporary.iterdir()), "left in $TMPDIR:", os.listdir(temporary))
            require(not [one for one in os.listdir(cache) if ".tmp." in one], "half files:", os.listdir(cache))
    return (f"{ROUNDS} times {RUNNING} streams finish and {QUEUED} that wait are told 503 within {max(one[0] for one in waited):.2f} s; "
            f"exit 0 within {max(one[1] for one in waited):.2f} s of SIGTERM, nothing in $TMPDIR")
