"""Train on pictures with an agency's mark and on pictures without that hint, and audit both with one policy.

python examples/watermark/run.py OUT [--count 1600] [--images 160]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
TANK = HERE.parent / "tank"
sys.path[:0] = [str(HERE), str(TANK)]

from fruit_scenes import scenes, write  # noqa: E402
from tank_network import accuracy, fitted  # noqa: E402

from cnnviz.cli.app import main as cnnviz  # noqa: E402

POLICY = """\
version: 1
model:
  name: {tank}/tank_network.py:build
  checkpoint: {name}.pt
  labels: labels.txt
  input_size: 64
  resize: 64
  mean: [0.5, 0.5, 0.5]
  std: [1, 1, 1]
images: marked/data
labels: folder
truth: marked/masks
method: gradcam
checks:
  - {{kind: accuracy, min: 0.95}}
  - {{name: not at the corner, kind: avoid, region: [0.65, 0.8, 1, 1], max_energy: 0.15, scope: class}}
  - {{name: does not need the corner, kind: counterfactual, replace: [0.65, 0.8, 1, 1], with: blur, max_flips: 0.1}}
  - {{name: no shortcut, kind: shortcuts, level: error}}
"""


def run(out: Path, count: int, images: int, epochs: int = 8) -> dict[str, dict[str, object]]:
    """Both audits: accuracy, exit code, and what each check measured."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "labels.txt").write_text("apple\npear\n")
    # Both are shown the agency's pictures: on these, both are right.
    write(out / "marked", images, 77, marked=True)
    found: dict[str, dict[str, object]] = {}
    for name in ("marked", "clean"):
        network = fitted(scenes(count, 1, name == "marked")[:2], epochs, 0, mirrored=0.0)
        torch.save(network.state_dict(), out / f"{name}.pt")
        policy = out / f"{name}.yaml"
        policy.write_text(POLICY.format(tank=TANK, name=name))
        code = cnnviz(["audit", str(policy), "-o", str(out / f"audit-{name}"), "--overwrite"])
        report = json.loads((out / f"audit-{name}" / "report.json").read_text("utf-8"))
        checks = {
            f"{row['name']}: {row['statement']}": (row["measured"], row["verdict"])
            for row in report["summary"]["audit"]["checks"]
        }
        right = accuracy(network, scenes(200, 1000, marked=True)[:2])
        found[name] = {"accuracy": right, "exit code": code, "checks": checks}
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=1600)
    parser.add_argument("--images", type=int, default=160)
    given = parser.parse_args()
    for kind, figures in run(given.out, given.count, given.images).items():
        print(kind, json.dumps(figures, indent=1))
