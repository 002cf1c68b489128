"""Golden data of a tiny LLaVA-OneVision in transformers' format, one sub-folder per prompt.

The model is transformers' LlavaOnevisionForConditionalGeneration, whose tower must not run its last norm: 4.57.1 takes the hidden states behind it,
which the published weights do not expect (transformers' pull request 40994). Canvases are chosen by transformers' functions, pictures resized by Pillow.
"""
import json

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_onevision.image_processing_llava_onevision import get_patch_output_size
from transformers.image_utils import ChannelDimension

import tokenizer_files as files
from cases import prompt
from layout import OUT, write_json
from make_cases import make_cases_of
from vlm_cases import Runner, in_bf16, resized, stored, write_prompt

SIDE, PATCH, CELLS = 76, 14, 5
PINPOINTS = [[SIDE * i, SIDE * j] for i in (1, 2, 3) for j in (1, 2, 3)]
MOST = 3
TEMPLATE = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{# images, then videos, then text #}"
            "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
            "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
            "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
            "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
SPECIAL = [*files.SPECIAL[:3], ("<image>", True), ("<video>", True)]

CASES = [
    {"name": "llava_onevision", "about": "LLaVA-OneVision: an image in tiles that are put together and scaled down, newlines, several images on squares, pooled frames; SigLIP with pixels beyond the last whole patch, all of its layers, no last norm; Qwen2; published names",
     "seed": 79, "dtype": "bf16", "layout": "language_model",
     "prompts": [prompt("image", "Describe this image.", ["street.png"], then="Why?"),
                 prompt("small", "What is shown in this picture?", ["button.png"], system="You are careful."),
                 prompt("video", "What happens?", ["walk.npy"], then="And what happens at the end?"),
                 prompt("two_images", "What is the difference?", ["street.png", "button.png"]),
                 prompt("mixed", "What's the difference?\n\nAnswer in one sentence.", ["tower.png", "run.npy"], then="Go on.")]},
]


def write_tokenizer() -> None:
    """llava_onevision_tokenizer/: Qwen2's, with tokens for media behind its own three."""
    vocab, merges = files.truncate(*files.train(700), 480)
    folder = OUT / "llava_onevision_tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(files.tokenizer_json(vocab, merges, SPECIAL, False), ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    config = {k: v for k, v in files.tokenizer_config(vocab, SPECIAL).items() if k != "chat_template"}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "chat_template.json", {"chat_template": TEMPLATE})


def published(tokenizer) -> dict:
    return {
        "architectures": ["LlavaOnevisionForConditionalGeneration"], "image_grid_pinpoints": PINPOINTS,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"), "model_type": "llava_onevision", "projector_hidden_act": "gelu",
        "text_config": {"architectures": ["Qwen2ForCausalLM"], "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"), "hidden_act": "silu",
                        "hidden_size": 192, "intermediate_size": 256, "max_position_embeddings": 2048, "model_type": "qwen2", "num_attention_heads": 3,
                        "num_hidden_layers": 3, "num_key_value_heads": 1, "rms_norm_eps": 1e-06, "rope_theta": 1000.0, "tie_word_embeddings": False,
                        "use_sliding_window": False, "vocab_size": len(tokenizer) + 5},
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_image_newline_parameter": True,
        "video_token_index": tokenizer.convert_tokens_to_ids("<video>"), "vision_aspect_ratio": f"anyres_max_{MOST}",
        "vision_config": {"hidden_size": 128, "image_size": SIDE, "intermediate_size": 176, "model_type": "siglip_vision_model",
                          "num_attention_heads": 2, "num_hidden_layers": 3, "patch_size": PATCH, "vision_use_head": False},
        "vision_feature_layer": -1, "vision_feature_select_strategy": "full"}


def tensor_names(config: dict) -> dict:
    """Published name -> (name in transformers' model, shape)."""
    text, vision = config["text_config"], config["vision_config"]
    d, inner, hidden, width = vision["hidden_size"], vision["intermediate_size"], text["hidden_size"], text["intermediate_size"]
    names = {}

    def put(name, mine, *shape):
        names[name] = (mine, shape)

    tower = "vision_tower.vision_model."
    put(tower + "embeddings.patch_embedding.weight", f"model.{tower}embeddings.patch_embedding.weight", d, 3, PATCH, PATCH)
    put(tower + "embeddings.patch_embedding.bias", f"model.{tower}embeddings.patch_embedding.bias", d)
    put(tower + "embeddings.position_embedding.weight", f"model.{tower}embeddings.position_embedding.weight", CELLS * CELLS, d)
    for i in range(vision["num_hidden_layers"]):
        layer = f"{tower}encoder.layers.{i}."
        for name, shape in [*((n, (d,)) for n in ("layer_norm1", "layer_norm2")), *((f"self_attn.{n}", (d, d)) for n in ("q_proj", "k_proj", "v_proj", "out_proj")),
                            ("mlp.fc1", (inner, d)), ("mlp.fc2", (d, inner))]:
            put(f"{layer}{name}.weight", f"model.{layer}{name}.weight", *shape)
            put(f"{layer}{name}.bias", f"model.{layer}{name}.bias", shape[0])
    for name, columns in (("linear_1", d), ("linear_2", hidden)):
        put(f"multi_modal_projector.{name}.weight", f"model.multi_modal_projector.{name}.weight", hidden, columns)
        put(f"multi_modal_projector.{name}.bias", f"model.multi_modal_projector.{name}.bias", hidden)
    put("image_newline", "model.image_newline", hidden)
    put("model.embed_tokens.weight", "model.language_model.embed_tokens.weight", text["vocab_size"], hidden)
    put("model.norm.weight", "model.language_model.norm.weight", hidden)
    put("lm_head.weight", "lm_head.weight", text["vocab_size"], hidden)
    head = hidden // text["num_attention_heads"]
    kv = head * text["num_key_value_heads"]
    for i in range(text["num_hidden_layers"]):
        there, here = f"model.layers.{i}.", f"model.language_model.layers.{i}."
        for name, shape in (("input_layernorm", (hidden,)), ("post_attention_layernorm", (hidden,)), ("mlp.gate_proj", (width, hidden)),
                            ("mlp.up_proj", (width, hidden)), ("mlp.down_proj", (hidden, width)), ("self_attn.q_proj", (hidden, hidden)),
                            ("self_attn.k_proj", (kv, hidden)), ("self_attn.v_proj", (kv, hidden)), ("self_attn.o_proj", (hidden, hidden))):
            put(f"{there}{name}.weight", f"{here}{name}.weight", *shape)
            if name[-6:] in ("q_proj", "k_proj", "v_proj"):
                put(f"{there}{name}.bias", f"{here}{name}.bias", shape[0])
    return names


def build(config: dict, case: dict):
    fields = {k: v for k, v in config.items() if k not in ("architectures", "model_type", "text_config", "vision_config", "torch_dtype")}
    text = {k: v for k, v in config["text_config"].items() if k != "architectures"}
    hf = transformers.LlavaOnevisionConfig(vision_config=config["vision_config"], text_config=text, **fields)
    hf._attn_implementation = "eager"
    model = transformers.LlavaOnevisionForConditionalGeneration(hf).float().eval()
    state = {mine: stored(name, shape, case["seed"], case["dtype"]) for name, (mine, shape) in tensor_names(config).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("post_layernorm" in name for name in missing), (missing, unexpected)
    model.model.vision_tower.vision_model.post_layernorm = torch.nn.Identity()
    return model


def tiles_of(image: Image.Image) -> list:
    """The whole image, then the tiles of its canvas."""
    size = (image.size[1], image.size[0])
    best = select_best_resolution(size, PINPOINTS)
    height, width = get_patch_output_size(np.zeros((*size, 3), np.uint8), best, ChannelDimension.LAST)
    canvas = Image.new("RGB", (best[1], best[0]))
    canvas.paste(resized(image, width, height), ((best[1] - width) // 2, (best[0] - height) // 2))
    rows, columns = best[0] // SIDE, best[1] // SIDE
    return [resized(image, SIDE, SIDE)] + [canvas.crop((SIDE * x, SIDE * y, SIDE * x + SIDE, SIDE * y + SIDE)) for y in range(rows) for x in range(columns)]


def on_square(image: Image.Image) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side), (127, 127, 127))
    square.paste(image, ((side - image.size[0]) // 2, (side - image.size[1]) // 2))
    return resized(square, SIDE, SIDE)


def pixels_of(pictures: list) -> torch.Tensor:
    values = np.stack([np.asarray(p, dtype=np.float32) for p in pictures]) / 255
    return torch.from_numpy((values - np.float32(0.5)) / np.float32(0.5)).permute(0, 3, 1, 2).contiguous().float()


def patches_of(pixels: torch.Tensor) -> torch.Tensor:
    whole = CELLS * PATCH
    n = len(pixels)
    return pixels[:, :, :whole, :whole].reshape(n, 3, CELLS, PATCH, CELLS, PATCH).permute(0, 2, 4, 1, 3, 5).reshape(n * CELLS * CELLS, -1)


def make_case(case: dict) -> float:
    folder = OUT / case["name"]
    tokenizer = transformers.Qwen2TokenizerFast.from_pretrained(str(OUT / "llava_onevision_tokenizer"))
    tokenizer.chat_template = TEMPLATE
    config = published(tokenizer)
    image_id, video_id = config["image_token_index"], config["video_token_index"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", {
        "do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True, "image_grid_pinpoints": PINPOINTS,
        "image_mean": [0.5] * 3, "image_processor_type": "LlavaOnevisionImageProcessor", "image_std": [0.5] * 3, "resample": 3, "rescale_factor": 1 / 255,
        "size": {"height": SIDE, "width": SIDE}})
    write_json(folder / "case.json", {
        **{k: case[k] for k in ("name", "about", "seed", "dtype", "layout")}, "shards": 1, "tied": False,
        "model_files": ["config.json", "preprocessor_config.json"], "tokenizer": "../llava_onevision_tokenizer",
        "tokenizer_files": sorted(p.name for p in (OUT / "llava_onevision_tokenizer").iterdir()), "media": "../media", "fps": 2.0,
        "prompts": case["prompts"]})
    model, half = build(config, case), in_bf16(build(config, case))

    def languages(one):
        made = transformers.Qwen2ForCausalLM(one.config.text_config)
        made.model, made.lm_head = one.model.language_model, one.lm_head
        return made

    @torch.no_grad()
    def rows_of(one, media, pixels, sizes):
        """Rows of the media, each with its newlines, and which of them are newlines."""
        inner = one.model
        images = media.count("image")
        rows, newlines = [], []
        for kind, values, size in zip(media, pixels, sizes):
            values = values.to(inner.image_newline.dtype)
            if kind == "image":
                features = inner.get_image_features(values[None], torch.tensor([size]), vision_feature_layer=-1, vision_feature_select_strategy="full",
                                                    batch_num_images=torch.tensor([1])) if images == 1 else \
                    inner.get_image_features(values[None].repeat(2, 1, 1, 1, 1), torch.tensor([size, size]), vision_feature_layer=-1,
                                             vision_feature_select_strategy="full", batch_num_images=torch.tensor([2]))
                made = features[0]
            else:
                made = inner.get_video_features(values[None], vision_feature_layer=-1, vision_feature_select_strategy="full")
                made = torch.cat([made.reshape(-1, made.shape[-1]), inner.image_newline[None]])
            rows.append(made)
            newlines += [bool(torch.equal(row, inner.image_newline)) for row in made]
        return torch.cat(rows), newlines, [len(r) for r in rows]

    margins = []
    for one in case["prompts"]:
        media = ["video" if name.endswith(".npy") else "image" for name in one["media"]]
        alone = media.count("image") == 1
        pictures, sizes = [], []
        for name, kind in zip(one["media"], media):
            if kind == "image":
                image = Image.open(OUT / "media" / name).convert("RGB")
                pictures.append(tiles_of(image) if alone else [on_square(image)])
                sizes.append([image.size[1], image.size[0]])
            else:
                pictures.append([resized(Image.fromarray(frame), SIDE, SIDE) for frame in np.load(OUT / "media" / name)])
                sizes.append([0, 0])
        pixels = [pixels_of(group) for group in pictures]
        rows, newlines, counts = rows_of(model, media, pixels, sizes)
        turns = [{"role": "system", "content": [{"type": "text", "text": one["system"]}]}] if one["system"] else []
        turns.append({"role": "user", "content": [{"type": kind} for kind in media] + [{"type": "text", "text": one["text"]}]})
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        text = rendered
        for kind, count in zip(media, counts):
            text = text.replace(f"<{kind}>", "<done>" * count, 1).replace("<done>", f"<{kind}done>")
        ids = tokenizer(text.replace("<imagedone>", "<image>").replace("<videodone>", "<video>"))["input_ids"]
        places = [i for i, t in enumerate(ids) if t in (image_id, video_id)]
        runner = Runner(languages(model), rows, places)
        images = [(p, s) for p, s, kind in zip(pixels, sizes, media) if kind == "image"]
        given = {}
        if images:
            most = max(len(p) for p, _ in images)
            given["pixel_values"] = torch.stack([torch.cat([p, torch.zeros(most - len(p), *p.shape[1:])]) for p, _ in images])
            given["image_sizes"] = torch.tensor([s for _, s in images])
            given["batch_num_images"] = torch.tensor([len(images)])
        videos = [p for p, kind in zip(pixels, media) if kind == "video"]
        if videos:
            given["pixel_values_videos"] = torch.stack(videos)
        with torch.no_grad():
            whole = model(input_ids=torch.tensor([ids]), **given).logits[0]
        assert torch.allclose(whole, runner.run(ids)[1], atol=1e-4)
        runner.visual = rows[[i for i, newline in enumerate(newlines) if not newline]]
        answer = tokenizer(one["answer"], add_special_tokens=False)["input_ids"]
        margins.append(write_prompt(
            folder / one["name"], one, rendered, ids, torch.cat([patches_of(p) for p in pixels]), [[len(group), CELLS, CELLS] for group in pictures], media,
            runner, Runner(languages(half), rows_of(half, media, pixels, sizes)[0], places), {end},
            lambda t: tokenizer.decode(t, skip_special_tokens=True), answer,
            lambda text: tokenizer(f"\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")["input_ids"], end))
    return min(margins)


def main(only=None) -> None:
    write_tokenizer()
    make_cases_of(CASES, make_case, only)


if __name__ == "__main__":
    import sys
    main(sys.argv[1:])
