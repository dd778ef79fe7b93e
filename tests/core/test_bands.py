"""What a bottleneck may be: values of stages, and in training what is between two of them."""

from __future__ import annotations

import numpy as np
from drawn_networks import lone_devices

from edgepipe.core.bands import Range, Spectrum
from edgepipe.core.goal import Goal, Latency, Prefill, Train
from edgepipe.core.graph import graph_of
from edgepipe.core.problem import Problem, Traffic, Training


def spectrum(goal: Goal) -> Spectrum:
    """Of one device with two layers, of 1 and 2 seconds."""
    training = (
        Training(inflight_bytes=np.zeros((3, 3), dtype=np.int64), update_s=np.zeros((1, 4)))
        if isinstance(goal, Train)
        else None
    )
    return Spectrum.of(
        graph_of(
            Problem(
                devices=lone_devices(100),
                item_s=np.array([[0.0, 1.0, 2.0, 0.0]]),
                stage_bytes=np.triu(np.ones((3, 3), dtype=np.int64), k=1),
                link_bytes_per_s=np.ones((1, 1)),
                link_latency_s=np.zeros((1, 1)),
                traffic=Traffic(frame_bytes=0),
                goal=goal,
                training=training,
            )
        )
    )


def test_a_bottleneck_is_what_some_stage_takes() -> None:
    found = spectrum(Prefill(num_chunks=4))
    assert found.values.tolist() == found.floors.tolist() == found.limits.tolist() == [0, 1, 2, 3]


def test_where_it_does_not_matter_there_is_one_band() -> None:
    assert spectrum(Latency()).values.tolist() == [np.inf]


def test_a_period_of_training_may_lie_between_with_shorter_stages_only() -> None:
    found = spectrum(Train(num_microbatches=4))
    assert found.floors.tolist() == found.limits.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.values.tolist() == [0, 1, 1, 2, 2, 3, 3, np.inf]
    bands = found.bands(Range(2, 6), 2)
    assert bands.floors.tolist() == [1, 2]
    assert bands.limits.tolist() == [1, 2]
    assert bands.thresholds.tolist() == [2, 3]
