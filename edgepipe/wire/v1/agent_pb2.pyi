from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ("api",)
    API_FIELD_NUMBER: _ClassVar[int]
    api: int
    def __init__(self, api: _Optional[int] = ...) -> None: ...

class Address(_message.Message):
    __slots__ = ("host", "port", "interface", "speed_bytes_per_s")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    SPEED_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    interface: str
    speed_bytes_per_s: int
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ..., interface: _Optional[str] = ..., speed_bytes_per_s: _Optional[int] = ...) -> None: ...

class LeaseView(_message.Message):
    __slots__ = ("job", "holder", "fence", "expires_in_s")
    JOB_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_S_FIELD_NUMBER: _ClassVar[int]
    job: str
    holder: str
    fence: int
    expires_in_s: float
    def __init__(self, job: _Optional[str] = ..., holder: _Optional[str] = ..., fence: _Optional[int] = ..., expires_in_s: _Optional[float] = ...) -> None: ...

class DeviceProfile(_message.Message):
    __slots__ = ("id", "kind", "name", "pool", "memory_bytes", "memory_free_bytes", "memory_limit_bytes", "baseline_bytes", "port", "num_threads", "slowdown", "engines", "lease", "libraries")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    BASELINE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    NUM_THREADS_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    LIBRARIES_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    name: str
    pool: str
    memory_bytes: int
    memory_free_bytes: int
    memory_limit_bytes: int
    baseline_bytes: int
    port: int
    num_threads: int
    slowdown: float
    engines: _containers.RepeatedScalarFieldContainer[str]
    lease: LeaseView
    libraries: str
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., name: _Optional[str] = ..., pool: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., memory_free_bytes: _Optional[int] = ..., memory_limit_bytes: _Optional[int] = ..., baseline_bytes: _Optional[int] = ..., port: _Optional[int] = ..., num_threads: _Optional[int] = ..., slowdown: _Optional[float] = ..., engines: _Optional[_Iterable[str]] = ..., lease: _Optional[_Union[LeaseView, _Mapping]] = ..., libraries: _Optional[str] = ...) -> None: ...

class NodeProfile(_message.Message):
    __slots__ = ("id", "name", "version", "api", "cluster", "host_id", "addresses", "devices", "machine_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    API_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    MACHINE_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    version: str
    api: int
    cluster: str
    host_id: str
    addresses: _containers.RepeatedCompositeFieldContainer[Address]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceProfile]
    machine_id: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., api: _Optional[int] = ..., cluster: _Optional[str] = ..., host_id: _Optional[str] = ..., addresses: _Optional[_Iterable[_Union[Address, _Mapping]]] = ..., devices: _Optional[_Iterable[_Union[DeviceProfile, _Mapping]]] = ..., machine_id: _Optional[str] = ...) -> None: ...

class AcquireLeaseRequest(_message.Message):
    __slots__ = ("api", "device", "job", "holder", "ttl_s")
    API_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    api: int
    device: str
    job: str
    holder: str
    ttl_s: float
    def __init__(self, api: _Optional[int] = ..., device: _Optional[str] = ..., job: _Optional[str] = ..., holder: _Optional[str] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("fence", "ttl_s")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    fence: int
    ttl_s: float
    def __init__(self, fence: _Optional[int] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("device", "fence", "progress")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    device: str
    fence: int
    progress: int
    def __init__(self, device: _Optional[str] = ..., fence: _Optional[int] = ..., progress: _Optional[int] = ...) -> None: ...

class ReleaseLeaseRequest(_message.Message):
    __slots__ = ("device", "fence")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    device: str
    fence: int
    def __init__(self, device: _Optional[str] = ..., fence: _Optional[int] = ...) -> None: ...

class ReleaseLeaseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Blob(_message.Message):
    __slots__ = ("sha256", "size_bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class WeightsOffer(_message.Message):
    __slots__ = ("blobs", "sha256", "offset", "data")
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    blobs: _containers.RepeatedCompositeFieldContainer[Blob]
    sha256: str
    offset: int
    data: bytes
    def __init__(self, blobs: _Optional[_Iterable[_Union[Blob, _Mapping]]] = ..., sha256: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class WeightsRequest(_message.Message):
    __slots__ = ("sha256", "offset", "have")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    offset: int
    have: bool
    def __init__(self, sha256: _Optional[str] = ..., offset: _Optional[int] = ..., have: bool = ...) -> None: ...
