"""Questions and answers about a scene, with the evidence each answer rests on.

Answers are short sentences whose words also occur in the long description, so that every question type helps the
others. A description names every event in order of appearance and has at least 25 words for two objects or more.
"""
from dataclasses import dataclass

NUMBERS = ("zero", "one", "two", "three", "four", "five")
TYPES = ("colour", "shape", "place", "time", "order", "count", "motion", "describe")
WHEN = {"early": "early in the video", "middle": "in the middle of the video", "late": "late in the video"}
MOVE = {"still": "stays still", "left": "moves to the left", "right": "moves to the right", "up": "moves up",
        "down": "moves down"}
ASK = {
    "colour": ("What colour is the {shape}?", "Which colour does the {shape} have?", "The {shape} in the video has what colour?"),
    "shape": ("What shape is the {colour} object?", "Which shape does the {colour} object have?",
              "The {colour} object in the video has what shape?"),
    "place": ("Where does the {name} appear?", "Where is the {name}?", "In which part of the picture does the {name} appear?"),
    "time": ("When does the {name} appear?", "Does the {name} appear early, in the middle or late?",
             "In which part of the video does the {name} appear?"),
    "motion": ("Which way does the {name} move?", "How does the {name} move?", "In which direction does the {name} move?"),
    "count": ("How many objects appear?", "How many objects are in the video?", "Count the objects that appear in the video."),
    "first": ("Which object appears first?", "What came first?", "Which object appears before all others?"),
    "last": ("Which object appears last?", "What came last?", "Which object appears after all others?"),
    "pair": ("What came first, the {a} or the {b}?", "Which object appears first, the {a} or the {b}?"),
    "describe": ("Describe everything that happens, in order.", "Describe the video.", "What happens in the video? Tell everything in order."),
}


@dataclass
class Question:
    type: str
    prompt: str
    answer: str
    objects: tuple        # indices of the objects that hold the evidence
    by_shape: tuple = ()  # (shape, colour) of the object where the prompt names its shape alone


def sentence(scene, k):
    """What object k does, as one sentence of the description (14 words at least)."""
    obj = scene.objects[k]
    lead = "First" if k == 0 else "Then"
    return (f"{lead} a {obj.name} appears at the {scene.place_of(obj)} {WHEN[scene.time_of(obj)]} "
            f"and {MOVE[obj.motion]}.")


def describe(scene):
    return " ".join(sentence(scene, k) for k in range(len(scene.objects)))


def about_object(kind, scene, k, wording, by_shape=False):
    """A question of one of the five types about a single object; `by_shape` names it by its shape alone, which is
    unique too. (Named by both, an object is found by its colour: a model trained so answered what colour a shape has
    little better than chance after 3,400 steps, having never had to look for a shape.)"""
    obj = scene.objects[k]
    prompt = ASK[kind][wording].format(shape=obj.shape, colour=obj.colour, name=obj.shape if by_shape else obj.name)
    answer = {"colour": f"It is {obj.colour}.", "shape": f"It is a {obj.shape}.",
              "place": f"It appears at the {scene.place_of(obj)}.",
              "time": f"It appears {WHEN[scene.time_of(obj)]}.", "motion": f"It {MOVE[obj.motion]}."}[kind]
    alone = kind == "colour" or by_shape and kind != "shape"
    return Question(kind, prompt, answer, (k,), (obj.shape, obj.colour) if alone else ())


SHORT_TYPES = ("colour", "shape", "place", "time", "motion", "order", "count")


def short_question(rng, scene, kind, by_shape=0.0):
    """One short question of a type about a random object; None where the scene has too few objects."""
    n = len(scene.objects)
    if kind == "order":
        return order_question(rng, scene) if n >= 2 else None
    if kind == "count":
        return count_question(scene, int(rng.integers(len(ASK["count"]))))
    return about_object(kind, scene, int(rng.integers(n)), int(rng.integers(len(ASK[kind]))), rng.random() < by_shape)


def ask(rng, scene, short, shares=None, by_shape=0.0):
    """`short` random short questions about a scene, every type present, and the description. With `shares` (one per
    SHORT_TYPES, sum 1) the types are drawn by them instead: a training run spends its time on what it cannot do yet."""
    n = len(scene.objects)
    if shares is not None:
        kinds, out = [], []
    else:
        kinds, shares = ("colour", "shape", "place", "time", "motion", "count", "order"), (.14, .12, .14, .14, .16, .2, .1)
        out = [q for q in (short_question(rng, scene, kind, by_shape) for kind in kinds) if q]
    while len(out) < short:
        question = short_question(rng, scene, str(rng.choice(SHORT_TYPES, p=shares)), by_shape)
        out += [question] if question else []
    if kinds:
        out = [out[i] for i in rng.permutation(len(out))][:short]
    return out, Question("describe", str(rng.choice(ASK["describe"])), describe(scene), tuple(range(n)))


def count_question(scene, wording):
    n = len(scene.objects)
    answer = "There is one object." if n == 1 else f"There are {NUMBERS[n]} objects."
    return Question("count", ASK["count"][wording], answer, tuple(range(n)))


def order_question(rng, scene):
    """First of all, last of all, or the first of two named objects."""
    n = len(scene.objects)
    kind = str(rng.choice(("first", "last", "pair")))
    if kind == "pair":
        i, j = sorted(int(v) for v in rng.permutation(n)[:2])
        a, b = (i, j) if rng.random() < 0.5 else (j, i)
        prompt = str(rng.choice(ASK["pair"])).format(a=scene.objects[a].name, b=scene.objects[b].name)
        return Question("order", prompt, f"The {scene.objects[i].name}.", (i, j))
    k = 0 if kind == "first" else n - 1
    return Question("order", str(rng.choice(ASK[kind])), f"The {scene.objects[k].name}.", tuple(range(n)))


def events(text):
    """The events of a description as a list of (colour, shape, place, time, motion): what 'exact events' compares."""
    found = []
    for part in text.strip().split("."):
        words = part.replace(",", " ").split()
        if not words:
            continue
        joined = " ".join(words)
        place = next((f"{v} {h}" for v in ("top", "bottom") for h in ("left", "right") if f"at the {v} {h}" in joined), None)
        when = next((t for t, w in WHEN.items() if w in joined), None)
        move = next((m for m, w in MOVE.items() if joined.endswith(w)), None)
        found.append((words[2] if len(words) > 3 else None, words[3] if len(words) > 3 else None, place, when, move))
    return found


def corpus():
    """Every template filled with every word: what the tokenizer is trained on."""
    from scenes import COLOUR_NAMES, SHAPES
    lines = ["You are a helpful assistant."] * 40 + ["system\n", "user\n", "assistant\n"] * 40
    for colour in COLOUR_NAMES:
        for shape in SHAPES:
            name = f"{colour} {shape}"
            for forms in ASK.values():
                for form in forms:
                    lines.append(form.format(shape=shape, colour=colour, name=name, a=name, b=name))
            for v in ("top", "bottom"):
                for h in ("left", "right"):
                    for when in WHEN.values():
                        for move in MOVE.values():
                            lines.append(f"First a {name} appears at the {v} {h} {when} and {move}.")
                            lines.append(f"Then a {name} appears at the {v} {h} {when} and {move}.")
            lines += [f"It is {colour}.", f"It is a {shape}.", f"The {name}."]
    for number in NUMBERS:
        lines += [f"There are {number} objects.", "There is one object."] * 20
    for move in MOVE.values():
        lines += [f"It {move}."] * 20
    return lines
