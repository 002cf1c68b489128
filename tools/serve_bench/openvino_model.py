"""The weights of a GGUF file of Qwen2 as a Hugging Face directory in bf16, and as OpenVINO's IR in 8 and in 4 bits (groups of 64).

    openvino_model.py MODEL.gguf OUT
"""
import argparse
import pathlib
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    options = parser.parse_args()
    directory, name = options.out / "hf", options.model.name
    AutoModelForCausalLM.from_pretrained(options.model.parent, gguf_file=name, dtype=torch.bfloat16).save_pretrained(directory)
    AutoTokenizer.from_pretrained(options.model.parent, gguf_file=name).save_pretrained(directory)
    command = [pathlib.Path(sys.executable).with_name("optimum-cli"), "export", "openvino", "-m", directory, "--task", "text-generation-with-past"]
    for form, more in (("int8", []), ("int4", ["--group-size", "64", "--ratio", "1.0"])):
        subprocess.run([*command, "--weight-format", form, *more, options.out / form], check=True)


if __name__ == "__main__":
    main()
