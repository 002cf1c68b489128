"""Golden data of the tiny models that read text alone: Qwen2, Qwen3, Llama and Gemma 3, one folder each, one sub-folder per prompt.

float32, eager attention, every step recomputed from the whole sequence: what a cache does to windows is the engine's business.
"""
import math
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers

import reference_model as ref
import tokenizer_files
from cases import generation, prompt
from layout import OUT, save_npy, write_json
from make_cases import FIRST, LOGIT_ROWS, SECOND, make_cases_of, messages, save_stage
from random_weights import write_tensors


def common(ids: dict, **more) -> dict:
    return {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "max_position_embeddings": 4096,
            "torch_dtype": "float32", "vocab_size": 768, **more}


def qwen2(ids: dict) -> dict:
    """As published: a sliding_window that is not used."""
    return common(ids, architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_act="silu", hidden_size=256, intermediate_size=384,
                  num_attention_heads=4, num_hidden_layers=3, num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1000000.0,
                  sliding_window=16, max_window_layers=2, use_sliding_window=False, tie_word_embeddings=True)


def qwen2_windows(ids: dict) -> dict:
    """Layers 2 and 3 see 16 tokens; rope scaled linearly."""
    return common(ids, architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_act="silu", hidden_size=256, intermediate_size=384,
                  num_attention_heads=4, num_hidden_layers=4, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=10000.0,
                  rope_scaling={"rope_type": "linear", "factor": 2.0}, sliding_window=16, max_window_layers=2, use_sliding_window=True,
                  tie_word_embeddings=False)


def qwen3(ids: dict) -> dict:
    return common(ids, architectures=["Qwen3ForCausalLM"], model_type="qwen3", hidden_act="silu", hidden_size=192, head_dim=64,
                  intermediate_size=320, num_attention_heads=4, num_hidden_layers=3, num_key_value_heads=2, rms_norm_eps=1e-6,
                  rope_theta=1000000.0, rope_scaling=None, attention_bias=False, sliding_window=None, max_window_layers=3,
                  use_sliding_window=False, tie_word_embeddings=False)


def llama(ids: dict) -> dict:
    """Llama 3's scaled frequencies, with a context short enough that all three kinds of waves occur; biases."""
    return common(ids, architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", hidden_size=192, intermediate_size=320,
                  num_attention_heads=6, num_hidden_layers=3, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=10000.0,
                  rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 256},
                  attention_bias=True, mlp_bias=False, tie_word_embeddings=False)


def gemma3(ids: dict) -> dict:
    """Every third layer full, windows of 16, a scale that is not the head dim's, a linear scaling of the full layers only."""
    return common(ids, architectures=["Gemma3ForCausalLM"], model_type="gemma3_text", hidden_activation="gelu_pytorch_tanh", hidden_size=160,
                  head_dim=64, intermediate_size=256, num_attention_heads=4, num_hidden_layers=6, num_key_value_heads=1,
                  query_pre_attn_scalar=48, rms_norm_eps=1e-6, rope_theta=1000000.0, rope_local_base_freq=10000.0,
                  rope_scaling={"rope_type": "linear", "factor": 2.0}, sliding_window=16, sliding_window_pattern=3,
                  attn_logit_softcapping=None, final_logit_softcapping=None, attention_bias=False)


LONG = ("The red circle moves to the right, and the blue square stays where it is. Then the green triangle comes in from below, turns twice, "
        "and leaves. What is shown at the end?")

TEXT_CASES = [
    {"name": "qwen2", "config": qwen2, "seed": 41, "dtype": "bf16", "about": "Qwen2: biases of q, k, v; tied head; a window that is not used"},
    {"name": "qwen2_windows", "config": qwen2_windows, "seed": 42, "dtype": "f32", "about": "Qwen2 with windows in its upper half and linear rope scaling"},
    {"name": "qwen3", "config": qwen3, "seed": 43, "dtype": "bf16", "about": "Qwen3: norms of query and key heads, a head dim of its own"},
    {"name": "llama", "config": llama, "seed": 46, "dtype": "f16", "about": "Llama: llama3 rope scaling, biases of all attention projections"},
    {"name": "gemma3", "config": gemma3, "seed": 45, "dtype": "bf16",
     "about": "Gemma 3: windows with a rope of their own, four norms a layer, 1 + weight, scaled embeddings, GELU gate, its own logit scale"},
]
PROMPTS = [prompt("short", "What is shown in this picture?", then="And what happens at the end?"),
           prompt("long", LONG, system="You are a careful assistant.", then="Why?")]


def text_shapes(config: dict) -> dict:
    """Published tensor name -> shape."""
    hidden, inner, dim = config["hidden_size"], config["intermediate_size"], config.get("head_dim")
    heads, kv_heads, kind = config["num_attention_heads"], config["num_key_value_heads"], config["model_type"]
    dim = dim or hidden // heads
    qkv_bias = kind == "qwen2" or config.get("attention_bias", False)
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        norms = ["input_layernorm", "post_attention_layernorm"]
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if kind == "gemma3_text" else []
        for norm in norms:
            shapes[layer + norm + ".weight"] = (hidden,)
        for name, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (rows * dim, hidden)
            if qkv_bias:
                shapes[f"{layer}self_attn.{name}_proj.bias"] = (rows * dim,)
        if kind in ("qwen3", "gemma3_text"):
            shapes[layer + "self_attn.q_norm.weight"] = shapes[layer + "self_attn.k_norm.weight"] = (dim,)
        shapes[layer + "self_attn.o_proj.weight"] = (hidden, heads * dim)
        if config.get("attention_bias", False):
            shapes[layer + "self_attn.o_proj.bias"] = (hidden,)
        shapes[layer + "mlp.gate_proj.weight"] = shapes[layer + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[layer + "mlp.down_proj.weight"] = (hidden, inner)
    if not config.get("tie_word_embeddings", kind == "gemma3_text"):
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def load(folder, dtype=torch.float32):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


@torch.no_grad()
def run(model, ids: list):
    """(hidden: input of every layer and of the final norm; logits), each [N, ...], of the whole sequence."""
    hidden, hooks = [], []

    def keep(_module, args, kwargs):
        hidden.append((args[0] if args else kwargs["hidden_states"])[0].clone())

    for module in [*model.model.layers, model.model.norm]:
        hooks.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    out = model(input_ids=torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return hidden, out.logits[0]


def greedy(model, ids: list, count: int, stops, penalty: float = 1.0) -> dict:
    known, out, logprobs, margin = list(ids), [], [], math.inf
    while len(out) < count:
        logits = run(model, known)[1][-1].float()
        if penalty != 1.0:
            seen = torch.tensor(sorted(set(known)))
            logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        top = logits.topk(2)
        margin = min(margin, float((top.values[0] - top.values[1]) / logits.std()))
        token = int(top.indices[0])
        out.append(token)
        logprobs.append(float(F.log_softmax(logits, -1)[token]))
        known.append(token)
        if token in stops:
            break
    return {"ids": out, "logprobs": logprobs, "margin": margin, "finish": "stop" if out[-1] in stops else "length"}


def run_prompt(one: dict, model, half, tokenizer, folder: Path) -> float:
    rendered = tokenizer.apply_chat_template(messages(one), tokenize=False, add_generation_prompt=True)
    ids = tokenizer(rendered)["input_ids"]
    stops = {tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")}
    hidden, logits = run(model, ids)
    norms = {f"hidden_{i:02d}": save_stage(folder, f"hidden_{i:02d}", tensor) for i, tensor in enumerate(hidden)}
    save_npy(folder / "position_ids.npy", torch.arange(len(ids)).int().numpy())
    save_npy(folder / "logits.npy", logits[-1].numpy())
    answer = tokenizer(one["answer"])["input_ids"]
    scored = run(model, ids + answer)[1][len(ids) - 1:-1]
    kl = ref.divergence(logits, run(half, ids)[1])
    spread = sorted({round(i * (len(ids) - 1) / (LOGIT_ROWS - 1)) for i in range(LOGIT_ROWS)})
    save_npy(folder / "logits_rows.npy", logits[spread].numpy())
    out = greedy(model, ids, FIRST, stops)
    penalised = greedy(model, ids, SECOND, stops, 1.05)
    tail = [] if out["ids"][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>") else [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    tail += tokenizer(f"\n<|im_start|>user\n{one['then']}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    second = greedy(model, ids + out["ids"] + tail, SECOND, stops)
    write_json(folder / "golden.json", {
        "rendered": rendered, "input_ids": ids, "grid": [], "media_kinds": [], "rope_delta": 0, "norms": norms,
        "generated": {"answer": tokenizer.decode(out["ids"], skip_special_tokens=True), **out},
        "generated_penalty_1.05": {"ids": penalised["ids"], "margin": penalised["margin"]},
        "score": {"answer": one["answer"], "ids": answer, "logprobs": ref.token_logprobs(scored, answer), "top1": scored.argmax(-1).tolist()},
        "bf16": {"kl_mean": float(kl.mean()), "kl_max": float(kl.max()), "kl_last": float(kl[-1]),
                 "rows": spread, "kl_rows": [float(kl[i]) for i in spread]},
        "second_turn": {"text": one["then"], "appended_ids": tail, "answer": tokenizer.decode(second["ids"], skip_special_tokens=True), **second}})
    margin = min(out["margin"], penalised["margin"], second["margin"])
    print(f"  {one['name']}: {len(ids)} tokens, margin {margin:.4f}, {out['finish']}, bf16 KL {kl.mean():.2e}", flush=True)
    return margin


def make_case(case: dict) -> float:
    folder, tokenizer_name = OUT / case["name"], "tokenizer"
    ids = tokenizer_files.special_ids(tokenizer_name)
    config = case["config"](ids)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation(ids))
    write_json(folder / "case.json", {
        **{k: case[k] for k in ("name", "about", "seed", "dtype")}, "layout": "published", "shards": 1,
        "model_files": ["config.json", "generation_config.json"], "tokenizer": f"../{tokenizer_name}",
        "tokenizer_files": ["tokenizer.json", "tokenizer_config.json", "chat_template.json"], "media": "../media", "fps": 2.0, "prompts": PROMPTS})
    tokenizer = tokenizer_files.load(OUT / tokenizer_name)
    tokenizer.chat_template = tokenizer_files.CHAT_TEMPLATE
    with tempfile.TemporaryDirectory() as temporary:
        write_tensors(config, text_shapes(config), Path(temporary), case["seed"], case["dtype"])
        model, half = load(temporary), load(temporary, torch.bfloat16)
    return min(run_prompt(one, model, half, tokenizer, folder / one["name"]) for one in PROMPTS)


def main(only=None) -> None:
    make_cases_of(TEXT_CASES, make_case, only)


if __name__ == "__main__":
    import sys
    main(sys.argv[1:])
