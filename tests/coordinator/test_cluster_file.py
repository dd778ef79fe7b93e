"""Cluster files: what they mean, and what is wrong with one in a sentence that names the place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from on_paper import GIB, llama

from edgepipe.coordinator.cluster_file import read_cluster_file
from edgepipe.coordinator.models import resolve
from edgepipe.coordinator.shape import model_shape
from edgepipe.core.candidates import Candidate
from edgepipe.core.frame import DType
from edgepipe.core.model import ModelShape
from edgepipe.core.stated import Pass
from edgepipe.core.survey import LOOPBACK_BYTES_PER_S, Survey
from edgepipe.errors import UsageError

CLUSTERS = Path(__file__).parents[2] / "docs" / "clusters"
FILES = sorted(CLUSTERS.glob("*.toml"))
MODELS = sorted((CLUSTERS / "models").iterdir())
TINY = llama(num_layers=3, name="tiny")

DESK = """
[[device]]
node = "desk"
device = "cuda:0"
memory = "24GiB"
flops_per_s = 74e12
memory_bytes_per_s = 857e9
"""
ATTIC = """
[[device]]
node = "attic"
device = "cpu"
memory = "16GiB"
flops_per_s = 0.2e12
memory_bytes_per_s = 19e9
"""
TIMES = "\n".join(
    f"{item}_{each}_s = 0.5" for item in ("embedding", "layer", "head") for each in Pass
)
STATED = f"""
[[device]]
node = "attic"
device = "cpu"
memory = "16GiB"
{TIMES}
"""
DEFAULTS = "[defaults]\nbytes_per_s = 112e6\nlatency_s = 0.4e-3\n"
HOME = DEFAULTS + DESK + ATTIC
LINK = '[[link]]\nfrom = "desk"\nto = "attic"\nbytes_per_s = 14e6\nlatency_s = 4e-3\n'
NICS = (
    '[[nic]]\nnode = "desk"\nbytes_per_s = 117e6\n'
    '[[nic]]\nnode = "attic"\nbytes_per_s = 30e6\nmedium = "air"\n'
)


def read(
    tmp_path: Path,
    text: str | bytes,
    *,
    model: ModelShape = TINY,
    passes: tuple[Pass, ...] = tuple(Pass),
) -> Survey:
    file = tmp_path / "home.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_cluster_file(file, model, DType.BFLOAT16, prefill_chunk=128, passes=passes)


def nodes_of(survey: Survey) -> tuple[Candidate, Candidate]:
    desk, attic = survey.devices
    return desk, attic


def test_devices_come_in_the_files_order(tmp_path: Path) -> None:
    desk, attic = nodes_of(read(tmp_path, HOME))
    assert (desk.node, desk.device.id, desk.device.kind) == ("desk", "cuda:0", "cuda")
    assert (desk.host, attic.host) == ("desk", "attic")
    assert (desk.usable_bytes, attic.usable_bytes) == (24 * GIB, 16 * GIB)


@pytest.mark.parametrize(
    ("device", "pool"), [("cpu", "host"), ("mps", "host"), ("cuda:1", "cuda:1")]
)
def test_a_device_has_memory_of_its_own_or_the_machines(
    tmp_path: Path, device: str, pool: str
) -> None:
    survey = read(tmp_path, ATTIC.replace('"cpu"', f'"{device}"'))
    assert survey.devices[0].device.pool == pool


def test_a_pool_may_be_stated(tmp_path: Path) -> None:
    survey = read(tmp_path, DESK + 'pool = "host"\n')
    assert survey.devices[0].device.pool == "host"


def test_a_link_that_is_not_stated_takes_the_defaults(tmp_path: Path) -> None:
    survey = read(tmp_path, HOME)
    for sender, receiver in (nodes_of(survey), nodes_of(survey)[::-1]):
        link = survey.link(sender, receiver)
        assert (link.bytes_per_s, link.latency_s) == (112e6, 0.4e-3)


def test_it_is_no_faster_than_the_nics_at_its_ends(tmp_path: Path) -> None:
    survey = read(tmp_path, HOME + NICS)
    assert survey.link(*nodes_of(survey)).bytes_per_s == 30e6


def test_without_defaults_it_is_as_fast_as_the_slower_nic(tmp_path: Path) -> None:
    survey = read(tmp_path, DESK + ATTIC + NICS)
    link = survey.link(*nodes_of(survey))
    assert (link.bytes_per_s, link.latency_s) == (30e6, 0.5e-3)


def test_a_stated_link_goes_both_ways(tmp_path: Path) -> None:
    survey = read(tmp_path, DESK + ATTIC + LINK)
    desk, attic = nodes_of(survey)
    for link in (survey.link(desk, attic), survey.link(attic, desk)):
        assert (link.bytes_per_s, link.latency_s) == (14e6, 4e-3)


def test_unless_the_other_way_is_stated_itself(tmp_path: Path) -> None:
    back = '[[link]]\nfrom = "attic"\nto = "desk"\nbytes_per_s = 8e6\nlatency_s = 5e-3\n'
    survey = read(tmp_path, DESK + ATTIC + LINK + back)
    desk, attic = nodes_of(survey)
    assert survey.link(desk, attic).bytes_per_s == 14e6
    assert survey.link(attic, desk).bytes_per_s == 8e6


def test_devices_of_one_node_reach_each_other_by_loopback(tmp_path: Path) -> None:
    survey = read(tmp_path, DESK + ATTIC.replace("attic", "desk"))
    assert survey.link(*nodes_of(survey)).bytes_per_s == LOOPBACK_BYTES_PER_S


def test_nics_are_stations_of_their_media(tmp_path: Path) -> None:
    nics = read(tmp_path, HOME + NICS).nics
    assert nics["desk"].medium is None
    assert (nics["attic"].send_bytes_per_s, nics["attic"].receive_bytes_per_s) == (30e6, 30e6)
    assert nics["attic"].medium == "air"


def test_seconds_may_be_stated_for_every_layer(tmp_path: Path) -> None:
    text = STATED.replace("layer_decode_s = 0.5", "layer_decode_s = [1, 2.0, 3]")
    (speed,) = read(tmp_path, text).speeds
    assert [item.decode.at(1) for item in speed.items] == [0.5, 1, 2, 3, 0.5]
    assert [item.backward.at(512) for item in speed.items] == [0.5] * 5


def test_only_the_passes_that_a_plan_needs_are_stated(tmp_path: Path) -> None:
    text = "\n".join(line for line in STATED.splitlines() if "ward_s" not in line)
    (speed,) = read(tmp_path, text, passes=(Pass.DECODE, Pass.PREFILL)).speeds
    assert speed.items[1].forward.at(512) == 0


def without(text: str, key: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(key))


MEMORY = 'memory = "16GiB"'
WRONG: dict[str, str | bytes] = {
    "damaged TOML": "[defaults]\nbytes_per_s = = 1\n",
    "a string that never ends": 'x = """',
    "a number of thousands of digits": f"x = {'9' * 5000}",
    "not UTF-8": HOME.encode() + b"# caf\xe9",
    "nested too deeply": "x = " + "[" * 5000,
    "larger than a cluster file is": "#" * ((1 << 18) + 1),
    "no device": DEFAULTS,
    "an unknown table": HOME + '[[nics]]\nnode = "desk"\n',
    "an unknown key of a device": HOME + "flop_per_s = 1e12\n",
    "an unknown key of a NIC": HOME + '[[nic]]\nnode = "desk"\nspeed = 1\n',
    "an unknown key of the defaults": HOME.replace("latency_s", "latency_ms"),
    "an unknown key with a line break": HOME + '"a\\nb" = 1\n',
    "one table where there may be several": DESK.replace("[[device]]", "[device]"),
    "defaults that are no table": "defaults = 3\n" + DESK,
    "too many devices": DESK * 65,
    "a negative memory": HOME.replace("16GiB", "-16GiB"),
    "no memory at all": HOME.replace("16GiB", "0GiB"),
    "a memory without a unit": HOME.replace("16GiB", "16"),
    "a memory that is a number": HOME.replace('"16GiB"', "16"),
    "an absurd memory": HOME.replace("16GiB", "99999TiB"),
    "no memory stated": without(HOME, "memory = "),
    "no node": HOME.replace('node = "attic"\n', ""),
    "an empty node": HOME.replace('"attic"', '""'),
    "a device that does not exist": HOME.replace('"cpu"', '"gpu0"'),
    "two devices of one name": HOME + ATTIC,
    "a pool that is no name": DESK + "pool = 1\n",
    "no speed": without(without(ATTIC, "flops"), "memory_bytes"),
    "half a speed": HOME.replace("memory_bytes_per_s = 19e9\n", ""),
    "two speeds": HOME + "layer_decode_s = 0.1\n",
    "a negative speed": HOME.replace("0.2e12", "-1"),
    "a speed of nothing": HOME.replace("0.2e12", "0"),
    "a speed in the wrong unit": HOME.replace("19e9", "19"),
    "a speed that is not a number": HOME.replace("0.2e12", "nan"),
    "an infinite speed": HOME.replace("0.2e12", "inf"),
    "a speed beyond all bounds": HOME.replace("0.2e12", f"0x{'f' * 9000}"),
    "a speed in words": HOME.replace("0.2e12", '"fast"'),
    "a speed that is true": HOME.replace("0.2e12", "true"),
    "a speed that is a date": HOME.replace("0.2e12", "2026-11-25"),
    "a missing pass": without(STATED, "layer_prefill_s"),
    "a missing item": without(STATED, "head_backward_s"),
    "too few layers": STATED.replace("layer_decode_s = 0.5", "layer_decode_s = [1, 2]"),
    "a layer's negative seconds": STATED.replace("layer_decode_s = 0.5", "layer_decode_s=[1,-2,3]"),
    "a layer's seconds in words": STATED.replace("layer_decode_s = 0.5", "layer_decode_s=[1,'',3]"),
    "a layer's table": STATED.replace("layer_decode_s = 0.5", "layer_decode_s = {a = 1}"),
    "hours in a layer": STATED.replace("layer_decode_s = 0.5", "layer_decode_s = 4000"),
    "a NIC of a node without a device": HOME + NICS.replace('"attic"', '"cellar"'),
    "two NICs of a node": HOME + NICS.replace('"attic"', '"desk"'),
    "a NIC in Gbit/s": HOME + '[[nic]]\nnode = "desk"\nbytes_per_s = 1\n',
    "a link to nowhere": HOME + LINK.replace('"attic"', '"cellar"'),
    "a link to itself": HOME + LINK.replace('"attic"', '"desk"'),
    "a link twice": HOME + LINK + LINK,
    "a link without an end": HOME + LINK.replace('to = "attic"\n', ""),
    "a link with a negative latency": HOME + LINK.replace("4e-3", "-4e-3"),
    "no link": DESK + ATTIC,
    "a latency of minutes": HOME.replace("0.4e-3", "400"),
}


def refusal(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(UsageError) as refused:
        read(tmp_path, text)
    return str(refused.value).replace(f"{tmp_path}/", "")


def test_what_is_wrong_is_said_in_one_sentence_that_names_the_place(
    tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    said = [f"{what}\n    {refusal(tmp_path, text)}\n" for what, text in WRONG.items()]
    assert all(entry.count("\n") == 2 and "home.toml" in entry for entry in said)
    golden("cluster_file_refusals", "".join(said))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.toml cannot be read: No such file"):
        read_cluster_file(tmp_path / "gone.toml", TINY, DType.BFLOAT16, prefill_chunk=128)


def test_a_folder_is_no_cluster_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_cluster_file(tmp_path, TINY, DType.BFLOAT16, prefill_chunk=128)


VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(lambda value: str(value).replace("e+", "e")),
    st.sampled_from(["desk", "attic", "cpu", "cuda:0", "8GiB", "-8GiB", ""]).map('"{}"'.format),
    st.sampled_from(["[]", "{}", "[1]", "1979-05-27", "[[1], 2]", "[1, 2, 3]", "'''\n'''"]),
    st.sampled_from(["true", "1e9", "0.001"]),
    st.text(max_size=5).map('"{}"'.format),
)
KEYS = st.one_of(
    st.sampled_from(["node", "device", "memory", "pool", "medium", "from", "to", "nic", "a.b"]),
    st.sampled_from(["flops_per_s", "memory_bytes_per_s", "bytes_per_s", "latency_s"]),
    st.sampled_from(["layer_decode_s", "head_prefill_s"]),
    st.text(max_size=4),
)
HEADS = st.sampled_from(["[[device]]", "[[nic]]", "[[link]]", "[defaults]", "[device]", "[x]", ""])
TABLES = st.builds(
    lambda head, pairs: "\n".join([head, *(f"{key} = {value}" for key, value in pairs.items())]),
    HEADS,
    st.dictionaries(KEYS, VALUES, max_size=5),
)
DOCUMENTS = st.lists(st.one_of(TABLES, st.sampled_from([DESK, ATTIC, LINK, DEFAULTS])), max_size=5)


def check(data: bytes) -> None:
    """That the document is a survey, or refused in one line."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            survey = read(Path(folder), data)
        except UsageError as error:
            said = str(error)
        else:
            said = survey.devices[0].node
    assert said
    assert "\n" not in said


@given(DOCUMENTS.map("\n".join).map(str.encode) | st.binary(max_size=60))
def test_any_document_is_a_survey_or_refused(data: bytes) -> None:
    check(data)


def mutated(lines: list[str], index: int, value: str) -> str:
    """A document with one of its values replaced."""
    at = index % len(lines)
    key = lines[at].partition("=")[0]
    return "\n".join([*lines[:at], f"{key}= {value}" if "=" in lines[at] else "", *lines[at + 1 :]])


@given(index=st.integers(0, 99), value=VALUES)
def test_so_is_any_change_of_a_good_one(index: int, value: str) -> None:
    text = mutated((HOME + NICS + LINK).splitlines(), index, value)
    check(text.encode())


def on_paper(folder: Path, home: Path) -> ModelShape:
    """The sizes of a folder that holds only config.json."""
    model = resolve(str(folder), home=home)
    return model_shape(model.name, model.config, home=home)


def test_there_are_six_home_clusters() -> None:
    assert len(FILES) == 6
    assert all(file.read_text().startswith("# ") for file in FILES)


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_each_is_read_for_each_model_on_paper(folder: Path, session_home: Path) -> None:
    shape = on_paper(folder, session_home)
    for file in FILES:
        survey = read_cluster_file(file, shape, shape.dtype, prefill_chunk=128)
        hosts = {device.host for device in survey.devices}
        assert set(survey.nics) == hosts
        assert len(survey.links) == len(hosts) * (len(hosts) - 1)
        assert {len(speed.items) for speed in survey.speeds} == {shape.num_layers + 2}


@pytest.mark.parametrize(
    ("name", "billions"), [("llama-3-8b", 8.03), ("qwen2.5-32b", 32.76), ("smollm2-1.7b", 1.71)]
)
def test_models_on_paper_have_their_published_sizes(
    name: str, billions: float, session_home: Path
) -> None:
    shape = on_paper(CLUSTERS / "models" / name, session_home)
    assert sum(shape.parameters.values()) / 1e9 == pytest.approx(billions, abs=0.01)
