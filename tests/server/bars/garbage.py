"""S9: mutated heads, bodies and parts are answered with 4xx or closed, and the server is there afterwards."""
import concurrent.futures
import multiprocessing
import os
import random
import re
import socket
import subprocess
import tempfile
import time

from common import MIB, Server, chat, metrics, require, resident, serving, threads, until_settled, value

SENT = 200000      # over sockets: heads, bodies and parts with what is around them
FUZZED = 420000    # by each of the fuzz targets, which see what lies behind the sockets
FUZZERS = {"chat_request_fuzz": "tests/data/server/requests", "multipart_fuzz": "tests/data/server/uploads"}
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
BODY = (b'{"model": "other", "messages": [{"role": "user", "content": [{"type": "text", "text": "\xc3\xa9"}]}], "max_tokens": 1, "stop": ["a"], '
        b'"purekv": {"budget": 0.2}}')
PARTS = (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n'
         b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabcdefghijkl\r\n--b--\r\n')
JSON, FORM = b"application/json", b"multipart/form-data; boundary=b"


def request(path, kind, body, chunked=False):
    framing = b"Transfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%s\r\n0\r\nX: y\r\n\r\n" if chunked else b"Content-Length: %d\r\n\r\n%s"
    framing %= (len(body), body)
    return b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: " + kind + b"\r\n" + framing


SEEDS = [request(b"/v1/chat/completions", JSON, BODY), request(b"/v1/chat/completions", JSON, BODY, True), request(b"/v1/files", FORM, PARTS),
         request(b"/v1/files", FORM, PARTS, True), request(b"/v1/purekv/prefixes", JSON, BODY), request(b"/v1/purekv/cost", JSON, BODY),
         b"GET /v1/models HTTP/1.1\r\nHost: localhost:80\r\nAuthorization: Bearer a\r\nX-Request-Id: 7\r\nExpect: 100-continue\r\n\r\n",
         b"GET /v1/files?limit=2&after=file-1&order=asc HTTP/1.1\r\nHost: [::1]\r\nConnection: keep-alive\r\n\r\n",
         b"DELETE /v1/purekv/prefixes/pfx-000000000000000000000000 HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://a\r\n\r\n"]
WORDS = [b"\r\n", b"\n", b"\0", b": ", b"-1", b"0", b"18446744073709551616", b"9" * 40, b"chunked", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
         b"\xff", b"\xed\xa0\x80", b"{", b"[" * 40, b'"', b"\\ud800", b"1e999", b"--b", b"--b--", b"ffffffffffffffff", b";", b" ", b"\t", b"%00", b"..", b"A" * 300]


def mutated(randomly):
    data = bytearray(randomly.choice(SEEDS))
    for _ in range(randomly.choice((1, 1, 2, 3, 8))):
        at = randomly.randrange(len(data) + 1)
        what = randomly.random()
        if what < 0.3:
            data[at:at + 1] = bytes([randomly.randrange(256)])
        elif what < 0.5:
            del data[at:at + randomly.randint(1, 8)]
        elif what < 0.85:
            data[at:at + randomly.choice((0, 0, 1, 4))] = randomly.choice(WORDS)
        else:
            other = randomly.choice(SEEDS)
            start = randomly.randrange(len(other))
            data[at:at] = other[start:start + randomly.randint(1, 60)]
    return bytes(data)


def send(port, seed, count):
    """How many were judged, by status ("closed" among them); what was answered wrongly, None where nothing was."""
    randomly, judged, done = random.Random(seed), {}, 0
    while done < count:
        # Several on one connection; the first that is no request ends it, and the others are not counted.
        batch = [mutated(randomly) for _ in range(randomly.choice((1, 4, 8)))]
        sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        got = b""
        try:
            sock.sendall(b"".join(batch))
            sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(65536):
                got += piece
        except TimeoutError:
            return judged, (batch, "no end within 30 s")
        except ConnectionError:
            pass
        finally:
            sock.close()
        statuses = [int(one) for one in STATUS.findall(got)] or ["closed"]
        for one in statuses:
            judged[one] = judged.get(one, 0) + 1
            if one != "closed" and not 100 <= one < 500:
                return judged, (batch, got)
        done += len(statuses)
    return judged, None


def fuzz(name, folder):
    """Runs a fuzz target, built before; what it found is its output's end."""
    program = serving.ROOT / "build/fuzz/fuzz" / name
    require(program.exists(), f"{program}: is not built (scripts/server_bars.sh builds it)")
    with tempfile.TemporaryDirectory() as scratch:
        flags = [f"-runs={FUZZED}", "-timeout=20", "-rss_limit_mb=2048", f"-artifact_prefix={scratch}/"]
        done = subprocess.run([str(program), *flags, scratch, str(serving.ROOT / folder)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=serving.ROOT, check=False)
        require(done.returncode == 0, name, "found:", done.stderr.decode(errors="replace")[-2000:])


def run(randomly, _):
    with Server() as server:
        require(server.post(chat("a", max_tokens=1)).status == 200, "the server does not answer")
        send(server.port, 0, 2000)
        until_settled(lambda: value(metrics(server), "purekv_connections") <= 1, "connections")
        before = resident(server), server.descriptors(), threads(server)
        start = time.monotonic()
        with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            results = list(pool.map(send, [server.port] * 8, [randomly.randrange(1 << 30) for _ in range(8)], [SENT // 8] * 8))
        seconds = time.monotonic() - start
        judged = {}
        for of_one, wrong in results:
            require(wrong is None, "answered wrongly:", wrong)
            for status, count in of_one.items():
                judged[status] = judged.get(status, 0) + count
        require(server.post(chat("a", max_tokens=1)).status == 200, "the server does not answer any more")
        until_settled(lambda: value(metrics(server), "purekv_connections") <= 1, "connections")
        time.sleep(2)
        after = resident(server), server.descriptors(), threads(server)
        require(after[0] - before[0] < 16 * MIB and after[1] <= before[1] and after[2] <= before[2], "memory, descriptors, threads before", before, "after", after)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(fuzz, name, folder) for name, folder in FUZZERS.items()]:
            one.result()
    total = sum(judged.values())
    shares = ", ".join(f"{status}: {count}" for status, count in sorted(judged.items(), key=lambda one: -one[1]))
    return (f"{total} over sockets in {seconds:.0f} s ({shares}), {FUZZED} each by {' and '.join(FUZZERS)}, {total + FUZZED * len(FUZZERS)} in all; "
            f"memory {(after[0] - before[0]) / MIB:+.1f} MiB, {os.cpu_count()} cores")
