"""What the cases are made from: models, media, and questions, most of them files of the repository."""
import json
import pathlib
import shutil
import subprocess

from harness import SOURCE

DEMO = SOURCE / "models/demo"
DATA = SOURCE / "tests/data"
REFERENCE = DATA / "reference"

# Short things that decode within milliseconds. Every container, codec and picture format of the tests is among them.
VIDEOS = sorted(path for path in (DATA / "media").iterdir()
                if path.suffix in (".mp4", ".ts", ".mkv", ".avi", ".webm") and path.stem != "audio_only")
DEMO_VIDEOS = [DEMO / f"eval/short-{number:02d}.mp4" for number in (0, 3, 7, 11)]
IMAGES = sorted(path for path in (DATA / "media").iterdir() if path.suffix in (".png", ".jpg", ".webp"))
IMAGES = [path for path in IMAGES if path.name != "animated.webp"] + sorted((REFERENCE / "media").glob("*.png"))
CONTEXTS = [DATA / "eval/mvbench.json", DATA / "eval/milebench.json", SOURCE / "CONTRIBUTING.md"]
FRAMES = sorted((REFERENCE / "media").glob("*.npy"))
TEXTS = ["Describe the video.", "What colour is the square?", "Größe? 何色ですか", "", " ", "a", "one\ntwo\ttabs",
         "<|im_end|>", "<|video_pad|> <|image_pad|>", "{{ messages }} {% for x in y %}", "very long " * 60, "\U0001f600" * 9]
ANSWERS = ["It is red.", "First a purple square appears.", "ß", "two", "\n", "<|im_end|>"]


class Model:
    """A model directory and the sizes in its config.json, read here and not by the program."""

    def __init__(self, folder, name):
        self.folder, self.name = pathlib.Path(folder), name
        root = json.loads((self.folder / "config.json").read_text())
        text = root.get("text_config", root)
        self.layers = text["num_hidden_layers"]
        self.kv_heads = text["num_key_value_heads"]
        self.head_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
        self.vocabulary = text["vocab_size"]
        self.image_id, self.video_id = root["image_token_id"], root["video_token_id"]
        self.merged_cell = root["vision_config"].get("spatial_merge_size", 2) ** 2

    def entry_bytes(self, dtype):
        """Key and value of one token in one head."""
        return 2 * self.head_dim * {"bf16": 2, "f32": 4}[dtype]


def demo_model():
    return Model(DEMO, "demo")


def reference_models(program, folder):
    """The tiny models of tests/data/reference with random weights: other families, head sizes, config forms."""
    tool = program.path.parent / "purekv-make-random-model"
    models = []
    for path in sorted(REFERENCE.glob("qwen*/case.json")):
        case = json.loads(path.read_text())
        if "vision_config" not in json.loads((path.parent / "config.json").read_text()):
            continue  # reads text alone: the draws here are about pictures
        place = pathlib.Path(folder) / case["name"]
        place.mkdir()
        for source, names in ((path.parent, case["model_files"]), (path.parent / case["tokenizer"], case["tokenizer_files"])):
            for name in names:
                shutil.copy(source / name, place / name)
        subprocess.run([str(tool), str(place), "--seed", str(case["seed"]), "--dtype", case["dtype"], "--layout",
                        case["layout"], "--shards", str(case["shards"])], check=True)
        models.append(Model(place, case["name"]))
    return models
