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
            Param("classes_map", "bool", False, "Draw and keep the most probable class of each position too."),
            Param("seed", "int", 0, "Seeds the noise.", minimum=0),
        ),
        space="grid",
        signed=True,
        forward="one a window",
    ),
    MethodSpec(
        name="rise",
        command="rise",
        family="perturbation",
        entry="cnnviz.methods.rise:rise",
        title="RISE",
        summary="The expected probability of the class when a pixel is visible, over random masks.",
        paper="Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018",
        params=(
            Param("masks", "int", 4000, "Random masks.", minimum=1),
            Param("cells", "int", 7, "Cells of a mask's grid along each side.", minimum=1),
            Param("p", "float", 0.5, "Probability that a cell is visible.", minimum=0.001, maximum=1),
            Param(
                "coverage",
                "choice",
                "expected",
                "Divide by how often a pixel is visible: as expected (the paper), or as it was.",
                choices=("expected", "observed"),
            ),
            Param("seed", "int", 0, "Seeds the masks, which are the same for every image.", minimum=0),
        ),
        space="grid",
        forward="masks",
        rehearsal={"masks": 2},
    ),
)
