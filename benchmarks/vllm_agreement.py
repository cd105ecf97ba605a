"""Show that vLLM with the plugin gives right answers on this machine.

    python benchmarks/vllm_agreement.py --commit "$(git rev-parse HEAD)"
    python benchmarks/vllm_agreement.py --policies base+lr --modes full eager --runners v2
    python benchmarks/vllm_agreement.py --tiny --out /tmp/agreement.json     # on a CPU too

SmolLM2-135M-Instruct and the bundled adapters, bf16 on a GPU: a context of about 1,000 tokens
passes through plan, act and reflect, each with 16 tokens, then all three and the base model are
asked at once. Once text follows each prompt and every engine is asked for each of its tokens; once
every vLLM engine follows its own greedy tokens, and the embedded engine is asked for each of those.
What is compared are the log-probabilities of the likeliest 20 tokens, and the chosen token:

- the plugin with lragent's embedded engine under the same policy, cache hits included;
- the plugin under `isolated` with stock vLLM;
- an adapter of all modules, outside of the group, alone and beside others, with stock vLLM;
- eager runs, piecewise and full CUDA graphs, under both model runners, with each other.

The tolerance is twice the difference between stock vLLM and the embedded engine, plus what one
engine differs from itself in other batches and graphs. As controls another adapter's answers, and
those of the adapter of all modules without one of them, have to lie outside of it. Writes
benchmarks/results/vllm-agreement-<gpu>.json; several calls add up to one file when hardware,
versions and the package's source agree. Ends with 1 when something failed or differs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving_parts import agreement_cases as plan
from serving_parts import agreement_report as report
from serving_parts import result
from serving_parts.adapters import AGENTS, write_adapters
from serving_parts.agreement_everywhere import write_everywhere
from serving_parts.agreement_pool import EngineError, Task, run_all
from serving_parts.agreement_program import LENGTH, NEEDED, TINY_LENGTH, forced
from serving_parts.call import checked
from serving_parts.dummy_weights import fill
from serving_parts.environment import environment_of
from serving_parts.policies import PLUGIN, STOCK
from serving_parts.shapes import TINY, write_config
from serving_parts.workload import draw

ROOT = Path(__file__).parent.parent
ENDING = 120.0  # seconds kept for the embedded engine when the whole call is limited
Json = dict[str, Any]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--policies", nargs="+", choices=PLUGIN, default=list(plan.POLICIES))
    add("--modes", nargs="+", choices=plan.MODES, help="the first is what others are compared with")
    add("--runners", nargs="+", choices=plan.RUNNERS)
    add("--model", default="smollm2", help="folder of SmolLM2-135M-Instruct")
    add("--tiny", action="store_true", help="a tiny random model, on a CPU too")
    add("--parallel", type=int, help="engines side by side; default 3 on a GPU, else 1")
    add("--engine-limit", type=float, default=120, help="seconds for one engine")
    add("--limit", type=float, default=float("inf"), help="seconds for the whole call")
    add("--commit", help="written into the result; default: the checkout's")
    add("--out", type=Path)
    return parser.parse_args()


def write_tiny(folder: Path) -> Path:
    """A tiny Llama with seeded weights of ordinary size."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(write_config(folder, TINY))
    ).float()
    for seed, (name, parameter) in enumerate(model.named_parameters()):
        fill(name, parameter.data, seed)
    model.save_pretrained(folder)
    return folder


def subject_of(options: argparse.Namespace, folder: Path) -> tuple[str, dict[str, str], list[int]]:
    """Model, adapters, and token ids of running text."""
    if options.tiny:
        adapters = write_adapters(folder / "adapters", TINY, 8)
        ids = draw(TINY.vocab, 2 * (TINY_LENGTH + NEEDED), "agreement")
        return str(write_tiny(folder / "model")), {a: str(adapters[a]) for a in AGENTS}, ids
    from transformers import AutoTokenizer

    from engine import document_ids
    from lragent.agents.demo import demo_adapters
    from lragent.engine.loader import resolve_model

    model = str(resolve_model(options.model))
    folders = demo_adapters()
    ids = document_ids(AutoTokenizer.from_pretrained(model))
    return model, {agent: str(folders[agent]) for agent in AGENTS}, ids


def run(options: argparse.Namespace, on_gpu: bool, cases: list[plan.Case], folder: Path) -> Json:
    """Start all engines; engines with facts or errors, rows, and errors by name."""
    model, adapters, ids = subject_of(options, folder)
    length = TINY_LENGTH if options.tiny else LENGTH
    half = length + NEEDED
    if len(ids) < 2 * half:
        sys.exit(f"the text has {len(ids)} tokens; {2 * half} are needed")
    common: Json = {
        "model": model,
        "adapters": adapters,
        "others": {n: str(p) for n, p in write_everywhere(folder, Path(model), 8).items()},
        "forced": [asdict(step) for step in forced(ids[half:], length)],
    }
    parallel = options.parallel or (3 if on_gpu else 1)
    # Engines side by side: torch would start as many threads and compilers in each as there are
    # cores.
    share = str(max(1, len(os.sched_getaffinity(0)) // parallel))
    shares = {"OMP_NUM_THREADS": share, "TORCHINDUCTOR_COMPILE_THREADS": share}
    environments = {plugin: shares | environment_of(plugin, folder) for plugin in (False, True)}
    deadline = time.monotonic() + options.limit
    tasks = {
        case.name: Task(
            {
                **common,
                "policy": case.policy,
                "settings": plan.settings_of(case, on_gpu, options.tiny),
                "base_apart": case.policy == STOCK and not on_gpu,
                "ids": ids[:half],
                "length": length,
            },
            environments[case.policy != STOCK]
            | {"VLLM_USE_V2_MODEL_RUNNER": "1" if case.runner == "v2" else "0"},
            kin=f"{case.policy}, {case.runner}",
        )
        for case in cases
    }
    answers = run_all(tasks, folder / "vllm", parallel, options.engine_limit, deadline - ENDING)
    served = {n: a for n, a in answers.items() if not isinstance(a, EngineError)}
    policies = dict.fromkeys(["isolated", *(c.policy for c in cases if c.policy != STOCK)])
    own = {
        policy: Task(
            {
                **common,
                "policy": policy,
                "settings": plan.embedded_settings(on_gpu, options.tiny),
                "replays": {
                    case.name: served[case.name]["steps"]
                    for case in cases
                    if case.name in served
                    and ("isolated" if case.policy == STOCK else case.policy) == policy
                },
            },
            environments[False],
            kin=policy,
        )
        for policy in policies
    }
    replies = run_all(own, folder / "embedded", parallel, options.engine_limit, deadline)
    embedded = {n: a for n, a in replies.items() if not isinstance(a, EngineError)}
    everything = {**answers, **{f"embedded, {name}": reply for name, reply in replies.items()}}
    return {
        "engines": {
            name: {"error": str(a)} if isinstance(a, EngineError) else a["facts"]
            for name, a in everything.items()
        },
        "rows": report.rows_of(cases, served, embedded, plan.GPU_PAGE if on_gpu else plan.CPU_PAGE),
    }


def merged(old: Json | None, new: Json) -> Json:
    """The earlier calls' engines and rows with this call's.

    Raises:
        result.MergeError: the file is of another machine, version or source.
    """
    if old is None:
        return new
    result.check_identity(old, new)
    rows = {(row["kind"], row["subject"], row["against"]): row for row in old["rows"] + new["rows"]}
    return {**new, "engines": {**old["engines"], **new["engines"]}, "rows": list(rows.values())}


def main() -> int:
    """Run, write, print; 1 when something failed or differs."""
    options = arguments()
    call = checked(options, ROOT)
    on_gpu = call.on_gpu
    results = ROOT / "benchmarks" / "results"
    path = options.out or results / result.file_name(call.hardware["device"], "vllm-agreement")
    identity = call.identity(
        "tiny Llama, random" if options.tiny else "SmolLM2-135M-Instruct, demo adapters"
    )
    old = result.load(path)
    if old is not None:
        try:
            result.check_identity(old, identity)
        except result.MergeError as error:
            sys.exit(str(error))
    modes = options.modes or (list(plan.MODES) if on_gpu else ["eager"])
    runners = options.runners or (list(plan.RUNNERS) if on_gpu else ["v1"])
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lragent-agreement-") as name:
        new = run(options, on_gpu, plan.cases_of(options.policies, modes, runners), Path(name))
    new["rows"] = [{**row, "commit": call.commit} for row in new["rows"]]
    result.save(path, merged(old, {**identity, **new}))
    failed = {name: facts["error"] for name, facts in new["engines"].items() if "error" in facts}
    for name, why in failed.items():
        print(f"--- {name}: {why}")
    print("\n".join(report.table(new["rows"], failed)))
    wrong = [row for row in new["rows"] if not row.get("holds", True)]
    print(f"{len(failed)} failed, {len(wrong)} differ, {time.monotonic() - begin:.0f} s; {path}")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
