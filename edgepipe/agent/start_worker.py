"""`python -m edgepipe.agent.start_worker`: what a supervisor runs for each of its devices.

The lifeline comes first: the imports behind it take seconds, and a supervisor may die meanwhile.
"""

# ruff: noqa: E402 -- in the order that the above asks for
from __future__ import annotations

import gc

from edgepipe.agent.lifeline import Lifeline

lifeline = Lifeline()
gc.disable()  # 2,700 modules follow and no garbage: an eighth less time

from edgepipe.agent.worker import main

main(lifeline)
