"""llama.cpp through the C interface of llama-cpp-python: prefill and greedy decode of random token ids. Prints one JSON line per run."""

import argparse
import ctypes
import json
import time

import llama_cpp
import numpy

KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "bf16": 30}  # GGML_TYPE_BF16, which the binding does not name


def load(arguments):
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(arguments.model.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit(f"{arguments.model}: cannot be loaded")
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = max(arguments.warm_up, *arguments.prompt_tokens) + arguments.new_tokens + 64
    parameters.n_batch = max(arguments.batch, arguments.ubatch)
    parameters.n_ubatch = arguments.ubatch
    parameters.n_threads = arguments.threads
    parameters.n_threads_batch = arguments.threads
    parameters.type_k = parameters.type_v = KV_TYPES[arguments.kv]
    parameters.flash_attn_type = {"auto": -1, "off": 0, "on": 1}[arguments.flash]
    context = llama_cpp.llama_init_from_model(model, parameters)
    if not context:
        raise SystemExit("no context")
    return model, context


def decode(context, ids, batch):
    """Appends the ids and returns the most likely next one. llama_batch_get_one asks for the last token's logits only."""
    for begin in range(0, len(ids), batch):
        piece = ids[begin : begin + batch]
        array = (llama_cpp.llama_token * len(piece))(*piece)
        code = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(piece)))
        if code != 0:
            raise SystemExit(f"llama_decode: {code}")
    llama_cpp.llama_synchronize(context)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(context)))
    return int(numpy.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (vocabulary,)).argmax())


def measure(context, ids, new_tokens, batch):
    """Seconds to the first token and mean seconds of a later one."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
    start = time.perf_counter()
    token = decode(context, ids, batch)
    prefill = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(new_tokens - 1):
        token = decode(context, [token], batch)
    return prefill, (time.perf_counter() - start) / (new_tokens - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="model.gguf")
    parser.add_argument("--prompt-tokens", type=lambda s: [int(n) for n in s.split(",")], default=[2048])
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=2048, help="tokens of an untimed prompt first: the first of a process is slower")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--ubatch", type=int, default=512)
    parser.add_argument("--kv", choices=sorted(KV_TYPES), default="f16")
    parser.add_argument("--flash", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--verbose", action="store_true", help="keep llama.cpp's log, which names the CPU features it was built with")
    arguments = parser.parse_args()

    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)  # must live as long as the log may be written
    if not arguments.verbose:
        llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    model, context = load(arguments)
    if arguments.verbose:
        print(llama_cpp.llama_print_system_info().decode())
    rng = numpy.random.default_rng(0)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    measure(context, rng.integers(2, vocabulary, arguments.warm_up).tolist(), 4, arguments.batch)
    for tokens in arguments.prompt_tokens:
        for _ in range(arguments.repeats):
            prefill, step = measure(context, rng.integers(2, vocabulary, tokens).tolist(), arguments.new_tokens, arguments.batch)
            print(json.dumps(dict(tokens=tokens, prefill_s=prefill, decode_s=step)), flush=True)


if __name__ == "__main__":
    main()
