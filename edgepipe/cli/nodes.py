"""`edgepipe nodes`: who is here."""

from __future__ import annotations

from edgepipe.cli import options


def nodes(
    *,
    cluster: options.Cluster = "default",
    peer: options.Peer = None,
    local: options.Local = None,
    threads: options.Threads = None,
    slowdown: options.Slowdown = None,
    json: options.Json = False,
    insecure: options.Insecure = False,
) -> None:
    """Show the nodes: devices, memory, health, what is known of their speed, and what is wrong."""
    from rich.console import Console

    from edgepipe.cli.show import print_json
    from edgepipe.cli.speed_tables import links_table
    from edgepipe.cli.tables import nodes_table
    from edgepipe.coordinator.known import known_links, known_speeds
    from edgepipe.coordinator.launch import open_cluster
    from edgepipe.coordinator.node_rows import node_rows, nodes_json
    from edgepipe.coordinator.profiles import Profiles
    from edgepipe.transport.loop import run_loop

    del insecure
    where = options.where(
        cluster=cluster, peer=peer, local=local, threads=threads, slowdown=slowdown
    )

    profiles = Profiles(home=where.home)

    async def show() -> None:
        async with open_cluster(where) as roster:
            nodes = [node.profile for node in roster.usable]
            rows = node_rows(roster, known_speeds(profiles, nodes))
        links = known_links(profiles, nodes)
        if json:
            print_json(nodes_json(rows, links))
            return
        Console().print(nodes_table(rows))
        if links:
            Console().print(links_table(links))

    run_loop(show())
