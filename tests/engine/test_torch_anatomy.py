from __future__ import annotations

from typing import Any

import pytest

from edgepipe.engine.torch.anatomy import cache_argument


class Before:
    def forward(self, *, input_ids: Any, past_key_values: Any = None) -> None: ...


class Since:
    """transformers 5.24 bears the old name still, and warns whoever says it."""

    def forward(self, *, input_ids: Any, cache: Any = None, **_: Any) -> None: ...


@pytest.mark.parametrize(("model", "name"), [(Before(), "past_key_values"), (Since(), "cache")])
def test_a_models_cache_goes_by_the_name_that_its_version_of_transformers_has(
    model: Any, name: str
) -> None:
    assert cache_argument(model) == name
