"""What a command sets for libraries that it has not loaded yet."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import os, sys
from edgepipe.cli import main

loaded = "grpc" in sys.modules
sys.argv = ["edgepipe", "--version"]
try:
    main()
except SystemExit:
    print(loaded, os.environ["GRPC_ENABLE_FORK_SUPPORT"])
"""


def test_grpc_hears_that_nobody_forks_before_it_is_loaded() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False 0"
