"""SmolLM2-135M-Instruct out of its GGUF file: weights by the names of a published Qwen2.5-VL directory, and the tokenizer.

Also puts tools/demo_model on the path, behind this folder: scenes, questions, batches and the training module are its.
"""
import json
import sys
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools" / "demo_model"))

from config import Config  # noqa: E402

GGUF = ROOT / "real-models" / "smollm2.gguf"           # where tools/real_models/fetch.py puts it
# Rows of the vocabulary that mark notebooks in code get the names of Qwen2.5-VL's vision tokens. Their embeddings stay: no text
# has them, the vocabulary does not grow, and the logits of a text stay what they were.
RENAMED = {"<jupyter_text>": "<|vision_start|>", "<jupyter_code>": "<|vision_end|>", "<jupyter_output>": "<|vision_pad|>",
           "<jupyter_script>": "<|image_pad|>", "<empty_output>": "<|video_pad|>"}
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
HEAD = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<|vision_start|>"
# SmolLM2's own template; a message that is a list of parts is rendered as Qwen2.5-VL's template does.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n" + SYSTEM +
    "<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
         "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def config():
    """The sizes: SmolLM2's decoder behind the demo model's tower."""
    return Config(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                  num_key_value_heads=3, rope_theta=100000.0, rms_norm_eps=1e-5)


def read(path):
    from gguf import GGUFReader
    return GGUFReader(str(path))


def weights(reader, cfg=None):
    """{name: float32 array} of the decoder, `model.*`. The rows of q and k, stored for interleaved rotation, go back to
    the halves that are rotated against each other here."""
    from gguf.quants import dequantize
    cfg, out = cfg or config(), {}
    for tensor in reader.tensors:
        w = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name == "token_embd.weight":
            name = "model.embed_tokens.weight"
        elif tensor.name == "output_norm.weight":
            name = "model.norm.weight"
        else:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{NAMES[part]}.weight"
            if part in ("attn_q", "attn_k"):
                heads = cfg.num_attention_heads if part == "attn_q" else cfg.num_key_value_heads
                w = w.reshape(heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        out[name] = np.ascontiguousarray(w)
    return out


def with_zero_biases(state):
    """The published decoder adds a bias to queries, keys and values; SmolLM2 has none."""
    more = {name.replace(".weight", ".bias"): np.zeros(len(w), np.float32) for name, w in state.items()
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))}
    return {**state, **more}


def vocabulary(reader):
    """Texts of all tokens by id (the vision tokens under their new names), ids of the special ones, and the merges."""
    fields = reader.fields
    tokens = [RENAMED.get(t, t) for t in fields["tokenizer.ggml.tokens"].contents()]
    special = [i for i, kind in enumerate(fields["tokenizer.ggml.token_type"].contents()) if kind == 3]
    return tokens, special, [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]


def tokenizer(reader):
    """SmolLM2's: digits one by one, GPT-2's rule, byte-level BPE. It has no token for 21 bytes and drops them, as published."""
    tokens, special, merges = vocabulary(reader)
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.add_special_tokens([AddedToken(tokens[i], normalized=False, special=True) for i in special])
    return tok


def write_tokenizer(reader, directory):
    tokens, special, _ = vocabulary(reader)
    tokenizer(reader).save(f"{directory}/tokenizer.json")
    added = {str(i): {"content": tokens[i], "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                      "special": True} for i in special}
    files = {"tokenizer_config.json": {
        "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added,
        "additional_special_tokens": [tokens[i] for i in special[1:]], "bos_token": None, "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 8192,
        "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2TokenizerFast", "unk_token": None},
        "chat_template.json": {"chat_template": CHAT_TEMPLATE}}
    for name, content in files.items():
        with open(f"{directory}/{name}", "w") as f:
            json.dump(content, f, indent=2)
            f.write("\n")
