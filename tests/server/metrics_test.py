#!/usr/bin/env python3
"""What the server says of itself: /metrics as Prometheus reads it, /v1/purekv/status of the caller's own requests."""
import re
import unittest

from serving import VIDEOS, Background, Server, text_part, until, user, video_part

LONG = VIDEOS / "long-00.mp4"
VIDEO = sorted(VIDEOS.glob("short-*.mp4"))[0]
A, B = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}
LINE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\.)*",?)*\})? (\S+)(?: \d+)?')


def parse(text):
    """{name: {labels: value}}, by the text format's own rules."""
    values, kinds = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds, name
            kinds[name] = kind
        elif line.startswith("# HELP ") or not line:
            continue
        else:
            match = LINE.fullmatch(line)
            assert match, line
            family = re.sub(r"_(bucket|sum|count)$", "", match[1])
            assert match[1] in kinds or kinds.get(family) == "histogram", line
            of_name = values.setdefault(match[1], {})
            labels = tuple(sorted(re.findall(r'(\w+)="([^"]*)"', match[2] or "")))
            assert labels not in of_name, line
            of_name[labels] = float(match[3])
    return values


class Numbers(unittest.TestCase):
    def setUp(self):
        self.server = Server("--api-key", "a", "--api-key", "b")
        self.addCleanup(self.server.stop)

    def metrics(self):
        answer = self.server.get("/metrics", **A)
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.headers["content-type"].startswith("text/plain; version=0.0.4"))
        return parse(answer.body.decode())

    def test_what_happens_is_counted(self):
        before = self.metrics()
        said = []
        for question in ("What moves?", "Which colours are there?"):
            answer = self.server.chat([user(video_part(VIDEO), text_part(question))], headers=A, max_tokens=12, stream=False,
                                      purekv={"policy": "purekv", "budget": 0.2})
            said.append(answer.json["usage"])
        self.assertEqual(self.server.chat("Hi", headers=A, max_tokens=0).status, 400)
        self.assertEqual(self.server.chat("Hi").status, 401)
        # A request is counted when its answer has been written.
        def ended(metrics):
            return sum(metrics.get("purekv_requests_total", {}).values())
        self.assertTrue(until(lambda: ended(self.metrics()) == ended(before) + 4))
        after = self.metrics()

        def grew(name, **labels):
            key = tuple(sorted(labels.items()))
            return after[name][key] - before.get(name, {}).get(key, 0)

        self.assertEqual(grew("purekv_requests_total", code="200"), 2)
        self.assertEqual((grew("purekv_requests_total", code="400"), grew("purekv_requests_total", code="401")), (1, 1))
        self.assertEqual(grew("purekv_rejected_total", reason="invalid_value"), 1)
        self.assertEqual(grew("purekv_rejected_total", reason="invalid_api_key"), 1)
        self.assertEqual(grew("purekv_prompt_tokens_total"), sum(one["prompt_tokens"] for one in said))
        self.assertEqual(grew("purekv_prompt_tokens_cached_total"), sum(one["prompt_tokens_details"]["cached_tokens"] for one in said))
        self.assertEqual(grew("purekv_visual_tokens_total"), sum(one["prompt_tokens_details"]["image_tokens"] for one in said))
        self.assertEqual(grew("purekv_generation_tokens_total"), sum(one["completion_tokens"] for one in said))
        self.assertEqual(grew("purekv_media_total", kind="video", result="ok"), 1)
        self.assertEqual(grew("purekv_cache_lookups_total", store="prefix", result="hit"), 1)
        self.assertEqual(grew("purekv_cache_lookups_total", store="prefix", result="miss"), 1)
        self.assertEqual(grew("purekv_kv_bytes_evicted_total"), said[0]["purekv"]["kv_bytes_full"] - said[0]["purekv"]["kv_bytes_kept"])
        for name, count in (("time_to_first_token", 2), ("e2e_request_latency", 2), ("queue", 2)):
            self.assertEqual(grew(f"purekv_{name}_seconds_count"), count, name)
        self.assertEqual(grew("purekv_kept_ratio_count"), 2)
        self.assertGreater(grew("purekv_inter_token_latency_seconds_count"), 2)
        for stage in ("media", "vision", "prefill", "decode"):
            self.assertEqual(grew("purekv_stage_seconds_count", stage=stage), 2)
        self.assertGreater(after["purekv_kv_bytes"][(("kind", "prefix"),)], 0)
        self.assertGreater(after["purekv_kv_bytes"][(("kind", "embeddings"),)], 0)
        self.assertEqual(after["purekv_kv_bytes"][(("kind", "frames"),)], 0)
        self.assertGreater(after["purekv_resident_bytes"][()], 10 << 20)
        self.assertGreaterEqual(after["purekv_connections"][()], 1)
        info = dict(next(iter(after["purekv_build_info"])))
        self.assertEqual(set(info), {"version", "family", "dtype", "fingerprint"})
        # Buckets only grow, and end in the count.
        buckets = [(float(dict(labels)["le"]), value) for labels, value in after["purekv_queue_seconds_bucket"].items()]
        self.assertEqual([value for _, value in sorted(buckets)], sorted(value for _, value in buckets))
        self.assertEqual(max(buckets)[1], after["purekv_queue_seconds_count"][()])
        # Nothing of what anybody said, nor whose it was.
        text = self.server.get("/metrics", **A).body.decode()
        for secret in ("moves", "Bearer", "short-"):
            self.assertNotIn(secret, text)

    def test_as_the_client_library_reads_it(self):
        try:
            from prometheus_client.parser import text_string_to_metric_families
        except ImportError:
            self.skipTest("no prometheus_client package")
        names = {family.name for family in text_string_to_metric_families(self.server.get("/metrics", **A).body.decode())}
        self.assertIn("purekv_requests", names)
        self.assertIn("purekv_time_to_first_token_seconds", names)

    def test_a_key_is_asked_for(self):
        for path in ("/metrics", "/v1/purekv/status"):
            self.assertEqual(self.server.get(path).status, 401)
        self.assertEqual(self.server.post({}, A, "/metrics").status, 405)

    def test_requests_on_their_way_are_their_owners(self):
        def jobs(headers):
            return self.server.get("/v1/purekv/status", **headers).json["jobs"]
        self.assertEqual(jobs(A), [])
        question = [user(video_part(LONG), text_part("What moves?"))]
        asking = Background(lambda: self.server.chat(question, headers={"X-Request-Id": "mine-1", **A}, max_tokens=4))
        seen, others = [], []

        def running():
            seen.extend(jobs(A))
            others.extend(jobs(B))
            return any(one["stage"] in ("media", "vision", "prefill") for one in seen)
        self.assertTrue(until(running))
        self.assertEqual({(one["id"], one["route"]) for one in seen}, {("mine-1", "chat")})
        self.assertTrue(all(0 <= one["done"] <= one["total"] and one["age_s"] > 0 for one in seen), seen)
        self.assertEqual(others, [])
        self.assertEqual(asking.result().status, 200)
        self.assertTrue(until(lambda: jobs(A) == []))
        status = self.server.get("/v1/purekv/status", **A).json
        self.assertEqual(status["queue"]["running"], 0)
        self.assertGreater(status["memory"]["cache_memory"], 0)


if __name__ == "__main__":
    unittest.main()
