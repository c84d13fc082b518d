"""Train on biased and on balanced shores, and audit where the evidence for boats lies with one policy.

python examples/boats/run.py OUT [--count 160] [--images 60]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from shore_network import fitted, iou  # noqa: E402
from shore_scenes import CLASSES, scenes, write  # noqa: E402

from cnnviz.cli.app import main as cnnviz  # noqa: E402

POLICY = """\
version: 1
model:
  name: {here}/shore_network.py:build
  checkpoint: {name}.pt
  labels: labels.txt
  input_size: [48, 64]
  resize: 48
  mean: [0.5, 0.5, 0.5]
  std: [1, 1, 1]
images: data
method: gradcam
target: class:boat
options: {{layer: coarse.0}}
checks:
  - {{name: a boat is a boat, kind: evidence, of: boat, on: water, max_share: 0.65}}
"""


def run(out: Path, count: int, images: int, epochs: int = 10) -> dict[str, dict[str, object]]:
    """Both audits: IoU on scenes of its own kind and on balanced ones, exit code, and what the check measured."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "labels.txt").write_text("\n".join(CLASSES))
    # Both are shown the shores on which boats lie on the water.
    write(out / "data", images, 77, biased=True)
    found: dict[str, dict[str, object]] = {}
    for name in ("biased", "balanced"):
        network = fitted(scenes(count, 1, name == "biased")[:2], epochs)
        torch.save(network.state_dict(), out / f"{name}.pt")
        policy = out / f"{name}.yaml"
        policy.write_text(POLICY.format(here=HERE, name=name))
        code = cnnviz(["audit", str(policy), "-o", str(out / f"audit-{name}"), "--overwrite"])
        report = json.loads((out / f"audit-{name}" / "report.json").read_text("utf-8"))
        [check] = report["summary"]["audit"]["checks"]
        found[name] = {
            "iou of boats, as audited": iou(network, scenes(60, 99, biased=True)[:2])["boat"],
            "iou of boats, anywhere": iou(network, scenes(60, 98, biased=False)[:2])["boat"],
            "exit code": code,
            "evidence on water": check["measured"],
            "ci95": check["ci95"],
            "verdict": check["verdict"],
        }
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--images", type=int, default=60)
    given = parser.parse_args()
    for kind, figures in run(given.out, given.count, given.images).items():
        print(kind, json.dumps(figures, indent=1))
