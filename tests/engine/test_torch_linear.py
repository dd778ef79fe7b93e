from __future__ import annotations

import pytest
from equivalence.tiny_models import CONFIGS, config_dict

from edgepipe.engine.torch.linear import check_leaf_names, leaf_names
from edgepipe.errors import UsageError

LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama, tied", LLAMA),
        ("qwen3", LLAMA),
        ("gpt2, learned positions", ("c_attn", "c_proj", "c_fc")),
    ],
)
def test_leaf_names_are_of_all_linear_modules_in_the_layers(
    kind: str, expected: tuple[str, ...]
) -> None:
    assert leaf_names(config_dict(CONFIGS[kind])) == expected


def test_names_that_match_are_taken() -> None:
    check_leaf_names(("down_proj", "q_proj"), LLAMA)


def test_one_that_matches_nothing_is_named() -> None:
    with pytest.raises(UsageError, match=r"'lm_head'.*q_proj, k_proj"):
        check_leaf_names(("q_proj", "lm_head"), LLAMA)


def test_no_name_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        check_leaf_names((), LLAMA)
