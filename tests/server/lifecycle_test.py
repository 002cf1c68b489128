#!/usr/bin/env python3
"""Slow and vanishing clients, queues, keys, start and end of the server."""
import json
import pathlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from serving import CLEAN, LONG, MODEL, PROGRAM, VIDEOS, Background, Server, text_part, until, user, video_part


def log_lines(server, status):
    return [line for line in server.stderr().splitlines() if f"status={status}" in line and "route=chat" in line]
LONGISH = "red " * 1100  # too long to be read between the blocks of another


class Cancelling(unittest.TestCase):
    """A client that goes ends its work, wherever that is."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--cache-memory", "0", "--max-queue", "2", "--allowed-local-media-path", str(VIDEOS))

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def answered_soon(self):
        """Seconds until another chat is answered."""
        start = time.monotonic()
        self.assertEqual(self.server.chat("a", max_tokens=1).status, 200)
        return time.monotonic() - start

    def test_while_the_prompt_is_read(self):
        start = time.monotonic()
        self.assertEqual(self.server.chat(LONG, max_tokens=1).status, 200)
        whole = time.monotonic() - start
        gone = len(log_lines(self.server, 499))
        sock = self.server.start_chat(LONG, max_tokens=1)
        time.sleep(min(0.2, whole / 4))
        sock.close()
        seconds = self.answered_soon()
        print(f"the prompt takes {whole:.2f} s; cancelled in it, the next answer is there in {seconds:.2f} s")
        self.assertTrue(until(lambda: len(log_lines(self.server, 499)) == gone + 1))

    def test_while_it_is_answered(self):
        # A stream of nonsense, which rarely ends by itself.
        settings = {"temperature": 2, "max_tokens": 4096, "stream": True, "n": 4}
        sock = self.server.start_chat("a", **settings)
        got = b""
        while got.count(b'"content":') < 3:
            got += sock.recv(1024)
        gone = len(log_lines(self.server, 499))
        sock.close()
        self.assertTrue(until(lambda: len(log_lines(self.server, 499)) == gone + 1))
        self.answered_soon()

    def test_while_it_waits(self):
        first = self.server.start_chat(LONG, max_tokens=1)
        time.sleep(0.1)
        waiting = [self.server.start_chat("a", max_tokens=1) for _ in range(2)]
        self.assertTrue(until(lambda: self.server.chat("a", max_tokens=1).status == 429))
        waiting.pop().close()
        # There is room for one again, and it is answered.
        self.assertTrue(until(lambda: self.server.chat("a", max_tokens=1).status == 200))
        for sock in (first, *waiting):
            self.assertIn(b"200 OK", sock.recv(1000))
            sock.close()

    def test_a_stream_that_waits_is_kept_alive(self):
        first = [self.server.start_chat(LONG, max_tokens=1) for _ in range(2)]
        time.sleep(0.1)
        start = time.monotonic()
        sock = self.server.start_chat(LONG, max_tokens=1, stream=True)
        head = sock.recv(2000)
        seconds = time.monotonic() - start
        # Its turn has come before, on a fast machine: then it tells of its own prompt.
        self.assertIn(b"200 OK", head)
        self.assertTrue(b": queued" in head + sock.recv(2000) or seconds < 5.5, (head, seconds))
        for one in (*first, sock):
            one.close()

    def test_half_closed_is_gone(self):
        gone = len(log_lines(self.server, 499))
        sock = self.server.start_chat(LONG, max_tokens=1)
        time.sleep(0.1)
        sock.shutdown(socket.SHUT_WR)
        self.assertTrue(until(lambda: len(log_lines(self.server, 499)) == gone + 1))
        sock.close()

    def test_a_full_queue_says_when_to_come_back(self):
        socks = [self.server.start_chat(LONG, max_tokens=1)]
        time.sleep(0.1)
        self.assertEqual(self.server.chat("a", max_tokens=1).status, 200)  # a short one is read in between
        socks += [self.server.start_chat(LONGISH, max_tokens=1) for _ in range(2)]
        time.sleep(0.1)
        answer = self.server.chat(LONGISH)
        self.assertEqual((answer.status, answer.error["code"], answer.error["type"]), (429, "queue_full", "rate_limit_error"))
        self.assertTrue(1 <= int(answer.headers["retry-after"]) <= 120)
        self.assertEqual(self.server.get("/health").status, 200)  # whatever the engine does
        for sock in socks:  # first come, first served
            self.assertIn(b"200 OK", sock.recv(1000))
            sock.close()

    def test_comments_while_a_long_prompt_is_read(self):
        answer = self.server.chat([user({"type": "video_url", "video_url": {"url": f"file://{VIDEOS}/long-00.mp4"}}, text_part("What?"))],
                                  stream=True, max_tokens=2)
        self.assertIn(b"\n\ndata: ", answer.body)
        self.assertRegex(answer.body.decode(), r"\A: prefill \d+/\d+\n\n")


class Slow(unittest.TestCase):
    def test_who_takes_too_long_is_cut_off(self):
        with Server("--send-timeout", "1", "--max-connections", "60") as server:
            start = time.monotonic()

            def slowly():
                with socket.create_connection((server.host, server.port), timeout=30) as sock:
                    try:
                        for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100:
                            sock.sendall(bytes([byte]))
                            time.sleep(0.5)
                    except ConnectionError:
                        pass
                    try:
                        return sock.recv(1000), time.monotonic() - start
                    except ConnectionError:
                        return b"", time.monotonic() - start
            senders = [Background(slowly) for _ in range(10)]
            idle = [socket.create_connection((server.host, server.port)) for _ in range(40)]
            time.sleep(0.3)
            seconds = []
            for _ in range(5):
                begin = time.monotonic()
                self.assertEqual(server.chat("a", max_tokens=1).status, 200)
                seconds.append(time.monotonic() - begin)
            print(f"beside 10 slow senders and 40 idle clients an answer takes {sorted(seconds)[2]:.3f} s")
            # No more connections than that; the others stay.
            more = [socket.create_connection((server.host, server.port)) for _ in range(12)]
            self.assertIn(b"503 Service Unavailable", more[-1].recv(1000))
            for sock in more + idle:
                sock.close()
            for one in senders:
                answer, after = one.result()
                self.assertTrue(answer == b"" or b"408 Request Timeout" in answer, answer)
                self.assertGreater(after, 9)

    def test_who_reads_nothing_is_cut_off(self):
        with Server("--send-timeout", "1", "--max-n", "200") as server:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((server.host, server.port))
            sock.settimeout(60)
            body = json.dumps({"model": "demo", "messages": [user("a")], "temperature": 2, "max_tokens": 4096, "n": 200, "stream": True,
                               "logprobs": True, "top_logprobs": 20})
            sock.sendall((f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                          f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
            self.assertTrue(until(lambda: log_lines(server, 499), 30), server.stderr())
            self.assertEqual(server.chat("a", max_tokens=1).status, 200)
            sock.close()
            # An answer in one piece has no limit but the clock.
            sock = server.start_chat("a", temperature=2, max_tokens=4096, n=200, logprobs=True, top_logprobs=20)
            self.assertTrue(until(lambda: len(log_lines(server, 200)) == 2, 60), server.stderr())
            time.sleep(3)
            got, ended = b"", False
            while not ended:
                try:
                    piece = sock.recv(1 << 20)
                    got, ended = got + piece, not piece
                except ConnectionError:
                    ended = True
            length = int(re.search(rb"Content-Length: (\d+)", got)[1])
            self.assertLess(len(got), length)
            sock.close()


    def test_a_body_that_trickles_is_cut_off(self):
        # Each has taken all that bodies may have together, for as long as it is let.
        with Server("--max-body", "1M", "--max-body-total", "1M") as server:
            def sending(pieces, pause):
                with socket.create_connection((server.host, server.port), timeout=60) as sock:
                    sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1048576\r\n\r\n")
                    start = time.monotonic()
                    try:
                        for piece in pieces:
                            sock.sendall(piece)
                            time.sleep(pause)
                        answer = sock.recv(1000)
                    except ConnectionError:
                        answer = b""
                    return answer, time.monotonic() - start
            trickle = Background(lambda: sending([b" "] * 100, 0.4))
            time.sleep(1)
            self.assertEqual(server.chat("a", max_tokens=1).status, 503)
            answer, after = trickle.result()
            self.assertTrue(answer == b"" or b"408 Request Timeout" in answer, answer)
            print(f"a body of a byte now and then is cut off after {after:.0f} s")
            self.assertEqual(server.chat("a", max_tokens=1).status, 200)
            # Slow but steady is served.
            answer, _ = sending([b" " * 32768] * 32, 0.05)
            self.assertIn(b"400 Bad Request", answer)


class Keys(unittest.TestCase):
    def test_only_a_known_key_opens(self):
        with tempfile.NamedTemporaryFile("w", suffix=".keys") as file:
            file.write("second-key\r\n\nthird key\n")
            file.flush()
            with Server("--api-key", "first-key", "--api-key-file", file.name) as server:
                for key in ("first-key", "second-key", "third key"):
                    answer = server.chat("a", headers={"Authorization": f"Bearer {key}"}, max_tokens=1)
                    self.assertEqual(answer.status, 200, key)
                self.assertEqual(server.get("/v1/models", Authorization="bearer first-key").status, 200)
                for header in ({}, {"Authorization": ""}, {"Authorization": "Bearer "}, {"Authorization": "Bearer first-kez"},
                               {"Authorization": "Bearer first-key2"}, {"Authorization": "Bearer first-ke"}, {"Authorization": "first-key"},
                               {"Authorization": "Basic first-key"}, {"Authorization": "Bearer first-key second-key"}):
                    for path in ("/v1/models", "/v1/health", "/nowhere"):
                        answer = server.get(path, **header)
                        self.assertEqual((answer.status, answer.error["type"]), (401, "authentication_error"), (header, path))
                    self.assertEqual(server.chat("a", headers=header).status, 401, header)
                self.assertEqual(server.get("/health").status, 200)
                log = server.stderr()
                self.assertNotIn("first-key", log)
                self.assertRegex(log, r"key=[0-9a-f]{8} route=chat status=200")


class StartAndEnd(unittest.TestCase):
    def fails(self, *flags):
        port = [] if "--port" in flags else ["--port", "0"]
        done = subprocess.run([PROGRAM, "serve", "-m", str(MODEL), *port, *flags], env=CLEAN, capture_output=True, text=True, timeout=20)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done.stderr

    def test_what_cannot_be_served_is_refused(self):
        self.assertIn("--host: 0.0.0.0 can be reached", self.fails("--host", "0.0.0.0"))
        self.assertIn("--host: :: can be reached", self.fails("--host", "::"))
        self.assertIn("not an address", self.fails("--host", "example.org"))
        self.assertIn("--insecure-no-auth", self.fails("--insecure-no-auth", "--api-key", "a"))
        self.assertIn("--allowed-local-media-path", self.fails("--allowed-local-media-path", "/nowhere"))
        self.assertIn("'sound' is not known", self.fails("--limit-mm-per-prompt", "sound=1"))
        self.assertIn("--kv-budget", self.fails("--kv-budget", "0.2"))
        self.assertIn("unknown flag", self.fails("--max-banana", "1"))
        self.assertIn("--max-body", self.fails("--max-body", "2M", "--max-body-total", "1M"))
        with Server() as server:
            self.assertIn("cannot listen", self.fails("--port", str(server.port)))
        broken = subprocess.run([PROGRAM, "serve", "-m", str(VIDEOS), "--port", "0"], env=CLEAN, capture_output=True, text=True, timeout=20)
        self.assertEqual((broken.returncode, broken.stderr.count("\n")), (1, 1), broken.stderr)

    def test_other_hosts_with_a_key(self):
        with Server("--host", "0.0.0.0", "--api-key", "k") as server:
            server.host = "127.0.0.1"
            # Reached by any name: a key is what keeps pages out.
            answer = server.get("/v1/models", Authorization="Bearer k", Host="my-server:80")
            self.assertEqual(answer.status, 200)

    def test_names_limits_and_defaults(self):
        with Server("--served-model-name", "one,org/two", "--max-tokens-limit", "5", "--max-model-len", "300", "--kv-policy", "snapkv",
                    "--kv-tokens", "40", "--log-format", "json", "--sampling-defaults", "greedy") as server:
            models = server.get("/v1/models").json["data"]
            self.assertEqual([(one["id"], one["max_model_len"]) for one in models], [("one", 300), ("org/two", 300)])
            self.assertEqual(server.get("/v1/models/org/two").status, 200)
            answer = server.chat([user(video_part(VIDEOS / "short-03.mp4"), text_part("Describe the video."))], model="org/two")
            usage = answer.json["usage"]
            self.assertEqual((answer.json["model"], usage["completion_tokens"]), ("org/two", 5))
            self.assertEqual((usage["purekv"]["policy"], usage["purekv"]["tokens"], usage["purekv"]["when"]), ("snapkv", 40, "context"))
            self.assertLess(usage["purekv"]["tokens_kept_mean"], 100)
            self.assertEqual(server.chat("red " * 400, model="one").error["code"], "context_length_exceeded")
            def statuses():  # a line is written when its answer has been
                whole = server.stderr().rpartition("\n")[0]
                return [line["status"] for line in map(json.loads, whole.splitlines()) if line["route"] == "chat"]
            until(lambda: len(statuses()) == 2)
            self.assertEqual(statuses(), [200, 400])

    def test_a_socket_of_the_file_system(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s")
            command = [PROGRAM, "serve", "-m", str(MODEL), "--host", "unix:" + path]
            for _ in range(2):  # the second finds what the first has left
                process = subprocess.Popen(command, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                self.assertEqual(process.stdout.readline(), f"listening on unix:{path}\n")
                self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
                answer = b""

                def health():
                    nonlocal answer
                    with socket.socket(socket.AF_UNIX) as sock:
                        sock.connect(path)
                        sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n")
                        answer = b"".join(iter(lambda: sock.recv(4096), b""))
                    return answer.startswith(b"HTTP/1.1 200")
                self.assertTrue(until(health), answer)
                self.assertIn(b'"demo"', answer)
                second = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=60)
                self.assertEqual(second.returncode, 1)
                self.assertIn("cannot listen", second.stderr)
                process.kill()
                process.wait()
                process.stdout.close()
            self.assertTrue(os.path.exists(path))
            file = os.path.join(folder, "file")
            pathlib.Path(file).write_text("mine")
            for host, code in (("unix:" + file, 1), ("unix:", 2), ("unix:" + "x" * 200, 2)):
                refused = subprocess.run([*command[:-1], host], env=CLEAN, capture_output=True, text=True, timeout=60)
                self.assertEqual(refused.returncode, code, refused.stderr)
            self.assertEqual(pathlib.Path(file).read_text(), "mine")
            with_port = subprocess.run([*command, "--port", "80"], env=CLEAN, capture_output=True, text=True, timeout=60)
            self.assertEqual(with_port.returncode, 2)

    def test_what_waits_too_long_is_told(self):
        with Server("--cache-memory", "0", "--queue-timeout", "0.3") as server:
            first = server.start_chat(LONG, max_tokens=1)
            time.sleep(0.1)
            answer = server.chat(LONGISH)
            self.assertEqual((answer.status, answer.error["code"], answer.error["type"]), (504, "queue_timeout", "timeout_error"))
            self.assertEqual(answer.headers["x-should-retry"], "false")
            first.close()

    def test_the_end_lets_answers_finish(self):
        server = Server("--cache-memory", "0")
        stream = Background(lambda: server.chat(LONG, max_tokens=3, stream=True))
        self.assertTrue(until(lambda: server.descriptors() > 0))
        time.sleep(0.3)
        waiting = [Background(lambda: server.chat(LONGISH)) for _ in range(4)]
        time.sleep(0.3)
        health = server.open()  # connected before
        health.connect()
        server.signal()
        for one in waiting:
            answer = one.result()
            self.assertEqual((answer.status, answer.error["code"]), (503, "draining"))
        health.request("GET", "/health")
        told = health.getresponse()
        self.assertEqual((told.status, json.loads(told.read())), (503, {"status": "draining"}))
        health.close()
        with self.assertRaises(ConnectionError):
            server.get("/health")
        self.assertEqual(stream.result().events()[-1], "[DONE]")
        self.assertEqual(server.wait(), 0)
        server.stop()

    def test_the_end_waits_no_longer_than_it_should(self):
        server = Server("--cache-memory", "0", "--drain-timeout", "0.2")
        stream = Background(lambda: server.chat(LONG, max_tokens=3, stream=True))
        time.sleep(0.4)
        server.signal()
        events = stream.result().events()
        self.assertEqual(events[-1]["error"]["code"], "draining")
        self.assertEqual(server.wait(), 0)
        server.stop()

    def test_a_log_that_nobody_reads_ends_nothing(self):
        process = subprocess.Popen([PROGRAM, "serve", "-m", str(MODEL), "--port", "0"], env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        port = int(process.stdout.readline().split(b":")[-1])
        process.stderr.close()
        process.stdout.close()
        server = Server.__new__(Server)
        server.host, server.port = "127.0.0.1", port
        self.assertTrue(until(lambda: server.get("/health").status == 200))
        for _ in range(3):
            self.assertEqual(server.chat("a", max_tokens=1).status, 200)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(20), 0)

    def test_a_second_signal_ends_at_once(self):
        server = Server("--cache-memory", "0")
        sock = server.start_chat(LONG, max_tokens=1)
        time.sleep(0.2)
        server.signal(signal.SIGINT)
        time.sleep(0.1)
        server.signal(signal.SIGINT)
        self.assertEqual(server.wait(), 130)
        sock.close()
        server.stop()

    def test_it_listens_while_the_model_is_loaded(self):
        server = Server(wait=False)
        states = set()
        for _ in range(200):
            states.add(server.get("/health").json["status"])
            if "ok" in states:
                break
        self.assertIn("ok", states)
        self.assertLessEqual(states, {"loading", "ok"})
        server.signal()
        self.assertEqual(server.wait(), 0)
        server.stop()


if __name__ == "__main__":
    unittest.main()
