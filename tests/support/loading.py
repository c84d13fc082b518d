"""Networks as ``load`` gives them, or refuses to."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from cnnviz.errors import CnnvizError
from cnnviz.models.loading.load import LoadedModel, ModelSpec, load

SMALL = "squeezenet1_1"  # 1.2 million parameters


def assert_ready(model: LoadedModel) -> None:
    assert not model.module.training
    assert all(not p.requires_grad and p.dtype == torch.float32 for p in model.module.parameters())
    assert model.parameters == sum(p.numel() for p in model.module.parameters())
    assert len(model.labels) == model.num_classes
    with torch.no_grad():
        assert model.module(torch.zeros(2, *model.preprocess.input_size)).shape == (2, model.num_classes)


def refused(**options: Any) -> CnnvizError:
    with pytest.raises(CnnvizError) as caught:
        load(ModelSpec(**options))
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def written(text: str, name: str = "nets.py") -> str:
    Path(name).write_text("import torch\nfrom torch import nn\n" + textwrap.dedent(text))
    return name
