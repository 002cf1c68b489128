#!/usr/bin/env python3
"""Writes a benchmark of long contexts for `purekv eval`: questions.jsonl, texts/ and manifest.json.

    tools/long_context/make.py DIR [--lengths 1k,3k,7k] [--documents 15] [--code 15] [--seed 1]

The texts are those that every Debian machine with Python has (texts.py); facts.py strews sentences into them. Of every length there are
--documents documents (licences, Python's manual, Python's modules in turn) with nine questions each:

    needle   2  one fact out of five of its form
    several  2  two facts of one form in one answer
    lookup   2  the value of a key in a table that stands in three pieces
    changed  2  a fact that is said twice: the later one counts
    summary  1  five sentences; has no right answer: what counts is how near the full cache's own answer stays (kl, agreement)

and --code files cut off where a function's body begins, to be continued (`code`, judged as summary is). The question as a second turn
is `purekv eval --when context` over the same data. The same seed, texts and Python's random() give the same bytes.
Python's standard library only.
"""
import argparse
import hashlib
import json
import pathlib
import platform
import random
import re
import sys

import facts
import texts

TASKS = ("needle", "several", "lookup", "changed", "summary", "code")
KINDS = ("licence", "manual", "module")
SUMMARY = "Summarise the text above in five sentences.\nSummary:"
CODE = "The Python file above stops in the middle. Continue it: write the body of the function {name}, only code.\n"


def record(identity, question, length, tokens, text_file, sources):
    """A line of the data: what eval reads, and what people may want to know (`tokens` is the size aimed at, without the prompt)."""
    line = {"id": identity, "type": question.task, "length": length, "text_file": text_file, "prompt": question.prompt,
            "answer": question.answer}
    if question.contains:
        line["contains"] = list(question.contains)
        line["lacks"] = list(question.lacks)
    line.update(tokens=tokens, sources=sources)
    return line


def strewn_document(draw, passages, kind, tokens):
    """A text with facts in it, about so long, the names of its sources, and the facts."""
    size = int(tokens * texts.CHARACTERS_PER_TOKEN[kind])
    # Values must not stand in the text, and the text's length depends on the facts: drawn for all that the text may be.
    paragraphs, names = passages.take(size)
    found = facts.Facts(draw, "\n".join(paragraphs))
    left = size - found.size()
    if left < size // 3:
        raise texts.Problem(f"{tokens} tokens are too few for {found.size()} characters of facts")
    paragraphs = texts.cut(paragraphs, left)
    return facts.strew(draw, paragraphs, found.groups), names, found


def code_contexts(draw, modules, tokens, count):
    """(text, function) of modules that are long enough, each module once while there are enough of them."""
    size = int(tokens * texts.CHARACTERS_PER_TOKEN["module"])
    found = []
    while len(found) < count:
        before = len(found)
        for module in draw.shuffled(modules):
            candidates = [one for one in texts.functions(module) if len(one.before) >= 0.9 * size]
            if not candidates or len(found) == count:
                continue
            # The nearest to the file's beginning of what is long enough, or one of the next: a file is read from its head.
            function = candidates[draw.below(min(3, len(candidates)))]
            text = function.before
            if len(text) > size:
                text = text[text.index("\n", len(text) - size) + 1:]
            found.append((text, function))
        if len(found) == before:
            raise texts.Problem(f"no module of Python's holds a function behind {size} characters")
    return found


def build(seed, lengths, documents, code, sources):
    """All records, in the order of lengths and documents, and the texts by file name. `sources`: lists by kind."""
    records, files = [], {}
    kinds = [kind for kind in KINDS if sources.get(kind)]
    for length, tokens in lengths:
        # Each length by itself: another list of lengths leaves its questions as they are.
        draw = texts.Draw(random.Random(f"{seed}/{length}"))
        passages = {kind: texts.Passages(draw, sources[kind]) for kind in kinds}
        for number in range(documents):
            kind = kinds[number % len(kinds)]
            text, names, found = strewn_document(draw, passages[kind], kind, tokens)
            name = f"texts/{length}-{number:02}.txt"
            files[name] = text + "\n"
            counts = {}
            for question in found.questions + [facts.Question("summary", SUMMARY, f"A text from {', '.join(names)}", [], [])]:
                counts[question.task] = counts.get(question.task, 0) + 1
                identity = f"{question.task}-{length}-{number:02}-{counts[question.task]}"
                records.append(record(identity, question, length, tokens, name, names))
        for number, (text, function) in enumerate(code_contexts(draw, sources["module"], tokens, code) if code else []):
            name = f"texts/{length}-code-{number:02}.txt"
            files[name] = text
            question = facts.Question("code", CODE.format(name=function.name), function.rest, [], [])
            records.append(record(f"code-{length}-{number:02}", question, length, tokens, name, [function.module]))
    return records, files


def check(records, files):
    """What a benchmark must hold, whatever the texts are: raises Problem."""
    seen = set()
    for one in records:
        text = files[one["text_file"]]
        if one["id"] in seen:
            raise texts.Problem(f"{one['id']} appears twice")
        seen.add(one["id"])
        words = set(re.findall(r"\w+", text.lower()))
        for value in one.get("contains", []) + one.get("lacks", []):
            if value not in words:
                raise texts.Problem(f"{one['id']}: '{value}' does not stand in {one['text_file']}")
        for value in one.get("contains", []):
            # A needle stands once: said anywhere else it could be found without having been kept.
            if len(re.findall(rf"\b{value}\b", text.lower())) != 1:
                raise texts.Problem(f"{one['id']}: '{value}' stands more than once in {one['text_file']}")


def lengths_of(text):
    """"1k,3k,500" as names and tokens."""
    found = []
    for name in text.split(","):
        if not re.fullmatch(r"[1-9]\d{0,5}k?", name):
            raise argparse.ArgumentTypeError(f"'{name}' is no length such as 3k or 800")
        tokens = int(name.rstrip("k")) * (1000 if name.endswith("k") else 1)
        if not 500 <= tokens <= 200_000:
            raise argparse.ArgumentTypeError(f"'{name}': out of range (500 to 200k)")
        if name in dict(found):
            raise argparse.ArgumentTypeError(f"'{name}' is given twice")
        found.append((name, tokens))
    return found


def count_of(text):
    if not re.fullmatch(r"\d{1,4}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no count from 0 to 9999")
    return int(text)


def write(folder, records, files, manifest):
    (folder / "texts").mkdir(parents=True, exist_ok=True)
    for old in (folder / "texts").glob("*.txt"):
        if f"texts/{old.name}" not in files:
            old.unlink()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8", newline="\n")
    total = hashlib.sha256(lines.encode())
    for name in sorted(files):
        total.update(files[name].encode())
    manifest["sha256"] = total.hexdigest()  # of the benchmark: equal digests are equal questions over equal texts
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest["sha256"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path, help="where the benchmark goes; a folder of its own")
    parser.add_argument("--lengths", type=lengths_of, default=lengths_of("1k,3k,7k"), help="tokens of the contexts, roughly")
    parser.add_argument("--documents", type=count_of, default=15, help="documents of each length, nine questions each (default 15)")
    parser.add_argument("--code", type=count_of, default=15, help="files to be continued, of each length (default 15)")
    parser.add_argument("--seed", type=count_of, default=1)
    arguments = parser.parse_args()
    try:
        sources = {"licence": texts.licences(), "manual": texts.manual(), "module": texts.modules()}
        records, files = build(arguments.seed, arguments.lengths, arguments.documents, arguments.code, sources)
        if not records:
            raise texts.Problem("no question: --documents and --code are both 0")
        check(records, files)
        manifest = {"seed": arguments.seed, "lengths": [name for name, _ in arguments.lengths], "documents": arguments.documents,
                    "code": arguments.code, "python": platform.python_version(),
                    "questions": {task: sum(one["type"] == task for one in records) for task in TASKS},
                    "sources": {kind: {"texts": len(some), "sha256": texts.digest(some)} for kind, some in sources.items()}}
        total = write(arguments.directory, records, files, manifest)
    except (texts.Problem, OSError) as problem:
        print(f"make.py: {problem}", file=sys.stderr)
        return 1
    print(f"{arguments.directory}/questions.jsonl: {len(records)} questions about {len(files)} texts, SHA-256 {total[:16]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
