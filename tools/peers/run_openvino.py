"""OpenVINO GenAI: prefill and decode of prompts of random token ids. Prints one JSON line per run."""

import argparse
import json

import numpy
import openvino
import openvino_genai


def pipeline(arguments):
    properties = {"INFERENCE_NUM_THREADS": arguments.threads}
    if arguments.precision != "default":
        properties["INFERENCE_PRECISION_HINT"] = arguments.precision
    if arguments.backend != "default":
        properties["ATTENTION_BACKEND"] = arguments.backend
    if arguments.kv != "default":
        properties["KV_CACHE_PRECISION"] = arguments.kv
    if arguments.scheduler:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False  # else a repeated prompt is not computed again
        if arguments.batched_tokens:
            scheduler.max_num_batched_tokens = arguments.batched_tokens
        if arguments.cache_gb:
            scheduler.cache_size = arguments.cache_gb
        properties["scheduler_config"] = scheduler
    for pair in arguments.property:
        key, value = pair.split("=", 1)
        properties[key] = value
    return openvino_genai.LLMPipeline(arguments.model, "CPU", **properties)


def measure(pipe, ids, new_tokens):
    """Seconds to the first token and mean seconds of a later one."""
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = new_tokens
    config.min_new_tokens = new_tokens
    config.ignore_eos = True
    config.do_sample = False
    inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids[None]), openvino.Tensor(numpy.ones((1, len(ids)), numpy.int64)))
    metrics = pipe.generate(inputs, config).perf_metrics
    assert metrics.get_num_generated_tokens() == new_tokens, metrics.get_num_generated_tokens()
    return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="directory of the IR, or a GGUF file")
    parser.add_argument("--prompt-tokens", type=lambda s: [int(n) for n in s.split(",")], default=[2048])
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=2048, help="tokens of an untimed prompt first: the first of a process is slower")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["default", "bf16", "f16", "f32"], default="default")
    parser.add_argument("--backend", choices=["default", "PA", "SDPA"], default="default")
    parser.add_argument("--kv", choices=["default", "bf16", "f16", "u8", "f32"], default="default")
    parser.add_argument("--scheduler", action="store_true", help="pass a SchedulerConfig, prefix caching off")
    parser.add_argument("--batched-tokens", type=int, default=0)
    parser.add_argument("--cache-gb", type=int, default=0)
    parser.add_argument("--property", action="append", default=[])
    arguments = parser.parse_args()

    pipe = pipeline(arguments)
    vocabulary = 151936
    rng = numpy.random.default_rng(0)
    measure(pipe, rng.integers(2, vocabulary, arguments.warm_up), 4)
    for tokens in arguments.prompt_tokens:
        for _ in range(arguments.repeats):
            ttft, tpot = measure(pipe, rng.integers(2, vocabulary, tokens), arguments.new_tokens)
            print(json.dumps(dict(tokens=tokens, prefill_s=ttft, decode_s=tpot)), flush=True)


if __name__ == "__main__":
    main()
