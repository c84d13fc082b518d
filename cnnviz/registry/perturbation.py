"""What happens to the score when parts of the image change."""

from typing import Literal

from cnnviz.registry.specs import MethodSpec, Options, Package, option

_SLIC = (Package("skimage", "scikit-image", "superpixels"),)


class OcclusionOptions(Options):
    """Options of Occlusion."""

    window: tuple[int, int] = option((32, 32), "Side of the window, or height,width.", minimum=1, unit="pixels")
    stride: tuple[int, int] = option((8, 8), "Step between windows, or height,width.", minimum=1, unit="pixels")
    baseline: str = option(
        "zero", "What hides the window: zero (mean colour), black, gray, mean, blur, noise, or a colour."
    )
    incremental: Literal["auto", "on", "off"] = option(
        "auto", "Recompute only what a window changes, exactly; off runs the whole network for each."
    )
    classes_map: bool = option(False, "Draw and keep the most probable class of each position too.", demands="one view")
    seed: int = option(0, "Seeds the noise.", minimum=0)


class RISEOptions(Options):
    """Options of RISE."""

    masks: int = option(4000, "Random masks.", minimum=1)
    cells: int = option(7, "Cells of a mask's grid along each side.", minimum=1)
    p: float = option(0.5, "Probability that a cell is visible.", minimum=0.001, maximum=1)
    coverage: Literal["expected", "observed"] = option(
        "expected", "Divide by how often a pixel is visible: as expected (the paper), or as it was."
    )
    seed: int = option(0, "Seeds the masks, which are the same for every image.", minimum=0)


class DRISEOptions(Options):
    """Options of D-RISE."""

    masks: int = option(5000, "Random masks.", minimum=1)
    cells: int = option(16, "Cells of a mask's grid along each side.", minimum=1)
    p: float = option(0.5, "Probability that a cell is visible.", minimum=0.001, maximum=1)
    coverage: Literal["expected", "observed"] = option(
        "expected", "Divide by how often a pixel is visible: as expected, or as it was."
    )
    seed: int = option(0, "Seeds the masks, which are the same for every image.", minimum=0)


class ExtremalOptions(Options):
    """Options of Extremal perturbation."""

    areas: str = option("0.1", "Shares of the image, such as 0.05,0.1,0.2; the map is the masks' mean.")
    steps: int = option(4, "Exchanges of cells at each area, at most, as long as the score rises.", minimum=0)
    game: Literal["preserve", "delete"] = option(
        "preserve", "Keep the region and blur the rest, or blur the region so that the score falls."
    )
    cells: int = option(14, "Cells of the mask along the image's shorter side.", minimum=1)
    blur: float = option(0.09, "Strongest blur, as a share of the image's shorter side.", minimum=0)


class SuperpixelOptions(Options):
    """Options of KernelSHAP, and of LIME beside its own."""

    segments: int = option(50, "About so many superpixels.", minimum=1)
    compactness: float = option(10.0, "Of SLIC: low follows colours, high makes squares.", minimum=0.001)
    samples: int = option(1000, "Images with hidden superpixels.", minimum=1)
    baseline: str = option(
        "zero", "What hides a superpixel: zero (mean colour), black, gray, mean, blur, noise, or a colour."
    )
    seed: int = option(0, "Seeds which superpixels are hidden.", minimum=0)


class LIMEOptions(SuperpixelOptions):
    """Options of LIME."""

    width: float = option(0.25, "Width of the kernel of cosine distances.", minimum=0.001)
    ridge: float = option(1.0, "Penalty on squared values.", minimum=0)


class SobolOptions(Options):
    """Options of Sobol indices."""

    cells: int = option(8, "Cells of the grid along each side.", minimum=1)
    designs: int = option(
        32, "Points of the design; 2 + cells² images each. Four times a power of two covers best.", minimum=2
    )
    order: Literal["total", "first"] = option("total", "With all interactions of a cell, or its effect alone.")
    baseline: str = option(
        "zero", "What a cell fades to: zero (mean colour), black, gray, mean, blur, noise, or a colour."
    )
    seed: int = option(0, "Seeds the design and the noise.", minimum=0)


class HSICOptions(Options):
    """Options of HSIC."""

    cells: int = option(7, "Cells of the grid along each side.", minimum=1)
    masks: int = option(1500, "Images with half of the cells hidden.", minimum=4)
    baseline: str = option(
        "zero", "What hides a cell: zero (mean colour), black, gray, mean, blur, noise, or a colour."
    )
    seed: int = option(0, "Seeds the masks and the noise.", minimum=0)


_COVERAGE = "--coverage observed has less of this noise than --coverage expected"
PERTURBATION: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="occlusion",
        command="occlusion",
        family="perturbation",
        entry="cnnviz.methods.perturbation.occlusion:occlusion",
        title="Occlusion",
        summary="How much the score drops when a window of the image is hidden.",
        paper="Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014",
        options=OcclusionOptions,
        space="grid",
        signed=True,
        forward="one for each window",
        singly=True,
        dry_run_params={"stride": (1 << 20, 1 << 20)},
    ),
    MethodSpec(
        name="rise",
        command="rise",
        family="perturbation",
        entry="cnnviz.methods.perturbation.rise:rise",
        title="RISE",
        summary="The expected probability of the class when a pixel is visible, over random masks.",
        paper="Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018",
        options=RISEOptions,
        space="grid",
        forward="masks",
        draws="masks",
        chance=_COVERAGE,
        chance_unless={"coverage": "observed"},
        singly=True,
        dry_run_params={"masks": 2},
    ),
    MethodSpec(
        name="drise",
        command="rise",
        family="perturbation",
        entry="cnnviz.methods.perturbation.rise:drise",
        title="D-RISE",
        summary="How alike the best candidate stays to a detector's box when a pixel is visible, over random masks.",
        paper="Petsiuk et al., Black-box Explanation of Object Detectors via Saliency Maps, CVPR 2021",
        options=DRISEOptions,
        needs=("boxes",),
        space="grid",
        forward="masks",
        draws="masks",
        chance=_COVERAGE,
        chance_unless={"coverage": "observed"},
        singly=True,
        dry_run_params={"masks": 2},
    ),
    MethodSpec(
        name="extremal",
        command="extremal",
        family="perturbation",
        entry="cnnviz.methods.perturbation.extremal:extremal",
        title="Extremal perturbation",
        summary="The region of a given area in which alone the class scores highest; the rest is blurred.",
        paper="Fong et al., Understanding Deep Networks via Extremal Perturbations and Smooth Masks, ICCV 2019",
        options=ExtremalOptions,
        space="grid",
        forward="about 3 × cells² + cells²/3 × steps",
        singly=True,
        dry_run_params={"steps": 0, "cells": 2},
    ),
    MethodSpec(
        name="sobol",
        command="sensitivity",
        family="perturbation",
        entry="cnnviz.methods.perturbation.sensitivity:sobol",
        title="Sobol indices",
        summary="The share of the score's variance that is due to each cell of the image as all cells fade at random.",
        paper="Fel et al., Look at the Variance! Efficient Black-box Explanations with Sobol-based Sensitivity "
        "Analysis, NeurIPS 2021",
        options=SobolOptions,
        space="grid",
        forward="designs × (2 + cells²)",
        draws="designs",
        draws_doubled=True,
        chance="fewer --cells have less of this noise",
        singly=True,
        dry_run_params={"designs": 2, "cells": 1},
    ),
    MethodSpec(
        name="hsic",
        command="sensitivity",
        family="perturbation",
        entry="cnnviz.methods.perturbation.sensitivity:hsic",
        title="HSIC",
        summary="How much the score depends on whether each cell is visible, of any form of dependence.",
        draws="masks",
        chance="fewer --cells have less of this noise",
        paper="Novello et al., Making Sense of Dependence: Efficient Black-box Explanations Using Dependence Measure, "
        "NeurIPS 2022",
        options=HSICOptions,
        space="grid",
        forward="masks",
        singly=True,
        dry_run_params={"masks": 4, "cells": 1},
    ),
    MethodSpec(
        name="shapley",
        command="superpixels",
        family="perturbation",
        entry="cnnviz.methods.perturbation.superpixels:shapley",
        title="Shapley values",
        summary="Shapley values of superpixels by random orders: about half the error of KernelSHAP's.",
        paper="Castro et al., Polynomial calculation of the Shapley value based on sampling, Computers & OR 2009; "
        "Mitchell et al., Sampling Permutations for Shapley Value Estimation, JMLR 2022",
        options=SuperpixelOptions,
        space="grid",
        signed=True,
        forward="samples + 2",
        draws="samples",
        counts={"samples": "whole orders of an image's superpixels are run, each with its reverse, one at least"},
        singly=True,
        dry_run_params={"samples": 2},
        packages=_SLIC,
    ),
    MethodSpec(
        name="kernelshap",
        command="superpixels",
        family="perturbation",
        entry="cnnviz.methods.perturbation.superpixels:kernelshap",
        title="KernelSHAP",
        summary="Shapley values of superpixels: each one's fair share of the score.",
        paper="Lundberg & Lee, A Unified Approach to Interpreting Model Predictions, NIPS 2017",
        options=SuperpixelOptions,
        space="grid",
        signed=True,
        forward="samples + 2",
        draws="samples",
        chance="--variant shapley has about half of this error by as many",
        fit="--variant shapley shows mean gains, which need no fit",
        singly=True,
        dry_run_params={"samples": 2},
        packages=_SLIC,
    ),
    MethodSpec(
        name="lime",
        command="superpixels",
        family="perturbation",
        entry="cnnviz.methods.perturbation.superpixels:lime",
        title="LIME",
        summary="A linear model of the score, fitted around the image to which superpixels are visible.",
        paper="Ribeiro et al., Why Should I Trust You? Explaining the Predictions of Any Classifier, KDD 2016",
        options=LIMEOptions,
        draws="samples",
        chance="fewer --segments have less of this noise",
        fit="a smaller --width, such as 0.1, mostly fits better",
        space="grid",
        signed=True,
        forward="samples + 2",
        singly=True,
        dry_run_params={"samples": 2},
        packages=_SLIC,
    ),
)
