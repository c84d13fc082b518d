"""torchvision and timm come without torch.compile, and what was put off works when it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cnnviz.errors import CnnvizError
from cnnviz.models.loading.libraries import fitting

SAMPLE = Path(__file__).parents[1] / "sample_images" / "cat.jpg"


def _python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_picture_needs_no_compiler(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom cnnviz.cli.app import main\n"
        "code = main(['gradcam', sys.argv[1], '-o', sys.argv[2], '-q'])\n"
        "print(code, [name for name in ('torch._dynamo', 'torch._dynamo.utils', 'sympy') if name in sys.modules])"
    )
    assert _python(code, str(SAMPLE), str(tmp_path / "out")).split("\n")[-2] == "0 []"


def test_what_was_put_off_is_done_when_it_is_asked_for() -> None:
    code = """
import sys
import torch
given = torch.compiler.disable
from cnnviz.models.loading.libraries import without_compiler
assert torch.compiler.disable is given and "torch._dynamo" not in sys.modules

with without_compiler():
    from torch._dynamo.utils import is_compile_supported

    @torch.compiler.disable
    def twice(x):
        "Doc."
        return 2 * x

    @torch.compiler.disable(recursive=False)
    def thrice(x):
        return 3 * x
assert torch.compiler.disable is given and "torch._dynamo" not in sys.modules
assert twice.__doc__ == "Doc." and twice._torchdynamo_disable
assert (twice(torch.ones(1)), thrice(torch.ones(1))) == (torch.tensor([2.0]), torch.tensor([3.0]))
import torch._dynamo.utils as real
assert is_compile_supported("cpu") is real.is_compile_supported("cpu") and hasattr(real, "counters")

count = []
def backend(graph, inputs):
    count.append([node.op for node in graph.graph.nodes].count("call_function"))
    return graph.forward
compiled = torch.compile(lambda x: twice(x + 1) + 1, backend=backend)
assert compiled(torch.ones(1)).item() == 5 and count == [1, 1], count
print("fine")
"""
    assert _python(code) == "fine\n"


def test_who_asks_the_stand_in_for_more_gets_the_real_module() -> None:
    code = """
import sys
from cnnviz.models.loading import libraries
with libraries.without_compiler():
    stand_in = sys.modules["torch._dynamo.utils"]
    from torch._dynamo.utils import counters
    import torch._dynamo
    assert torch._dynamo.utils is sys.modules["torch._dynamo.utils"] is not stand_in
    assert counters is torch._dynamo.utils.counters
assert sys.modules["torch._dynamo.utils"] is torch._dynamo.utils
with libraries.without_compiler():
    assert sys.modules["torch._dynamo.utils"] is torch._dynamo.utils
print("fine")
"""
    assert _python(code) == "fine\n"


def test_cycles_are_looked_for_as_before_after_a_command() -> None:
    code = (
        "import gc\ngc.set_threshold(123, 4, 5)\nfrom cnnviz.cli.app import main\n"
        "main(['--version'])\nmain(['nonsense'])\nprint(gc.get_threshold())"
    )
    assert _python(code).split("\n")[-2] == "(123, 4, 5)"


def test_a_torchvision_of_another_build_is_told_as_such() -> None:
    """What its import says then, of which nobody would guess the cause."""
    expected = r"torchvision \S+ does not fit torch \S+: operator torchvision::nms does not exist"
    with pytest.raises(CnnvizError, match=expected) as told, fitting():
        raise RuntimeError("operator torchvision::nms does not exist\nand more")
    assert "more" not in told.value.message
    assert "pip install --force-reinstall torch torchvision" in told.value.hint
