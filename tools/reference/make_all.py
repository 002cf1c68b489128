"""Regenerates everything under tests/data/reference/ from nothing. Two runs give the same bytes."""
import os
import shutil
import sys

sys.dont_write_bytecode = True
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every file is local; nothing is looked up
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import PIL

import chat_templates
import gguf_blocks
import internvl_cases
import llava_cases
import make_cases
import make_vision_math
import media
import onevision_cases
import page_predictor
import text_tokenizers
import tokenizer_files
import text_cases
import tokenizer_strings
import videollama2_cases
from layout import OUT

LIMIT = 6_000_000  # bytes; the data lives in git


def main() -> None:
    # Pillow 13 runs the vertical pass first where the height shrinks more (its pull request 9549); with uint8 between the passes that
    # moves pixels by up to 20 levels. Every version that Qwen's models were used with until then goes horizontally first.
    assert int(PIL.__version__.split(".")[0]) < 13, "install pillow<13: Pillow 13 changed the order of its resampling passes"
    if OUT.exists():
        shutil.rmtree(OUT)
    tokenizer_files.write_all()
    media.write_clips()
    media.write_decode_goldens()
    make_vision_math.main()
    tokenizer_strings.main()
    text_tokenizers.main()
    chat_templates.main()
    gguf_blocks.main()
    page_predictor.main()
    make_cases.main()
    text_cases.main()
    llava_cases.main()
    internvl_cases.main()
    onevision_cases.main()
    videollama2_cases.main()
    files = [p for p in OUT.rglob("*") if p.is_file()]
    total = sum(p.stat().st_size for p in files)
    print(f"{len(files)} files, {total} bytes")
    assert total <= LIMIT, "too much data for the repository"


if __name__ == "__main__":
    main()
