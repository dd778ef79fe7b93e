"""Everything in a Load message is bounded before anything is allocated for it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from edgepipe.agent import deploy
from edgepipe.agent.weights import WeightStore
from edgepipe.core.frame import Codec, DType
from edgepipe.core.payload import payload_bytes
from edgepipe.errors import DamagedWeights, StageError, WireError
from edgepipe.wire.v1 import frame_pb2, stage_pb2


def load(**changes: Any) -> stage_pb2.Load:
    """The middle one of three stages."""
    fields: dict[str, Any] = {
        "api": 1,
        "job": "job",
        "epoch": 4,
        "fence": 7,
        "stage": 1,
        "num_stages": 3,
        "engine": "emulated",
        "config_json": '{"model_type": "llama"}',
        "first": 2,
        "end": 5,
        "dtype": frame_pb2.DTYPE_FLOAT32,
        "num_slots": 8,
        "num_groups": 3,
        "max_positions": 100,
        "prefill_chunk": 32,
        "hidden_size": 16,
        "vocab_size": 50,
        "codec": frame_pb2.CODEC_NONE,
    }
    return stage_pb2.Load(**{**fields, **changes})


FIRST = {"stage": 0, "embedding": True}
LAST = {"stage": 2, "head": True}
ONLY = {"stage": 0, "num_stages": 1, "embedding": True, "head": True}


@pytest.mark.parametrize("changes", [{}, FIRST, LAST, ONLY, {"first": 5}, {"num_groups": 8}])
def test_a_stage_that_can_be_passes(changes: dict[str, Any]) -> None:
    deploy.check(load(**changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_stages": 0}, "a stage cannot have stages 0, only 1 to 1024"),
        ({"num_stages": 1025}, "a stage cannot have stages 1025, only 1 to 1024"),
        ({"stage": 3}, "a stage cannot have stage 3, only 0 to 2"),
        ({"first": 6}, "a stage cannot have layers 5, only 6 to 4096"),
        ({"end": 4097}, "a stage cannot have layers 4097, only 2 to 4096"),
        ({"num_slots": 0}, "a stage cannot have slots 0, only 1 to 1024"),
        ({"num_slots": 1025}, "a stage cannot have slots 1025, only 1 to 1024"),
        ({"num_groups": 0}, "a stage cannot have groups 0, only 1 to 8"),
        ({"num_groups": 9}, "a stage cannot have groups 9, only 1 to 8"),
        ({"max_draft": 65}, "a stage cannot have guesses in a frame 65, only 0 to 64"),
        ({"max_positions": 0}, "a stage cannot have positions 0, only 1 to 4194304"),
        ({"prefill_chunk": 0}, "a stage cannot have rows of a prefill chunk 0, only 1 to 16384"),
        ({"hidden_size": 1 << 19}, "a stage cannot have hidden size 524288, only 1 to 262144"),
        ({"vocab_size": 0}, "a stage cannot have vocabulary 0, only 1 to 16777216"),
        ({"embedding": True}, "the embedding is on the first stage alone and the head on the last"),
        ({"head": True}, "the embedding is on the first stage alone and the head on the last"),
        ({"stage": 0}, "the embedding is on the first stage alone and the head on the last"),
        (
            {"stage": 0, "num_stages": 1, "embedding": True},
            "the embedding is on the first stage alone and the head on the last",
        ),
        (
            {"dtype": frame_pb2.DTYPE_INT64},
            "a stage computes in float32, bfloat16 or float16",
        ),
        ({"dtype": 99}, "dtype 99 is not one that this version knows"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WireError) as refused:
        deploy.check(load(**changes))
    assert str(refused.value) == sentence


# ---------------------------------------------------------------------------------- the sizes


def test_a_boundary_holds_a_frame_of_every_group_and_prefill_chunks_beside_them() -> None:
    assert deploy.credits(load(num_groups=3)) == 3 + deploy.PREFILL_CREDITS


@pytest.mark.parametrize(("chunk", "slots", "rows"), [(32, 8, 32), (4, 8, 8)])
def test_the_largest_frame_is_a_chunk_or_a_token_of_every_slot(
    chunk: int, slots: int, rows: int
) -> None:
    message = load(prefill_chunk=chunk, num_slots=slots)
    assert deploy.max_rows(message) == rows
    assert deploy.intake(message).max_rows == rows


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("dtype", sorted(deploy.FLOATS))
def test_the_largest_frame_fits_whatever_the_codec(codec: Codec, dtype: DType) -> None:
    message = load()
    shape = (deploy.max_rows(message), message.hidden_size)
    assert payload_bytes(codec, shape, dtype) <= deploy.max_frame_bytes(message)


# ------------------------------------------------------------------------------- parked weights

SAME_WEIGHTS = {
    "job": "another",
    "epoch": 5,
    "fence": 9,
    "stage": 0,
    "num_stages": 2,
    "codec": frame_pb2.CODEC_INT8,
    "num_groups": 1,
    "max_draft": 8,
}
OTHER_WEIGHTS = {
    "engine": "torch",
    "config_json": "{}",
    "first": 1,
    "end": 6,
    "embedding": True,
    "head": True,
    "dtype": frame_pb2.DTYPE_BFLOAT16,
    "num_slots": 9,
    "max_positions": 101,
    "weights": ["a" * 64],
    "options_json": '{"x": 1}',
}


@pytest.mark.parametrize("name", SAME_WEIGHTS)
def test_another_job_of_the_same_stage_may_use_what_is_parked(name: str) -> None:
    assert deploy.weights_key(load(**{name: SAME_WEIGHTS[name]})) == deploy.weights_key(load())


@pytest.mark.parametrize("name", OTHER_WEIGHTS)
def test_what_an_engine_is_loaded_with_tells_stages_apart(name: str) -> None:
    assert deploy.weights_key(load(**{name: OTHER_WEIGHTS[name]})) != deploy.weights_key(load())


# ---------------------------------------------------------------------------------- the engine


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return WeightStore(tmp_path)


def put(store: WeightStore, content: bytes) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    store.folder.mkdir(exist_ok=True)
    store.path(sha256).write_bytes(content)
    return sha256


def test_an_engine_is_told_what_the_message_says(store: WeightStore) -> None:
    weights = [put(store, b"one"), put(store, b"two")]
    spec = deploy.stage_spec(load(weights=weights, options_json='{"a": 1}'), store)
    assert (spec.first, spec.end, spec.embedding, spec.head) == (2, 5, False, False)
    assert (spec.dtype, spec.num_slots, spec.max_positions) == (DType.FLOAT32, 8, 100)
    assert (spec.config, spec.options) == ({"model_type": "llama"}, {"a": 1})
    assert [path.read_bytes() for path in spec.weights] == [b"one", b"two"]


def test_options_may_be_left_out(store: WeightStore) -> None:
    assert deploy.stage_spec(load(config_json=""), store).config == {}


@pytest.mark.parametrize("field", ["config_json", "options_json"])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "a stage's config is not JSON"),
        ("[1]", "a stage's config is not a JSON object"),
        ("[" * 100_000, "a stage's config is not JSON"),
    ],
)
def test_a_config_that_is_no_object_is_refused(
    store: WeightStore, field: str, text: str, sentence: str
) -> None:
    with pytest.raises(WireError) as refused:
        deploy.stage_spec(load(**{field: text}), store)
    assert str(refused.value) == sentence


def test_a_part_that_is_not_in_the_cache_is_named(store: WeightStore) -> None:
    with pytest.raises(StageError, match=r"^the weights aaaaaaaaaaaa are not in this agent's ca"):
        deploy.stage_spec(load(weights=["a" * 64]), store)


def test_a_part_cannot_name_a_file_elsewhere(store: WeightStore) -> None:
    with pytest.raises(DamagedWeights):
        deploy.stage_spec(load(weights=["../../etc/passwd"]), store)


# ------------------------------------------------------------------------------ the stage's core


def test_the_first_stage_batches_the_last_samples_and_the_only_one_does_both() -> None:
    found = {
        name: (deploy.batching(message) is not None, deploy.tails(message) is not None)
        for name, message in {
            "first": load(**FIRST),
            "middle": load(),
            "last": load(**LAST),
            "only": load(**ONLY),
        }.items()
    }
    assert found == {
        "first": (True, False),
        "middle": (False, False),
        "last": (False, True),
        "only": (True, True),
    }


def test_the_first_stage_takes_token_ids_and_the_others_hidden_states() -> None:
    first, later = deploy.intake(load(**FIRST)), deploy.intake(load(**LAST))
    assert (first.row_shape, first.dtypes) == ((), frozenset({DType.INT64}))
    assert (later.row_shape, later.dtypes) == ((16,), deploy.FLOATS)
    assert (later.job, later.epoch, later.num_slots, later.max_positions) == ("job", 4, 8, 100)
