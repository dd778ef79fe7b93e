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
    """Show the nodes of the cluster: devices, memory, health, and why one cannot be used."""
    from rich.console import Console

    from edgepipe.cli.show import node_rows, print_json
    from edgepipe.cli.tables import nodes_json, nodes_table
    from edgepipe.coordinator.launch import open_cluster
    from edgepipe.transport.loop import run_loop

    del insecure
    where = options.where(
        cluster=cluster, peer=peer, local=local, threads=threads, slowdown=slowdown
    )

    async def show() -> None:
        async with open_cluster(where) as roster:
            rows = node_rows(roster)
        if json:
            print_json(nodes_json(rows))
        else:
            Console().print(nodes_table(rows))

    run_loop(show())
