"""Class activation maps: feature maps of a layer, weighted for a class."""

from __future__ import annotations

from cnnviz.specs import MethodSpec, Param

_COUNTERFACTUAL = Param(
    "counterfactual",
    "bool",
    False,
    "Show what speaks against the class: negated gradients (Grad-CAM paper, 3.3).",
)
_CHANNELS = Param(
    "channels", "int", 0, "Use at most so many channels, those that vary most over positions; 0: all.", minimum=0
)

ACTIVATION_MAPS: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="cam",
        command="cam",
        family="class activation maps",
        entry="cnnviz.methods.cam:cam",
        title="CAM",
        summary="Class activation map: the classifier's own weights on the last feature maps.",
        paper="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016",
        needs=("gap-head",),
        signed=True,
    ),
    MethodSpec(
        name="gradcam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.gradcam:gradcam",
        title="Grad-CAM",
        summary="Feature maps weighted by the mean gradient of the class score, rectified.",
        paper="Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks, ICCV 2017",
        params=(_COUNTERFACTUAL,),
        backward="1 (head)",
    ),
    MethodSpec(
        name="scorecam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.perturbation_cams:scorecam",
        title="Score-CAM",
        summary="Feature maps weighted by the score of the image seen through each of them.",
        paper="Wang et al., Score-CAM: Score-Weighted Visual Explanations for CNNs, CVPR workshop 2020",
        params=(_CHANNELS,),
        forward="1 + channels",
        rehearsal={"channels": 2},
    ),
    MethodSpec(
        name="sscam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.perturbation_cams:sscam",
        title="SS-CAM",
        summary="Score-CAM with scores averaged over noise on the masks or on the image.",
        paper="Wang et al., SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization, 2020",
        params=(
            Param("samples", "int", 35, "Noisy copies of each masked image.", minimum=1),
            Param("noise", "float", 2.0, "Standard deviation; masks lie between 0 and 1.", minimum=0),
            Param("smooth", "choice", "mask", "What the noise is added to.", choices=("mask", "input")),
            _CHANNELS,
            Param("seed", "int", 0, "Seeds the noise.", minimum=0),
        ),
        forward="1 + samples × channels",
        rehearsal={"samples": 1, "channels": 2},
    ),
    MethodSpec(
        name="iscam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.perturbation_cams:iscam",
        title="IS-CAM",
        summary="Score-CAM with scores integrated from a blank image to the masked one.",
        paper="Naidu et al., IS-CAM: Integrated Score-CAM for axiomatic-based explanations, 2020",
        params=(Param("steps", "int", 10, "Points between the blank and the masked image.", minimum=1), _CHANNELS),
        forward="1 + steps × channels",
        rehearsal={"steps": 1, "channels": 2},
    ),
    MethodSpec(
        name="ablationcam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.perturbation_cams:ablationcam",
        title="Ablation-CAM",
        summary="Feature maps weighted by the share of the score that goes when each is set to zero.",
        paper="Desai & Ramaswamy, Ablation-CAM: Visual Explanations via Gradient-free Localization, WACV 2020",
        params=(_CHANNELS,),
        forward="1 + channels (head)",
        rehearsal={"channels": 2},
    ),
)
