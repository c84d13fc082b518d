"""Train on biased and on balanced scenes, and audit both with one policy.

python examples/tank/run.py OUT [--count 800] [--images 80]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from tank_network import train  # noqa: E402
from tank_scenes import write  # noqa: E402

from cnnviz.cli.app import main as cnnviz  # noqa: E402

POLICY = """\
version: 1
model:
  name: {here}/tank_network.py:build
  checkpoint: {name}.pt
  labels: labels.txt
  input_size: 64
  resize: 64
  mean: [0.5, 0.5, 0.5]
  std: [1, 1, 1]
images: {name}/data
labels: folder
groups: {name}/groups.csv
truth: {name}/masks
method: gradcam
checks:
  - {{kind: accuracy, min: 0.95}}
  - {{name: looks at the vehicle, kind: inside, min_energy: 0.3}}
  - {{name: does not need the weather, kind: counterfactual, replace: background, with: shuffle, max_flips: 0.1}}
  - {{name: follows the picture, kind: stable, under: [flip, shift], min_similarity: 0.5, level: warning}}
"""


def run(out: Path, count: int, images: int) -> dict[str, dict[str, object]]:
    """Both audits: accuracy, exit code, and what each check measured."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "labels.txt").write_text("tank\ntruck\n")
    found: dict[str, dict[str, object]] = {}
    for name in ("biased", "balanced"):
        accuracy = train(out / f"{name}.pt", biased=name == "biased", count=count)
        # Both are shown scenes like those that they learned from: on these, both are right.
        write(out / name, images, 77, biased=name == "biased")
        policy = out / f"{name}.yaml"
        policy.write_text(POLICY.format(here=HERE, name=name))
        code = cnnviz(["audit", str(policy), "-o", str(out / f"audit-{name}"), "--overwrite"])
        report = json.loads((out / f"audit-{name}" / "report.json").read_text("utf-8"))
        checks = {
            f"{row['name']}: {row['statement']}": (row["measured"], row["verdict"])
            for row in report["summary"]["audit"]["checks"]
        }
        found[name] = {"accuracy": accuracy, "exit code": code, "checks": checks}
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=800)
    parser.add_argument("--images", type=int, default=80)
    given = parser.parse_args()
    for kind, figures in run(given.out, given.count, given.images).items():
        print(kind, json.dumps(figures, indent=1))
