"""`python -m edgepipe.agent.health [HOST:PORT]`: exits 0 if an agent there says that it serves.

For container engines and load balancers. It imports little: they ask every few seconds, and what
it takes comes off the container's share.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

HERE = "127.0.0.1:27700"
DEADLINE_S = 5.0


def main() -> int:
    """Ask, and say in one sentence what is wrong."""
    where = sys.argv[1] if len(sys.argv) > 1 else HERE
    with grpc.insecure_channel(where) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        try:
            reply = health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        except grpc.RpcError as error:
            sys.stderr.write(f"no agent answers at {where}: {error.code().name}\n")
            return 1
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        sys.stderr.write(f"the agent at {where} does not serve\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
