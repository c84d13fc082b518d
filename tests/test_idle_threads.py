"""How long PyTorch's threads wait in a loop, unless its user chose that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cnnviz.io.idle_threads import giving_way

RUN = """
import sys
from cnnviz.cli.app import main
sys.exit(main(["layers", "--model", "no_such_network"]))
"""
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's library tells what it read")
@pytest.mark.parametrize(("chosen", "turns"), [({}, "20000"), ({"GOMP_SPINCOUNT": "77"}, "77")])
def test_the_library_reads_it(chosen: dict[str, str], turns: str) -> None:
    """The library itself says at its start what it goes by."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    environment |= {"OMP_DISPLAY_ENV": "verbose", **chosen}
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=False, env=environment)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("PyTorch has the threads of another library here")
    assert f"GOMP_SPINCOUNT = '{turns}'" in done.stderr


@pytest.mark.parametrize("name", CHOICES)
def test_who_chose_how_threads_wait_has_it(name: str) -> None:
    environment = {name: "1"}
    with giving_way(environment):
        assert environment == {name: "1"}
    assert environment == {name: "1"}


def test_the_environment_is_left_as_it_was() -> None:
    environment = {"PATH": "/bin"}
    seen = []

    def stopped() -> None:
        with giving_way(environment):
            seen.extend(environment)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stopped()
    assert seen == ["PATH", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"]
    assert environment == {"PATH": "/bin"}
