"""ONNX files for the tests: networks of PyTorch exported, and graphs in ONNX's own text form; what onnxruntime says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def exported(network: nn.Module, path: Path, example: Tensor, **options: Any) -> Path:
    """The network as PyTorch exports it with opset 17, for the batch and size of the example where nothing else is
    asked for."""
    chosen = {"opset_version": 17, "dynamo": False, "input_names": ["image"], **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter says that it is the older one
        torch.onnx.export(network, (example,), str(path), verbose=False, **chosen)
    return path


def graph_file(path: Path, text: str, opset: int = 17, **weights: tuple[int, ...] | NDArray[Any]) -> Path:
    """A graph in ONNX's text form; weights are arrays, or shapes to be filled with random numbers (from 0.5 on those
    that are called ``var``)."""
    import onnx
    from onnx import helper, numpy_helper

    generator = np.random.default_rng(0)
    graph = onnx.parser.parse_graph(text)
    for name, value in weights.items():
        array = generator.normal(0, 0.3, value).astype(np.float32) if isinstance(value, tuple) else value
        array = np.abs(array) + np.float32(0.5) if name == "var" else array
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def by_onnxruntime(path: Path, images: Tensor, batch: int = 1) -> list[NDArray[Any]]:
    """Every output of the file for the images, as many at once as it was made for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: np.ascontiguousarray(part.numpy())}) for part in images.split(batch)]
    return [np.concatenate(each) for each in zip(*parts, strict=True)]
