"""From a `Load` message to the parts of a stage: everything in it is bounded here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from edgepipe.agent.weights import WeightStore
from edgepipe.core.batching import DRAFT_COST, MAX_WAITING, Batching
from edgepipe.core.frame import DType, JobId
from edgepipe.core.stage import Intake, Tails
from edgepipe.engine.base import StageSpec
from edgepipe.errors import StageError, WireError
from edgepipe.transport import convert
from edgepipe.wire.v1 import stage_pb2

FLOATS = frozenset({DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16})
MAX_LAYERS = 1 << 12
MAX_STAGES = 1 << 10
MAX_SLOTS = 1 << 10
MAX_POSITIONS = 1 << 22
MAX_PREFILL_CHUNK = 1 << 14
MAX_DRAFT = 64
MAX_HIDDEN_SIZE = 1 << 18
MAX_VOCAB_SIZE = 1 << 24
MAX_DRAFT_COST = 100.0
PREFILL_CREDITS = 7
"""Prefill chunks that may be on a boundary beside one frame per decode group. Credits go back once
three quarters are owed, so more of them mean fewer messages: one for six tokens of one stream."""


_BATCHING = ("num_groups", "max_draft", "draft_cost")
"""What stage 0 alone acts upon, and no engine is loaded with."""


def check(load: stage_pb2.Load) -> None:
    """Raise WireError unless every value of the message is one that a stage can have."""
    bounds = {
        "stages": (load.num_stages, 1, MAX_STAGES),
        "stage": (load.stage, 0, load.num_stages - 1),
        "layers": (load.end, load.first, MAX_LAYERS),
        "slots": (load.num_slots, 1, MAX_SLOTS),
        "positions": (load.max_positions, 1, MAX_POSITIONS),
        "rows of a prefill chunk": (load.prefill_chunk, 1, MAX_PREFILL_CHUNK),
        "hidden size": (load.hidden_size, 1, MAX_HIDDEN_SIZE),
        "vocabulary": (load.vocab_size, 1, MAX_VOCAB_SIZE),
        "groups": (load.num_groups, 1, load.num_slots),
        "guesses in a frame": (load.max_draft, 0, MAX_DRAFT),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise WireError(f"a stage cannot have {name} {value}, only {low} to {high}")
    if not 0 <= load.draft_cost <= MAX_DRAFT_COST:
        raise WireError(f"a guess cannot cost {load.draft_cost} of a frame")
    ends = (load.stage == 0, load.stage == load.num_stages - 1)
    if (load.embedding, load.head) != ends:
        raise WireError("the embedding is on the first stage alone and the head on the last")
    if convert.dtype_from_wire(load.dtype) not in FLOATS:
        raise WireError("a stage computes in float32, bfloat16 or float16")


def check_admission(admit: stage_pb2.Admit, load: stage_pb2.Load) -> None:
    """Raise WireError unless the stage has room for a sequence, and knows its tokens.

    The last token that is sampled is not fed back, so it takes no position.
    """
    length = len(admit.prompt_ids)
    if length < 1 or admit.max_tokens < 1:
        raise WireError(
            f"a sequence wants a prompt and at least one token, "
            f"not {length} and {admit.max_tokens} tokens"
        )
    if length + admit.max_tokens - 1 > load.max_positions:
        raise WireError(
            f"a prompt of {length} tokens and {admit.max_tokens} more do not fit the stage's "
            f"{load.max_positions} positions"
        )
    if max(admit.prompt_ids) >= load.vocab_size:
        raise WireError(
            f"token {max(admit.prompt_ids)} is not one of the vocabulary's {load.vocab_size}"
        )


def credits(load: stage_pb2.Load) -> int:  # noqa: A001 -- the transport's own term
    """Frames that may be sent and not yet consumed on one boundary."""
    return load.num_groups + PREFILL_CREDITS


def max_rows(load: stage_pb2.Load) -> int:
    """Rows of the largest frame: a prefill chunk, or a token of every slot."""
    return max(load.prefill_chunk, load.num_slots)


def max_frame_bytes(load: stage_pb2.Load) -> int:
    """The largest payload that may arrive: float32 rows."""
    return max_rows(load) * load.hidden_size * 4


def weights_key(load: stage_pb2.Load) -> str:
    """Equal for loads that an engine loaded once can serve."""
    same = stage_pb2.Load()
    same.CopyFrom(load)
    for name in ("job", "epoch", "fence", "stage", "num_stages", "codec", *_BATCHING):
        same.ClearField(name)
    return hashlib.sha256(same.SerializeToString(deterministic=True)).hexdigest()


def stage_spec(load: stage_pb2.Load, store: WeightStore) -> StageSpec:
    """What the engine is told. Raises StageError if a part is not in the cache."""
    return StageSpec(
        config=parse_json(load.config_json),
        first=load.first,
        end=load.end,
        embedding=load.embedding,
        head=load.head,
        dtype=convert.dtype_from_wire(load.dtype),
        num_slots=load.num_slots,
        max_positions=load.max_positions,
        weights=tuple(_part(store, sha256) for sha256 in load.weights),
        options=parse_json(load.options_json),
        weight_format=convert.weight_format_from_wire(load.weight_format),
    )


def parse_json(text: str) -> dict[str, Any]:
    """A JSON object. Raises WireError for anything else."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise WireError("a stage's config is not JSON") from None
    if not isinstance(value, dict):
        raise WireError("a stage's config is not a JSON object")
    return value


def _part(store: WeightStore, sha256: str) -> Path:
    if not store.has(sha256):
        raise StageError(f"the weights {sha256[:12]} are not in this agent's cache; run it again")
    return store.path(sha256)


def intake(load: stage_pb2.Load) -> Intake:
    """The first stage takes token ids that it made itself, the others hidden states."""
    first = load.stage == 0
    return Intake(
        job=JobId(load.job),
        epoch=load.epoch,
        num_slots=load.num_slots,
        max_positions=load.max_positions,
        max_rows=max_rows(load),
        row_shape=() if first else (load.hidden_size,),
        dtypes=frozenset({DType.INT64}) if first else FLOATS,
    )


def batching(load: stage_pb2.Load) -> Batching | None:
    """Stage 0 decides what is sent next."""
    if load.stage != 0:
        return None
    return Batching(
        num_slots=load.num_slots,
        num_groups=load.num_groups,
        prefill_chunk=load.prefill_chunk,
        max_draft=load.max_draft,
        draft_cost=load.draft_cost or DRAFT_COST,
    )


def tails(load: stage_pb2.Load) -> Tails | None:
    """The last stage samples."""
    if load.stage != load.num_stages - 1:
        return None
    return Tails(max_sequences=load.num_slots + MAX_WAITING)
