#!/usr/bin/env python3
"""How many answers a minute `purekv serve`, llama.cpp's llama-server and OpenVINO GenAI's continuous batching give about one text that all
questions share. Python's standard library alone; the engines are theirs (README.md says how they come here).

    peers.py MODEL.gguf --text FILE [--directory DIR] [--llama-server PROGRAM] [--openvino PYTHON IR]... [--rounds 2]

MODEL.gguf is what purekv and llama-server read; DIR and an IR are the same weights, quantised by purekv and by OpenVINO. Every engine starts anew for each round and number
of people, and has answered as many people as then ask before the clock starts, so that each of its places may have read the text already.
Answers end at --tokens; their mean length is printed, because an answer that ends before is cheaper. Engines take turns, round by round.
"""
import argparse
import pathlib
import socket
import statistics

from bench import Server, purekv, run

QUESTIONS = ["Explain in detail what this text is about.", "Retell the beginning at length.", "Retell the end at length.", "Describe every part of it, one after the other.",
             "Write a long summary of it.", "Explain to a beginner what it says.", "List all conditions that it states, with reasons.", "Write a letter about it to a friend.",
             "What are its main points? Write a paragraph about each.", "Write an introduction to it.", "Compare its first half with its second half in detail.",
             "Write an essay about its purpose.", "Explain its most difficult sentence at length.", "Write a dialogue of two people about it.",
             "Describe who wrote it and for whom, with reasons.", "Write down what a critic would say about it."]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def engines(options):
    """{name: (command, port or None, whether the text's end is marked)}"""
    full, small = ["--kv-policy", "full"], ["--kv-policy", "purekv", "--kv-budget", "0.2"]
    found = {"purekv, full cache": (purekv(options.program, options.model, full), None, False),
             "purekv at 20 %, text marked": (purekv(options.program, options.model, small), None, True)}
    if options.directory:
        int4 = ["--weights", "int4", "--weights-option", "group=64"]
        found["purekv int4, full cache"] = (purekv(options.program, options.directory, int4 + full), None, False)
        found["purekv int4 at 20 %, text marked"] = (purekv(options.program, options.directory, int4 + small), None, True)
    if options.llama_server:
        port = free_port()
        found["llama-server"] = ([options.llama_server, "-m", options.model, "--port", port, "-t", 2, "-np", 8, "-c", 8 * options.places, "--no-webui"], port, False)
    here = pathlib.Path(__file__).resolve().parent
    for python, model in options.openvino or ():
        found[f"OpenVINO GenAI, {pathlib.Path(model).name}"] = ([python, here / "openvino_server.py", model], None, False)
    return found


def measure(options, engine, people, text):
    command, port, marked = engine
    server = Server(command, port)
    try:
        def about(question):
            if not marked:
                return [{"role": "user", "content": f"{text}\n\n{question}"}]
            return [{"role": "user", "content": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": question}]}]
        cold = server.ask(about("Who wrote this?"), 1)[0]
        run(server, people, [about(f"What is said first? ({i})") for i in range(people)], 8)
        rows, seconds = run(server, people, [about(QUESTIONS[i % len(QUESTIONS)]) for i in range(options.questions)], options.tokens)
        first = sorted(row[0] for row in rows)
        return {"answers a minute": 60 * len(rows) / seconds, "first token, median": statistics.median(first), "95 %": first[min(len(first) - 1, round(0.95 * len(first)))],
                "text read": cold, "tokens": statistics.mean(row[2] for row in rows), "GiB": server.peak()}
    finally:
        server.stop()


def cell(values, digits):
    middle = statistics.median(values)
    return f"{middle:.{digits}f}" + (f" ({min(values):.{digits}f}..{max(values):.{digits}f})" if len(values) > 1 else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--program", default=str(pathlib.Path(__file__).resolve().parents[2] / "build/release/bin/purekv"))
    parser.add_argument("--directory", help="the same weights as a directory, which purekv makes int4")
    parser.add_argument("--llama-server")
    parser.add_argument("--openvino", nargs=2, action="append", metavar=("PYTHON", "IR"))
    parser.add_argument("--people", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 8])
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--places", type=int, default=4096, help="tokens that one of eight has room for in llama-server")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    text, found, figures = options.text.read_text(encoding="utf-8"), engines(options), {}
    for _ in range(options.rounds):
        for people in options.people:
            for name, engine in found.items():
                for key, value in measure(options, engine, people, text).items():
                    figures.setdefault((people, name), {}).setdefault(key, []).append(value)
                print(people, name, {key: round(values[-1], 3) for key, values in figures[people, name].items()}, flush=True)
    print("\n| people | engine | answers a minute | first token, median | 95 % | the text alone | tokens of an answer | peak memory |\n|---|---|---|---|---|---|---|---|")
    for (people, name), of in figures.items():
        print(f"| {people} | {name} | {cell(of['answers a minute'], 1)} | {cell(of['first token, median'], 3)} s | {cell(of['95 %'], 3)} s "
              f"| {cell(of['text read'], 1)} s | {statistics.mean(of['tokens']):.1f} | {max(of['GiB']):.2f} GiB |")


if __name__ == "__main__":
    main()
