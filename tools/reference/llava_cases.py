"""Golden data of two tiny LLaVA-1.5 models: transformers' layout, and the authors'. One folder each, one sub-folder per prompt.

The model is transformers' LlavaForConditionalGeneration; of the authors' layout its tensors under other names, their way of padding pictures and of
tokenising a prompt around <image>.
"""
import json

import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, normalizers, processors

import text_tokenizers as pieces
from cases import MEAN, STD, prompt
from layout import OUT, write_json
from make_cases import make_cases_of
from vlm_cases import Runner, in_bf16, short_side, stored, write_prompt

TEMPLATE = ("{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
            "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
            "{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
            "{{ content['text'] + ' '}}{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
            "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")
SYSTEM = ("A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the "
          "human's questions.")
PIECES = 480
ANSWER = "A red circle moves."  # behind a space the slow tokenizer has one more, which its fast twin has not


def decoder():
    """Text of ids as the fast twin of LlamaTokenizer has it: the slow one differs where bytes are no UTF-8."""
    made = pieces.character_model(pieces.train_pieces(PIECES), True, True)
    made.decoder = pieces.text_of(True)
    return lambda ids: made.decode(ids, skip_special_tokens=True)


def token(content: str, special: bool = True) -> dict:
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special}


def write_tokenizers() -> None:
    """llava_tokenizer/: tokenizer.json of a Llama with <image> and <pad>; llava_pieces/: tokenizer.model alone, "legacy": false."""
    trained = pieces.train_pieces(PIECES)
    folder = OUT / "llava_tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    made = pieces.character_model(trained, True, True)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(pieces.SPACE), normalizers.Replace(" ", pieces.SPACE)])
    made.decoder = pieces.text_of(True)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    made.add_special_tokens([AddedToken("<image>", normalized=False), AddedToken("<pad>", normalized=False)])
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(made.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    names = ["<unk>", "<s>", "</s>"]
    added = {str(i): token(t) for i, t in enumerate(names)} | {str(made.token_to_id(t)): token(t) for t in ("<image>", "<pad>")}
    common = {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "clean_up_tokenization_spaces": False, "eos_token": "</s>",
              "model_max_length": 4096, "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>"}
    write_json(folder / "tokenizer_config.json", {**common, "added_tokens_decoder": added, "legacy": True, "pad_token": "<pad>"})
    write_json(folder / "chat_template.json", {"chat_template": TEMPLATE})
    folder = OUT / "llava_pieces"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(pieces.model_bytes(trained, True, True))
    write_json(folder / "tokenizer_config.json", {**common, "legacy": False, "pad_token": None})


def published(tokens: int) -> dict:
    """As llava-hf's later saves: nested, tensors under their names in memory."""
    return {
        "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_seq_length": 16, "image_token_index": tokens - 2,
        "model_type": "llava", "multimodal_projector_bias": True, "pad_token_id": tokens - 1, "projector_hidden_act": "gelu",
        "text_config": {"architectures": ["LlamaForCausalLM"], "hidden_size": 192, "intermediate_size": 320, "max_position_embeddings": 1024,
                        "model_type": "llama", "num_attention_heads": 3, "num_hidden_layers": 3, "num_key_value_heads": None,
                        "rms_norm_eps": 1e-05, "rope_theta": 500.0, "torch_dtype": "float16", "vocab_size": 512},
        "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.52.4",
        "vision_config": {"hidden_size": 128, "image_size": 56, "intermediate_size": 192, "model_type": "clip_vision_model", "num_attention_heads": 2,
                          "num_hidden_layers": 4, "patch_size": 14, "projection_dim": 64, "vocab_size": 512},
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default"}


def original(tokens: int) -> dict:
    """The authors': flat, a tower named by its folder, as many rows as the tokenizer has tokens."""
    return {
        "architectures": ["LlavaLlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "freeze_mm_mlp_adapter": False, "hidden_act": "silu",
        "hidden_size": 256, "image_aspect_ratio": "pad", "image_grid_pinpoints": None, "initializer_range": 0.02, "intermediate_size": 320,
        "max_length": 4096, "max_position_embeddings": 1024, "mm_hidden_size": 96, "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None, "mm_use_im_patch_token": False, "mm_use_im_start_end": False, "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2, "mm_vision_tower": "tower", "model_type": "llava_llama", "num_attention_heads": 2,
        "num_hidden_layers": 3, "num_key_value_heads": 2, "pad_token_id": 0, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
        "rope_theta": 1000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.31.0", "tune_mm_mlp_adapter": False,
        "use_cache": True, "use_mm_proj": True, "vocab_size": tokens}


TOWER = {"architectures": ["CLIPVisionModel"], "hidden_act": "gelu", "hidden_size": 96, "image_size": 75, "intermediate_size": 160,
         "layer_norm_eps": 1e-05, "model_type": "clip_vision_model", "num_attention_heads": 2, "num_hidden_layers": 3, "patch_size": 14}


def processor(size: int) -> dict:
    return {"crop_size": {"height": size, "width": size}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True,
            "do_resize": True, "image_mean": MEAN, "image_processor_type": "CLIPImageProcessor", "image_std": STD, "resample": 3,
            "rescale_factor": 1 / 255, "size": {"shortest_edge": size}}


CASES = [
    {"name": "llava", "about": "LLaVA-1.5 in transformers' layout: CLIP, three of four layers, centre crops; names in memory, two f16 shards; tokenizer.json",
     "seed": 71, "dtype": "f16", "layout": "language_model", "shards": 2, "tokenizer": "llava_tokenizer",
     "prompts": [prompt("text", "What is shown in this picture?", then="And what happens at the end?"),
                 prompt("image", "Describe this image.", ["street.png"], then="Why?"),
                 prompt("two_images", "What's the difference?\n\nAnswer in one sentence.", ["tower.png", "button.png"], system="You are careful.")]},
    {"name": "llava_original", "about": "LLaVA-1.5 in the authors' layout: flat config, a tower in a folder of its own, erf GELU, pixels behind the last whole patch, padding to a square, tokenizer.model that is not legacy, no chat template, an image in place of <unk>",
     "seed": 64, "dtype": "bf16", "layout": "published", "shards": 1, "tokenizer": "llava_pieces",
     "prompts": [prompt("image", "Describe this image.", ["street.png"], then="Why?", answer=ANSWER),
                 prompt("two_images", "What is the difference?", ["tower.png", "button.png"], system="You are careful.", then="Go on.", answer=ANSWER)]},
]


def tower_config(config: dict) -> dict:
    return config.get("vision_config", TOWER)


def text_config(config: dict) -> dict:
    return config.get("text_config", config)


def tensor_names(config: dict) -> dict:
    """Published name -> (name in transformers' LlavaForConditionalGeneration, shape), of what the engine reads."""
    text, vision = text_config(config), tower_config(config)
    hf = "vision_config" in config
    tower = "vision_tower.vision_model." if hf else "model.vision_tower.vision_tower.vision_model."
    projector = ("multi_modal_projector.linear_1", "multi_modal_projector.linear_2") if hf else ("model.mm_projector.0", "model.mm_projector.2")
    d, inner, hidden = vision["hidden_size"], vision["intermediate_size"], text["hidden_size"]
    names = {}

    def put(name, own, *shape):
        names[name] = (own, shape)

    ours = "model.vision_tower.vision_model."
    side = vision["image_size"] // vision["patch_size"]
    put(tower + "embeddings.class_embedding", ours + "embeddings.class_embedding", d)
    put(tower + "embeddings.patch_embedding.weight", ours + "embeddings.patch_embedding.weight", d, 3, vision["patch_size"], vision["patch_size"])
    put(tower + "embeddings.position_embedding.weight", ours + "embeddings.position_embedding.weight", side * side + 1, d)
    for part in ("weight", "bias"):
        put(f"{tower}pre_layrnorm.{part}", f"{ours}pre_layrnorm.{part}", d)
    for i in range(vision["num_hidden_layers"] - 1):
        for layer, rows, columns in (("self_attn.q_proj", d, d), ("self_attn.k_proj", d, d), ("self_attn.v_proj", d, d), ("self_attn.out_proj", d, d),
                                     ("mlp.fc1", inner, d), ("mlp.fc2", d, inner), ("layer_norm1", d, None), ("layer_norm2", d, None)):
            name = f"encoder.layers.{i}.{layer}"
            put(f"{tower}{name}.weight", f"{ours}{name}.weight", *((rows, columns) if columns else (rows,)))
            put(f"{tower}{name}.bias", f"{ours}{name}.bias", rows)
    for name, own, columns in ((projector[0], "linear_1", d), (projector[1], "linear_2", hidden)):
        put(name + ".weight", f"model.multi_modal_projector.{own}.weight", hidden, columns)
        put(name + ".bias", f"model.multi_modal_projector.{own}.bias", hidden)
    vocabulary, width = text["vocab_size"], text["intermediate_size"]
    put("model.embed_tokens.weight", "model.language_model.embed_tokens.weight", vocabulary, hidden)
    put("model.norm.weight", "model.language_model.norm.weight", hidden)
    put("lm_head.weight", "lm_head.weight", vocabulary, hidden)
    for i in range(text["num_hidden_layers"]):
        layer = f"layers.{i}."
        shapes = {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,), "mlp.gate_proj": (width, hidden), "mlp.up_proj": (width, hidden),
                  "mlp.down_proj": (hidden, width), **{f"self_attn.{n}_proj": (hidden, hidden) for n in "qkvo"}}
        for name, shape in shapes.items():
            put(f"model.{layer}{name}.weight", f"model.language_model.{layer}{name}.weight", *shape)
    return names


def build(config: dict, case: dict, image_id: int):
    text = {k: v for k, v in text_config(config).items() if k not in ("architectures", "model_type")}
    hf = transformers.LlavaConfig(vision_config=transformers.CLIPVisionConfig(**tower_config(config)), text_config=transformers.LlamaConfig(**text),
                                  image_token_index=image_id, vision_feature_layer=-2, vision_feature_select_strategy="default")
    hf._attn_implementation = "eager"
    model = transformers.LlavaForConditionalGeneration(hf).float().eval()
    state = {own: stored(name, shape, case["seed"], case["dtype"]) for name, (own, shape) in tensor_names(config).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    last = f"encoder.layers.{tower_config(config)['num_hidden_layers'] - 1}."
    assert not unexpected and all(last in n or "post_layernorm" in n for n in missing), (missing, unexpected)
    return model


def on_square(image: Image.Image, mean=MEAN) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(x * 255) for x in mean))
    square.paste(image, ((side - image.size[0]) // 2, (side - image.size[1]) // 2))
    return square


@torch.no_grad()
def rows_of(model, images: list) -> torch.Tensor:
    if not images:
        return torch.zeros(0)
    pixels = torch.stack(images).to(model.dtype)
    return torch.cat(list(model.get_image_features(pixel_values=pixels, vision_feature_layer=-2, vision_feature_select_strategy="default")))


def patches_of(image: torch.Tensor, patch: int) -> torch.Tensor:
    side = image.shape[1] // patch
    cut = image[:, :side * patch, :side * patch]
    return cut.reshape(3, side, patch, side, patch).permute(1, 3, 0, 2, 4).reshape(side * side, -1)


def make_case(case: dict) -> float:
    folder = OUT / case["name"]
    own = case["name"] == "llava_original"
    if own:
        tokenizer = transformers.LlamaTokenizer.from_pretrained(str(OUT / case["tokenizer"]))
        config, image_id = original(len(tokenizer)), 0
        write_json(folder / "tower/config.json", TOWER)
    else:
        tokenizer = transformers.LlamaTokenizerFast.from_pretrained(str(OUT / case["tokenizer"]))
        config = published(len(tokenizer))
        image_id = tokenizer.convert_tokens_to_ids("<image>")
        assert image_id == config["image_token_index"]
        write_json(folder / "preprocessor_config.json", processor(56))
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    model_files = ["config.json", "generation_config.json", "tower/config.json" if own else "preprocessor_config.json"]
    write_json(folder / "case.json", {
        **{k: case[k] for k in ("name", "about", "seed", "dtype", "layout", "shards")}, "tied": False, "model_files": model_files,
        "tokenizer": f"../{case['tokenizer']}", "tokenizer_files": sorted(p.name for p in (OUT / case["tokenizer"]).iterdir()), "media": "../media",
        "fps": 2.0, "prompts": case["prompts"]})
    vision = tower_config(config)
    fields = {k: v for k, v in processor(vision["image_size"]).items() if k != "image_processor_type"}
    process = transformers.CLIPImageProcessor(**{**fields, "do_resize": False})
    per_image = (vision["image_size"] // vision["patch_size"]) ** 2
    model, half = build(config, case, image_id), in_bf16(build(config, case, image_id))

    def languages(one):
        decoder = transformers.LlamaForCausalLM(one.config.text_config)
        decoder.model, decoder.lm_head = one.model.language_model, one.lm_head
        return decoder

    def render(one, more=()):
        if not own:
            turns = [{"role": "system", "content": [{"type": "text", "text": one["system"]}]}] if one["system"] else []
            turns.append({"role": "user", "content": [{"type": "image"}] * len(one["media"]) + [{"type": "text", "text": one["text"]}]})
            return tokenizer.apply_chat_template(turns, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True)
        return f"{one['system'] or SYSTEM} USER: {'<image>' + chr(10) if one['media'] else ''}" + "<image>\n" * (len(one["media"]) - 1) + f"{one['text']} ASSISTANT:"

    def encode(text: str, media: int) -> list:
        if not own:
            return tokenizer(text.replace("<image>", "<image>" * per_image))["input_ids"]
        ids = []  # LLaVA's tokenizer_image_token
        for i, piece in enumerate(text.split("<image>")):
            more = tokenizer(piece)["input_ids"]
            assert more[0] == tokenizer.bos_token_id
            ids += ([image_id] * per_image if i else [tokenizer.bos_token_id]) + more[1:]
        return ids

    margins = []
    decode = decoder() if own else lambda t: tokenizer.decode(t, skip_special_tokens=True)
    for one in case["prompts"]:
        images = [Image.open(OUT / "media" / name).convert("RGB") for name in one["media"]]
        pixels = [torch.from_numpy(process(short_side(on_square(i) if own else i, vision["image_size"]))["pixel_values"][0]) for i in images]
        rendered = render(one)
        ids = encode(rendered, len(images))
        places = [i for i, t in enumerate(ids) if t == image_id]
        assert len(places) == per_image * len(images)
        runner = Runner(languages(model), rows_of(model, pixels), places)
        with torch.no_grad():
            whole = model(input_ids=torch.tensor([ids]), **({"pixel_values": torch.stack(pixels)} if pixels else {})).logits[0]
        assert torch.allclose(whole, runner.run(ids)[1], atol=1e-4)
        answer = tokenizer(one["answer"], add_special_tokens=False)["input_ids"]
        side = vision["image_size"] // vision["patch_size"]
        patches = torch.cat([patches_of(p, vision["patch_size"]) for p in pixels]) if pixels else None
        margins.append(write_prompt(
            folder / one["name"], one, rendered, ids, patches, [[1, side, side]] * len(images), ["image"] * len(images), runner,
            Runner(languages(half), rows_of(half, pixels), places), {2}, decode, answer,
            lambda text: tokenizer(f"</s>USER: {text} ASSISTANT:", add_special_tokens=False)["input_ids"][1:]))
    return min(margins)


def main(only=None) -> None:
    write_tokenizers()
    make_cases_of(CASES, make_case, only)


if __name__ == "__main__":
    import sys
    main(sys.argv[1:])
