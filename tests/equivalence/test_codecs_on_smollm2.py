"""What the codecs lose of real activations, whose outliers no random tensor has."""

from __future__ import annotations

import pytest
import torch

from edgepipe.codec import relative_error
from edgepipe.core.frame import Codec

pytestmark = pytest.mark.slow  # the model is loaded for it

TOKENS = 64
BOUNDARIES = (1, 10, 20, 29)
"""So many layers stand before the boundary."""


@pytest.fixture(scope="module")
def activations(smollm2_whole: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    """Hidden states at the boundaries, float32 [TOKENS, 576]."""
    ids = torch.randint(100, 40_000, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = smollm2_whole(ids, output_hidden_states=True).hidden_states
    return tuple(states[each][0] for each in BOUNDARIES)


@pytest.mark.parametrize(
    ("codec", "bound"),
    [(Codec.NONE, 0.0), (Codec.BF16, 2**-8), (Codec.INT8, 0.01), (Codec.INT4, 0.12)],
)
def test_each_codec_reports_a_small_error_on_every_row(
    activations: tuple[torch.Tensor, ...], codec: Codec, bound: float
) -> None:
    errors = [relative_error(row, codec) for rows in activations for row in rows]
    assert max(errors) <= bound, errors
