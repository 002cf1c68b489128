"""S12: nothing of one key is another's: caches, prefixes, files, names of media, sessions, what runs; nor of another cache_salt."""
from common import LONG, PREFIXES, SHORT, Ask, Server, chat, metrics, require, text_part, value, video
from serving import until

A, B = {"Authorization": "Bearer key-of-a"}, {"Authorization": "Bearer key-of-b"}
ABSENT = {"prefix": "pfx-" + "0" * 24, "file": "file-" + "0" * 24}


def upload(server, path, headers):
    form = (b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
            + path.read_bytes() + b"\r\n--x--\r\n")
    answer = server.request("POST", "/v1/files", form, {"Content-Type": "multipart/form-data; boundary=x", **headers})
    require(answer.status == 200, "an upload was told", answer.status, answer.body[:200])
    return answer.json["id"]


def run(_, __):
    checks = 0

    def check(holds, *what):
        nonlocal checks
        checks += 1
        require(holds, *what)

    with Server("--api-key", "key-of-a", "--api-key", "key-of-b") as server:
        def cache(body, headers):
            answer = server.post(body, headers)
            require(answer.status == 200, answer.status, answer.body[:300])
            usage = answer.json["usage"]
            return usage["purekv"]["cache"], usage["prompt_tokens_details"]["cached_tokens"], usage["purekv"].get("prefix")

        def same(method, path, absent):
            """Both are told the same, up to the id of the request, and neither what there is."""
            mine, none = (server.request(method, one, headers=B) for one in (path, absent))
            check((mine.status, mine.json["error"]) == (none.status, none.json["error"]) and mine.status == 404, method, path, "was told", mine.body)

        about = lambda path: chat(video(path), text_part("What moves?"), max_tokens=4)
        media = about(SHORT[0])
        text = chat("Tell me about squares. " * 200, max_tokens=4)
        named = {**video(SHORT[1]), "uuid": "talk"}
        late = {"policy": "purekv", "budget": 0.2, "when": "prompt"}
        bodies = {"media": media, "text": text, "salt": {**media, "cache_salt": "s"}, "prompt": {**about(SHORT[6]), "purekv": late},
                  "named": chat(named, text_part("What?"), max_tokens=4), "session": {**about(SHORT[7]), "purekv": {"session": "talk"}}}
        prefix = cache(media, A)[2]
        for name, body in bodies.items():
            cache(body, A)
        for name, body in bodies.items():
            got = cache(body, A)
            check(got[0] != "none", "A's own", name, "is", got)
            check(cache(body, B)[:2] == ("none", 0), name, "of A was there for B")
            # Of B there is as much now; a third salt sees nothing of it.
            check(cache({**body, "cache_salt": "other-" + name}, B)[:2] == ("none", 0), name, "came through another salt")
        check(prefix not in {one["id"] for one in server.get(PREFIXES, **B).json["data"]}, "B sees A's prefix in the list")
        for end in ("", "/kept", "/frames/0.jpg"):
            same("GET", f"{PREFIXES}/{prefix}{end}", f"{PREFIXES}/{ABSENT['prefix']}{end}")
        same("DELETE", f"{PREFIXES}/{prefix}", f"{PREFIXES}/{ABSENT['prefix']}")
        mine, none = (server.post(chat("What moves?", max_tokens=1, purekv={"prefix": one}), B) for one in (prefix, ABSENT["prefix"]))
        check(mine.status == none.status == 400 or mine.status == none.status == 404, "B asked about A's prefix and was told", mine.status, none.status)
        check(mine.json["error"]["message"].replace(prefix, "") == none.json["error"]["message"].replace(ABSENT["prefix"], ""), mine.body, none.body)
        check(server.get(f"{PREFIXES}/{prefix}", **A).status == 200, "A's prefix is gone")

        file = upload(server, SHORT[2], A)
        same("GET", f"/v1/files/{file}", f"/v1/files/{ABSENT['file']}")
        same("DELETE", f"/v1/files/{file}", f"/v1/files/{ABSENT['file']}")
        check(server.get("/v1/files", **B).json["data"] == [], "B sees A's files in the list")
        by_file = lambda one: chat({"type": "file", "file": {"file_id": one}}, text_part("What?"), max_tokens=1)
        mine, none = (server.post(by_file(one), B) for one in (file, ABSENT["file"]))
        check(mine.status == 400 and mine.json["error"] == none.json["error"], "B asked about A's file and was told", mine.body, none.body)
        check(server.post(by_file(file), A).status == 200, "A's file is gone")

        # A's name for a medium says nothing to B, who may give it to other bytes.
        upload(server, SHORT[3], B)
        sight = lambda part: chat({**part, "uuid": "only-a"}, text_part("What?"), max_tokens=1)
        check(server.post(sight(video(SHORT[4])), A).status == 200, "a name")
        unknown = {"type": "video_url", "video_url": {"url": None}}
        check(server.post(sight(unknown), A).status == 200, "A's own name is not known")
        answer = server.post(sight(unknown), B)
        check(answer.status == 400, "A's name was known to B:", answer.body)
        check(server.post(sight(video(SHORT[5])), B).status == 200, "A's name is taken for B")

        four = [video(path) for path in LONG[:4]]
        running = Ask(server, chat(*four, text_part("What?"), max_tokens=100, purekv={"cache": "off"}),
                      headers=["Authorization: Bearer key-of-a"])
        check(until(lambda: server.get("/v1/purekv/status", **A).json["jobs"]), "A's own job is not seen")
        check(server.get("/v1/purekv/status", **B).json["jobs"] == [], "B sees A's job")
        running.gone(0)
        labels = server.get("/metrics", **A).body.decode()
        check("key-of" not in labels and "key-of" not in server.stderr(), "a key is in the metrics or the log")
        check(value(metrics(server, **A), "purekv_requests_total") > 0, "no requests were counted")
    return f"{checks} looks at another key's and salt's caches, prefixes, files, names, sessions and jobs: nothing, in the words for what is not there"
