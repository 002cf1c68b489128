"""What all bars share: a server that is looked at from outside, requests that are drawn, and how a bar is missed."""
import http.client
import json
import os
import pathlib
import select
import socket
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import serving  # noqa: E402
from metrics_test import parse  # noqa: E402
from serving import VIDEOS, Server, data_url, resident, text_part, user  # noqa: E402, F401 (bars take all of these from here)

MIB = 1 << 20
CHATS, PREFIXES = "/v1/chat/completions", "/v1/purekv/prefixes"
SHORT, MEDIUM, LONG = (sorted(VIDEOS.glob(f"{length}-*.mp4")) for length in ("short", "medium", "long"))
IMAGE = serving.ROOT / "tests/data/media/alpha.png"
QUESTIONS = ["What moves?", "Describe the video.", "Which colours are there?", "Which shape is there first?"]
POLICIES = [{}, {"policy": "purekv", "budget": 0.2}, {"policy": "snapkv", "budget": 0.4}, {"policy": "h2o", "budget": 0.3},
            {"policy": "purekv", "budget": 0.1, "when": "prompt"}, {"policy": "streaming", "tokens": 256}]
# Says the same again and again, as long as it may.
ENDLESS = {"temperature": 0, "frequency_penalty": -2}
URLS = {}
PATIENCE = float(os.environ.get("PUREKV_PATIENCE", 1))  # how many times slower the program is than it should be: a sanitizer's


class Missed(Exception):
    """A bar that was not reached; the text says by how much."""


def require(holds, *what):
    if not holds:
        raise Missed(" ".join(map(str, what)))


def video(path):
    if path not in URLS:
        URLS[path] = data_url(path)
    return {"type": "video_url", "video_url": {"url": URLS[path]}}


def image(path=IMAGE):
    return {"type": "image_url", "image_url": {"url": data_url(path, "image/png")}}


def chat(*parts, **settings):
    return {"model": "demo", "messages": [user(*parts)], "temperature": 0, **settings}


def metrics(server, **headers):
    return parse(server.get("/metrics", **headers).body.decode())


def kv_bytes(values):
    """Bytes by what they hold; those that the budget is for are all but the frames."""
    return {dict(labels)["kind"]: value for labels, value in values["purekv_kv_bytes"].items()}


def accounted(values):
    return sum(value for kind, value in kv_bytes(values).items() if kind != "frames")


def value(values, name):
    return sum(values.get(name, {}).values())


def free(server):
    """Whether nothing runs or waits, and nothing is set apart for requests."""
    now = metrics(server)
    return value(now, "purekv_requests_running") + value(now, "purekv_requests_waiting") == 0 and kv_bytes(now)["requests"] == 0


def threads(server):
    return len(os.listdir(f"/proc/{server.process.pid}/task"))


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def first_token(server, body):
    """Seconds to the first piece of text of a streamed answer, which is then read to its end."""
    connection = server.open()
    start = time.monotonic()
    connection.request("POST", CHATS, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
    response = connection.getresponse()
    require(response.status == 200, "a stream is", response.status, response.read(300) if response.status != 200 else "")
    seconds = None
    while line := response.readline():
        if seconds is None and b'"content":"' in line and b'"role"' not in line:
            seconds = time.monotonic() - start
    connection.close()
    return seconds if seconds is not None else time.monotonic() - start


class Ask:
    """A request on a socket of its own, which can be let go at any moment."""

    def __init__(self, server, body, path=CHATS, identity=None, headers=()):
        text = json.dumps(body)
        fields = [*headers, *([f"X-Request-Id: {identity}"] if identity else [])]
        head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Connection: close", f"Content-Length: {len(text)}", *fields]
        self.socket = socket.create_connection((server.host, server.port), timeout=120 * PATIENCE)
        self.socket.sendall(("\r\n".join(head) + "\r\n\r\n" + text).encode())

    def gone(self, seconds):
        """Reads for so long, then goes. True: the answer was whole before."""
        deadline = time.monotonic() + seconds
        try:
            while (left := deadline - time.monotonic()) > 0:
                if select.select([self.socket], [], [], left)[0] and not self.socket.recv(65536):
                    return True
            return False
        finally:
            self.socket.close()

    def answer(self):
        """Status and body."""
        response = http.client.HTTPResponse(self.socket)
        try:
            response.begin()
            return response.status, response.read()
        finally:
            response.close()
            self.socket.close()


class Watcher(threading.Thread):
    """Calls look() again and again until it is left; what it raised is raised there."""

    def __init__(self, look, every=0.05):
        super().__init__(daemon=True)
        self.look, self.every, self.over, self.problem = look, every, threading.Event(), None

    def run(self):
        while not self.over.wait(self.every):
            try:
                self.look()
            except Exception as problem:  # handed on by __exit__
                self.problem = problem
                return

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        self.join()
        if kind is None and self.problem is not None:
            raise self.problem


class Crowd:
    """work(nth, random) for each of `count` by some threads; what one raised is raised at the end."""

    def __init__(self, count, clients, randomly, work):
        self.count, lock, self.problems = list(range(count - 1, -1, -1)), threading.Lock(), []

        def client(own):
            while not self.problems:
                with lock:
                    nth = self.count.pop() if self.count else None
                if nth is None:
                    return
                try:
                    work(nth, own)
                except Exception as problem:
                    self.problems.append(problem)
        self.threads = [threading.Thread(target=client, args=(type(randomly)(randomly.random()),), daemon=True) for _ in range(clients)]
        for one in self.threads:
            one.start()

    def wait(self):
        for one in self.threads:
            one.join()
        if self.problems:
            raise self.problems[0]


def draw(randomly, server, named=True):
    """A path and the body of a request: texts, images, videos; streams, several answers, policies, prefixes by name or read ahead."""
    settings = {"max_tokens": randomly.choice([1, 8, 24, 64]), "temperature": randomly.choice([0, 0, 1]), "n": randomly.choice([1, 1, 1, 2, 4]),
                "stream": randomly.random() < 0.5, "seed": randomly.randrange(100)}
    own = {**randomly.choice(POLICIES), "cache": randomly.choice(["use", "use", "use", "refresh", "off"])}
    if randomly.random() < 0.1:
        own["session"], settings["n"] = f"s{randomly.randrange(3)}", 1
    question = text_part(randomly.choice(QUESTIONS))
    kind = randomly.random()
    if kind < 0.2:
        return CHATS, chat("Tell me about squares. " * randomly.choice([1, 20, 400]), **settings)
    if kind < 0.35:
        return CHATS, chat(image(), question, purekv=own, **settings)
    if kind < 0.5 and named:
        prefixes = server.get(PREFIXES).json["data"]
        if prefixes:
            return CHATS, chat("What moves?", purekv={"prefix": randomly.choice(prefixes)["id"]}, **settings)
    path = randomly.choice(randomly.choice([SHORT[:12], MEDIUM[:6], LONG[:3]]))
    if kind < 0.6:
        ahead = {key: one for key, one in randomly.choice([POLICIES[0], *POLICIES[1:4]]).items()}
        return PREFIXES, {"model": "demo", "messages": [user(video(path))], "purekv": ahead}
    return CHATS, chat(video(path), question, purekv=own, **settings)


def until_settled(condition, what, seconds=30):
    seconds *= PATIENCE
    require(serving.until(condition, seconds), what, "did not go within", seconds, "s")
    return True


def delete_all(server, **headers):
    for one in server.get(PREFIXES, **headers).json["data"]:
        server.request("DELETE", f"{PREFIXES}/{one['id']}", headers=headers)


def median(values):
    return statistics.median(values)
