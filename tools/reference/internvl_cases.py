"""Golden data of two tiny InternVL models: transformers' format (InternVL3), and the authors' (InternVL3.5). One folder each, one sub-folder per prompt.

The model is transformers' InternVLForConditionalGeneration; of the authors' format its tensors under other names, q, k and v in one, and their way of
numbering pictures. Pictures are resized with Pillow, as the authors do; tiles are chosen by transformers' function.
"""
import json

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

import tokenizer_files as files
from cases import prompt
from layout import OUT, write_json
from make_cases import make_cases_of
from vlm_cases import Runner, in_bf16, resized, stored, write_prompt

SIDE, PATCH = 56, 14
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TEMPLATE = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}{{ message['content'] }}"
            "{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
            "{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}"
            "{% endif %}{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}")
SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
SPECIAL = [*files.SPECIAL, ("<img>", True), ("</img>", True), ("<IMG_CONTEXT>", True), ("<quad>", True), ("</quad>", True), ("<ref>", True),
           ("</ref>", True), ("<box>", True), ("</box>", True), ("<video>", True)]


def write_tokenizer() -> None:
    """internvl_tokenizer/: Qwen2's, with tokens for media. The chat template counts in transformers' format alone."""
    vocab, merges = files.truncate(*files.train(700), 500)
    folder = OUT / "internvl_tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(files.tokenizer_json(vocab, merges, SPECIAL, False), ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {**files.tokenizer_config(vocab, SPECIAL), "chat_template": TEMPLATE})


def text_fields(kind: str, tokens: int) -> dict:
    own = {"qwen2": {"hidden_size": 192, "num_attention_heads": 3, "num_key_value_heads": 1, "rope_scaling": {"factor": 2.0, "type": "dynamic"},
                     "rope_theta": 1000.0},
           "qwen3": {"hidden_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "attention_bias": False,
                     "rope_theta": 500.0}}[kind]
    return {"architectures": [{"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[kind]], "eos_token_id": tokens - len(SPECIAL), "hidden_act": "silu",
            "intermediate_size": 256, "max_position_embeddings": 2048, "model_type": kind, "num_hidden_layers": 3, "rms_norm_eps": 1e-06,
            "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": tokens + 6, **own}


def published(tokens: int, image_id: int) -> dict:
    return {
        "architectures": ["InternVLForConditionalGeneration"], "downsample_ratio": 0.5, "image_seq_length": 4, "image_token_id": image_id,
        "model_type": "internvl", "projector_hidden_act": "gelu", "text_config": text_fields("qwen2", tokens), "torch_dtype": "bfloat16",
        "vision_config": {"architectures": ["InternVisionModel"], "attention_bias": True, "attention_dropout": 0.0, "hidden_act": "gelu",
                          "hidden_size": 128, "image_size": [SIDE, SIDE], "intermediate_size": 192, "layer_norm_eps": 1e-06,
                          "layer_scale_init_value": 0.1, "model_type": "internvl_vision", "norm_type": "layer_norm", "num_attention_heads": 2,
                          "num_channels": 3, "num_hidden_layers": 3, "patch_size": [PATCH, PATCH], "use_absolute_position_embeddings": True,
                          "use_mask_token": False, "use_mean_pooling": True, "use_qk_norm": False},
        "vision_feature_layer": -1, "vision_feature_select_strategy": "default"}


def original(tokens: int) -> dict:
    return {
        "architectures": ["InternVLChatModel"], "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": SIDE,
        "llm_config": text_fields("qwen3", tokens), "max_dynamic_patch": 6, "min_dynamic_patch": 1, "model_type": "internvl_chat", "pad2square": False,
        "ps_version": "v2", "select_layer": -1, "template": "internvl2_5", "torch_dtype": "float32", "use_thumbnail": True,
        "vision_config": {"architectures": ["InternVisionModel"], "hidden_act": "gelu", "hidden_size": 144, "image_size": SIDE,
                          "intermediate_size": 160, "layer_norm_eps": 1e-06, "model_type": "intern_vit_6b", "norm_type": "rms_norm",
                          "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 2, "patch_size": PATCH, "qk_normalization": True,
                          "qkv_bias": False, "use_flash_attn": True}}


CASES = [
    {"name": "internvl", "about": "InternVL3 in transformers' format: LayerNorms, q, k and v apart with biases, Qwen2 with a dynamic rope scaling that has no effect, names in memory, frames of a video with text between",
     "seed": 71, "dtype": "bf16", "layout": "language_model", "most": 12,
     "prompts": [prompt("image", "Describe this image.", ["street.png"], then="Why?"),
                 prompt("video", "What happens?", ["walk.npy"], system="You are careful."),
                 prompt("mixed", "What's the difference?\n\nAnswer in one sentence.", ["button.png", "run.npy", "tower.png"], then="Go on.")]},
    {"name": "internvl_chat", "about": "InternVL3.5 in the authors' format: the 6B tower's RMSNorms, norms of q and k over all heads, one qkv without bias; Qwen3; a template of the program's own, numbered images",
     "seed": 73, "dtype": "f32", "layout": "published", "most": 6,
     "prompts": [prompt("text", "What is shown in this picture?", then="And what happens at the end?"),
                 prompt("image", "Describe this image.", ["tower.png"], then="Why?"),
                 prompt("two_images", "What is the difference?", ["street.png", "button.png"], system="You are careful.")]},
]


def tensor_names(config: dict) -> dict:
    """Published name -> ([names in transformers' model, whose rows follow one another], shape)."""
    own = "llm_config" in config
    text, vision = config.get("llm_config") or config["text_config"], config["vision_config"]
    d, inner, hidden = vision["hidden_size"], vision["intermediate_size"], text["hidden_size"]
    rows = (SIDE // PATCH) ** 2 + 1
    qk_norm, bias, layer_norm = vision.get("qk_normalization", False), vision.get("qkv_bias", True), vision["norm_type"] == "layer_norm"
    names = {}

    def put(name, mine, *shape):
        names[name] = ([mine] if isinstance(mine, str) else mine, shape)

    tower, ours = "vision_model." if own else "vision_tower.", "model.vision_tower."
    part = (lambda a, b: a if own else b)
    put(tower + part("embeddings.class_embedding", "embeddings.cls_token"), ours + "embeddings.cls_token", 1, 1, d)
    put(tower + part("embeddings.position_embedding", "embeddings.position_embeddings"), ours + "embeddings.position_embeddings", 1, rows, d)
    for kind, shape in (("weight", (d, 3, PATCH, PATCH)), ("bias", (d,))):
        put(tower + part("embeddings.patch_embedding.", "embeddings.patch_embeddings.projection.") + kind,
            ours + "embeddings.patch_embeddings.projection." + kind, *shape)
    for i in range(vision["num_hidden_layers"]):
        there, here = tower + part(f"encoder.layers.{i}.", f"encoder.layer.{i}."), f"{ours}encoder.layer.{i}."
        for name, mine in ((part("norm1", "layernorm_before"), "layernorm_before"), (part("norm2", "layernorm_after"), "layernorm_after")):
            put(f"{there}{name}.weight", f"{here}{mine}.weight", d)
            if layer_norm:
                put(f"{there}{name}.bias", f"{here}{mine}.bias", d)
        for name, mine in ((part("ls1", "lambda_1"), "lambda_1"), (part("ls2", "lambda_2"), "lambda_2")):
            put(there + name, here + mine, d)
        kinds = ("weight", "bias") if bias else ("weight",)
        for kind in kinds:
            shape = (d,) if kind == "weight" else ()
            if own:
                put(f"{there}attn.qkv.{kind}", [f"{here}attention.{n}_proj.{kind}" for n in "qkv"], 3 * d, *shape)
            else:
                for n in "qkv":
                    put(f"{there}attention.{n}_proj.{kind}", f"{here}attention.{n}_proj.{kind}", d, *shape)
        if qk_norm:
            for n in "qk":
                put(f"{there}{part('attn', 'attention')}.{n}_norm.weight", f"{here}attention.{n}_norm.weight", d)
        for name, mine, out, into in ((part("attn.proj", "attention.projection_layer"), "attention.projection_layer", d, d), ("mlp.fc1", "mlp.fc1", inner, d),
                                      ("mlp.fc2", "mlp.fc2", d, inner)):
            put(f"{there}{name}.weight", f"{here}{mine}.weight", out, into)
            put(f"{there}{name}.bias", f"{here}{mine}.bias", out)
    projector = ("mlp1.0", "mlp1.1", "mlp1.3") if own else tuple(f"multi_modal_projector.{n}" for n in ("layer_norm", "linear_1", "linear_2"))
    for name, mine, shape in ((projector[0], "layer_norm", (4 * d,)), (projector[1], "linear_1", (hidden, 4 * d)), (projector[2], "linear_2", (hidden, hidden))):
        put(name + ".weight", f"model.multi_modal_projector.{mine}.weight", *shape)
        put(name + ".bias", f"model.multi_modal_projector.{mine}.bias", shape[0])
    vocabulary, width = text["vocab_size"], text["intermediate_size"]
    head = text.get("head_dim", hidden // text["num_attention_heads"])
    q, kv = head * text["num_attention_heads"], head * text["num_key_value_heads"]
    put("model.embed_tokens.weight", "model.language_model.embed_tokens.weight", vocabulary, hidden)
    put("model.norm.weight", "model.language_model.norm.weight", hidden)
    put("lm_head.weight", "lm_head.weight", vocabulary, hidden)
    for i in range(text["num_hidden_layers"]):
        shapes = {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,), "mlp.gate_proj": (width, hidden), "mlp.up_proj": (width, hidden),
                  "mlp.down_proj": (hidden, width), "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
                  "self_attn.o_proj": (hidden, q)}
        if text["model_type"] == "qwen3":
            shapes |= {"self_attn.q_norm": (head,), "self_attn.k_norm": (head,)}
        for name, shape in shapes.items():
            put(f"model.layers.{i}.{name}.weight", f"model.language_model.layers.{i}.{name}.weight", *shape)
            if text["model_type"] == "qwen2" and name[-6:] in ("q_proj", "k_proj", "v_proj"):
                put(f"model.layers.{i}.{name}.bias", f"model.language_model.layers.{i}.{name}.bias", shape[0])
    return names


def build(config: dict, case: dict, image_id: int):
    text = {k: v for k, v in (config.get("llm_config") or config["text_config"]).items() if k not in ("architectures", "rope_scaling")}
    vision = dict(config["vision_config"])
    if "llm_config" in config:
        vision = {**vision, "attention_bias": vision.pop("qkv_bias"), "use_qk_norm": vision.pop("qk_normalization"), "image_size": [SIDE, SIDE],
                  "patch_size": [PATCH, PATCH]}
    vision = {k: v for k, v in vision.items() if k not in ("architectures", "model_type", "use_flash_attn")}
    hf = transformers.InternVLConfig(vision_config=vision, text_config=text, image_token_id=image_id, image_seq_length=4, downsample_ratio=0.5)
    hf._attn_implementation = "eager"
    model = transformers.InternVLForConditionalGeneration(hf).float().eval()
    state = {}
    for name, (mine, shape) in tensor_names(config).items():
        for one, rows in zip(mine, stored(name, shape, case["seed"], case["dtype"]).chunk(len(mine))):
            state[one] = rows.clone()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not missing, (missing, unexpected)
    return model


def tiles_of(image: Image.Image, most: int) -> list:
    columns, rows = get_optimal_tiled_canvas((image.size[1], image.size[0]), (SIDE, SIDE), 1, most)
    whole = resized(image, SIDE * columns, SIDE * rows)
    tiles = [whole.crop((SIDE * (i % columns), SIDE * (i // columns), SIDE * (i % columns + 1), SIDE * (i // columns + 1))) for i in range(rows * columns)]
    return tiles + ([resized(image, SIDE, SIDE)] if len(tiles) > 1 else [])


def pixels_of(pictures: list) -> torch.Tensor:
    values = np.stack([np.asarray(p, dtype=np.float32) for p in pictures]) / 255
    values = (values - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous().float()


def patches_of(pixels: torch.Tensor) -> torch.Tensor:
    """Cells of 2 x 2 patches in raster order, a cell's patches one after another."""
    n, cells = len(pixels), SIDE // PATCH // 2
    return pixels.reshape(n, 3, cells, 2, PATCH, cells, 2, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(n * 4 * cells * cells, -1)


def make_case(case: dict) -> float:
    folder = OUT / case["name"]
    own = case["name"] == "internvl_chat"
    tokenizer = transformers.Qwen2TokenizerFast.from_pretrained(str(OUT / "internvl_tokenizer"))
    image_id = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    config = original(len(tokenizer)) if own else published(len(tokenizer), image_id)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    write_json(folder / "config.json", config)
    model_files = ["config.json"]
    stops = {tokenizer.convert_tokens_to_ids("<|endoftext|>"), end}
    if not own:
        write_json(folder / "preprocessor_config.json", {
            "crop_size": None, "crop_to_patches": True, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
            "image_mean": MEAN, "image_processor_type": "GotOcr2ImageProcessorFast", "image_std": STD, "max_patches": case["most"], "min_patches": 1,
            "resample": 3, "rescale_factor": 1 / 255, "size": {"height": SIDE, "width": SIDE}})
        model_files.append("preprocessor_config.json")
    write_json(folder / "case.json", {
        **{k: case[k] for k in ("name", "about", "seed", "dtype", "layout")}, "shards": 1, "tied": False, "model_files": model_files,
        "tokenizer": "../internvl_tokenizer", "tokenizer_files": sorted(p.name for p in (OUT / "internvl_tokenizer").iterdir()), "media": "../media",
        "fps": 2.0, "prompts": case["prompts"]})
    model, half = build(config, case, image_id), in_bf16(build(config, case, image_id))

    def languages(one):
        made = {"qwen2": transformers.Qwen2ForCausalLM, "qwen3": transformers.Qwen3ForCausalLM}[one.config.text_config.model_type](one.config.text_config)
        made.model, made.lm_head = one.model.language_model, one.lm_head
        return made

    @torch.no_grad()
    def rows_of(one, pixels):
        if pixels is None:
            return torch.zeros(0)
        rows = one.model.get_image_features(pixel_values=pixels, vision_feature_layer=-1, vision_feature_select_strategy="default")
        return rows.reshape(-1, rows.shape[-1])

    def render(one, media):
        if not own:
            turns = [{"role": "system", "content": [{"type": "text", "text": one["system"]}]}] if one["system"] else []
            turns.append({"role": "user", "content": [{"type": kind} for kind in media] + [{"type": "text", "text": one["text"]}]})
            return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        number = media.count("image") > 1
        words = "".join((f"Image-{i + 1}: " if number else "") + "<image>\n" for i in range(len(media)))
        return f"<|im_start|>system\n{one['system'] or SYSTEM}<|im_end|>\n<|im_start|>user\n{words}{one['text']}<|im_end|>\n<|im_start|>assistant\n"

    def expand(text: str, media: list, counts: list) -> str:
        run = lambda tiles: "<img>" + "<IMG_CONTEXT>" * 4 * tiles + "</img>"  # noqa: E731
        for kind, count in zip(media, counts):
            word = "<image>" if own else {"image": "<IMG_CONTEXT>", "video": "<video>"}[kind]
            whole = run(count) if kind == "image" else "\n".join(f"Frame{i + 1}: {run(1)}" for i in range(count))
            text = text.replace(word, whole.replace("<IMG_CONTEXT>", "<done>"), 1)
        return text.replace("<done>", "<IMG_CONTEXT>")

    margins = []
    for one in case["prompts"]:
        media = ["video" if name.endswith(".npy") else "image" for name in one["media"]]
        pictures = []
        for name, kind in zip(one["media"], media):
            if kind == "image":
                pictures.append(tiles_of(Image.open(OUT / "media" / name).convert("RGB"), case["most"]))
            else:
                pictures.append([resized(Image.fromarray(frame), SIDE, SIDE) for frame in np.load(OUT / "media" / name)])
        pixels = pixels_of([p for group in pictures for p in group]) if pictures else None
        rendered = render(one, media)
        ids = tokenizer(expand(rendered, media, [len(group) for group in pictures]))["input_ids"]
        places = [i for i, t in enumerate(ids) if t == image_id]
        runner = Runner(languages(model), rows_of(model, pixels), places)
        with torch.no_grad():
            whole = model(input_ids=torch.tensor([ids]), **({"pixel_values": pixels} if pictures else {})).logits[0]
        assert torch.allclose(whole, runner.run(ids)[1], atol=1e-4)
        answer = tokenizer(one["answer"], add_special_tokens=False)["input_ids"]
        side = SIDE // PATCH
        margins.append(write_prompt(
            folder / one["name"], one, rendered, ids, patches_of(pixels) if pictures else None, [[len(group), side, side] for group in pictures], media,
            runner, Runner(languages(half), rows_of(half, pixels.bfloat16() if pictures else None), places), stops,
            lambda t: tokenizer.decode(t, skip_special_tokens=True), answer,
            lambda text: tokenizer(f"\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")["input_ids"], end))
    return min(margins)


def main(only=None) -> None:
    write_tokenizer()
    make_cases_of(CASES, make_case, only)


if __name__ == "__main__":
    import sys
    main(sys.argv[1:])
