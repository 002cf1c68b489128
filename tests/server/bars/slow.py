"""S8: idle, slow and deaf clients keep nobody waiting, and are cut off by their time-outs."""
import json
import re
import socket
import time

from common import CHATS, ENDLESS, SHORT, Server, chat, first_token, median, metrics, require, text_part, threading, until_settled, value, video

IDLE, SLOW, DEAF, ASKED = 500, 50, 20, 30
HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "
BODY = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
SEND_TIMEOUT, SHARE = 20, 1.2


def deaf(server, tokens):
    """Somebody who asks for a long stream and reads nothing of it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((server.host, server.port))
    body = json.dumps(chat("What is a square?", **{**ENDLESS, "max_tokens": tokens, "stream": True, "logprobs": True, "top_logprobs": 20}))
    sock.sendall(f"POST {CHATS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    return sock


def ended(sock):
    """Whether the other side has closed, of a socket from which all may be thrown away."""
    sock.setblocking(False)
    try:
        while sock.recv(1 << 16):
            pass
        return True
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def run(_, __):
    with Server("--send-timeout", str(SEND_TIMEOUT), "--max-connections", "1024", "--max-queue", "100") as server:
        normal = chat(video(SHORT[0]), text_part("What moves?"), max_tokens=4, purekv={"cache": "off"})
        for _ in range(10):
            first_token(server, normal)
        quiet = median(first_token(server, normal) for _ in range(ASKED))
        start = time.monotonic()
        idle = [socket.create_connection((server.host, server.port)) for _ in range(IDLE)]
        slow = [socket.create_connection((server.host, server.port)) for _ in range(SLOW)]
        for i, sock in enumerate(slow):
            sock.sendall(HEAD if i % 2 else BODY)
        cut, over = {}, threading.Event()

        def trickle():
            while not over.wait(1):
                for i, sock in enumerate(slow):
                    try:
                        if i not in cut:
                            sock.sendall(b" ")
                    except OSError:
                        cut[i] = time.monotonic() - start
        sender = threading.Thread(target=trickle, daemon=True)
        sender.start()
        # Half of them get more than a connection may hold, the others all that the engine has for them.
        streams = [deaf(server, 4000 if i % 2 else 240) for i in range(DEAF)]
        until_settled(lambda: value(now := metrics(server), "purekv_requests_running") + value(now, "purekv_requests_waiting") == 0, "streams that nobody reads", 60)
        require(value(metrics(server), "purekv_connections") >= IDLE + DEAF / 2, "those that should be beside are not there any more")
        beside = median(first_token(server, normal) for _ in range(ASKED))
        measured = time.monotonic() - start
        figure = f"first token beside {IDLE} idle, {SLOW} slow and {DEAF} deaf clients {beside * 1000:.1f} ms, quiet {quiet * 1000:.1f} ms, {beside / quiet:.2f} x"
        require(beside <= SHARE * quiet, figure)
        until_settled(lambda: len(cut) == SLOW, "slow senders, of whom %d are cut off" % len(cut), 60)
        gone = len(re.findall(r"route=chat status=499", server.stderr()))
        require(gone == DEAF / 2, gone, "streams were given up for having more than a connection may hold, not", DEAF / 2)
        over.set()
        sender.join()
        heads, bodies = (max(cut[i] for i in range(first, SLOW, 2)) for first in (1, 0))
        until_settled(lambda: value(metrics(server), "purekv_connections") <= 2, "idle clients", 100)
        last = time.monotonic() - start
        require(all(ended(sock) for sock in [*idle, *streams]), "a connection is still open")
        for sock in [*idle, *slow, *streams]:
            sock.close()
        require(measured < 60, "measured too late, behind", measured, "s")
        return f"{figure}; slow heads were cut off within {heads:.0f} s, slow bodies within {bodies:.0f} s, {gone} streams of more than 1 MiB, all within {last:.0f} s"
