"""S10: media and bodies that are made to hurt: refused in one line, by their request alone, in memory that stays what it was."""
import json
import os
import signal
import socket
import threading
import time

from common import CHATS, LONG, MIB, PREFIXES, Server, chat, free, require, resident, text_part, until_settled, user, video
from cancel import stopped_child
from media_test import children, inline, mp4_of_many, png, stat
from serving import Background, until

BODIES, BODY_TOTAL = 100, 512
OFF = {"purekv": {"cache": "off"}, "max_tokens": 1}


def told(answer, code, what):
    require(answer.status == 400 and answer.error["code"] == code and "\n" not in answer.error["message"], what, "was told", answer.status, answer.body[:300])
    return answer.error["message"]


def judged(server):
    """Bombs by their heads: nothing of them is decoded."""
    before, start = resident(server, "VmHWM"), time.monotonic()
    told(server.post(chat(inline(png(60000, 60000), "image_url"), text_part("?"), **OFF)), "media_limit", "a PNG of 3.6e9 pixels")
    told(server.post(chat(inline(png(16384, 8193), "image_url"), text_part("?"), **OFF)), "media_limit", "a PNG of 2^27 pixels and a row")
    told(server.post(chat(inline(mp4_of_many(1000000)), text_part("?"), **OFF)), "media_limit", "a file of 10^6 frames")
    grown = resident(server, "VmHWM") - before
    require(grown < 64 * MIB, "bombs of media took", grown, "bytes")
    return time.monotonic() - start


def broken(server):
    """A child that stands still, and those that crash, by several signals and in each kind of request."""
    for path in (CHATS, PREFIXES, "/v1/purekv/cost"):
        for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGSEGV):
            body = chat(video(LONG[0]), text_part("?"), **OFF)
            if path == PREFIXES:
                body = {"model": "demo", "messages": [user(video(LONG[0]))], "purekv": {"cache": "refresh"}}
            for _ in range(60):
                answer = Background(lambda: server.post(body, path=path))
                pid = None
                while answer.is_alive() and pid is None:
                    pid = stopped_child(server)
                if pid is not None:
                    break
            require(pid is not None, "no child was caught in", path)
            if number != signal.SIGSTOP:
                os.kill(pid, number)
                os.kill(pid, signal.SIGCONT)
            told(answer.result(), "media_timeout" if number == signal.SIGSTOP else "invalid_media", f"{path} whose child got signal {number}")
            require(stat(pid) is None, "a child is still there behind", path)
    require(not children(server.process.pid), "children are left")


def flood(server):
    """A hundred bodies of 64 MB at once, of several kinds: as many are taken as memory was set for, the others are told so."""
    size = 64 * 1000 * 1000
    begin = json.dumps(chat("a", max_tokens=1, metadata="")).encode()[:-2]
    kinds = [lambda n: b"a" * n, lambda n: b'","x":[' + b"[]," * ((n - 12) // 3) + b'0],"y":"', lambda n: b"\\u00e9" * (n // 6)]
    bodies = [begin + (inside := kind(size - len(begin) - 2)) + b"x" * (size - len(begin) - 2 - len(inside)) + b'"}' for kind in kinds]
    statuses, lock, most = {}, threading.Lock(), [0]
    before = resident(server)

    def one(i):
        body, status = bodies[i % len(bodies)], "closed"
        with socket.create_connection((server.host, server.port), timeout=120) as sock:
            try:
                sock.sendall(f"POST {CHATS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode())
                sock.sendall(body)
            except OSError:
                pass  # refused while it was still sent
            try:
                status = int(sock.recv(1000).split(b" ")[1])
            except (OSError, IndexError):
                pass
        with lock:
            statuses[status] = statuses.get(status, 0) + 1

    crowd = [threading.Thread(target=one, args=(i,)) for i in range(BODIES)]
    for thread in crowd:
        thread.start()
    slowest = 0.0
    while any(thread.is_alive() for thread in crowd):
        start = time.monotonic()
        require(server.get("/health").status == 200, "no health")
        slowest = max(slowest, time.monotonic() - start)
        most[0] = max(most[0], resident(server) - before)
        time.sleep(0.05)
    require(set(statuses) <= {200, 400, 503, "closed"}, statuses)
    until_settled(lambda: free(server), "bodies")
    left = lambda: resident(server) - before
    until(lambda: left() < 32 * MIB, 15)
    figure = (f"{BODIES} bodies of 64 MB at once: {', '.join(f'{status}: {count}' for status, count in sorted(statuses.items(), key=str))}; "
              f"memory + {most[0] / MIB:.0f} MiB, + {left() / MIB:.0f} behind them, /health within {slowest:.2f} s")
    # What is set for bodies, and one that is being read as JSON, with what a string leaves unused.
    require(most[0] <= (2 * BODY_TOTAL + 512) * MIB and left() < 32 * MIB, figure)
    return figure


def run(_, __):
    with Server("--media-timeout", "3") as server:
        require(server.post(chat(video(LONG[0]), text_part("?"), **OFF)).status == 200, "the server does not answer")
        seconds = judged(server)
        broken(server)
        figure = flood(server)
        require(server.post(chat(video(LONG[0]), text_part("?"), **OFF)).status == 200, "the server does not answer any more")
        return f"bombs are refused in {seconds:.1f} s; stopped and crashing children cost their own request alone; {figure}"
