"""`edgepipe plan` on paper: home clusters that are not here, and models that are only a config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cluster.in_this_process import Here, commands

here = pytest.fixture(commands)

DOCS = Path(__file__).parents[2] / "docs" / "clusters"
SMALL = DOCS / "models" / "smollm2-1.7b"
LARGE = DOCS / "models" / "llama-3-8b"


def planned(here: Here, model: Path, cluster: str, *more: object) -> dict[str, Any]:
    done = here("plan", model, "--cluster-file", DOCS / f"{cluster}.toml", "--json", *more)
    assert done.code == 0, done.err
    found: dict[str, Any] = done.json
    return found


@pytest.mark.parametrize(
    ("objective", "figure"),
    [
        ("latency", "tokens_per_s"),
        ("throughput", "tokens_per_s"),
        ("prefill", "ttft_s"),
        ("train", "step_s"),
    ],
)
def test_every_objective_has_its_figure_and_its_rivals(
    here: Here, objective: str, figure: str
) -> None:
    found = planned(here, SMALL, "student-flat", "--objective", objective, "--slots", 4)
    assert found["objective"] == objective
    assert found["strategy"] == "exact"
    assert found["predicted"][figure] > 0
    assert found["predicted"]["bottleneck"].keys() >= {"kind", "where"}
    assert {rival["strategy"] for rival in found["rivals"]} == {"equal", "proportional"}
    assert found["stages"][0]["layers"][0] == 0
    assert found["stages"][-1]["layers"][1] == 24
    wanted = {"forward_s", "backward_s", "codec_forward", "codec_backward", "inflight"}
    assert found["stages"][0].keys() >= {*wanted, "predicted_busy", "memory_limit_bytes"}


@pytest.mark.parametrize("codec", ["int4", "auto"])
def test_int4_is_the_users_word_alone_and_never_for_gradients(here: Here, codec: str) -> None:
    words = ("--objective", "train", "--strategy", "equal", "--codec", codec)
    found = planned(here, SMALL, "student-flat", *words)
    down = {stage["codec_forward"] for stage in found["stages"]}
    up = {stage["codec_backward"] for stage in found["stages"]}
    assert len(found["stages"]) > 1
    assert "int4" not in up
    assert (down, up) == ({"int4"}, {"int8"}) if codec == "int4" else "int4" not in down


def test_what_is_left_out_is_told_with_its_gain(here: Here) -> None:
    found = planned(here, LARGE, "two-gamers", "--explain")
    (out,) = found["left_out"]
    assert out["node"] == "ben"
    assert out["gain"] > 0
    (advice,) = found["advice"]
    assert advice["sentence"].startswith("leave ben (cuda:0) out: +")


def test_a_split_is_shown_beside_the_exact_plan(here: Here) -> None:
    words = ("--strategy", "exact", "--split", "20")
    found = planned(here, LARGE, "two-gamers", *words)
    (manual,) = (rival for rival in found["rivals"] if rival["strategy"] == "manual")
    assert [stage["layers"] for stage in manual["stages"]] == [[0, 20], [20, 32]]


def test_a_saved_plan_is_a_plan(here: Here, tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    found = planned(here, SMALL, "attic", "--save", saved)
    assert json.loads(saved.read_text())["stages"] == found["stages"]


def test_full_fine_tuning_that_does_not_fit(here: Here) -> None:
    words = ("--objective", "train", "--mode", "full", "--explain")
    file = DOCS / "student-flat.toml"
    done = here("plan", LARGE, "--cluster-file", file, "--json", *words)
    assert done.code == 1
    found = done.json
    assert not found["feasible"]
    assert found["short_by_bytes"] > 0
    assert found["predicted"] is None
    assert found["advice"][0]["sentence"].endswith("LoRA does")
    shown = here("plan", LARGE, "--cluster-file", file, *words)
    assert shown.code == 1
    assert "Traceback" not in shown.err
    assert shown.sentence.startswith("edgepipe: llama-3-8b needs ")


def test_the_table_shows_rivals_and_what_helps(here: Here) -> None:
    shown = here("plan", LARGE, "--cluster-file", DOCS / "two-gamers.toml", "--explain")
    assert shown.code == 0
    for word in ("exact", "proportional", "equal", "predicted:", "tokens/s", "leave ben"):
        assert word in shown.out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('memory = "22GiB"', 'memory = "-22GiB"'), "device 1 (ada)"),
        (('memory = "22GiB"', "memroy = 3"), "memroy"),
        (('node = "ben"\nbytes', 'node = "zoe"\nbytes'), "zoe"),
    ],
)
def test_a_bad_cluster_file_is_one_sentence(
    here: Here, tmp_path: Path, change: tuple[str, str], sentence: str
) -> None:
    text = (DOCS / "two-gamers.toml").read_text()
    assert change[0] in text
    bad = tmp_path / "bad.toml"
    bad.write_text(text.replace(*change))
    done = here("plan", SMALL, "--cluster-file", bad)
    assert done.code == 2
    assert done.out == ""
    (line,) = done.err.strip().splitlines()
    assert "bad.toml" in line
    assert sentence in line


def test_a_model_without_a_config_is_one_sentence(here: Here, tmp_path: Path) -> None:
    done = here("plan", tmp_path, "--cluster-file", DOCS / "attic.toml")
    assert done.code != 0
    (line,) = done.err.strip().splitlines()
    assert "config.json" in line
    assert str(tmp_path) in line


def test_the_readme_shows_what_is_printed(here: Here) -> None:
    readme = (DOCS.parents[1] / "README.md").read_text()
    words = ("--cluster-file", DOCS / "student-flat.toml", "--objective", "prefill", "--explain")
    shown = here("plan", LARGE, *words)
    lines = [line.rstrip() for line in shown.out.splitlines()]
    assert "\n".join(lines).strip("\n") in readme
