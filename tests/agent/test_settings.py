from __future__ import annotations

import socket
import tomllib
from pathlib import Path

import pytest

from edgepipe.agent.configuration import load_settings
from edgepipe.agent.settings import AgentSettings, default_name, parse_memory_limits
from edgepipe.core.profile import Address, DeviceId
from edgepipe.errors import UsageError
from edgepipe.obs.logs import LogFormat

SHIPPED = Path(__file__).parents[2] / "agents" / "agent.toml"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEPIPE_HOME", str(tmp_path))
    return tmp_path


def write(home: Path, text: str) -> None:
    (home / "agent.toml").write_text(text)


def test_nothing_needs_to_be_set(home: Path) -> None:
    settings = load_settings({"name": None, "device": [], "insecure": False})
    assert settings.listen == Address(host="", port=27700)
    assert (settings.name, settings.cluster, settings.home) == (default_name(), "default", home)


def test_flags_win_over_the_environment_and_that_over_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, 'name = "file"\ncluster = "file"\nthreads = 1\n')
    monkeypatch.setenv("EDGEPIPE_NAME", "environment")
    monkeypatch.setenv("EDGEPIPE_CLUSTER", "environment")
    settings = load_settings({"name": "flag"})
    assert (settings.name, settings.cluster, settings.threads) == ("flag", "environment", 1)


def test_lists_are_arrays_in_a_file_and_commas_in_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, 'device = ["cpu"]\n')
    monkeypatch.setenv("EDGEPIPE_PEER", "10.0.0.2, 10.0.0.3:5")
    settings = load_settings({"memory": ["6GiB", "cuda:0=1GB"]})
    assert settings.device == ("cpu",)
    assert settings.peers == (
        Address(host="10.0.0.2", port=27700),
        Address(host="10.0.0.3", port=5),
    )
    limits = settings.memory_limits
    assert limits.of(DeviceId("cpu")) == 6 * 2**30
    assert limits.of(DeviceId("cuda:0")) == 10**9


def test_no_memory_limit_is_none() -> None:
    assert parse_memory_limits(()).of(DeviceId("cpu")) is None


def test_the_shipped_file_shows_every_setting_and_its_default() -> None:
    text = SHIPPED.read_text()
    shown = tomllib.loads(text)
    unset = {name for name in AgentSettings.model_fields if f"\n# {name} = " in text}
    assert set(shown) | unset == set(AgentSettings.model_fields)
    assert load_settings({}, SHIPPED) == load_settings({})


def test_the_examples_in_the_shipped_file_are_valid(home: Path) -> None:
    lines = SHIPPED.read_text().splitlines()
    examples = {}
    for line in lines:
        example = line.removeprefix("# ") if line.startswith("# ") else line
        if example.partition(" = ")[0] in AgentSettings.model_fields:
            examples[example.partition(" = ")[0]] = example
    write(home, "\n".join(examples.values()))
    settings = load_settings({})
    assert settings.advertise == Address(host="192.168.1.20", port=27700)
    assert len(settings.peers) == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lisen = ':1'", r"agent.toml sets 'lisen', which is no setting: try listen\.$"),
        ("zzz = 1", r"sets 'zzz', which is no setting: try .*listen, advertise"),
        ("threads = 'many'", r"setting 'threads' is wrong: input should be a valid integer"),
        ("threads = 0", r"'threads' is wrong: input should be greater than or equal to 1, not '0'"),
        ("slowdown = 0.5", r"setting 'slowdown' is wrong: .* greater than or equal to 1"),
        ("slowdown = nan", r"setting 'slowdown' is wrong"),
        ("lease_ttl_s = 301", r"setting 'lease_ttl_s' is wrong: .* less than or equal to 300"),
        ("log_format = 'xml'", r"setting 'log_format' is wrong: .*'auto', 'console' or 'json'"),
        ("device = 3", r"setting 'device' is wrong"),
        ("listen =", r"agent.toml is not valid TOML: "),
        ("memory = '6'", r"--memory wants a size such as 6GiB, 512MiB or 24GB, not '6'\.$"),
        ("memory = 'cuda:0=-1GiB'", r"--memory wants a size"),
        ("listen = 'attic:1'", r"'attic' is a name: give an IP address"),
        ("listen = ':70000'", r"--listen wants HOST:PORT"),
        ("listen = '10.0.0.1'", r"--listen wants HOST:PORT"),
        ("metrics = '27790'", r"--metrics '27790' has no port: write HOST:PORT, or :PORT\.$"),
        ("metrics = 'attic:1'", r"'attic' is a name: give an IP address"),
        ("log_level = 'loud'", r"setting 'log_level' is wrong: .*'debug', 'info'"),
        ("advertise = '10.0.0.1:0'", r"--advertise wants the port that others dial, not 0"),
        ("advertise = '10.0.0.1:1'\nlisten = ':0'", r"--advertise needs a fixed port in --listen"),
        ("listen = ':65500'", r"Port 65500 leaves no room for the workers"),
        ("peer = ['http://x']", r"--peer wants HOST:PORT"),
        ("name = '../x'", r"'../x' cannot name a node or a cluster"),
        ("cluster = ''", r"'' cannot name a node or a cluster"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(home: Path, text: str, sentence: str) -> None:
    write(home, text)
    with pytest.raises(UsageError, match=sentence) as caught:
        load_settings({})
    assert "\n" not in str(caught.value)


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.toml cannot be read: No such file"):
        load_settings({}, tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        (":0", "", 0),
        ("*:5", "", 5),
        ("0.0.0.0:5", "", 5),
        ("[::]:5", "", 5),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("localhost:5", "127.0.0.1", 5),
        ("[::1]:5", "::1", 5),
    ],
)
def test_listening_addresses(listen: str, host: str, port: int) -> None:
    assert load_settings({"listen": listen}).listen == Address(host=host, port=port)


def test_metrics_are_off_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings({}).metrics is None
    monkeypatch.setenv("EDGEPIPE_METRICS", ":27790")
    assert load_settings({}).metrics == Address(host="", port=27790)
    assert load_settings({"metrics": "localhost:0"}).metrics == Address(host="127.0.0.1", port=0)


def test_workers_take_the_ports_that_follow() -> None:
    fixed = load_settings({"listen": "127.0.0.1:5000"})
    assert fixed.worker_listen(1) == Address(host="127.0.0.1", port=5002)
    assert fixed.worker_port(1, 5002) == 5002
    free = load_settings({"listen": "127.0.0.1:0"})
    assert free.worker_listen(1).port == 0
    assert free.worker_port(1, 40123) == 40123


def test_workers_are_advertised_after_the_advertised_port() -> None:
    settings = load_settings({"listen": ":5000", "advertise": "203.0.113.1:81"})
    assert settings.worker_listen(0).port == 5001
    assert settings.worker_port(0, 5001) == 82


@pytest.mark.parametrize(
    ("hostname", "name"),
    [("attic", "attic"), ("Ann's-Mac.local", "Ann-s-Mac"), ("küche", "k-che"), ("...", "node")],
)
def test_a_host_name_becomes_a_node_name(
    hostname: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: hostname)
    assert default_name() == name


def test_settings_do_not_change() -> None:
    settings = load_settings({"log_format": "json"})
    assert settings.log_format is LogFormat.JSON
    with pytest.raises(ValueError, match="frozen"):
        settings.name = "other"  # type: ignore[misc]
