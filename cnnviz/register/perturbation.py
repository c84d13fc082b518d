"""What happens to the score when parts of the image change."""

from __future__ import annotations

from cnnviz.specs import MethodSpec, Param

PERTURBATION: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="occlusion",
        command="occlusion",
        family="perturbation",
        entry="cnnviz.methods.occlusion:occlusion",
        title="Occlusion",
        summary="How much the score drops when a window of the image is hidden.",
        paper="Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014",
        params=(
            Param("window", "size", 32, "Side of the window, or height,width.", minimum=1, unit="pixels"),
            Param("stride", "size", 8, "Step between windows, or height,width.", minimum=1, unit="pixels"),
            Param(
                "baseline",
                "text",
                "zero",
                "What hides the window: zero (mean colour), black, gray, mean, blur, noise, or a colour.",
            ),
            Param(
                "incremental",
                "choice",
                "auto",
                "Recompute only what a window changes, exactly; off runs the whole network for each.",
                choices=("auto", "on", "off"),
            ),
            Param("classes_map", "bool", False, "Keep the most probable class of each position too."),
            Param("seed", "int", 0, "Seeds the noise.", minimum=0),
        ),
        space="grid",
        signed=True,
        forward="one a window",
    ),
)
