"""`edgepipe train` over real agents comes to what a plain loop does, however the model is cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster.conftest import Cluster, Command
from cluster.in_this_process import Here, commands
from cluster.training_runs import (
    NUM_TEXTS,
    PLAIN,
    SEQUENCES,
    Course,
    Expected,
    Run,
    adapted,
    course,
    expect_equal,
    expect_losses,
    expected,
)
from equivalence.tiny_models import CONFIGS, NUM_LAYERS, random_model
from safetensors.torch import load_file, save_file

TIED, UNTIED = "llama, tied", "llama, untied, grouped queries"
SCHEDULES = ("gpipe", "1f1b", "1f1b-k")
FAST = {(TIED, 3, "1f1b-k"), (UNTIED, 2, "gpipe")}
CUTS = [
    pytest.param(kind, num_stages, schedule, marks=[] if is_fast else [pytest.mark.slow])
    for kind in (TIED, UNTIED)
    for num_stages in (1, 2, 3, 4)
    for schedule in SCHEDULES
    if (is_fast := (kind, num_stages, schedule) in FAST) or num_stages > 1 or schedule == "1f1b-k"
]

here = pytest.fixture(commands)

Train = Callable[..., Run]


@pytest.fixture
def train(here: Here, cluster: Cluster, tmp_path: Path) -> Train:
    """Train to the end by `edgepipe train`, in a folder of its own."""

    def call(config: Path, name: str, *flags: object, **sets: object) -> Run:
        path = tmp_path / name
        settings = {"output": path, **sets}
        words = [word for item in settings.items() for word in ("--set", "{}={}".format(*item))]
        done = here("train", config, *words, *flags, "--json", *cluster.flags)
        assert done.code == 0, done.err
        assert done.json["run"] == str(path)
        assert "Traceback" not in done.err
        return Run(path=path)

    return call


def resumed(here: Here, cluster: Cluster, config: Path, run: Run, *flags: object) -> Run:
    done = here("train", config, "--resume", run.path, *flags, "--json", *cluster.flags)
    assert done.code == 0, done.err
    return run


@pytest.fixture(scope="module")
def courses(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Course]:
    @cache
    def of(kind: str) -> Course:
        return course(tmp_path_factory.mktemp("course"), random_model(CONFIGS[kind]))

    return of


@pytest.fixture(scope="module")
def plainly(courses: Callable[[str], Course]) -> Callable[[str], Expected]:
    """What the plain loop makes of a kind of model."""

    @cache
    def of(kind: str) -> Expected:
        return expected(random_model(CONFIGS[kind]), courses(kind))

    return of


# ---------------------------------------------------------------------------------- all parameters


@pytest.mark.parametrize(("kind", "num_stages", "schedule"), CUTS)
def test_losses_and_parameters_are_those_of_a_plain_loop(  # noqa: PLR0917 -- fixtures
    train: Train,
    courses: Callable[[str], Course],
    plainly: Callable[[str], Expected],
    kind: str,
    num_stages: int,
    schedule: str,
) -> None:
    """Clipped, accumulated over microbatches, of unequal lengths, with uneven last batches."""
    cut = ("--stages", num_stages)
    run = train(courses(kind).full, "run", *cut, **{"plan.schedule": f'"{schedule}"'})
    assert len(run.stages) == num_stages
    expect_equal(run, plainly(kind))
    expect_steps(run)
    expect_no_more_in_flight_than_planned(run)


def expect_steps(run: Run) -> None:
    """Whole batches, the epoch's last one smaller, every one with the documented rate."""
    lines = run.metrics
    assert [line["step"] for line in lines] == list(range(1, PLAIN.steps + 1))
    assert [line["learning_rate"] for line in lines] == pytest.approx(
        [PLAIN.rate(step) for step in range(1, PLAIN.steps + 1)]
    )
    assert any(line["grad_norm"] > PLAIN.clip_norm for line in lines)
    assert NUM_TEXTS % SEQUENCES
    assert lines[2]["num_tokens"] < min(lines[0]["num_tokens"], lines[1]["num_tokens"])


def expect_no_more_in_flight_than_planned(run: Run) -> None:
    planned = [stage["inflight"] for stage in run.stages]
    for line in run.metrics:
        assert all(found <= most for found, most in zip(line["inflight"], planned, strict=True))


def test_an_exported_model_is_what_was_trained(
    here: Here, train: Train, courses: Callable[[str], Course], tmp_path: Path
) -> None:
    run = train(courses(UNTIED).full, "run", "--stages", 2, steps=3)
    done = here("export", run.path, "--merge", "--output", tmp_path / "merged", "--json")
    assert done.code == 0, done.err
    written = load_file(tmp_path / "merged" / "model.safetensors")
    weights = run.weights()
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], weights[name]) for name in weights)


# ---------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize(
    ("kind", "num_stages", "schedule"),
    [
        (TIED, 3, "1f1b-k"),
        pytest.param(TIED, 1, "1f1b-k", marks=pytest.mark.slow),
        pytest.param(TIED, 2, "gpipe", marks=pytest.mark.slow),
        pytest.param(UNTIED, 4, "1f1b", marks=pytest.mark.slow),
    ],
)
def test_adapters_are_those_of_peft(
    train: Train, courses: Callable[[str], Course], kind: str, num_stages: int, schedule: str
) -> None:
    cut = ("--stages", num_stages)
    run = train(courses(kind).lora, "run", *cut, **{"plan.schedule": f'"{schedule}"'})
    model = adapted(random_model(CONFIGS[kind]), run.weights(0))
    expect_equal(run, expected(model, courses(kind)))
    expect_no_more_in_flight_than_planned(run)


# ----------------------------------------------------------------------------------------- dropout


@pytest.fixture(scope="module")
def dropping(courses: Callable[[str], Course]) -> Course:
    """GPT-2 drops 0.1 of its embedding, its attention and its residuals."""
    return courses("gpt2, learned positions")


CUTS_AND_RECOMPUTE = [(1, True), (2, False), (4, True), (2, True), (4, False)]


@pytest.mark.parametrize(
    ("mode", "others"),
    [
        ("lora", [(4, True)]),
        pytest.param("lora", CUTS_AND_RECOMPUTE, marks=pytest.mark.slow, id="lora, all"),
        pytest.param("full", CUTS_AND_RECOMPUTE, marks=pytest.mark.slow, id="full, all"),
    ],
)
def test_dropout_is_the_same_however_the_model_is_cut(
    train: Train, dropping: Course, mode: str, others: list[tuple[int, bool]]
) -> None:
    config = dropping.lora if mode == "lora" else dropping.full
    sets: dict[str, Any] = {"lora.dropout": 0.1} if mode == "lora" else {}
    whole = train(config, "whole", "--stages", 1, **sets, **{"plan.recompute": "false"})
    for num_stages, again in others:
        recompute = {"plan.recompute": str(again).lower()}
        run = train(config, f"{num_stages}{again}", "--stages", num_stages, **sets, **recompute)
        expect_losses(run.losses, whole.losses)
        weights, wanted = run.weights(), whole.weights()
        assert weights.keys() == wanted.keys()


# -------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("mode", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(  # noqa: PLR0917 -- fixtures
    here: Here,
    train: Train,
    cluster: Cluster,
    courses: Callable[[str], Course],
    tmp_path: Path,
    mode: str,
) -> None:
    config = courses(TIED).full if mode == "full" else courses(TIED).lora
    whole = train(config, "whole", "--stages", 2)
    run = resumed(here, cluster, config, whole.stopped_after(10, tmp_path / "resumed"))
    assert run.stages == whole.stages
    for name in ("step", "loss", "grad_norm", "learning_rate", "num_tokens", "bytes"):
        assert [line[name] for line in run.metrics] == [line[name] for line in whole.metrics]
    for step in (15, 20):
        assert run.checkpoint(step).manifest == whole.checkpoint(step).manifest


def test_a_run_goes_on_with_another_number_of_stages(
    here: Here, train: Train, cluster: Cluster, courses: Callable[[str], Course], tmp_path: Path
) -> None:
    config = courses(TIED).full
    whole = train(config, "whole", "--stages", 2)
    want = Expected(losses=whole.losses, weights=whole.weights())
    before = whole
    for num_stages, step in ((3, 10), (1, 15)):
        copied = before.stopped_after(step, tmp_path / str(num_stages))
        run = resumed(here, cluster, config, copied, "--stages", num_stages)
        assert len(run.stages) == num_stages
        expect_equal(run, want)
        expect_steps(run)
        before = run


# ------------------------------------------------------------------------------- what goes wrong


def failed(here: Here, cluster: Cluster, config: Path, *flags: object) -> Command:
    done = here("train", config, *flags, *cluster.flags)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert done.err.count("edgepipe: ") == 1
    return done


def test_a_weight_that_is_nan_stops_the_first_step_and_is_found(
    here: Here, cluster: Cluster, tmp_path: Path
) -> None:
    ill = course(tmp_path, random_model(CONFIGS[UNTIED]))
    spoil(ill.model / "model.safetensors", f"model.layers.{NUM_LAYERS - 2}.mlp.up_proj.weight")
    done = failed(here, cluster, ill.full, "--nodes", "ada,bob,cyd", "--split", "2,3")
    sentence = "step 1 was not applied: activations of microbatch 0 are not finite on bob (cpu)"
    assert sentence in done.sentence
    assert Run(path=tmp_path / "run").metrics == []


def spoil(file: Path, name: str) -> None:
    tensors: Mapping[str, torch.Tensor] = load_file(file)
    tensors[name][0, 0] = torch.nan
    save_file(dict(tensors), file)


def enlarge(file: Path, name: str, factor: float) -> None:
    tensors: Mapping[str, torch.Tensor] = load_file(file)
    tensors[name].mul_(factor)
    save_file(dict(tensors), file)


def test_a_rate_that_is_too_high_stops_before_the_step_that_is_not_finite(
    here: Here, cluster: Cluster, tmp_path: Path
) -> None:
    """What decays by ten times its size grows ninefold in a step, out of all bounds.

    The first layer's products begin at 1e35. The norm behind it makes nothing of them, so that all
    gradients vanish, until they are infinite.
    """
    steep = course(tmp_path, random_model(CONFIGS[TIED]))
    for name in ("gate_proj", "up_proj"):
        enlarge(steep.model / "model.safetensors", f"model.layers.0.mlp.{name}.weight", 3e17)
    sets = ("optimizer.learning_rate=10", "optimizer.weight_decay=1", "run.checkpoint_every=1")
    words = [word for each in (f"output={tmp_path / 'run'}", *sets) for word in ("--set", each)]
    done = failed(here, cluster, steep.full, "--stages", 2, *words)
    run = Run(path=tmp_path / "run")
    last = len(run.metrics)
    assert last > 0
    assert f"step {last + 1} was not applied: " in done.sentence
    assert " not finite on " in done.sentence
    assert run.checkpoint().manifest.step == last
    assert all(torch.isfinite(tensor).all() for tensor in run.weights().values())


def test_a_malformed_line_is_refused_by_its_number_before_anything_starts(
    here: Here, courses: Callable[[str], Course], tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "w1 w2"}\n{"text": "w1 w2"\n')
    words = ("--set", f"data.path={data}", "--set", f"output={tmp_path / 'run'}")
    done = here("train", courses(TIED).full, *words)
    assert done.code == 2
    assert done.err.startswith(f"edgepipe: {data}: line 2: it is not JSON")
    assert not (tmp_path / "run").exists()
