"""Golden data of two tiny VideoLLaMA2 models: CLIP, a padded connector and Mistral; SigLIP, an unpadded one and Qwen2 (2.1).

Towers and decoders are transformers'. The connector is written out here from its definition: four RegNet blocks (1x1, depthwise 3x3, squeeze and
excitation, 1x1, each norm a LayerNorm over channels with eps 1e-5) on each frame, a 2x2x2 convolution of stride 2, four more, two linear layers.
"""

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image

import media
import text_tokenizers as pieces
import tokenizer_files
from cases import MEAN, STD, prompt
from layout import OUT, write_json
from llava_cases import PIECES, decoder, on_square, patches_of, processor
from make_cases import make_cases_of
from vlm_cases import Runner, in_bf16, resized, stored, write_prompt

SYSTEM = ("You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  Your answers should not "
          "include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure that your responses are socially "
          "unbiased and positive in nature.\n\nIf a question does not make any sense, or is not factually coherent, explain why instead of answering "
          "something not correct. If you don't know the answer to a question, please don't share false information.")
EPS = 1e-5


def common(**more) -> dict:
    return {"hidden_act": "silu", "image_aspect_ratio": "pad", "max_position_embeddings": 2048, "mm_use_im_start_end": False,
            "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2, "mm_vision_tower": "tower", "tie_word_embeddings": False,
            "tokenizer_model_max_length": 2048, "tokenizer_padding_side": "right", "use_cache": True, "use_mm_proj": True, **more}


def mistral(tokens: int) -> dict:
    return common(architectures=["Videollama2MistralForCausalLM"], model_type="videollama2_mistral", bos_token_id=1, eos_token_id=2, hidden_size=128,
                  intermediate_size=256, num_attention_heads=4, num_hidden_layers=3, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=1000.0,
                  sliding_window=None, vocab_size=tokens, mm_hidden_size=96, mm_projector_type="stc_connector", num_frames=6)


def qwen2(tokens: int) -> dict:
    ids = tokenizer_files.special_ids("tokenizer_files")
    return common(architectures=["Videollama2Qwen2ForCausalLM"], model_type="videollama2_qwen2", bos_token_id=ids["<|endoftext|>"],
                  eos_token_id=ids["<|im_end|>"], hidden_size=128, intermediate_size=256, num_attention_heads=2, num_hidden_layers=3,
                  num_key_value_heads=1, rms_norm_eps=1e-6, rope_theta=1000.0, sliding_window=131072, use_sliding_window=False, max_window_layers=3,
                  vocab_size=tokens + 6, mm_hidden_size=144, mm_projector_type="stc_connector_v35", num_frames=5)


CLIP = {"model_type": "clip_vision_model", "hidden_size": 96, "image_size": 56, "intermediate_size": 160, "num_attention_heads": 2,
        "num_hidden_layers": 3, "patch_size": 14}
SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 144, "image_size": 76, "intermediate_size": 200, "num_attention_heads": 2,
          "num_hidden_layers": 3, "patch_size": 14}

CASES = [
    {"name": "videollama2", "about": "VideoLLaMA2: CLIP, stc_connector (padded), Mistral; tokenizer.model of the legacy kind; six frames, black ones behind fewer, an image six times",
     "config": mistral, "tower": CLIP, "seed": 73, "dtype": "bf16", "tokenizer": "videollama2_pieces",
     "prompts": [prompt("video", "Describe the video in one sentence.", ["walk.npy"], then="Is it red?"),
                 prompt("few_frames", "What is shown?", ["run.npy"], system="You are careful.", then="Why?"),
                 prompt("image", "Describe this image.", ["street.png"], system="You are careful.")]},
    {"name": "videollama2_qwen2", "about": "VideoLLaMA2.1: SigLIP with pixels behind its last whole patch, stc_connector_v35 (no padding), Qwen2; vocab.json; five frames",
     "config": qwen2, "tower": SIGLIP, "seed": 81, "dtype": "f32", "tokenizer": "tokenizer_files",
     "prompts": [prompt("video", "What is shown?", ["walk.npy"], then="Why?"),
                 prompt("image_video", "Is the picture from the video?", ["tower.png", "run.npy"], system="You are careful.", then="Go on.")]},
]


def write_tokenizer() -> None:
    """videollama2_pieces/: tokenizer.model, and a tokenizer_config.json without "legacy"."""
    folder = OUT / "videollama2_pieces"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(pieces.model_bytes(pieces.train_pieces(PIECES), True, True))
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "clean_up_tokenization_spaces": False, "eos_token": "</s>",
        "pad_token": "<unk>", "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>"})


def tower_shapes(tower: dict) -> dict:
    """Name below vision_model. -> shape, of what the engine reads."""
    d, inner, side = tower["hidden_size"], tower["intermediate_size"], tower["image_size"] // tower["patch_size"]
    clip = tower["model_type"] == "clip_vision_model"
    shapes = {"embeddings.patch_embedding.weight": (d, 3, tower["patch_size"], tower["patch_size"]),
              "embeddings.position_embedding.weight": (side * side + clip, d)}
    if clip:
        shapes |= {"embeddings.class_embedding": (d,), "pre_layrnorm.weight": (d,), "pre_layrnorm.bias": (d,)}
    else:
        shapes["embeddings.patch_embedding.bias"] = (d,)
    for i in range(tower["num_hidden_layers"] - 1):
        for layer, rows, columns in ((f"self_attn.{n}_proj", d, d) for n in ("q", "k", "v", "out")):
            shapes |= {f"encoder.layers.{i}.{layer}.weight": (rows, columns), f"encoder.layers.{i}.{layer}.bias": (rows,)}
        for layer, rows, columns in (("mlp.fc1", inner, d), ("mlp.fc2", d, inner)):
            shapes |= {f"encoder.layers.{i}.{layer}.weight": (rows, columns), f"encoder.layers.{i}.{layer}.bias": (rows,)}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"encoder.layers.{i}.{norm}.weight": (d,), f"encoder.layers.{i}.{norm}.bias": (d,)}
    return shapes


def connector_shapes(wide: int, out: int) -> dict:
    shapes = {}

    def conv(name, *shape):
        shapes[name + ".conv.weight"] = shape
        shapes[name + ".bn.weight"] = shapes[name + ".bn.bias"] = (out,)

    for stage in ("s1", "s2"):
        for i in range(4):
            block, inputs = f"{stage}.b{i + 1}.", wide if (stage, i) == ("s1", 0) else out
            squeezed = round(inputs * 0.25)
            conv(block + "conv1", out, inputs, 1, 1)
            conv(block + "conv2", out, 1, 3, 3)
            conv(block + "conv3", out, out, 1, 1)
            if inputs != out:
                conv(block + "downsample", out, inputs, 1, 1)
            shapes |= {block + "se.fc1.weight": (squeezed, out, 1, 1), block + "se.fc1.bias": (squeezed,),
                       block + "se.fc2.weight": (out, squeezed, 1, 1), block + "se.fc2.bias": (out,)}
    shapes |= {"sampler.0.weight": (out, out, 2, 2, 2), "sampler.0.bias": (out,)}
    for layer in ("readout.0", "readout.2"):
        shapes |= {layer + ".weight": (out, out), layer + ".bias": (out,)}
    return shapes


class Connector:
    def __init__(self, tensors: dict, padding: int):
        self.w, self.padding = tensors, padding

    def norm(self, x, name):
        """LayerNorm over the channels of each pixel; x [T, C, H, W]."""
        moved = x.permute(0, 2, 3, 1)
        return F.layer_norm(moved, moved.shape[-1:], self.w[name + ".weight"], self.w[name + ".bias"], EPS).permute(0, 3, 1, 2)

    def block(self, x, name):
        w, channels = self.w, self.w[name + "conv3.conv.weight"].shape[0]
        y = F.silu(self.norm(F.conv2d(x, w[name + "conv1.conv.weight"]), name + "conv1.bn"))
        y = F.silu(self.norm(F.conv2d(y, w[name + "conv2.conv.weight"], padding=1, groups=channels), name + "conv2.bn"))
        s = F.silu(F.conv2d(y.mean((2, 3), keepdim=True), w[name + "se.fc1.weight"], w[name + "se.fc1.bias"]))
        y = y * F.conv2d(s, w[name + "se.fc2.weight"], w[name + "se.fc2.bias"]).sigmoid()
        y = self.norm(F.conv2d(y, w[name + "conv3.conv.weight"]), name + "conv3.bn")
        if name + "downsample.conv.weight" in w:
            x = self.norm(F.conv2d(x, w[name + "downsample.conv.weight"]), name + "downsample.bn")
        return F.silu(y + x)

    @torch.no_grad()
    def __call__(self, rows, side: int):
        """rows [T, side * side, C] -> [tokens, E]"""
        x = rows.reshape(len(rows), side, side, -1).permute(0, 3, 1, 2)
        for i in range(4):
            x = self.block(x, f"s1.b{i + 1}.")
        x = F.silu(F.conv3d(x.permute(1, 0, 2, 3)[None], self.w["sampler.0.weight"], self.w["sampler.0.bias"], stride=2, padding=self.padding))
        x = x[0].permute(1, 0, 2, 3)
        for i in range(4):
            x = self.block(x, f"s2.b{i + 1}.")
        x = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        x = F.gelu(F.linear(x, self.w["readout.0.weight"], self.w["readout.0.bias"]))
        return F.linear(x, self.w["readout.2.weight"], self.w["readout.2.bias"])


def decoder_shapes(config: dict) -> dict:
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv = hidden // heads * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,), "lm_head.weight": (config["vocab_size"], hidden)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, rows, columns in (("self_attn.q_proj", hidden, hidden), ("self_attn.k_proj", kv, hidden), ("self_attn.v_proj", kv, hidden),
                                    ("self_attn.o_proj", hidden, hidden), ("mlp.gate_proj", inner, hidden), ("mlp.up_proj", inner, hidden),
                                    ("mlp.down_proj", hidden, inner)):
            shapes[f"{layer}{name}.weight"] = (rows, columns)
            if config["model_type"].endswith("qwen2") and name[10:12] in ("q_", "k_", "v_"):
                shapes[f"{layer}{name}.bias"] = (rows,)
        shapes |= {layer + "input_layernorm.weight": (hidden,), layer + "post_attention_layernorm.weight": (hidden,)}
    return shapes


class Model:
    """Tower, connector and decoder of a case, in float32."""

    def __init__(self, case: dict, config: dict):
        tower = case["tower"]
        seed, dtype = case["seed"], case["dtype"]
        fields = {k: v for k, v in tower.items() if k != "model_type"}
        if tower["model_type"] == "clip_vision_model":
            self.tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**fields, attn_implementation="eager"))
        else:
            self.tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**fields, vision_use_head=False, attn_implementation="eager"))
        prefix = "model.vision_tower.vision_tower.vision_model."
        state = {"vision_model." + n: stored(prefix + n, s, seed, dtype) for n, s in tower_shapes(tower).items()}
        missing, unexpected = self.tower.load_state_dict(state, strict=False)
        last = f"encoder.layers.{tower['num_hidden_layers'] - 1}."
        assert not unexpected and all(last in n or "post_layernorm" in n for n in missing), (missing, unexpected)
        self.tower.eval()
        tensors = {n: stored("model.mm_projector." + n, s, seed, dtype)
                   for n, s in connector_shapes(tower["hidden_size"], config["hidden_size"]).items()}
        self.connector = Connector(tensors, int(config["mm_projector_type"] == "stc_connector"))
        text = {k: v for k, v in config.items() if k not in ("architectures", "model_type") and not k.startswith(("mm_", "image_", "use_mm"))}
        kinds = {"videollama2_mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
                 "videollama2_qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM)}
        of_config, of_model = kinds[config["model_type"]]
        self.decoder = of_model(of_config(**text, attn_implementation="eager")).float().eval()
        self.decoder.load_state_dict({n: stored(n, s, seed, dtype) for n, s in decoder_shapes(config).items()})
        self.side = tower["image_size"] // tower["patch_size"]

    def halved(self):
        in_bf16(self.tower)
        in_bf16(self.decoder)
        self.connector.w = {n: t.bfloat16() for n, t in self.connector.w.items()}
        return self

    @torch.no_grad()
    def rows(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels [T, 3, H, W] -> [tokens, E]"""
        states = self.tower(pixels.to(self.decoder.dtype), output_hidden_states=True).hidden_states[-2]
        return self.connector(states[:, states.shape[1] - self.side ** 2:], self.side)


def pictures(name: str, frames: int) -> list:
    if not name.endswith(".npy"):
        return [Image.open(OUT / "media" / name).convert("RGB")] * frames
    given = [Image.fromarray(frame) for frame in media.load(name)]
    return given + [Image.new("RGB", given[0].size)] * (frames - len(given))


def make_case(case: dict) -> float:
    folder, tower = OUT / case["name"], case["tower"]
    clip = case["name"] == "videollama2"
    if clip:
        tokenizer = transformers.LlamaTokenizer.from_pretrained(str(OUT / case["tokenizer"]))
    else:
        tokenizer = tokenizer_files.load(OUT / case["tokenizer"])
    config = case["config"](len(tokenizer))
    place = 0 if clip else len(tokenizer)
    write_json(folder / "config.json", config)
    write_json(folder / "tower/config.json", tower)
    write_json(folder / "case.json", {
        **{k: case[k] for k in ("name", "about", "seed", "dtype")}, "layout": "published", "shards": 1, "tied": False,
        "model_files": ["config.json", "tower/config.json"], "tokenizer": f"../{case['tokenizer']}",
        "tokenizer_files": sorted(p.name for p in (OUT / case["tokenizer"]).iterdir()), "media": "../media", "fps": 2.0, "prompts": case["prompts"]})
    if clip:
        fields = {k: v for k, v in processor(tower["image_size"]).items() if k != "image_processor_type"}
        process, mean = transformers.CLIPImageProcessor(**{**fields, "do_resize": False}), MEAN
        assert fields["image_std"] == STD
    else:
        process, mean = transformers.SiglipImageProcessor(do_resize=False, image_mean=[0.5] * 3, image_std=[0.5] * 3), [0.5] * 3
    model, half = Model(case, config), Model(case, config).halved()

    def render(one: dict) -> str:
        words = "".join(("<video>" if n.endswith(".npy") else "<image>") + "\n" for n in one["media"])
        if clip:
            return f"<s>[INST] <<SYS>>\n{one['system'] or SYSTEM}\n<</SYS>>\n\n{words}{one['text']} [/INST]"
        system = one["system"] or "You are a helpful assistant."
        return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{words}{one['text']}<|im_end|>\n<|im_start|>assistant\n"

    if clip:
        stops, end = {2}, 2

        def tail(text):
            return tokenizer(f"</s>[INST] {text} [/INST]", add_special_tokens=False)["input_ids"][1:]
    else:
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        stops = {end}

        def tail(text):
            return tokenizer(f"\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]

    margins = []
    decode = decoder() if clip else lambda t: tokenizer.decode(t, skip_special_tokens=True)
    for one in case["prompts"]:
        clips = [[torch.from_numpy(np.asarray(process(resized(on_square(p, mean), tower["image_size"], tower["image_size"]))["pixel_values"][0])) for p in pictures(n, config["num_frames"])]
                 for n in one["media"]]
        rows = [model.rows(torch.stack(c)) for c in clips]
        half_rows = [half.rows(torch.stack(c)) for c in clips]
        rendered = render(one)
        split = rendered.replace("<image>", "<video>").split("<video>")
        ids, places = [], []
        for i, piece in enumerate(split):
            if i:
                places += range(len(ids), len(ids) + len(rows[i - 1]))
                ids += [place] * len(rows[i - 1])
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
        answer = tokenizer(one["answer"], add_special_tokens=False)["input_ids"]
        patches = torch.cat([patches_of(frame, tower["patch_size"]) for c in clips for frame in c])
        margins.append(write_prompt(
            folder / one["name"], one, rendered, ids, patches, [[len(c), model.side, model.side] for c in clips],
            ["video" if n.endswith(".npy") else "image" for n in one["media"]], Runner(model.decoder, torch.cat(rows), places),
            Runner(half.decoder, torch.cat(half_rows), places), stops, decode, answer, tail, end))
    return min(margins)


def main(only=None) -> None:
    write_tokenizer()
    make_cases_of(CASES, make_case, only)


if __name__ == "__main__":
    import sys
    main(sys.argv[1:])
