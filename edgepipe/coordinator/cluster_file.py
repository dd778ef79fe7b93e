"""A cluster file: machines that are not here, on paper. docs/clusters/README.md is its reference.

[defaults]   bytes_per_s, latency_s                        links that are not stated
[[device]]   node, device, memory, pool?, and its speed    one table each
[[nic]]      node, bytes_per_s, medium?
[[link]]     from, to, bytes_per_s, latency_s
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from edgepipe.coordinator.cluster_devices import Paper, read_devices
from edgepipe.coordinator.cluster_links import read_network
from edgepipe.coordinator.toml_table import read_toml
from edgepipe.core.frame import DType
from edgepipe.core.model import ModelShape
from edgepipe.core.stated import MICROBATCH_ROWS, Pass
from edgepipe.core.survey import Survey


def read_cluster_file(
    path: Path,
    model: ModelShape,
    dtype: DType,
    *,
    prefill_chunk: int,
    microbatch_rows: int = MICROBATCH_ROWS,
    passes: Collection[Pass] = tuple(Pass),
    adapted: bool = False,
) -> Survey:
    """The machines of a cluster file, as a survey of them for this model would be.

    Args:
        path: the file.
        model: what its devices are to run.
        dtype: of weights and KV cache.
        prefill_chunk: rows of a prefill chunk, which a stated `*_prefill_s` is of.
        microbatch_rows: rows that stated `*_forward_s` and `*_backward_s` are of.
        passes: what the plan needs; a device with stated seconds states at least these.
        adapted: training is of adapters beside the model's own weights.

    Raises:
        UsageError: the file cannot be read, or something in it is wrong: what, and where.
    """
    whole = read_toml(path)
    whole.check_keys(("defaults", "device", "nic", "link"))
    paper = Paper(
        model=model,
        dtype=dtype,
        prefill_chunk=prefill_chunk,
        microbatch_rows=microbatch_rows,
        passes=passes,
        adapted=adapted,
    )
    devices, speeds = read_devices(whole, paper)
    nodes = tuple(dict.fromkeys(device.node for device in devices))
    links, nics = read_network(whole, nodes)
    return Survey(devices=devices, speeds=speeds, links=links, nics=nics)
