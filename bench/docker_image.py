"""edgepipe's image, made from nothing but what this machine's pip and apt reach."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.docker_engine import Docker
from bench.shaped_network import ROOT

PUBLIC_BASE = "python:3.11-slim-bookworm"
OWN_BASE = "edgepipe-base:bookworm"
IMAGE = "edgepipe:cpu"
DEBIAN = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BUILD_WITHIN_S = 1200.0
_FROM_PIP = ("index-url", "extra-index-url", "trusted-host", "timeout", "proxy")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


def base_image(docker: Docker, folder: Path) -> str:
    """The public image where a registry can be reached, else a Debian of our own."""
    try:
        docker.run("pull", "--quiet", PUBLIC_BASE, within_s=300)
    except subprocess.SubprocessError:
        return _import_debian(docker, folder / "debian")
    return PUBLIC_BASE


def _import_debian(docker: Docker, root: Path) -> str:
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", DEBIAN, str(root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=600)
    for cached in (root / "var/cache/apt/archives").glob("*.deb"):
        cached.unlink()
    archive = root.with_suffix(".tar")
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True, timeout=120)
    docker.run("import", str(archive), OWN_BASE)
    archive.unlink()
    return OWN_BASE


def build_image(docker: Docker, base: str) -> int:
    """Build the CPU image as the host's pip is set up, and say how many bytes it has."""
    take_torch()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as pip_conf:
        pip_conf.write(pip_configuration())
        pip_conf.flush()
        words = ("--network", "host", "--file", str(ROOT / "docker/Dockerfile"), "--tag", IMAGE)
        docker.run(
            *("build", "--quiet", *words, *_secrets(Path(pip_conf.name)), *_arguments(base)),
            str(ROOT),
            within_s=BUILD_WITHIN_S,
            DOCKER_BUILDKIT="1",
        )
    return int(docker.run("image", "inspect", "--format", "{{.Size}}", IMAGE))


def take_torch() -> None:
    """Put the wheel of torch that the host's pip takes where the build finds it.

    That is a CPU build where the host has one, which need not be in any index.
    """
    wheels, target = ROOT / "docker/wheels", ("--python-version", "3.11", "--only-binary", ":all:")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download")
    pinned = ("--no-deps", "--constraint", str(ROOT / "constraints.txt"), "torch")
    subprocess.run([*pip, "--dest", str(wheels), *target, *pinned], check=True, timeout=600)


def pip_configuration() -> str:
    """A pip.conf of what the host's pip is told of indexes, for a container that has none of it."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    ).stdout
    found = re.findall(r"^\S+?\.([a-z-]+)='(.*)'$", listed, re.MULTILINE)
    told = {name: value for name, value in found if name in _FROM_PIP and "file:" not in value}
    if Path(CERTIFICATES).exists():
        told["cert"] = CERTIFICATES
    return "\n".join(["[global]", *(f"{name} = {value}" for name, value in told.items()), ""])


def _secrets(pip_conf: Path) -> Iterator[str]:
    yield from ("--secret", f"id=pip,src={pip_conf}")
    if Path(CERTIFICATES).exists():
        yield from ("--secret", f"id=ca,src={CERTIFICATES}")


def _arguments(base: str) -> Iterator[str]:
    yield from ("--build-arg", f"BASE={base}")
    for name in _PROXIES:
        if name in os.environ:
            yield from ("--build-arg", name)
