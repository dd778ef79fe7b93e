"""Where a server listens, and how it says that it cannot."""

import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from edgepipe.core.profile import Address
from edgepipe.errors import PortInUse, UsageError
from edgepipe.transport.channel import add_standard_services, bind, create_server, open_channel
from edgepipe.transport.grpc_link import SERVICE

DEADLINE_S = 10


@pytest.fixture
async def server():
    server = create_server()
    yield server
    await server.stop(0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "", "0.0.0.0"])
async def test_it_listens_on_a_free_port_and_answers_there(server, host):
    add_standard_services(server, [SERVICE])
    port = bind(server, host, 0, None)
    await server.start()
    address = Address(host="::1" if host == "::1" else "127.0.0.1", port=port)
    async with open_channel(address, None) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            request = health_pb2.HealthCheckRequest(service=name)
            reply = await stub.Check(request, timeout=DEADLINE_S)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_it_says_what_it_serves(server):
    add_standard_services(server, [SERVICE])
    address = Address(host="127.0.0.1", port=bind(server, "127.0.0.1", 0, None))
    await server.start()
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async with open_channel(address, None) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([request]), timeout=DEADLINE_S)
        reply = await call.read()
        call.cancel()
    names = {service.name for service in reply.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_a_port_in_use_is_one_clear_sentence(server):
    port = bind(server, "127.0.0.1", 0, None)
    await server.start()
    for host in ("127.0.0.1", "0.0.0.0"):
        other = create_server()
        with pytest.raises(PortInUse, match=f"port {port} is in use: "):
            bind(other, host, port, None)
        await other.stop(0)


async def test_a_port_that_any_program_holds_is_in_use_too(server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortInUse):
            bind(server, "127.0.0.1", port, None)


async def test_an_address_of_another_machine_is_one_clear_sentence(server):
    with pytest.raises(UsageError, match=r"no address 192\.0\.2\.1"):
        bind(server, "192.0.2.1", 0, None)


async def test_a_name_that_nobody_knows_is_one_clear_sentence(server):
    with pytest.raises(UsageError, match=r"knows the host nowhere\.invalid"):
        bind(server, "nowhere.invalid", 0, None)


async def test_a_message_beyond_4_mib_is_refused(server):
    async def swallow(_request, _context):
        return b""

    handlers = {"Swallow": grpc.unary_unary_rpc_method_handler(swallow)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    address = Address(host="127.0.0.1", port=bind(server, "127.0.0.1", 0, None))
    await server.start()
    async with grpc.aio.insecure_channel(str(address)) as channel:
        call = channel.unary_unary("/test/Swallow")
        assert await call(bytes(4 << 20), timeout=DEADLINE_S) == b""
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
            await call(bytes((4 << 20) + 1), timeout=DEADLINE_S)
