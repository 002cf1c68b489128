"""Oracles on what a successful run says: its numbers must agree with each other, with the flags, and with the documents.

Budgets, allocators and protected entries are restated from docs/policies.md, sizes are read from config.json.
"""
import array
import json
import math
import pathlib
import re
import struct

from harness import Failure

SLACK = 1e-6  # "Every floor of a fraction of a count adds 1e-6 first"


def floor_share(share, count):
    return math.floor(share * count + SLACK)


def want(truth, message):
    if not truth:
        raise Failure(message)


def parse(text, what):
    """Strict JSON: no NaN, no key twice, valid UTF-8."""
    def constant(name):
        raise Failure(f"{what} holds {name}")

    def pairs(items):
        names = [name for name, _ in items]
        want(len(names) == len(set(names)), f"{what} holds a key twice: {names}")
        return dict(items)

    try:
        return json.loads(text.decode("utf-8"), parse_constant=constant, object_pairs_hook=pairs)
    except ValueError as error:
        raise Failure(f"{what} is not JSON: {error}") from None


def read_npy(path):
    """Shape and bytes of a .npy file that is whole, and the type of its numbers."""
    data = pathlib.Path(path).read_bytes()
    want(data[:8] == b"\x93NUMPY\x01\x00", f"{path}: not a .npy file of version 1")
    size = struct.unpack("<H", data[8:10])[0]
    header = data[10:10 + size].decode("ascii")
    kind = re.search(r"'descr': '[<|](\w\d)'", header)
    inside = re.search(r"'shape': \(([^)]*)\)", header)
    want(kind and inside, f"{path}: the header is {header}")
    shape = [int(part) for part in inside.group(1).split(",") if part.strip()]
    values = data[10 + size:]
    want(len(values) == math.prod(shape) * int(kind.group(1)[1]), f"{path}: {len(values)} bytes for {shape} of {kind.group(1)}")
    return shape, values, kind.group(1)


def read_floats(path):
    """Shape and numbers of a float32 .npy file."""
    shape, values, kind = read_npy(path)
    want(kind == "f4", f"{path}: {kind}, not float32")
    return shape, array.array("f", values)


def check_logprobs(ids, logprobs, what):
    want(len(ids) == len(logprobs), f"{what}: {len(ids)} ids, {len(logprobs)} log-probabilities")
    for value in logprobs:
        want(isinstance(value, (int, float)) and math.isfinite(value) and value <= 0,
             f"{what}: a log-probability of {value}")


def check_prompt(result, command, model):
    prompt = result["prompt"]
    ids = prompt["ids"]
    want(prompt["tokens"] == len(ids), f"prompt.tokens {prompt['tokens']}, but {len(ids)} ids")
    want(all(0 <= one < model.vocabulary for one in ids), "a prompt id outside the vocabulary")
    want(prompt["visual_tokens"] == sum(one["tokens"] for one in prompt["media"]),
         "visual_tokens is not the sum over the media")
    placeholders = sum(one in (model.image_id, model.video_id) for one in ids)
    want(placeholders >= prompt["visual_tokens"], f"{placeholders} placeholder ids for {prompt['visual_tokens']} visual tokens")
    given = command.media()
    if given:
        want(len(given) == len(prompt["media"]), f"{len(prompt['media'])} media of {len(given)}")
    for (flag, _), one in zip(given, prompt["media"]):
        want(one["kind"] == ("image" if flag == "--image" else "video"), f"{flag} came out as {one['kind']}")
    for one in prompt["media"]:
        want(math.prod(one["grid"]) == one["tokens"] * model.merged_cell, f"grid {one['grid']} of {one['tokens']} tokens")
        want(one["frames"] >= 1, "no frames")


def check_answers(answers, command, generated):
    """generated: how many of the -p were answered."""
    prompts = command.all("-p")[:generated]
    want(len(answers) == len(prompts), f"{len(answers)} answers to {len(prompts)} questions")
    most = int(command.get("-n", 256))
    for prompt, answer in zip(prompts, answers):
        check_logprobs(answer["ids"], answer["logprobs"], "answer")
        want(answer["prompt"] == prompt, "the answer's prompt is another one")
        want(answer["finish"] in ("stop", "length"), f"finish {answer['finish']}")
        want(len(answer["ids"]) <= most, f"{len(answer['ids'])} tokens where {most} are the most")
        if answer["finish"] == "length":
            want(len(answer["ids"]) == most, f"ended by length after {len(answer['ids'])} of {most}")


class Budget:
    """What docs/policies.md says of a command's cache, for a compressed part of `tokens`."""

    def __init__(self, kv, catalogue, tokens):
        self.kv, self.tokens = kv, tokens
        policy = catalogue.policies[kv["policy"]]
        self.values = {one["name"]: one["default"] for one in policy["parameters"]}
        self.values.update({"alpha": "0.2"}, **kv["options"])
        # Layers and heads share one budget.
        self.together = policy.get("repeats", False)
        # None: --kv-bytes, whose B follows from allocation sizes.
        if kv["policy"] == "full":
            self.base = tokens
        elif "budget_tokens" in kv:
            self.base = min(kv["budget_tokens"], tokens)
        elif "budget_bytes" in kv:
            self.base = None
        else:
            self.base = min(max(1, floor_share(kv["budget"], tokens)), tokens)

    def at_most(self):
        """Whether slots may stay empty: csp's two lists as they are."""
        return self.values.get("combine") == "concat"

    def protected(self):
        """How many first and last entries stay whatever their score."""
        recent = self.values.get("recent")
        recent = int(recent) if recent else floor_share(float(self.values.get("recent_ratio", 0)), self.base)
        sinks = self.values.get("sinks", 0)
        sinks = 0 if sinks == "auto" else sinks  # the tokens in front of the media: not known here
        return min(int(sinks), self.base // 4), min(recent, self.base // 2)


def check_budget(layers, budget, alive, chunked):
    """layers: entries per layer and head. alive: tokens that each layer ran."""
    kv, counts = budget.kv, [[len(head) for head in layer] for layer in layers]
    heads = len(counts[0])
    base = budget.base
    allocator = kv["allocator"]
    if base is None:
        if allocator != "uniform" or chunked or budget.at_most() or budget.together:
            return
        base = counts[0][0]
    drops = min(alive) < budget.tokens
    if budget.together:
        full = len(counts) * heads * min(base, budget.tokens)
        want(sum(map(sum, counts)) == full, f"{sum(map(sum, counts))} entries where {full} are the budget of all layers")
        return
    for layer, row in enumerate(counts):
        most = min(base, alive[layer])
        if allocator == "uniform" or base >= budget.tokens:
            for count in row:
                fits = count <= most if budget.at_most() or chunked and drops else count == most
                want(fits, f"layer {layer} keeps {row} of {alive[layer]} tokens where {most} is the budget")
        elif allocator == "ada":
            want(sum(row) == heads * most or chunked and drops and sum(row) <= heads * most,
                 f"layer {layer} keeps {row}, in all not {heads} x {most} (ada)")
            sure = min(floor_share(float(budget.values["alpha"]), base), alive[layer])
            want(chunked and drops or min(row) >= sure, f"layer {layer} keeps {row}, a head less than its {sure} (ada)")
        elif allocator == "retrieval":  # how well the heads copy is not known here
            want(min(row) >= min(sum(budget.protected()), alive[layer]) or budget.at_most(),
                 f"layer {layer} keeps {row}, a head less than its protected {budget.protected()} (retrieval)")
            want(max(row) <= alive[layer], f"layer {layer} keeps {row} of {alive[layer]} (retrieval)")
        else:
            want(len(set(row)) == 1 or budget.at_most(), f"layer {layer} keeps {row} (pyramid)")
            want(layer == 0 or budget.at_most() or row[0] <= counts[layer - 1][0] + 1,
                 f"layer {layer} keeps {row} above {counts[layer - 1]} (pyramid)")
    total = sum(map(sum, counts))
    if allocator == "retrieval" and base < budget.tokens:
        full = len(counts) * heads * base
        want(total == full or total < full and (drops or chunked or budget.at_most()),
             f"{total} entries where {full} are the budget (retrieval)")
    if allocator == "pyramid" and not drops:
        full = len(counts) * heads * base
        want(total == full or budget.at_most() and total <= full, f"{total} entries where {full} are the budget (pyramid)")


def check_kept(kept, result, command, catalogue, model):
    """The lists of --kept against the counts of --json and the flags. Returns the tokens of the compressed part."""
    kv, tokens, layers = result["kv"], kept["tokens"], kept["layers"]
    want(len(layers) == model.layers and all(len(layer) == model.kv_heads for layer in layers), "not a list per layer and head")
    for layer in layers:
        for head in layer:
            want(all(a < b for a, b in zip(head, head[1:])), "kept positions do not ascend")
            want(all(0 <= one < tokens for one in head[:1] + head[-1:]), f"kept positions outside 0 .. {tokens - 1}")
    full = kv["tokens_full"]
    want(tokens == full if kv["when"] == "prompt" else tokens <= full,
         f"{tokens} tokens compressed of {full}, when {kv['when']}")
    mean = sum(len(head) for layer in layers for head in layer) / (model.layers * model.kv_heads)
    want(abs(mean + full - tokens - kv["tokens_kept_mean"]) < 1e-6 * full,
         f"tokens_kept_mean {kv['tokens_kept_mean']}; the lists say {mean} and {full - tokens} on top")

    alive = [tokens] * model.layers
    for part, count in zip(kv.get("drop_layers", "").split(","), kv.get("tokens_alive", [])):
        first = int(part.split(":")[0])
        want(0 < count <= alive[first], f"{count} tokens alive from layer {first} on, of {alive[first]}")
        alive[first:] = [count] * (model.layers - first)
    for layer, most in zip(layers, alive):
        want(all(len(head) <= most for head in layer), f"more entries than the {most} tokens that are alive")
    budget = Budget(kv, catalogue, tokens)
    chunked = command.has("--kv-chunk") or command.has("PUREKV_KV_CHUNK")
    check_budget(layers, budget, alive, chunked)
    if budget.base is not None and budget.base < tokens:
        sinks, recent = budget.protected()
        stays = list(range(sinks)) + list(range(tokens - recent, tokens))
        for number, layer in enumerate(layers):
            for head in layer:
                want(set(stays) <= set(head), f"layer {number} lacks protected tokens ({sinks} first, {recent} last)")
    return tokens


def check_cache(result, command, model):
    """Counts and bytes of the cache."""
    kv = result["kv"]
    entry = model.entry_bytes(result["model"]["dtype"])
    entries = kv["tokens_kept_mean"] * model.layers * model.kv_heads
    want(0 < kv["tokens_kept_mean"] <= kv["tokens_full"], f"{kv['tokens_kept_mean']} kept of {kv['tokens_full']}")
    want(kv["bytes_kept"] <= kv["bytes_peak"], f"{kv['bytes_kept']} bytes kept, {kv['bytes_peak']} at the peak")
    want(kv["bytes_kept"] >= entries * entry - 1, f"{kv['bytes_kept']} bytes for {entries:.0f} entries of {entry}")
    want(kv["bytes_full"] >= kv["tokens_full"] * model.layers * model.kv_heads * entry, f"bytes_full {kv['bytes_full']} is too small")
    want(kv["bytes_now"] > 0, "nothing held now")
    want("budget_bytes" not in kv or kv["when"] == "context" or kv["bytes_kept"] <= kv["budget_bytes"],
         f"{kv['bytes_kept']} bytes kept of --kv-bytes {kv.get('budget_bytes')}")
    chunked = command.has("--kv-chunk") and kv["when"] == "prompt"
    want("budget_bytes" not in kv or not chunked or kv["bytes_peak"] <= kv["budget_bytes"],
         f"a peak of {kv['bytes_peak']} bytes with --kv-chunk and --kv-bytes {kv.get('budget_bytes')}")
    share = result["prefill"]["flops_share"]
    want(0 < share <= 1 + 1e-9, f"prefill.flops_share {share}")
    for flag, key in (("--kv-policy", "policy"), ("--kv-allocator", "allocator"), ("--kv-when", "when")):
        want(not command.has(flag) or kv[key] == command.get(flag), f"{flag} {command.get(flag)} came out as {kv[key]}")
    given = command.options()
    want(all(kv["options"].get(key) == value for key, value in given.items()), f"options {given} came out as {kv['options']}")


def check_result(result, command, catalogue, model, kept, generated):
    """Everything that holds for one result object. kept: the object of --kept, or None."""
    dtype = command.get("--dtype")
    want(dtype is None or result["model"]["dtype"] == dtype, f"--dtype {dtype} came out as {result['model']['dtype']}")
    want(not command.has("-t") or result["threads"] == int(command.get("-t")), f"{result['threads']} threads")
    for name, seconds in result["time"].items():
        want(math.isfinite(seconds) and seconds >= 0, f"time.{name} is {seconds}")
    check_prompt(result, command, model)
    if "answers" in result:
        check_answers(result["answers"], command, generated)
    check_cache(result, command, model)
    if kept is not None:
        check_kept(kept, result, command, catalogue, model)
