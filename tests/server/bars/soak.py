"""S14: eight clients with faults of every kind for as long as is given: nothing grows, and /health is answered at once."""
import os
import random
import signal
import socket
import statistics
import tempfile
import threading
import time

from common import (LONG, MIB, PATIENCE, PREFIXES, SHORT, Ask, Server, Watcher, chat, delete_all, draw, free, metrics, quantile, require, resident, text_part,
                    threads, until_settled, value, video)
from garbage import mutated
from media_test import children

CLIENTS, HEALTH_S, BUDGET = 8, 0.05 * PATIENCE, 64 * MIB
FORM = ('--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n'
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n', "\r\n--b--\r\n")


def asks(server, own):
    path, body = draw(own, server)
    status, said = Ask(server, body, path).answer()
    require(status in (200, 400, 404, 429, 503), status, said[:300])


def goes(server, own):
    path, body = draw(own, server)
    Ask(server, body, path).gone(own.random() * own.choice((0, 0.02, 0.2, 1)))


def half_closes(server, own):
    path, body = draw(own, server)
    ask = Ask(server, body, path)
    time.sleep(own.random() * 0.1)
    ask.socket.shutdown(socket.SHUT_WR)
    ask.gone(5)


def resets(server, own):
    path, body = draw(own, server)
    ask = Ask(server, body, path)
    time.sleep(own.random() * 0.1)
    ask.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    ask.socket.close()


def garbage(server, own):
    with socket.create_connection((server.host, server.port), timeout=60) as sock:
        try:
            sock.sendall(b"".join(mutated(own) for _ in range(own.randint(1, 5))))
            sock.settimeout(own.random())
            sock.recv(65536)
        except OSError:
            pass


def kills_a_child(server, own):
    """A request for media whose worker dies, or stands still until the client goes."""
    ask = Ask(server, chat(video(own.choice(LONG)), text_part("?"), max_tokens=1, purekv={"cache": "off"}))
    for _ in range(200):
        for pid in children(server.process.pid):
            try:
                os.kill(pid, own.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP)))
                ask.gone(own.random())
                return
            except ProcessLookupError:
                pass
    ask.gone(1)


def uploads(server, own):
    form = FORM[0].encode() + own.choice(SHORT).read_bytes() + FORM[1].encode()
    head = {"Content-Type": "multipart/form-data; boundary=b"}
    if own.random() < 0.5:
        with socket.create_connection((server.host, server.port), timeout=60) as sock:
            sock.sendall(f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: {head['Content-Type']}\r\nContent-Length: {len(form)}\r\n\r\n".encode())
            sock.sendall(form[:own.randrange(len(form))])
        return
    file = server.request("POST", "/v1/files", form, head).json["id"]
    Ask(server, chat({"type": "file", "file": {"file_id": file}}, text_part("?"), max_tokens=4)).answer()
    server.request("DELETE", f"/v1/files/{file}")


def deletes(server, own):
    for one in server.get(PREFIXES).json["data"]:
        if own.random() < 0.5:
            server.get(f"{PREFIXES}/{one['id']}/kept")
            server.request("DELETE", f"{PREFIXES}/{one['id']}")


FAULTS = {asks: 50, goes: 12, half_closes: 6, resets: 6, garbage: 10, kills_a_child: 6, uploads: 6, deletes: 4}


def slope(values):
    """By how much a line through them rises from the first to the last."""
    if len(values) < 2:
        return 0
    return statistics.linear_regression(range(len(values)), values).slope * (len(values) - 1)


def run(randomly, options):
    flags = ("--cache-memory", str(BUDGET), "--cache-disk", "200M", "--max-queue", "200", "--media-workers", "2", "--media-timeout", "5", "--session-ttl", "5")
    with tempfile.TemporaryDirectory() as cache, Server("--cache-dir", cache, *flags) as server:
        done, health, problems, over = {what.__name__: 0 for what in FAULTS}, [], [], threading.Event()

        def client(seed):
            own = random.Random(seed)
            while not over.is_set() and not problems:
                what = own.choices(list(FAULTS), list(FAULTS.values()))[0]
                try:
                    what(server, own)
                    done[what.__name__] += 1
                except Exception as problem:
                    problems.append(problem)

        def look():
            start = time.monotonic()
            require(server.get("/health").status == 200, "no health")
            health.append(time.monotonic() - start)

        def crowd(seconds):
            over.clear()
            clients = [threading.Thread(target=client, args=(randomly.random(),), daemon=True) for _ in range(CLIENTS)]
            for one in clients:
                one.start()
            over.wait(seconds)
            over.set()
            for one in clients:
                one.join()
            if problems:
                raise problems[0]
            until_settled(lambda: free(server), "memory set apart for requests")
            delete_all(server)
            until_settled(lambda: value(metrics(server), "purekv_connections") <= 1 and not children(server.process.pid), "connections and children")
            time.sleep(2)
            return resident(server), server.descriptors(), threads(server)

        # In rounds, so that there are quiet moments to compare; the first one warms everything up.
        rounds = max(5, int(options.soak / 60) + 1)
        quiet = []
        with Watcher(look, 0.02):
            for _ in range(rounds):
                quiet.append(crowd(options.soak / rounds))
        memory, descriptors, started = ([one[i] for one in quiet[1:]] for i in range(3))
        p99, rises = quantile(health, 0.99), slope(memory)
        require(value(metrics(server), "purekv_reservation_overruns_total") == 0, "a request took more than was set apart for it")
        internal = server.stderr().count("status=500")
        require(internal == 0, internal, "internal errors:", "\n".join(one for one in server.stderr().splitlines() if "status=500" in one)[:1000])
        what = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in done.items())
        figure = (f"{options.soak:.0f} s in {rounds} rounds: {what}; when quiet memory {min(memory) / MIB:.0f} to {max(memory) / MIB:.0f} MiB "
                  f"(a line through it rises by {rises / MIB:.1f}), descriptors {min(descriptors)} to {max(descriptors)}, threads {min(started)} to {max(started)}; "
                  f"/health p50 {quantile(health, 0.5) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, at most {max(health) * 1000:.0f} ms of {len(health)}")
        require(rises < 16 * MIB and max(descriptors) - min(descriptors) <= 2 and len(set(started)) == 1, figure)
        require(p99 < HEALTH_S, figure)
        server.signal()
        require(server.wait() == 0, "the end")
        return figure
