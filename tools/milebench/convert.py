#!/usr/bin/env python3
"""Writes MileBench's tasks, as they are published, as questions for `purekv eval`: texts and images in the order of their contexts.

    tools/milebench/convert.py DATA OUT [--tasks ALFRED,GPR1200] [--positions 4096] [--image-tokens 576] [--answer-tokens 512]

DATA holds <task>/<task>.json and <task>/images/. OUT/<task>.jsonl gets a line per sample; images are named below DATA, which is what
`--media-root` must say. What does not fit the model is cut as MileBench does: the instruction stays, and of the rest the end. Python's
standard library only.
"""
import argparse
import collections
import json
import math
import pathlib
import re
import sys

import scores
import tasks

IMAGES = (".jpg", ".jpeg", ".png", ".webp")  # what `purekv eval` takes for an image
PLACE = re.compile(r"\{(?:image|table)#([0-9]{1,6})\}")
TEMPLATE_TOKENS = 96  # the chat template's own, and room for estimates that are too low
# Runs of letters, of which a token holds four or so; everything else takes a token a character, three where it is not ASCII.
PIECE = re.compile(r"[A-Za-z]+|[^\sA-Za-z]")

Room = collections.namedtuple("Room", "tokens image")  # for a prompt; of these an image takes


class Problem(Exception):
    """One line for people."""


def estimated_tokens(text):
    """Of a text, without the model's tokenizer: rather too many for English and numbers under a vocabulary of 32,000."""
    count = 0
    for piece in PIECE.findall(text):
        count += math.ceil(len(piece) / 4) if piece.isalpha() and piece.isascii() else 1 if piece.isascii() else 3
    return count + text.count("\n")


def field(record, key, kind, where):
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind) or (kind is list and not value):
        raise Problem(f"{where}: {key}: {'a list that is not empty' if kind is list else 'a text' if kind is str else 'an object'} is needed")
    return value


def texts(record, key, where):
    """A list of texts; numbers among them become texts, as MileBench takes them."""
    return [text if isinstance(text, str) else str(text) for text in field(record, key, list, where)]


def with_choices(task, context, choices):
    """The options under the question. GPR1200 has more of them than letters: its own are answered by name."""
    letters = task != "GPR1200"
    lines = [(f"{chr(ord('A') + i)}. " if letters else "") + choice for i, choice in enumerate(choices)]
    return "\n".join([context, "Choice list: ", *lines, "Your answer is: "])


def pieces_of(context, images):
    """A context as texts (str) and images (int, counted from 0), in order. An image that is named again is `[image 3]`, as a number of none
    is left as it is; images that are not named come first, on lines of their own."""
    named = {int(one[1]) for one in PLACE.finditer(context)}
    context = "".join(f"{{image#{i}}}\n" for i in range(1, images + 1) if i not in named) + context
    pieces, seen, at = [""], set(), 0
    for place in PLACE.finditer(context):
        number = int(place[1])
        pieces[-1] += context[at:place.start()]
        at = place.end()
        if not 1 <= number <= images:
            pieces[-1] += place[0]
        elif number in seen:
            pieces[-1] += f"[image {number}]"
        else:
            seen.add(number)
            pieces += [number - 1, ""]
    pieces[-1] += context[at:]
    # As MileBench's LLaVA has two images next to one another (CLEVR-Change): a line each.
    for i in range(1, len(pieces) - 2, 2):
        if pieces[i + 1] == "":
            pieces[i + 1] = "\n"
            if pieces[i + 3] and not pieces[i + 3].startswith("\n"):
                pieces[i + 3] = "\n" + pieces[i + 3]
    return pieces


def cut(pieces, room):
    """The end of the pieces that fits, from a whole text or image on; of the last text its end, so that one image stays."""
    last = pieces[-1]
    most = room.tokens - room.image
    if estimated_tokens(last) > most:
        low, high = 0, len(last)  # the earliest beginning that fits
        while low < high:
            middle = (low + high) // 2
            if estimated_tokens(last[middle:]) > most:
                low = middle + 1
            else:
                high = middle
        last = last[low:]
    kept, used = [last], estimated_tokens(last)
    for piece in reversed(pieces[:-1]):
        used += room.image if isinstance(piece, int) else estimated_tokens(piece)
        if used > room.tokens:
            break
        kept.insert(0, piece)
    return kept


def convert_sample(data, task, kind, instructions, sample, where, room):
    """The line of a sample, and whether something was cut."""
    instance = field(sample, "task_instance", dict, where)
    number = sample.get("task_instruction_id")
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(instructions):
        raise Problem(f"{where}: task_instruction_id: {number!r} is none of the {len(instructions)} instructions")
    context = field(instance, "context", str, where)
    images = texts(instance, "images_path", where)
    response = str(sample.get("response", "")).strip()
    if not response:
        raise Problem(f"{where}: response: empty")
    choices = texts(instance, "choice_list", where) if kind == "choice" or instance.get("choice_list") else []
    if kind == "choice" and scores.clean(response) not in map(scores.clean, choices):
        raise Problem(f"{where}: response: {response[:80]!r} is none of the {len(choices)} choices")
    if choices:
        context = with_choices(task, context, choices)
    paths = [f"{task}/images/{name}" for name in images]
    missing = [path for path in paths if not (data / path).is_file()]
    if missing:
        raise Problem(f"{where}: no such file: {data / missing[0]}" + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""))
    unknown = [path for path in paths if pathlib.PurePath(path).suffix.lower() not in IMAGES]
    if unknown:
        raise Problem(f"{where}: {unknown[0]}: no image; {', '.join(IMAGES)} are")
    instruction = instructions[number] + "\n"
    left = room._replace(tokens=room.tokens - estimated_tokens(instruction))
    if left.tokens <= left.image:
        raise Problem(f"{where}: the instruction leaves no room for an image in {room.tokens} tokens")
    whole = pieces_of(context, len(images))
    pieces = cut(whole, left)
    if isinstance(pieces[0], int):
        pieces.insert(0, "")
    pieces[0] = instruction + pieces[0]
    level = "few" if len(images) < 6 else "medium" if len(images) < 32 else "many"  # as MileBench counts them
    line = {"id": f"{task}-{sample['sample_id']}", "type": task, "length": level, "images": [paths[i] for i in pieces[1::2]],
            "media_texts": pieces[0:-1:2], "prompt": pieces[-1], "answer": response, "judged": kind}
    if choices:
        line["options"] = choices
    return line, len(pieces) < len(whole) or pieces[-1] != whole[-1]


def convert(data, task, room, keep_going=False):
    """(lines, how many were cut, problems) of a task."""
    path = data / task / f"{task}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Problem(f"{path}: no JSON: {error}") from error
    meta = field(document, "meta_data", dict, path)
    kind = tasks.kind_of(task, meta.get("question_type"))
    if kind is None:
        raise Problem(f"{path}: meta_data: question_type: {meta.get('question_type')!r}; multi-choice or open-ended is expected")
    instructions = texts(meta, "task_instruction", path)
    lines, shortened, problems, ids = [], 0, [], set()
    for i, sample in enumerate(field(document, "data", list, path)):
        where = f"{path}: data {i}"
        try:
            if not isinstance(sample, dict) or not isinstance(sample.get("sample_id"), (int, str)):
                raise Problem(f"{where}: sample_id: a number or a text is needed")
            where += f" (sample {sample['sample_id']})"
            if str(sample["sample_id"]) in ids:
                raise Problem(f"{where}: sample_id: is there twice")
            line, was_cut = convert_sample(data, task, kind, instructions, sample, where, room)
        except Problem as problem:
            if not keep_going:
                raise
            problems.append(str(problem))
            continue
        ids.add(str(sample["sample_id"]))
        lines.append(line)
        shortened += was_cut
    return lines, shortened, problems


def tasks_of(data, names):
    """Those that are named, else all of the folder; the paper's first and in its order."""
    there = {path.parent.name for path in data.glob("*/*.json") if path.stem == path.parent.name}
    for name in names or ():
        if name not in there:
            raise Problem(f"{data / name / name}.json: no such file; there {'are ' + ', '.join(sorted(there)) if there else 'is no task'}")
    if not there:
        raise Problem(f"{data}: no task: <task>/<task>.json is expected")
    known = [name for group in tasks.GROUPS.values() for name in group]
    wanted = set(names or there)
    return [name for name in known if name in wanted] + sorted(wanted - set(known))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path, help="the folder of tasks")
    parser.add_argument("out", type=pathlib.Path, help="where <task>.jsonl go")
    parser.add_argument("--tasks", help="with commas between (default: all)")
    parser.add_argument("--positions", type=int, default=4096, help="of the model, prompt and answer together (default 4096)")
    parser.add_argument("--image-tokens", type=int, default=576, help="that an image becomes (default 576)")
    parser.add_argument("--answer-tokens", type=int, default=512, help="left for the answer (default 512)")
    parser.add_argument("--keep-going", action="store_true", help="leave out samples that are wrong, and say so")
    arguments = parser.parse_args(argv)
    room = Room(arguments.positions - arguments.answer_tokens - TEMPLATE_TOKENS, arguments.image_tokens)
    status = 0
    try:
        if room.image < 1 or room.tokens <= room.image:
            raise Problem(f"{arguments.positions} positions less {arguments.answer_tokens} of the answer and {TEMPLATE_TOKENS} of the template "
                          f"hold no image of {room.image} tokens")
        arguments.out.mkdir(parents=True, exist_ok=True)
        for task in tasks_of(arguments.data, arguments.tasks.split(",") if arguments.tasks else None):
            lines, shortened, problems = convert(arguments.data, task, room, arguments.keep_going)
            for problem in problems:
                print(f"convert.py: left out: {problem}", file=sys.stderr)
                status = 1
            if not lines:
                raise Problem(f"{arguments.data / task / task}.json: no sample is left")
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (arguments.out / f"{task}.jsonl").write_text(text, encoding="utf-8")
            print(f"{task}: {len(lines)} samples, {shortened} of them cut to {arguments.positions} positions")
    except (Problem, OSError, UnicodeError) as problem:
        print(f"convert.py: {problem}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
