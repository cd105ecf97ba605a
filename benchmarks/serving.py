"""Measure vLLM with and without the plugin and write benchmarks/results/serving-<gpu>.json.

    python benchmarks/serving.py --parts handover --policies stock bound isolated base+lr
    python benchmarks/serving.py --parts trace --chunks 256 1024 4096
    python benchmarks/serving.py --parts open --data trace_step_lengths.jsonl.gz
    python benchmarks/serving.py --tiny --out /tmp/serving.json

Every engine runs in a process of its own, on the same seeded prompts, on a Llama of the shape of
Llama-3.1-8B with random weights and three adapters on q_proj and v_proj (one A on v_proj). Parts:

- handover: TTFT of a new context, the same adapter again, and the others after it.
- workflow: sessions whose prompt passes plan, act and reflect three times; generated tokens/s.
- trace: LRAgent's 17-step trace, one stream, rank 8; tokens/s, sum of TTFT, peak KV bytes.
- tight: many such streams under a KV budget that holds one copy of their pages but not two.
- open: trajectories of --data arrive at random at rising rates; p50, p90 and p99.

Several calls add up to one file when hardware, versions, model and the package's source agree.
Adapters outside of groups are isolated, so one engine serves ``isolated`` and ``base+lr``. With
--together all engines are started side by side, each with room for what is measured alone, and take
turns, in hand-overs request by request, else repeat by repeat: what slows the machine then slows
all of them. Before the first numbers the plugin under ``isolated`` has to choose stock vLLM's
tokens; without that nothing is written. Figures: benchmarks/serving_figure.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from serving_parts import result, shapes, sizes
from serving_parts.adapters import write_adapters
from serving_parts.call import checked
from serving_parts.campaign import Campaign, GateError
from serving_parts.dummy_weights import LOAD_FORMAT
from serving_parts.jobs import HANDOVER, OPEN, PARTS, WORKFLOW, JobError, make_plan
from serving_parts.policies import NAMES
from serving_parts.summary import summary
from serving_parts.trajectories import read

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
POLICIES = ("stock", "bound", "isolated", "base", "base+lr")
CAPTURED = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
PAGE = 32  # of the tiny model: the smallest that stock vLLM takes on a CPU


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=[HANDOVER, WORKFLOW])
    add("--policies", nargs="+", choices=NAMES, default=POLICIES)
    add("--model", type=Path, help="folder of a Llama; random weights where it has none")
    add("--tiny", action="store_true", help="a tiny model and tiny sizes, on a CPU too")
    add("--repeats", type=int, help="of every case but the workflows")
    add("--workflow-repeats", type=int)
    add("--workflow-seconds", type=float, help="after which no further repeat of one begins")
    add("--together", action="store_true", help="engines side by side, measured in turns")
    add("--handover-only", nargs="+", default=[], choices=NAMES, help="policies to keep short")
    add("--contexts", nargs="+", type=int, help="prompt tokens of the hand-over")
    add("--workflows", nargs="+", help="sessions x prompt tokens, such as 8x2048")
    add("--chunks", nargs="+", type=int, help="C of the traces: 912 + 4 C tokens")
    add("--tight", help="sessions x C, such as 8x4096")
    add("--tight-share", type=float, help="its KV budget over the base pages of all sessions")
    add("--rates", nargs="+", type=float, help="trajectories a second of the open loop")
    add("--open-seconds", type=float, help="for how long they arrive")
    add("--data", type=Path, help="trace_step_lengths.jsonl.gz, for the open loop")
    add("--set", nargs="+", default=[], metavar="NAME=JSON", help="arguments of vllm.LLM")
    add("--set-plugin", nargs="+", default=[], metavar="NAME=JSON", help="where the plugin is on")
    add("--commit", help="written into the result; default: the checkout's")
    add("--out", type=Path, help="result file; default: benchmarks/results/serving-<gpu>.json")
    add("--limit", type=float, help="seconds for the whole call; what is done by then is kept")
    return parser.parse_args()


def pair(text: str | None) -> tuple[int, int] | None:
    """``8x2048`` as two numbers."""
    if text is None:
        return None
    try:
        first, second = map(int, text.split("x"))
    except ValueError:
        sys.exit(f"{text!r} is not of the form 8x2048")
    return first, second


def settings_of(options: argparse.Namespace, on_gpu: bool, has_weights: bool) -> dict[str, Any]:
    """Arguments of ``vllm.LLM`` for all engines."""
    settings: dict[str, Any] = {} if has_weights else {"load_format": LOAD_FORMAT}
    settings |= {"dtype": "bfloat16" if on_gpu else "float32"}
    if options.tiny:
        settings |= {"block_size": PAGE, "max_num_seqs": 16, "kv_cache_memory_bytes": 8 << 20}
        settings |= {"enforce_eager": not on_gpu}
    else:
        settings |= {"max_num_seqs": 128, "max_num_batched_tokens": 8192}
        settings |= {"gpu_memory_utilization": 0.9}
        # vLLM's own list has many more sizes between these: a minute more for each engine.
        settings |= {"compilation_config": {"cudagraph_capture_sizes": CAPTURED}}
    return settings | parsed(options.set)


def parsed(texts: Sequence[str]) -> dict[str, Any]:
    """``NAME=JSON`` as a dictionary."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            sys.exit(f"--set {text!r}: what follows = has to be JSON; strings need quotes")
    return found


def model_of(options: argparse.Namespace, folder: Path) -> tuple[shapes.Shape, Path]:
    """The shape that is measured, and the model's folder; written into `folder` without --model."""
    if options.model is None:
        shape = shapes.TINY if options.tiny else shapes.LLAMA_8B
        return shape, shapes.write_config(folder / "model", shape)
    try:
        return shapes.shape_at(options.model), options.model
    except ValueError as error:
        sys.exit(str(error))


def sizes_of(options: argparse.Namespace, shape: shapes.Shape) -> sizes.Sizes:
    """What is run."""
    chosen = sizes.with_options(
        sizes.SMALL if options.tiny else sizes.FULL,
        vocab=shape.vocab,
        repeats=options.repeats,
        workflow_repeats=options.workflow_repeats,
        workflow_seconds=options.workflow_seconds,
        contexts=options.contexts and tuple(options.contexts),
        workflows=options.workflows and tuple(pair(text) for text in options.workflows),
        chunks=options.chunks and tuple(options.chunks),
        tight=pair(options.tight),
        tight_share=options.tight_share,
        rates=options.rates and tuple(sorted(options.rates)),
        open_seconds=options.open_seconds,
        data=options.data and str(options.data.resolve()),
    )
    if OPEN in options.parts:
        if chosen.data is None:
            sys.exit("the open loop needs --data, a file of trajectories")
        try:
            read(Path(chosen.data), chosen.longest)
        except ValueError as error:
            sys.exit(str(error))
    return chosen


def main() -> None:
    """Measure engine after engine, and write after each."""
    begin = time.monotonic()
    options = arguments()
    call = checked(options, ROOT)
    with tempfile.TemporaryDirectory(prefix="lragent-serving-") as name:
        folder = Path(name)
        shape, model = model_of(options, folder)
        has_weights = any(model.glob("*.safetensors"))
        chosen = sizes_of(options, shape)
        common = settings_of(options, call.on_gpu, has_weights)
        item_bytes = 4 if common["dtype"] == "float32" else 2
        setups = sizes.setups_of(options.parts, shape, chosen, common, item_bytes)
        campaign = Campaign(
            path=options.out or RESULTS / result.file_name(call.hardware["device"], "serving"),
            identity=call.identity(
                f"{shape.name}, {'its own' if has_weights else 'random'} weights"
            ),
            model=str(model),
            adapters={
                rank: write_adapters(folder / f"rank{rank}", shape, rank)
                for rank in {setup.rank for setup in setups}
            },
            sizes=asdict(chosen),
            gate=sizes.GATE_SMALL if options.tiny else sizes.GATE_FULL,
            folder=folder,
            limit=options.limit and options.limit - (time.monotonic() - begin),
            plugin_settings=parsed(options.set_plugin),
            handover_only=options.handover_only,
            shared_settings=partial(
                sizes.shared_settings, shape=shape, sizes=chosen, item_bytes=item_bytes
            ),
        )
        try:
            earlier = campaign.earlier()
            plan = make_plan(setups, options.policies, earlier is None, options.together)
            measured = campaign.run(plan)
        except (result.MergeError, GateError, JobError) as error:
            sys.exit(str(error))
    for entry in summary(measured):
        print(json.dumps(entry))
    print(campaign.path)


if __name__ == "__main__":
    main()
