"""Core values to protobuf and back: `x_to_wire` and `x_from_wire`.

What arrives is bounded and checked here, once; `x_from_wire` raise WireError.
"""

from edgepipe.transport.convert.bounds import text
from edgepipe.transport.convert.frames import (
    check_size,
    codec_from_wire,
    codec_to_wire,
    dtype_from_wire,
    dtype_to_wire,
    fill_header,
    header_from_wire,
    sampled_from_wire,
    sampled_to_wire,
    weight_format_from_wire,
    weight_format_to_wire,
)
from edgepipe.transport.convert.profiles import (
    address_from_wire,
    address_to_wire,
    addresses_from_wire,
    device_from_wire,
    device_to_wire,
    lease_from_wire,
    lease_to_wire,
    node_from_wire,
    node_to_wire,
)
from edgepipe.transport.convert.requests import admission_from_wire, request_to_wire
from edgepipe.transport.convert.speeds import (
    measured_from_wire,
    measured_to_wire,
    measurement_from_wire,
    measurement_to_wire,
)
from edgepipe.transport.convert.training import (
    applied_from_wire,
    applied_to_wire,
    decision_from_wire,
    decision_to_wire,
    fill_training,
    ids_from_wire,
    ids_to_wire,
    order_from_wire,
    order_to_wire,
    ready_from_wire,
    ready_to_wire,
    training_from_wire,
)

__all__ = [
    "address_from_wire",
    "address_to_wire",
    "addresses_from_wire",
    "admission_from_wire",
    "applied_from_wire",
    "applied_to_wire",
    "check_size",
    "codec_from_wire",
    "codec_to_wire",
    "decision_from_wire",
    "decision_to_wire",
    "device_from_wire",
    "device_to_wire",
    "dtype_from_wire",
    "dtype_to_wire",
    "fill_header",
    "fill_training",
    "header_from_wire",
    "ids_from_wire",
    "ids_to_wire",
    "lease_from_wire",
    "lease_to_wire",
    "measured_from_wire",
    "measured_to_wire",
    "measurement_from_wire",
    "measurement_to_wire",
    "node_from_wire",
    "node_to_wire",
    "order_from_wire",
    "order_to_wire",
    "ready_from_wire",
    "ready_to_wire",
    "request_to_wire",
    "sampled_from_wire",
    "sampled_to_wire",
    "text",
    "training_from_wire",
    "weight_format_from_wire",
    "weight_format_to_wire",
]
