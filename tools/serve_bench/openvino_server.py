"""OpenVINO GenAI's continuous batching behind just enough of OpenAI's HTTP form to be measured beside `purekv serve`: streamed chats of texts,
greedy, with the tokens of each answer counted. Prints "listening on http://.." when the model is there.

    openvino_server.py IR [--port 0] [--threads 2] [--cache-gb 2] [--batched-tokens 512]
"""
import argparse
import http.server
import json
import threading

import openvino_genai


class Batch(threading.Thread):
    """The pipeline, stepped by one thread as long as there is anything to do."""

    def __init__(self, options):
        super().__init__(daemon=True)
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.cache_size = options.cache_gb
        scheduler.max_num_batched_tokens = options.batched_tokens
        self.pipe = openvino_genai.ContinuousBatchingPipeline(options.model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": options.threads})
        self.tokenizer = self.pipe.get_tokenizer()
        self.lock, self.work, self.count = threading.Lock(), threading.Condition(), 0
        self.stepped = threading.Condition()
        self.start()

    def add(self, prompt, tokens):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = tokens
        config.do_sample = False
        with self.work:
            self.count += 1
            handle = self.pipe.add_request(self.count, prompt, config)
            self.work.notify()
        return handle

    def run(self):
        while True:
            with self.work:
                while not self.pipe.has_non_finished_requests():
                    self.work.wait()
            self.pipe.step()
            with self.stepped:
                self.stepped.notify_all()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    batch = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = [{"role": one["role"], "content": text_of(one["content"])} for one in body["messages"]]
        prompt = self.batch.tokenizer.apply_chat_template(messages, True)
        handle = self.batch.add(prompt, body["max_tokens"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        count, said = 0, []
        finished = openvino_genai.GenerationStatus.RUNNING
        while True:
            while handle.can_read():
                for output in handle.read().values():
                    said += output.generated_ids
            if len(said) > count:
                text = self.batch.tokenizer.decode(said[count:])
                count = len(said)
                self.event({"choices": [{"index": 0, "delta": {"content": text or " "}}]})
            if handle.get_status() != finished and not handle.can_read():
                break
            with self.batch.stepped:
                self.batch.stepped.wait(0.05)
        self.event({"choices": [], "usage": {"completion_tokens": count, "prompt_tokens_details": {"cached_tokens": 0}}})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, data):
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()


def text_of(content):
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache-gb", type=int, default=2)
    parser.add_argument("--batched-tokens", type=int, default=512)
    options = parser.parse_args()
    Handler.batch = Batch(options)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
