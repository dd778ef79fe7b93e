"""`make demo`: three unequal agents on this machine, one model across them, one answer."""

from __future__ import annotations

QUESTION = "Why is the sky blue? Answer in two sentences."
SLOWDOWNS = (1.0, 1.0, 2.0)
"""One of the agents computes at half speed, as if it were an older machine."""
MAX_TOKENS = 128


def demo() -> None:
    """Spread SmolLM2-135M over three private agents, found over mDNS, and ask it something."""
    from edgepipe.cli import options
    from edgepipe.cli.answering import answer_demo
    from edgepipe.coordinator.answer_wish import Wish
    from edgepipe.coordinator.launch import Where
    from edgepipe.coordinator.planning import How
    from edgepipe.transport.loop import run_loop

    num_agents = len(SLOWDOWNS)
    where = Where(home=options.home(), local=num_agents, slowdowns=SLOWDOWNS, local_mdns=True)
    wish = Wish(max_tokens=MAX_TOKENS, temperature=0.0, top_p=None, top_k=None, seed=0, stops=())
    run_loop(answer_demo(QUESTION, wish, where, How(num_stages=num_agents)))
