"""What a program gets is what the commands say, and what goes wrong is an EdgepipeError."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from api.conftest import DEADLINE_S, Programs, where
from cluster.conftest import Cluster, Edgepipe, start_agents

EXACT = {"stages": 2, "split": [2], "dtype": "float32", "codec": "none"}
FLAGS = ("--stages", 2, "--split", 2, "--dtype", "float32", "--codec", "none")
PROMPT = "w5 w6 w7"


def answered(cluster: Cluster, small: Path, max_tokens: int) -> list[int]:
    """By the command."""
    words = ("--prompt", PROMPT, "--max-tokens", max_tokens, "--temperature", 0, *FLAGS)
    return list(cluster.run("run", small, *words, "--json").json["token_ids"])


def test_an_import_takes_nothing_along(programs: Programs) -> None:
    heavy = ["torch", "grpc", "transformers", "numpy", "edgepipe.api"]
    assert programs("print(json.dumps([name for name in heavy if name in sys.modules]))",
                    heavy=heavy) == []  # fmt: skip
    assert programs("print(json.dumps([edgepipe.connect.__name__, edgepipe.__version__]))")[0] == (
        "connect"
    )


def test_nodes_and_plan_are_those_of_the_commands(
    programs: Programs, pair: Cluster, small: Path
) -> None:
    found = programs(
        """
        with edgepipe.connect(**where) as cluster:
            nodes = cluster.nodes()
            plan = cluster.plan(small, **exact)
            print(json.dumps({
                "nodes": [(node.name, str(node.state)) for node in nodes],
                "plan": plan.to_json(),
                "text": str(plan),
                "stages": [stage.node for stage in plan.stages],
                "tokens_per_s": plan.predicted.tokens_per_s,
            }))
        """,
        where=where(pair),
        small=str(small),
        exact=EXACT,
    )
    assert found["nodes"] == [["jan", "alive"], ["joe", "alive"]]
    said = pair.run("plan", small, *FLAGS, "--json").json
    assert said.keys() == found["plan"].keys()
    assert [stage["layers"] for stage in said["stages"]] == [[0, 2], [2, 4]]
    assert [stage["layers"] for stage in found["plan"]["stages"]] == [[0, 2], [2, 4]]
    assert found["stages"] == [stage["node"] for stage in said["stages"]]
    assert found["tokens_per_s"] > 0
    lines = found["text"].splitlines()
    assert [line.split("  ")[1] for line in lines[:2]] == ["jan (cpu)", "joe (cpu)"]
    assert "small: 4 layers in 2 stages, manual split, float32, 1 slot of 4096 tokens" in lines[2]
    assert lines[3].startswith("predicted: ")


def test_answers_are_the_commands_and_share_a_pipeline(
    programs: Programs, pair: Cluster, small: Path
) -> None:
    found = programs(
        """
        with edgepipe.connect(**where) as cluster:
            def ask(max_tokens):
                wanted = dict(max_tokens=max_tokens, temperature=0, **exact)
                return cluster.generate(small, prompt, **wanted)

            def job():
                return [device.lease.job for node in cluster.nodes()
                        for device in node.profile.devices]

            left = ask(4000)
            first = [next(left), next(left)]
            before = job()
            whole = ask(12)
            pieces = list(whole)
            after = job()
            closed = ask(4000)
            next(closed)
            closed.close()
            talk = cluster.generate(small, [{"role": "user", "content": prompt}], seed=3,
                                    max_tokens=4, temperature=0, **exact)
            print(json.dumps({
                "first": first,
                "pieces": pieces,
                "text": whole.text,
                "ids": whole.token_ids,
                "prompt": whole.prompt_token_ids,
                "finish": whole.finish_reason,
                "rest": list(closed),
                "unfinished": closed.finish_reason,
                "figures": [whole.ttft_s, whole.tokens_per_s, whole.predicted_tokens_per_s],
                "talk": [talk.read(), talk.token_ids, talk.seed],
                "jobs": [before, after],
            }))
        """,
        where=where(pair),
        small=str(small),
        prompt=PROMPT,
        exact=EXACT,
    )
    assert found["ids"] == answered(pair, small, 12)
    assert "".join(found["pieces"]) == found["text"]
    assert found["pieces"][:2] == found["first"]
    assert (found["finish"], found["unfinished"], found["rest"]) == ("length", None, [])
    assert min(found["figures"]) > 0
    assert found["prompt"][-1] == 4, "the template ends with w4"
    assert found["talk"][1:] == [found["ids"][:4], 3]
    assert found["jobs"][0] == found["jobs"][1]
    assert len({*found["jobs"][0]}) == 1
    free = pair.run("nodes", "--json").json["nodes"]
    assert not any("lease" in device for node in free for device in node["devices"])


def test_a_saved_plan_answers_and_the_model_gives_way_to_a_plan(
    programs: Programs, pair: Cluster, small: Path
) -> None:
    found = programs(
        """
        with edgepipe.connect(**where) as cluster:
            plan = cluster.plan(small, **exact)
            first = cluster.generate(small, prompt, max_tokens=3, temperature=0, plan=plan).read()
            again = cluster.plan(small, objective="train", mode="full", stages=2)
            print(json.dumps([first, len(again.stages), again.predicted.step_s]))
        """,
        where=where(pair),
        small=str(small),
        prompt=PROMPT,
        exact=EXACT,
    )
    assert found[0].split() == [f"w{token}" for token in answered(pair, small, 3)]
    assert found[1] == 2
    assert found[2] > 0


TRAINING = """
config = {
    "model": small,
    "steps": 4,
    "output": "run",
    "data": {"path": ["texts.jsonl"], "format": "text", "sequence_length": 32, "eval_fraction": 0},
    "batch": {"sequences": 2},
    "run": {"dtype": "float32", "checkpoint_every": 1},
}
"""


def write_texts(folder: Path) -> None:
    lines = [json.dumps({"text": f"w{i} w{i + 1} w{i + 2} w{i + 3}"}) for i in range(5, 13)]
    (folder / "texts.jsonl").write_text("\n".join(lines))


def test_a_run_tells_its_steps_and_ends_with_its_folder(
    programs: Programs, pair: Cluster, small: Path, tmp_path: Path
) -> None:
    write_texts(tmp_path)
    found = programs(
        TRAINING
        + """
class Enough(Exception):
    pass

def stop(step):
    raise Enough

with edgepipe.connect(**where) as cluster:
    try:
        cluster.train(config, on_step=stop, stages=2)
        ended = False
    except Enough:
        ended = True
    steps = []
    whole = cluster.train({**config, "output": "whole"}, on_step=steps.append, stages=2)
    again = cluster.train({**config, "output": "whole"}, resume="whole")
    print(json.dumps({
        "ended": ended,
        "losses": [step.loss for step in steps],
        "folder": str(whole.folder),
        "last": dict(whole.last),
        "is_new": [whole.is_new, again.is_new],
    }))
""",
        where=where(pair),
        small=str(small),
    )
    assert found["ended"]
    assert found["folder"] == str(tmp_path / "whole")
    assert len(found["losses"]) == 4
    assert found["last"]["loss"] == found["losses"][-1]
    assert found["is_new"] == [True, False]
    assert (tmp_path / "whole" / "metrics.jsonl").read_text().count("\n") == 4


WRONG: dict[str, tuple[str, str, str]] = {
    "no such model": ("cluster.plan('./nowhere/at/all')", "ModelError", "no model folder"),
    "no such option": ("cluster.plan(small, stage=2)", "UsageError", "no option 'stage'"),
    "no such word": ("cluster.plan(small, objective='fast')", "UsageError", "objective is one of"),
    "a split that is none": ("cluster.plan(small, split=[9])", "SplitError", "9"),
    "nobody of that name": ("cluster.plan(small, nodes=['zoe'])", "PlanError", "zoe"),
    "plan and cut": (
        "cluster.generate(small, 'w5', plan=cluster.plan(small), stages=1)",
        "UsageError",
        "leave out",
    ),
    "too long": ("cluster.generate(small, 'w5 ' * 5000)", "PromptTooLong", "shorten"),
    "not a config": ("cluster.train({'model': small, 'stepz': 3})", "UsageError", "steps?"),
    "settings of a dict": (
        "cluster.train({'model': small}, settings=['steps=3'])",
        "UsageError",
        "into the dict itself",
    ),
    "no such file": ("cluster.train('none.toml')", "UsageError", "cannot be read"),
    "two ways at once": ("edgepipe.connect(local=2, peers=[])", "UsageError", "leave out peers"),
    "closed": ("cluster.close(); cluster.nodes()", "UsageError", "connect again"),
}


def test_what_goes_wrong_says_what_to_do(programs: Programs, pair: Cluster, small: Path) -> None:
    found = programs(
        """
        from edgepipe.errors import EdgepipeError

        cluster = edgepipe.connect(**where)
        told = []
        for code in codes:
            try:
                exec(code)
            except EdgepipeError as error:
                told.append([type(error).__name__, str(error)])
            else:
                told.append(["nothing", code])
        print(json.dumps(told))
        """,
        where=where(pair),
        small=str(small),
        codes=[code for code, _, _ in WRONG.values()],
    )
    for (kind, sentence), (_, wanted, part) in zip(found, WRONG.values(), strict=True):
        assert kind == wanted, sentence
        assert part in sentence


def test_ctrl_c_ends_the_answer_and_leaves_the_cluster_usable(
    programs: Programs, pair: Cluster, small: Path
) -> None:
    with programs.started(
        """
        with edgepipe.connect(**where) as cluster:
            try:
                for at, piece in enumerate(cluster.generate(small, prompt, max_tokens=4000,
                                                            temperature=0, **exact)):
                    if at == 3:
                        print("now", flush=True)
            except KeyboardInterrupt:
                again = cluster.generate(small, prompt, max_tokens=5, temperature=0, **exact)
                again.read()
                print(json.dumps(again.token_ids))
        """,
        where=where(pair),
        small=str(small),
        prompt=PROMPT,
        exact=EXACT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert json.loads(out) == answered(pair, small, 5)


def test_a_lost_agent_is_told_and_the_next_answer_does_without_it(
    edgepipe: Edgepipe, programs: Programs, small: Path
) -> None:
    with ExitStack() as stack:
        agents = start_agents(stack, edgepipe, ["kim", "lea"])
        started = programs.started(
            """
            from edgepipe.errors import StageError

            with edgepipe.connect(**where) as cluster:
                def ask(max_tokens, **cut):
                    return cluster.generate(small, prompt, max_tokens=max_tokens, temperature=0,
                                            dtype="float32", codec="none", **cut)
                try:
                    for at, piece in enumerate(ask(4000, stages=2)):
                        if at == 3:
                            print("now", flush=True)
                except StageError as error:
                    broken = str(error)
                again = ask(5)
                again.read()
                print(json.dumps([broken, again.token_ids]))
            """,
            where=where(agents),
            small=str(small),
            prompt=PROMPT,
        )
        process = stack.enter_context(started)
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        agents.agents[1].process.kill()
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
        broken, tokens = json.loads(out)
        assert "lea" in broken or "kim" in broken
        assert len(tokens) == 5


@pytest.mark.parametrize("ends", ["with", "exit"])
def test_private_agents_end_with_the_program(programs: Programs, small: Path, ends: str) -> None:
    found: dict[str, Any] = programs(
        """
        import psutil

        cluster = edgepipe.connect(local=2, threads=1)
        names = [node.name for node in cluster.nodes()]
        other = edgepipe.connect(local=1, threads=1)
        tokens = [each.generate(small, prompt, max_tokens=3, temperature=0) for each in
                  (cluster, other)]
        texts = [answer.read() for answer in tokens]
        children = [child.pid for child in psutil.Process().children(recursive=True)]
        if ends == "with":
            with cluster, other:
                pass
        print(json.dumps({"names": names, "children": children, "texts": texts}))
        """,
        small=str(small),
        prompt=PROMPT,
        ends=ends,
    )
    assert found["names"] == ["local-1", "local-2"]
    assert len(found["children"]) >= 6, "supervisors and workers"
    assert found["texts"][0] == found["texts"][1]
    left = [psutil.Process(pid) for pid in found["children"] if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(left, timeout=DEADLINE_S)
    assert alive == []
