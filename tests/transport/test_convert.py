"""Every value comes back as it was, and nothing out of bounds comes in."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_frames import TOKENS, rows

from edgepipe.core.frame import Codec, Direction, DType, Header, SequenceId, Span
from edgepipe.core.job import Request
from edgepipe.core.payload import payload_bytes
from edgepipe.core.profile import (
    Address,
    DeviceId,
    DeviceKind,
    DeviceProfile,
    LeaseView,
    NodeId,
    NodeProfile,
)
from edgepipe.core.sampling import Sampling
from edgepipe.errors import UsageError, WireError
from edgepipe.transport import convert
from edgepipe.wire.v1 import agent_pb2, frame_pb2

LIMIT = 1 << 40
NODE = NodeProfile(
    id=NodeId("9f"),
    name="desk",
    version="0.1.0",
    api=1,
    cluster="home",
    host_id="ab",
    machine_id="cd",
    addresses=(
        Address(host="10.0.0.1", port=50, interface="eth0", speed_bytes_per_s=125_000_000),
        Address(host="fe80::1%eth0", port=50),
    ),
    devices=(
        DeviceProfile(
            id=DeviceId("cuda:0"),
            kind=DeviceKind.CUDA,
            name="RTX 3060",
            pool="cuda:0",
            memory_bytes=12 << 30,
            memory_free_bytes=11 << 30,
            memory_limit_bytes=10 << 30,
            baseline_bytes=300 << 20,
            port=4242,
            num_threads=4,
            slowdown=2.0,
            engines=("torch", "onnx"),
            lease=LeaseView(job="job", holder="me@desk", fence=9, expires_in_s=12.5),
            libraries="edgepipe 0.1.0, torch 2.13.0",
        ),
        DeviceProfile(
            id=DeviceId("cpu"),
            kind=DeviceKind.CPU,
            name="a CPU",
            pool="host",
            memory_bytes=1,
            memory_free_bytes=1,
            memory_limit_bytes=1,
            baseline_bytes=1,
            port=1,
            num_threads=1,
        ),
    ),
)


def test_a_node_comes_back():
    assert convert.node_from_wire(convert.node_to_wire(NODE)) == NODE


@st.composite
def headers(draw):
    shape = tuple(draw(st.lists(st.integers(0, 99), max_size=4)))
    dtype = draw(st.sampled_from(DType))
    codec = draw(st.sampled_from(Codec)) if dtype is not DType.INT64 else Codec.NONE
    counts = draw(st.lists(st.integers(0, 2**31), max_size=4))
    return Header(
        job="job",
        epoch=draw(st.integers(0, 2**64 - 1)),
        step=draw(st.integers(0, 2**64 - 1)),
        group=draw(st.integers(0, 2**32 - 1)),
        spans=tuple(Span(slot=slot, start=7, count=count) for slot, count in enumerate(counts)),
        sequences=tuple(SequenceId(slot + 1) for slot in range(len(counts))),
        direction=draw(st.sampled_from(Direction)),
        shape=shape,
        dtype=dtype,
        codec=codec,
        payload_bytes=payload_bytes(codec, shape, dtype),
        trace_id=draw(st.integers(0, 2**64 - 1)),
        sampled=draw(st.sampled_from([(), TOKENS.header.sampled])),
    )


def wire_of(header):
    wire = frame_pb2.Header()
    convert.fill_header(wire, header)
    return wire


@given(headers())
def test_a_header_comes_back(header):
    wire = frame_pb2.Header.FromString(wire_of(header).SerializeToString())
    assert convert.header_from_wire(wire, max_frame_bytes=LIMIT) == header


def wire_header(**changes):
    wire = wire_of(rows(2).header)
    for name, value in changes.items():
        if isinstance(value, list):
            wire.ClearField(name)
            getattr(wire, name).extend(value)
        else:
            setattr(wire, name, value)
    return wire


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dtype": 0}, "dtype 0 is not one"),
        ({"dtype": 99}, "dtype 99 is not one"),
        ({"codec": 99}, "codec 99 is not one"),
        ({"direction": 0}, "direction 0"),
        ({"job": "x" * 300}, "name of 300 characters"),
        ({"job": "a\x1b[2J"}, "cannot be printed"),
        ({"shape": [1] * 9}, "more than 8 dimensions"),
        ({"shape": [0, 2**40]}, "too large"),
        ({"payload_bytes": 127}, "announces 127 bytes"),
        ({"spans": [frame_pb2.Span()] * 5000}, "more than 4096"),
        ({"sampled": [frame_pb2.SampledToken(finish=99)]}, "finish reason 99"),
        ({"dtype": frame_pb2.DTYPE_INT64, "codec": frame_pb2.CODEC_INT8}, "codec none"),
    ],
)
def test_a_header_out_of_bounds_is_refused(changes, sentence):
    with pytest.raises(WireError, match=sentence):
        convert.header_from_wire(wire_header(**changes), max_frame_bytes=LIMIT)


def wire_node(change):
    wire = convert.node_to_wire(NODE)
    change(wire)
    return wire


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda node: setattr(node, "name", "x" * 300), "300 characters"),
        (lambda node: setattr(node.addresses[0], "port", 70_000), "port 70000"),
        (lambda node: setattr(node.devices[0], "kind", "abacus"), "unknown kind 'abacus'"),
        (lambda node: setattr(node.devices[0], "slowdown", math.nan), "the number nan"),
        (lambda node: node.addresses.extend([agent_pb2.Address()] * 99), "101 addresses"),
        (lambda node: node.devices.extend([agent_pb2.DeviceProfile()] * 99), "101 devices"),
        (lambda node: node.devices[0].engines.extend(["x"] * 99), "101 engines"),
        (lambda node: setattr(node.devices[0].lease, "holder", "a\nb"), "cannot be printed"),
    ],
)
def test_a_node_out_of_bounds_is_refused(change, sentence):
    with pytest.raises(WireError, match=sentence):
        convert.node_from_wire(wire_node(change))


REQUEST = Request(
    sequence=SequenceId(3),
    prompt_ids=(1, 2, 3),
    sampling=Sampling(
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        seed=2**63,
        presence_penalty=0.3,
        frequency_penalty=-1.1,
        logit_bias=((0, 0.5), (49151, -100.0)),
        num_likely=20,
    ),
    max_tokens=64,
    eos_ids=frozenset({2, 7}),
    prompt_logits=True,
)


def test_a_request_becomes_an_admission():
    admission = convert.admission_from_wire(convert.request_to_wire(REQUEST))
    assert admission.prompt_length == 3
    for name in ("sequence", "sampling", "max_tokens", "eos_ids", "prompt_logits"):
        assert getattr(admission, name) == getattr(REQUEST, name)


def test_sampling_that_makes_no_sense_is_refused():
    wire = convert.request_to_wire(REQUEST)
    wire.sampling.temperature = math.nan
    with pytest.raises(UsageError, match="temperature"):
        convert.admission_from_wire(wire)


def test_a_payload_may_be_as_long_as_allowed_and_no_longer():
    wire = wire_header()
    assert convert.header_from_wire(wire, max_frame_bytes=128) == rows(2).header
    with pytest.raises(WireError, match="a frame of 128 bytes arrived, 127 are allowed"):
        convert.header_from_wire(wire, max_frame_bytes=127)
