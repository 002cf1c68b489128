"""S7: a client that goes ends its work in whatever stage it is, and what was set apart for it is free."""
import json
import os
import signal
import time

from common import CHATS, ENDLESS, LONG, PATIENCE, PREFIXES, SHORT, Ask, Missed, Server, chat, free, median, require, serving, text_part, until_settled, user, video
from media_test import children, fence, stat

LIMIT_S, TRIES = 0.2 * PATIENCE, 5 if PATIENCE == 1 else 2
ONCE = {"cache": "off"}
TEXT = serving.LONG[:int(len(serving.LONG) / PATIENCE ** 0.6)]
GROWING = {**ENDLESS, "max_tokens": 4000, "n": 4, "stream": True}
FOUR = [video(path) for path in LONG[:4]]


def stage_of(server, identity):
    for job in server.get("/v1/purekv/status").json["jobs"]:
        if job["id"] == identity:
            return job["stage"]
    return None


def stopped_child(server):
    """A media worker inside its fence that stands still now; None where none could be caught."""
    for pid in children(server.process.pid):
        if fence(pid).get("Seccomp", "").strip() == "2":
            os.kill(pid, signal.SIGSTOP)
            if serving.until(lambda: (stat(pid) or "?")[0] == "T", 0.5):
                return pid
    return None


def catch(server, stage, path, body):
    """A request that is in this stage now."""
    for attempt in range(60):
        identity = f"{stage}-{attempt}-{time.monotonic_ns()}"
        ask = Ask(server, body, path, identity)
        deadline = time.monotonic() + 10 * PATIENCE
        seen = None
        while time.monotonic() < deadline:
            seen = stage_of(server, identity)
            if stage == "media" and stopped_child(server) or seen == stage != "media":
                return ask, identity
            if seen is None and time.monotonic() > deadline - 9 * PATIENCE:
                break
        ask.gone(0)
        until_settled(lambda: free(server), "a request that was not caught in " + stage)
    raise Missed(f"no request was caught in its stage {stage}")


def case(server, stage, path):
    """Seconds from the client's going until nothing is left of its request, and until who waited for it is answered."""
    ahead = path == PREFIXES
    question = [] if ahead else [text_part("What moves?")]
    own = {} if ahead else ONCE

    def body():
        nonce = f"{time.monotonic_ns()} "
        if stage == "decode":
            return chat("What is a square?", **GROWING)
        if stage == "prefill":
            return {"model": "demo", "messages": [user(nonce + TEXT)], **({} if ahead else {"max_tokens": 1}), "purekv": own}
        parts = [text_part(nonce), *FOUR, *question] if stage in ("vision", "media") else [text_part(nonce), video(LONG[0]), *question]
        return {"model": "demo", "messages": [user(*parts)], "purekv": {**own, "cache": "refresh"} if ahead else own, **({} if ahead else {"max_tokens": 1})}

    def once():
        others = []
        if stage == "queue":
            others = [catch(server, "prefill", CHATS, chat("x " + TEXT, max_tokens=1, purekv=ONCE))[0]]
        ask, identity = catch(server, stage, path, body())
        waiting = None
        if stage != "queue":
            # Who waits for the worker, or for the engine; answers that grow keep nobody waiting, unless all places are taken.
            parts = [video(SHORT[0]), text_part("What?")] if stage == "media" else ["a"]
            waiting = Ask(server, chat(*parts, max_tokens=1, purekv=ONCE))
        start = time.monotonic()
        ask.gone(0)
        while stage_of(server, identity) is not None:
            require(time.monotonic() - start < 20 * PATIENCE, "a request in", stage, "did not end")
        gone = time.monotonic() - start
        if waiting is not None:
            status, text = waiting.answer()
            require(status == 200, "who waited behind", stage, "was told", status, text[:200])
        answered = time.monotonic() - start
        for one in others:
            status, text = one.answer()
            require(status == 200, "who ran before", stage, "was told", status, text[:200])
        until_settled(lambda: free(server), f"what was set apart in {stage}", 5)
        freed = time.monotonic() - start
        return gone, freed if not others else gone, answered

    tries = [once() for _ in range(TRIES)]
    gone, freed, answered = (median(column) for column in zip(*tries))
    require(gone <= LIMIT_S, f"{path} in {stage}: gone after {gone:.3f} s")
    # Partner and bytes come right behind it; the partner's own work is in that time.
    require(freed <= LIMIT_S and answered <= LIMIT_S + 0.3 * PATIENCE, f"{path} in {stage}: free after {freed:.3f} s, the next is answered after {answered:.3f} s")
    return f"{stage} {freed:.2f}"


def said(ask):
    status, text = ask.answer()
    require(status == 200, "a request was told", status, text[:200])
    return json.loads(text)["choices"][0]["message"]["content"]


def inherited(server):
    """Two ask for the same prefix that is not there; the first goes, the second is answered as if it had been alone."""
    body = chat(text_part("Look. "), *FOUR[:3], text_part("What moves?"), max_tokens=12)
    alone = said(Ask(server, {**body, "purekv": ONCE}))
    for path in (CHATS, PREFIXES):
        first_body = body if path == CHATS else {"model": "demo", "messages": [user(text_part("Look. "), *FOUR[:3])]}
        first, _ = catch(server, "prefill", path, {**first_body, "purekv": {"cache": "refresh"}})
        second = Ask(server, body)
        first.gone(0)
        answer = said(second)
        require(answer == alone, "the second said", repr(answer), "in place of", repr(alone))


def run(_, __):
    with Server("--cache-memory", "2G", "--media-timeout", f"{30 * PATIENCE:.0f}", "--max-n", "4", "--max-tokens-limit", "5000") as server:
        figures = []
        for path, stages in ((CHATS, ("queue", "media", "vision", "prefill", "decode")), (PREFIXES, ("queue", "media", "vision", "prefill"))):
            figures.append(path.rpartition("/")[2] + ": " + ", ".join(case(server, stage, path) for stage in stages))
        inherited(server)
        return (f"seconds from the client's going to nothing left of its request, median of {TRIES}: {'; '.join(figures)}; "
                "a second that waits for the same prefix is answered as if alone")
