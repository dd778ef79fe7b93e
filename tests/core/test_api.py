from __future__ import annotations

import pytest

from edgepipe.core.api import API, check_api
from edgepipe.errors import VersionMismatch


def test_our_own_version_passes() -> None:
    check_api(API)


@pytest.mark.parametrize("api", [0, API - 1, API + 1, 1 << 31])
def test_another_version_is_refused_with_both_and_what_to_do(api: int) -> None:
    with pytest.raises(VersionMismatch) as refused:
        check_api(api, "attic")
    assert str(refused.value) == (
        f"attic speaks wire version {api} and this machine {API}: install the same edgepipe on both"
    )
