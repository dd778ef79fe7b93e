"""Which failure the user is told of."""

from __future__ import annotations

import pytest

from edgepipe.core.failure import StageFailure, cause, named
from edgepipe.errors import (
    EdgepipeError,
    LeaseLost,
    StageError,
    StageLost,
    Unreachable,
    WireError,
)

MEMORY = StageFailure(who="bob", error=StageError("memory is short"), reported=True)
FENCED = StageFailure(who="bob", error=LeaseLost("fenced off"), reported=True)
DAMAGED = StageFailure(who="cyd", error=WireError("checksum"), reported=True)
KILLED = StageFailure(who="bob", error=StageLost("bob is gone"))
SILENT = StageFailure(who="dan", error=Unreachable("dan does not answer"))
ADA_SAW_IT = StageFailure(who="ada", error=StageLost("the boundary was closed"), reported=True)
CYD_SAW_IT = StageFailure(who="cyd", error=Unreachable("nothing answers there"), reported=True)


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([ADA_SAW_IT], ADA_SAW_IT),
        ([ADA_SAW_IT, CYD_SAW_IT], ADA_SAW_IT),
        ([ADA_SAW_IT, CYD_SAW_IT, MEMORY], MEMORY),
        ([MEMORY, ADA_SAW_IT], MEMORY),
        ([ADA_SAW_IT, KILLED, CYD_SAW_IT], KILLED),
        ([CYD_SAW_IT, SILENT], SILENT),
        ([KILLED, MEMORY], MEMORY),
        ([ADA_SAW_IT, DAMAGED, FENCED], DAMAGED),
    ],
)
def test_what_explains_the_others_is_told(
    failures: list[StageFailure], expected: StageFailure
) -> None:
    assert cause(failures) is expected


def test_only_a_lost_connection_may_have_a_better_explanation() -> None:
    failures = (MEMORY, FENCED, DAMAGED, KILLED, SILENT, ADA_SAW_IT)
    assert [f.is_conclusive for f in failures] == [True, True, True, False, False, False]


@pytest.mark.parametrize("error", [StageError("ada is full"), LeaseLost("fenced")])
def test_a_sentence_names_its_stage_once(error: EdgepipeError) -> None:
    sentence = str(named(error, "ada"))
    assert sentence.count("ada") == 1
    assert named(error, "ada").__class__ is error.__class__
