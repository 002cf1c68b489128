"""Oracles on everything that one successful run wrote: result object, kept lists, dump, logits, page, table."""
import math

import checks
from checks import want


def judge(command, folder, outcome, catalogue, model):
    """Throws Failure, or returns what the run said: {"result": ..., "kept": ...}."""
    if command.name == "bench":
        judge_bench(command, outcome)
        return {}
    text = outcome.out if command.get("--json") == "-" else (folder / command.get("--json")).read_bytes()
    result = checks.parse(text, "--json")
    kept = checks.parse((folder / command.get("--kept")).read_bytes(), "--kept") if command.has("--kept") else None
    questions = len(command.all("-p"))
    checks.check_result(result, command, catalogue, model, kept, questions - 1 if command.name == "score" else questions)
    if command.name == "ask" and command.get("--json") != "-":
        said = "".join(one["text"] + ("" if one["text"].endswith("\n") else "\n") for one in result["answers"])
        want(outcome.out.decode("utf-8") == said, f"stdout is {outcome.out!r}, the answers are {said!r}")
    if command.has("--dump"):
        judge_dump(command, folder, result)
    if command.has("--report"):
        page = (folder / command.get("--report")).read_text(encoding="utf-8").strip().lower()
        want(page.startswith("<!doctype html>") and page.endswith("</html>"), "--report is no whole page")
    if command.name == "score":
        judge_score(command, folder, result, model)
    return {"result": result, "kept": kept}


def judge_dump(command, folder, result):
    """The dumped logits of the first prompt against the first token that followed."""
    shape, logits = checks.read_floats(folder / command.get("--dump") / "logits.npy")
    row = logits[-shape[-1]:]
    want(all(map(math.isfinite, row)), "a dumped logit is not finite")
    changed = any(command.has(flag) for flag in ("--temp", "--repetition-penalty", "--sampling-defaults"))
    if command.name == "ask" and not changed:
        want(row[result["answers"][0]["ids"][0]] == max(row), "the first token is not the likeliest of the dumped logits")


def judge_score(command, folder, result, model):
    score = result["score"]
    checks.check_logprobs(score["ids"], score["logprobs"], "score")
    want(len(score["top1"]) == len(score["ids"]), "top1 is not as long as ids")
    if command.has("--answer-ids"):
        want(score["ids"] == [int(one) for one in command.get("--answer-ids").split(",")], "the scored ids are others")
    if command.has("--against"):
        want(all(math.isfinite(one) and one > -1e-6 for one in score["kl"]), f"kl {score['kl']}")
        want(0 <= score["agreement"] <= 1, f"agreement {score['agreement']}")
        kv = result["kv"]
        if kv["policy"] == "full" and not kv["options"] and result["prefill"]["kind"] == "dense":
            # Behind earlier turns the answers were generated here and read as rows there, and a context is read apart from its
            # question: other blocks, other rounding.
            apart = command.has("--kv-when") and command.get("--kv-when") != "prompt"
            most = 1e-9 if len(command.all("-p")) == 1 and not apart else 0.01
            want(max(score["kl"]) < most, f"kl of the full cache against itself: {score['kl']}")
    if not command.has("--logits"):
        return
    shape, logits = checks.read_floats(folder / command.get("--logits"))
    want(shape == [len(score["ids"]), model.vocabulary], f"logits of shape {shape}")
    for i, one in enumerate(score["ids"]):
        row = logits[i * shape[1]:(i + 1) * shape[1]]
        top = max(row)
        logprob = row[one] - top - math.log(math.fsum(math.exp(value - top) for value in row))
        want(abs(logprob - score["logprobs"][i]) < 1e-3 + 1e-4 * abs(logprob),
             f"log-probability {score['logprobs'][i]} of token {i}; its logits say {logprob}")
        want(row[score["top1"][i]] == top, f"top1 of token {i} is not its largest logit")


def judge_bench(command, outcome):
    if command.get("--format") != "json":
        want(outcome.out.decode("utf-8").count("\n") >= 2, "no table")
        return
    rows = checks.parse(outcome.out, "bench")["rows"]
    want(rows, "no rows")
    for row in rows:
        want(row["kv_bytes"] <= row["kv_bytes_peak"], f"kv_bytes {row['kv_bytes']}, at the peak {row['kv_bytes_peak']}")
        want(0 <= row["seconds_min"] <= row["seconds_median"] <= row["seconds_max"], "seconds are not in order")
        for value in list(row.values()) + list(row["parts"].values()):
            want(not isinstance(value, float) or math.isfinite(value) and value >= 0, f"a number of {value}")
