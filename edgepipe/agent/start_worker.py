"""`python -m edgepipe.agent.start_worker`: what a supervisor runs for each of its devices.

The lifeline comes first: the imports behind it take seconds, and a supervisor may die meanwhile.
"""

from __future__ import annotations

import gc

from edgepipe.agent.lifeline import Lifeline

if __name__ == "__main__":
    lifeline = Lifeline()
    gc.disable()  # 2,700 modules follow and no garbage: an eighth less time

    from edgepipe.agent.worker import main

    main(lifeline)
