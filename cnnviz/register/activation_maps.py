"""Class activation maps: feature maps of a layer, weighted for a class."""

from __future__ import annotations

from cnnviz.specs import MethodSpec, Param

_COUNTERFACTUAL = Param(
    "counterfactual",
    "bool",
    False,
    "Show what speaks against the class: negated gradients (Grad-CAM paper, 3.3).",
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
)
