"""Golden data of the tiny models of cases.py: one folder each, one sub-folder per prompt."""
import tempfile
import warnings
from pathlib import Path

import torch
import transformers

import media
import preprocess
import reference_model as ref
import tokenizer_files
from cases import CASES, for_transformers_4, generation
from layout import OUT, save_npy, write_json
from random_weights import checksums, is_tied, projection, write_model

MIN_MARGIN = 1e-3      # of the logits' standard deviation; below, rounding would decide the argmax
FIRST, SECOND = 32, 16  # generated ids of the first and of a second turn
LOGIT_ROWS = 16


def messages(prompt: dict) -> list:
    content = [{"type": "video" if name.endswith(".npy") else "image"} for name in prompt["media"]]
    content.append({"type": "text", "text": prompt["text"]})
    system = [{"role": "system", "content": prompt["system"]}] if prompt["system"] is not None else []
    return system + [{"role": "user", "content": content}]


def read_media(case: dict, prompt: dict) -> list:
    """(kind, patches, grid) per clip. Images: the preprocessor's limits unless the prompt gives some; videos: qwen-vl-utils' own."""
    config = case["preprocessor"]
    low = config.get("min_pixels", config.get("size", {}).get("shortest_edge"))
    high = config.get("max_pixels", config.get("size", {}).get("longest_edge"))
    result = []
    for name in prompt["media"]:
        if name.endswith(".npy"):
            result.append(("video", *preprocess.video_patches(media.load(name), prompt["limits"])))
        else:
            limits = {"min_pixels": low, "max_pixels": high, **prompt["limits"]}
            result.append(("image", *preprocess.image_patches(str(OUT / "media" / name), **limits)))
    return result


def encode_prompt(tokenizer, rendered: str, clips: list) -> list[int]:
    """Ids of the rendered template, with every pad repeated once per merged unit."""
    text = rendered
    for kind, _, (gt, gh, gw) in clips:
        text = text.replace(f"<|{kind}_pad|>", "<|place|>" * (gt * gh * gw // 4), 1)
        text = text.replace("<|place|>", f"<|{kind}_done|>")
    for kind in ("image", "video"):
        text = text.replace(f"<|{kind}_done|>", f"<|{kind}_pad|>")
    return tokenizer(text)["input_ids"]


class Qwen2Way:
    """How Qwen2-VL and Qwen2.5-VL read media and write prompts; a case of another family has a module with the same names."""
    read_media, encode_prompt, Prompt = staticmethod(read_media), staticmethod(encode_prompt), ref.Prompt

    @staticmethod
    def vision_stages(model, prompt: ref.Prompt) -> dict:
        return {"vision": ref.vision_rows(model, prompt)}


class Stage:
    """How a tensor [N, H] is stored: a [H, 4] hash projection of every row, the first and last two rows, its norm."""

    def __init__(self, tensor: torch.Tensor):
        rows = tensor.double()
        self.projected = (rows @ torch.from_numpy(projection(tensor.shape[1])).double()).float().numpy()
        self.rows = torch.cat([tensor[:2], tensor[-2:]]).float().numpy()
        self.norm = float(rows.norm())


def save_stage(folder: Path, name: str, tensor: torch.Tensor) -> float:
    stage = Stage(tensor)
    save_npy(folder / f"{name}.proj.npy", stage.projected)
    save_npy(folder / f"{name}.rows.npy", stage.rows)
    return stage.norm


def hf_generate(model, prompt: ref.Prompt, penalty: float, count: int, stops) -> dict:
    """transformers' own greedy generate, repetition penalty applied over prompt and answer."""
    out = model.generate(input_ids=prompt.ids, attention_mask=torch.ones_like(prompt.ids), do_sample=False, temperature=None, top_p=None,
                         top_k=None, repetition_penalty=penalty, max_new_tokens=count, eos_token_id=sorted(stops), pad_token_id=0,
                         return_dict_in_generate=True, output_scores=True, **prompt.inputs())
    scores = torch.cat(out.scores)
    top = scores.topk(2).values
    return {"ids": out.sequences[0, prompt.ids.shape[1]:].tolist(), "margin": float(((top[:, 0] - top[:, 1]) / scores.std(-1)).min())}


def second_turn(model, tokenizer, cache, ids, generated, delta, text, stops, prompt) -> dict:
    """The next user turn over the same cache: generated ids stay, a missing <|im_end|> is added, then the template."""
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tail = [] if generated[-1] == end else [end]
    tail += tokenizer(f"\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    known = len(ids) + len(generated) - 1  # the last generated id has not been fed yet
    logits = ref.extend(model, cache, generated[-1:] + tail, known, delta)[-1]
    whole = ids + generated + tail
    _, again, _ = ref.prefill(model, type(prompt)(model, whole, prompt.media))
    assert (again[-1] - logits).abs().max() < 1e-3 * logits.std(), "cache and recomputation differ"
    out = ref.greedy(model, cache, logits, len(whole), delta, SECOND, stops)
    return {"text": text, "appended_ids": tail, "answer": tokenizer.decode(out["ids"], skip_special_tokens=True), **out}


def run_prompt(case: dict, prompt: dict, model, half, tokenizer, folder: Path) -> float:
    way = case.get("way", Qwen2Way)
    clips = way.read_media(case, prompt)
    rendered = tokenizer.apply_chat_template(messages(prompt), tokenize=False, add_generation_prompt=True)
    ids = way.encode_prompt(tokenizer, rendered, clips)
    reference = way.Prompt(model, ids, clips)
    stops = {tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")}
    norms = {}
    if clips:
        norms["pixel_values"] = save_stage(folder, "pixel_values", torch.cat([c[1] for c in clips]))
        for name, tensor in way.vision_stages(model, reference).items():
            norms[name] = save_stage(folder, name, tensor)
    hidden, logits, cache = ref.prefill(model, reference)
    for i, tensor in enumerate(hidden):
        norms[f"hidden_{i:02d}"] = save_stage(folder, f"hidden_{i:02d}", tensor)
    save_npy(folder / "position_ids.npy", reference.positions.int().numpy())
    save_npy(folder / "logits.npy", logits[-1].numpy())

    answer = tokenizer(prompt["answer"])["input_ids"]
    scored = torch.cat([logits[-1:], ref.extend(model, ref.prefill(model, reference)[2], answer, len(ids), reference.delta)[:-1]])

    _, half_logits, _ = ref.prefill(half, reference)
    kl = ref.divergence(logits, half_logits)
    spread = sorted({round(i * (len(ids) - 1) / (LOGIT_ROWS - 1)) for i in range(LOGIT_ROWS)})
    save_npy(folder / "logits_rows.npy", logits[spread].numpy())

    out = ref.greedy(model, cache, logits[-1], len(ids), reference.delta, FIRST, stops)
    assert hf_generate(model, reference, 1.0, FIRST, stops)["ids"] == out["ids"]
    penalised = hf_generate(model, reference, 1.05, SECOND, stops)
    golden = {
        "rendered": rendered, "input_ids": ids, "grid": [c[2] for c in clips], "media_kinds": [c[0] for c in clips],
        "rope_delta": reference.delta, "norms": norms,
        "generated": {"answer": tokenizer.decode(out["ids"], skip_special_tokens=True), **out},
        "generated_penalty_1.05": penalised,
        "score": {"answer": prompt["answer"], "ids": answer, "logprobs": ref.token_logprobs(scored, answer), "top1": scored.argmax(-1).tolist()},
        "bf16": {"kl_mean": float(kl.mean()), "kl_max": float(kl.max()), "kl_last": float(kl[-1]),
                 "top1_agreement": float((logits.argmax(-1) == half_logits.argmax(-1)).double().mean()),
                 "rows": spread, "kl_rows": [float(kl[i]) for i in spread]},
    }
    margin = min(out["margin"], penalised["margin"])
    if prompt["then"] is not None:
        golden["second_turn"] = second_turn(model, tokenizer, cache, ids, out["ids"], reference.delta, prompt["then"], stops, reference)
        margin = min(margin, golden["second_turn"]["margin"])
    write_json(folder / "golden.json", golden)
    print(f"  {prompt['name']}: {len(ids)} tokens, delta {reference.delta}, margin {margin:.4f}, distinct {len(set(out['ids']))}, "
          f"{out['finish']}, bf16 KL {kl.mean():.2e} last {kl[-1]:.2e}", flush=True)
    return margin


def make_case(case: dict) -> float:
    folder = OUT / case["name"]
    ids = tokenizer_files.special_ids(case["tokenizer"])
    config = case["config"](ids)
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", case["preprocessor"])
    if case["video_preprocessor"]:
        write_json(folder / "video_preprocessor_config.json", case["video_preprocessor"])
    write_json(folder / "generation_config.json", generation(ids, **case.get("generation", {})))
    write_json(folder / "weights.json", checksums(config, case["seed"], case["dtype"]))
    keys = ("name", "about", "seed", "dtype", "layout", "shards")
    model_files = sorted(p.name for p in folder.glob("*config.json"))
    token_files = [n for n in ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "chat_template.json")
                   if (OUT / case["tokenizer"] / n).exists()]
    write_json(folder / "case.json", {
        **{k: case[k] for k in keys}, "tied": is_tied(config), "model_files": model_files, "tokenizer": f"../{case['tokenizer']}",
        "tokenizer_files": token_files, "media": "../media", "fps": 2.0, "prompts": case["prompts"]})

    tokenizer = tokenizer_files.load(OUT / case["tokenizer"])
    tokenizer.chat_template = tokenizer_files.CHAT_TEMPLATE
    with tempfile.TemporaryDirectory() as temporary:
        write_model(for_transformers_4(config), Path(temporary), case["seed"], case["dtype"], case["layout"], case["shards"])
        model, half = ref.load(temporary), ref.load(temporary, torch.bfloat16)
    margins = [run_prompt(case, p, model, half, tokenizer, folder / p["name"]) for p in case["prompts"]]
    return min(margins)


def make_cases_of(cases: list, make_case, only=None) -> None:
    """make_case(case): writes it, and returns the least margin of what was chosen. only: names; none: all."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    for case in cases:
        if only and case["name"] not in only:
            continue
        print(case["name"], flush=True)
        margin = make_case(case)
        assert margin > MIN_MARGIN, f"{case['name']}: an argmax margin of {margin} is too small, choose another seed"


def main(only=None) -> None:
    make_cases_of(CASES, make_case, only)


if __name__ == "__main__":
    import sys
    main(sys.argv[1:])
