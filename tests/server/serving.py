"""Starts the real server on the demo model and talks to it; Python's standard library alone."""
import base64
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("PUREKV_CLI", str(ROOT / "build/release/bin/purekv"))
MODEL = ROOT / "models/demo"
VIDEOS = MODEL / "eval"
# Variables of the program's own flags would change what is tested.
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("PUREKV_")}


def ask(*arguments):
    """The result object of `purekv ask`."""
    command = [PROGRAM, "ask", "-m", str(MODEL), "--json", "-", *arguments]
    done = subprocess.run(command, env=CLEAN, capture_output=True, timeout=120, check=True)
    return json.loads(done.stdout)


def data_url(path, kind="video/mp4"):
    return f"data:{kind};base64,{base64.b64encode(pathlib.Path(path).read_bytes()).decode()}"


def video_part(path, **own):
    part = {"type": "video_url", "video_url": {"url": data_url(path)}}
    return {**part, "purekv": own} if own else part


def text_part(text):
    return {"type": "text", "text": text}


def user(*parts):
    return {"role": "user", "content": parts[0] if len(parts) == 1 and isinstance(parts[0], str) else list(parts)}


# A prompt that takes the demo model seconds to read, and fits. Who relies on that starts the server with --cache-memory 0.
LONG = "red square " * 7000


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]

    def events(self):
        """The objects of a stream, "[DONE]" among them, without comments."""
        found = []
        for event in self.body.decode().split("\n\n"):
            if event.startswith("data: "):
                data = event[len("data: "):]
                found.append(data if data == "[DONE]" else json.loads(data))
        return found


class Server:
    def __init__(self, *flags, wait=True):
        self.log = tempfile.TemporaryFile("w+")
        command = [PROGRAM, "serve", "-m", str(MODEL), "--port", "0", *flags]
        self.process = subprocess.Popen(command, env=CLEAN, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        match = re.fullmatch(r"listening on http://(.*):(\d+)\n", line)
        if match is None:
            self.process.wait(timeout=20)
            raise RuntimeError(f"{line!r}: {self.stderr()}")
        self.host, self.port = match[1].strip("[]"), int(match[2])
        deadline = time.monotonic() + 60
        while wait and self.get("/health").status != 200:
            if time.monotonic() > deadline:
                raise RuntimeError("the model was not loaded: " + self.stderr())
            time.sleep(0.05)

    def stderr(self):
        self.log.flush()
        with open(f"/proc/self/fd/{self.log.fileno()}", encoding="utf-8") as log:
            return log.read()

    def open(self, timeout=120):
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None):
        connection = self.open()
        try:
            connection.request(method, path, body, headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.request("GET", path, None, headers)

    def post(self, body, headers=None, path="/v1/chat/completions"):
        text = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self.request("POST", path, text, {"Content-Type": "application/json", **(headers or {})})

    def chat(self, messages, headers=None, **settings):
        messages = [user(messages)] if isinstance(messages, str) else messages
        return self.post({"model": "demo", "messages": messages, **settings}, headers)

    def start_chat(self, messages, **settings):
        """A socket on which a chat has been asked for and no answer read."""
        messages = [user(messages)] if isinstance(messages, str) else messages
        body = json.dumps({"model": "demo", "messages": messages, **settings})
        sock = socket.create_connection((self.host, self.port), timeout=120)
        sock.sendall((f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                      f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
        return sock

    def raw(self, data, timeout=20, half=False):
        """Everything that comes back for these bytes until the server closes; b"" where it only closes."""
        with socket.create_connection((self.host, self.port), timeout=timeout) as sock:
            try:
                sock.sendall(data)
                if half:
                    sock.shutdown(socket.SHUT_WR)
                got = b""
                while piece := sock.recv(65536):
                    got += piece
                return got
            except ConnectionError:
                return b""

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, timeout=30):
        return self.process.wait(timeout=timeout)

    def stop(self):
        if self.process.poll() is None:
            self.signal()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Background(threading.Thread):
    """work() in a thread; result() waits for it, and raises what it raised."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.value, self.problem = work, None, None
        self.start()

    def run(self):
        try:
            self.value = self.work()
        except Exception as problem:  # handed on by result()
            self.problem = problem

    def result(self, timeout=120):
        self.join(timeout)
        if self.is_alive():
            raise TimeoutError("still waiting")
        if self.problem is not None:
            raise self.problem
        return self.value


def resident(server, field="VmRSS"):
    """Bytes of memory that the server's process holds, or has held at most (VmHWM)."""
    lines = pathlib.Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
