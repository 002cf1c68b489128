#!/usr/bin/env python3
"""The tasks of MileBench, how each is judged, and under which policies it is asked.

    tools/milebench/tasks.py                    # the tasks, a line each
    tools/milebench/tasks.py --policies ALFRED  # the list for `purekv eval --policies`

Groups are those of the MileBench paper (arXiv 2404.18532): realistic temporal (T) and semantic (S), needles (N), image retrieval (I).
cross_ratio and recent_bias are those of the CSP authors' configs/7b.yaml (github.com/TerryPei/CSP), by which they made their figures for
LLaVA-1.5-7B; their paper's text names the two biases the other way round. Python's standard library only.
"""
import argparse
import collections
import sys

Csp = collections.namedtuple("Csp", "cross_ratio recent_bias", defaults=(0.5, 1))

GROUPS = {
    "T": ("ActionLocalization", "ActionPrediction", "ActionSequence", "CharacterOrder", "CounterfactualInference", "EgocentricNavigation",
          "MovingAttribute", "MovingDirection", "ObjectExistence", "ObjectInteraction", "ObjectShuffle", "SceneTransition", "StateChange"),
    "S": ("ALFRED", "CLEVR-Change", "DocVQA", "IEdit", "MMCoQA", "MultiModalQA", "nuscenes", "OCR-VQA", "SlideVQA", "Spot-the-Diff", "TQA",
          "WebQA", "WikiVQA"),
    "N": ("TextNeedleInAHaystack", "ImageNeedleInAHaystack"),
    "I": ("GPR1200",),
}
GROUP_NAMES = {"T": "temporal", "S": "semantic", "N": "needle", "I": "image retrieval"}
# What differs from Csp().
CSP = {name: Csp(0.1) for name in ("ActionLocalization", "ActionSequence", "CLEVR-Change", "CounterfactualInference", "DocVQA", "SceneTransition")}
CSP |= {name: Csp(0.9) for name in ("MultiModalQA", "Spot-the-Diff", "WebQA")}
CSP |= {"ActionPrediction": Csp(0), "EgocentricNavigation": Csp(recent_bias=1.5), "SlideVQA": Csp(recent_bias=0.5)}
# A tenth of the prompt for what is attended to, a tenth for the latest; both baselines and CSP observe the last tenth, half the budget
# (docs/policies.md: snapkv's window is cut to that).
BUDGET = 0.2
SNAPKV = "snapkv:window=4096"
OTHERS = ("random", "uniform", "h2o", SNAPKV, "look-m:sinks=0")


def group_of(task):
    """T, S, N, I; "-" for a task that the paper does not have."""
    return next((group for group, names in GROUPS.items() if task in names), "-")


def kind_of(task, question_type):
    """How MileBench judges: "choice", "rouge-l", "word" (the answer has the reference as a word), "part" (somewhere in it); None: unknown."""
    if "NeedleInAHaystack" in task:
        return "word"
    if "MMCoQA" in task:
        return "part"
    return {"multi-choice": "choice", "open-ended": "rouge-l"}.get(question_type)


def csp_of(task):
    """CSP's policy for a task. Half the budget is for the latest entries; a bias above 1 is cut to that half by the engine."""
    setting = CSP.get(task, Csp())
    return f"csp:window=half:cross_ratio={setting.cross_ratio:g}:recent_ratio={0.5 * setting.recent_bias:g}"


def policies_of(task):
    return [csp_of(task), *OTHERS]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policies", metavar="TASK", help="print the policies of a task, with commas between")
    parser.add_argument("--budget", action="store_true", help="print the share of the prompt that is kept")
    arguments = parser.parse_args(argv)
    if arguments.budget:
        print(f"{BUDGET:g}")
        return 0
    if arguments.policies:
        print(",".join(policies_of(arguments.policies)))
        return 0
    for group, names in GROUPS.items():
        for name in names:
            print(f"{group} {name} {csp_of(name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
