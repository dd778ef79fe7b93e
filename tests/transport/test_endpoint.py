"""Targets, and mTLS end to end with a real authority."""

import shutil
import subprocess
from dataclasses import replace

import grpc
import pytest
from carriers import boundary
from wire_frames import HELLO, rows

from edgepipe.core.profile import Address
from edgepipe.errors import Unreachable
from edgepipe.transport.channel import Credentials, open_channel, target
from edgepipe.transport.grpc_link import dial


@pytest.mark.parametrize(
    ("host", "uri"),
    [
        ("10.0.0.1", "ipv4:10.0.0.1:50"),
        ("::1", "ipv6:[::1]:50"),
        ("fe80::1%eth0", "ipv6:[fe80::1%25eth0]:50"),
        ("desk.local", "dns:///desk.local:50"),
    ],
)
def test_target(host, uri):
    assert target(Address(host=host, port=50)) == uri


def openssl(folder, *arguments):
    subprocess.run(("openssl", *arguments), cwd=folder, check=True, capture_output=True, timeout=20)


def issue(folder, name):
    """Credentials for node `name`, from the authority in `folder`."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    request = ("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    openssl(folder, "req", *key, *request, "-addext", f"subjectAltName=DNS:{name}")
    sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-copy_extensions", "copy", "-days", "1")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *sign)
    return Credentials(
        authority=(folder / "ca.pem").read_bytes(),
        certificate=(folder / f"{name}.pem").read_bytes(),
        private_key=(folder / f"{name}.key").read_bytes(),
    )


def authority(folder):
    folder.mkdir()
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    request = ("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=cluster", "-days", "1")
    openssl(folder, "req", "-x509", *key, *request)
    return folder


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@needs_openssl
async def test_frames_cross_under_mtls_and_the_node_is_checked_by_name(tmp_path):
    ours = authority(tmp_path / "ours")
    desk, laptop = issue(ours, "desk"), issue(ours, "laptop")
    async with boundary(credentials=desk) as (address, links):
        async with open_channel(address, laptop, node="desk") as channel:
            link = await dial(channel, HELLO, peer="desk")
            link.send(rows(2))
            accepted = await links.get()
            assert (await accepted.receive()).payload == rows(2).payload
            await link.close()
        async with open_channel(address, laptop, node="elsewhere") as channel:
            with pytest.raises(Unreachable):
                await dial(channel, HELLO, peer="elsewhere")


@needs_openssl
async def test_a_stranger_is_not_let_in(tmp_path):
    ours, theirs = authority(tmp_path / "ours"), authority(tmp_path / "theirs")
    desk, stranger = issue(ours, "desk"), issue(theirs, "stranger")
    forged = replace(stranger, authority=desk.authority)
    async with boundary(credentials=desk) as (address, _):
        for credentials in (stranger, forged):
            async with open_channel(address, credentials, node="desk") as channel:
                with pytest.raises(Unreachable):
                    await dial(channel, HELLO, peer="desk")
        async with grpc.aio.insecure_channel(str(address)) as channel:
            with pytest.raises(Unreachable):
                await dial(channel, HELLO, peer="desk")
