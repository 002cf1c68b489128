"""Writes a language model of random weights with the decoder shape of Qwen2.5-VL-3B, in the formats of the engines to be measured.

DIR/hf        a Hugging Face directory (Qwen2ForCausalLM, bf16, tied embeddings)
DIR/openvino  its export to OpenVINO's IR by optimum-intel, with a tokenizer (token ids are passed in, so what it knows does not matter);
              openvino-int8 and openvino-int4 with --openvino int8,int4 (4 bits: groups of 128, asymmetric, the head in 8)
DIR/gguf      for llama.cpp, vectors in f32: model.gguf with matrices in bf16 (with --gguf bf16), model-q8_0.gguf, model-q4_0.gguf (the
              embedding, which is the head too, in Q8_0)

The decoder of Qwen2.5-VL is that of Qwen2 but for the angles of its rotary embedding, which cost the same; a text model is what every engine
takes, so that all of them compute the same matrices.
"""

import argparse
import json
import pathlib
import subprocess
import sys

# text part of the published config.json of Qwen2.5-VL-3B-Instruct; only the number of layers differs
SHAPE = dict(
    hidden_size=2048,
    intermediate_size=11008,
    num_attention_heads=16,
    num_key_value_heads=2,
    vocab_size=151936,
    max_position_embeddings=32768,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    tie_word_embeddings=True,
)


def make_hf(directory, layers, tokenizer, seed):
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(num_hidden_layers=layers, bos_token_id=0, eos_token_id=1, use_sliding_window=False, **SHAPE)
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(directory)


OPENVINO = {"fp16": [], "int8": [], "int4": ["--group-size", "128", "--ratio", "1.0"]}


def make_openvino(source, directory, weights):
    cli = pathlib.Path(sys.executable).with_name("optimum-cli")
    command = [cli, "export", "openvino", "--model", source, "--task", "text-generation-with-past", "--weight-format", weights]
    subprocess.run([*command, *OPENVINO[weights], directory], check=True)


def make_gguf(source, file, kind):
    import gguf
    from gguf import quants
    import numpy
    import torch
    from safetensors.torch import load_file

    config = json.loads((source / "config.json").read_text())
    layers = config["num_hidden_layers"]
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(getattr(gguf.LlamaFileType, "MOSTLY_" + kind.upper()))
    # a vocabulary must be there; its words are never looked at
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"t{i}" for i in range(config["vocab_size"])])
    writer.add_token_types([gguf.TokenType.NORMAL] * config["vocab_size"])
    writer.add_token_merges(["t 0"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, layers)
    tensors = {}
    for shard in sorted(source.glob("*.safetensors")):
        tensors |= load_file(shard)
    for name, tensor in tensors.items():
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise SystemExit(f"{name}: no name in gguf")
        if tensor.dim() == 1:
            writer.add_tensor(target, tensor.float().numpy())
        elif kind != "bf16":
            held = gguf.GGMLQuantizationType.Q4_0 if kind == "q4_0" and "embed_tokens" not in name else gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(target, quants.quantize(tensor.float().numpy(), held), raw_dtype=held)
        else:
            bits = tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(numpy.uint8)
            writer.add_tensor(target, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokenizer", default=here.parents[1] / "models/demo", help="directory of any tokenizer (default: the demo model's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--openvino", default="fp16", help="which weights, of fp16,int8,int4; none: empty")
    parser.add_argument("--gguf", default="", help="for llama.cpp, too: of bf16,q8_0,q4_0")
    arguments = parser.parse_args()

    hf = arguments.directory / "hf"
    if not (hf / "config.json").exists():
        make_hf(hf, arguments.layers, arguments.tokenizer, arguments.seed)
    for weights in filter(None, arguments.openvino.split(",")):
        directory = arguments.directory / ("openvino" if weights == "fp16" else f"openvino-{weights}")
        if not (directory / "openvino_model.xml").exists():
            make_openvino(hf, directory, weights)
    for kind in filter(None, arguments.gguf.split(",")):
        make_gguf(hf, arguments.directory / "gguf" / ("model.gguf" if kind == "bf16" else f"model-{kind}.gguf"), kind)


if __name__ == "__main__":
    main()
