"""Class activation maps: feature maps of a layer, weighted for a class."""

from typing import Literal

from cnnviz.registry.specs import ClassName, MethodSpec, Options, option


def _channels() -> int:
    """Of methods that run the network or its head once for each channel."""
    return option(0, "Use at most so many channels, those that vary most over positions; 0: all.", minimum=0)


class GradCAMOptions(Options):
    """Options of Grad-CAM."""

    counterfactual: bool = option(False, "Show what speaks against the class: negated gradients (Grad-CAM paper, 3.3).")


class ODAMOptions(Options):
    """Options of ODAM."""

    sigma: float = option(
        0.5, "Deviation of the Gaussian that smooths the gradient; 0: none.", minimum=0, maximum=100, unit="cells"
    )


class SmoothGradCAMPlusPlusOptions(Options):
    """Options of Smooth Grad-CAM++."""

    samples: int = option(10, "Noisy copies.", minimum=1)
    noise: float = option(0.15, "Standard deviation, as a share of the image's range.", minimum=0)
    seed: int = option(0, "Seeds the noise.", minimum=0)


class FinerCAMOptions(Options):
    """Options of Finer-CAM."""

    references: int = option(3, "Classes with the nearest logits to compare with.", minimum=1)
    strength: float = option(1.0, "Share of the references' logits that is subtracted.", minimum=0)
    contrast_class: ClassName | None = option(
        None, "The one class to compare with, by label or index. [default: nearest]"
    )


class ShapleyCAMOptions(Options):
    """Options of ShapleyCAM."""

    utility: Literal["score", "rest"] = option(
        "score", "What the game pays: the score, or the paper's residual softmax, logit plus log-probability."
    )


class KPCACAMOptions(Options):
    """Options of KPCA-CAM."""

    kernel: Literal["sigmoid", "rbf", "poly"] = option("sigmoid", "Of two positions: tanh, Gaussian, or third power.")
    gamma: float = option(0.0, "Factor of the kernel's products or distances; 0: one over the channels.", minimum=0)


class FEMOptions(Options):
    """Options of FEM."""

    sigmas: float = option(2.0, "Deviations above its mean from which on a channel counts.", minimum=0)


class ReciproCAMOptions(Options):
    """Options of Recipro-CAM."""

    mask: Literal["gaussian", "cell"] = option("gaussian", "What is left: 3 x 3 cells with Gaussian weights, or one.")


class ConductanceOptions(Options):
    """Options of Layer conductance."""

    steps: int = option(20, "Steps from the baseline to the image.", minimum=1)
    baseline: str = option(
        "zero", "Where the way starts: zero (mean colour), black, gray, mean, blur, noise, random, or a colour."
    )
    seed: int = option(0, "Seeds random baselines.", minimum=0)


class OptiCAMOptions(Options):
    """Options of Opti-CAM."""

    iterations: int = option(100, "Steps of the search for the weights.", minimum=1)
    rate: float = option(0.1, "Learning rate of Adam.", minimum=0)


class ScoreCAMOptions(Options):
    """Options of Score-CAM."""

    channels: int = _channels()


class SSCAMOptions(Options):
    """Options of SS-CAM."""

    samples: int = option(35, "Noisy copies of each masked image.", minimum=1)
    noise: float = option(2.0, "Standard deviation; masks lie between 0 and 1.", minimum=0)
    smooth: Literal["mask", "input"] = option("mask", "What the noise is added to.")
    channels: int = _channels()
    seed: int = option(0, "Seeds the noise.", minimum=0)


class ISCAMOptions(Options):
    """Options of IS-CAM."""

    steps: int = option(10, "Points between the blank and the masked image.", minimum=1)
    channels: int = _channels()


class AblationCAMOptions(Options):
    """Options of Ablation-CAM."""

    channels: int = _channels()


ACTIVATION_MAPS: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="cam",
        command="cam",
        family="class activation maps",
        entry="cnnviz.methods.cam.cam:cam",
        title="CAM",
        summary="Class activation map: the classifier's own weights on the last feature maps.",
        paper="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016",
        needs=("gap-head",),
        signed=True,
        many="cnnviz.methods.cam.cam:cams",
    ),
    MethodSpec(
        name="gradcam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.gradcam:gradcam",
        title="Grad-CAM",
        summary="Feature maps weighted by the mean gradient of the class score, rectified.",
        paper="Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks, ICCV 2017",
        options=GradCAMOptions,
        backward="1 (head)",
        many="cnnviz.methods.cam.gradcam:gradcams",
    ),
    MethodSpec(
        name="gradcam++",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.relatives:gradcam_plus_plus",
        title="Grad-CAM++",
        summary="Feature maps weighted by positive gradients, each position by its own share.",
        paper="Chattopadhay et al., Grad-CAM++: Generalized Gradient-based Visual Explanations, WACV 2018",
        backward="1 (head)",
    ),
    MethodSpec(
        name="smoothgradcam++",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.relatives:smooth_gradcam_plus_plus",
        title="Smooth Grad-CAM++",
        summary="Grad-CAM++ with the gradients averaged over noisy copies of the image.",
        paper="Omeiza et al., Smooth Grad-CAM++, 2019",
        options=SmoothGradCAMPlusPlusOptions,
        forward="1 + samples",
        backward="samples (head)",
        dry_run_params={"samples": 1},
    ),
    MethodSpec(
        name="xgradcam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.relatives:xgradcam",
        title="XGrad-CAM",
        summary="Grad-CAM whose gradients count where the feature map is active.",
        paper="Fu et al., Axiom-based Grad-CAM, BMVC 2020",
        backward="1 (head)",
    ),
    MethodSpec(
        name="hirescam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.relatives:hirescam",
        title="HiResCAM",
        summary="Gradient times feature map, position by position.",
        paper="Draelos & Carin, Use HiResCAM instead of Grad-CAM for faithful explanations, 2020",
        backward="1 (head)",
    ),
    MethodSpec(
        name="odam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.odam:odam",
        title="ODAM",
        summary="Gradient, smoothed locally, times feature map, rectified: for one box of a detector.",
        paper="Zhao & Chan, ODAM: Gradient-based Instance-Specific Visual Explanations for Object Detection, ICLR 2023",
        options=ODAMOptions,
        backward="1 (head)",
    ),
    MethodSpec(
        name="layercam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.relatives:layercam",
        title="LayerCAM",
        summary="Positive gradient times feature map, position by position; several layers are fused.",
        paper="Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, IEEE TIP 2021",
        backward="1 (head)",
        several_layers=True,
    ),
    MethodSpec(
        name="eigencam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.eigen:eigencam",
        title="Eigen-CAM",
        summary="First principal component of the feature maps, its stronger side positive; the same for every class.",
        paper="Muhammad & Yeasin, Eigen-CAM: Class Activation Map using Principal Components, IJCNN 2020",
        class_specific=False,
    ),
    MethodSpec(
        name="eigengradcam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.eigen:eigengradcam",
        title="Eigen-Grad-CAM",
        summary="First principal component of gradient times feature map, with the sign of HiResCAM's map.",
        paper="No paper; from pytorch-grad-cam 1.5",
        backward="1 (head)",
    ),
    MethodSpec(
        name="kpcacam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.kernel_pca:kpcacam",
        title="KPCA-CAM",
        summary="First kernel principal component of the feature maps; no class takes part.",
        paper="Karmani et al., KPCA-CAM: Visual Explainability of Deep Computer Vision Models using Kernel PCA, 2024",
        options=KPCACAMOptions,
        class_specific=False,
    ),
    MethodSpec(
        name="fem",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.fem:fem",
        title="FEM",
        summary="Where channels are far above their own mean, weighted by it; no class takes part.",
        paper="Fuad et al., Features Understanding in 3D CNNs for Actions Recognition in Video, IPTA 2020",
        options=FEMOptions,
        class_specific=False,
    ),
    MethodSpec(
        name="reciprocam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.reciprocam:reciprocam",
        title="Recipro-CAM",
        summary="The score that the head gives to each place of the feature maps alone.",
        paper="Byun & Lee, ReciproCAM: Lightweight Gradient-free Class Activation Map, CVPR workshop 2024",
        options=ReciproCAMOptions,
        forward="1 + positions (head)",
    ),
    MethodSpec(
        name="conductance",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.conductance:conductance",
        title="Layer conductance",
        summary="Each place's part in the change of the score on the way from a baseline, through a layer.",
        paper="Dhamdhere et al., How Important Is a Neuron?, ICLR 2019",
        options=ConductanceOptions,
        signed=True,
        forward="steps + 2",
        backward="steps + 1 (head)",
        gap="the steps are too few for the way from the baseline (use more with --steps), or paths to the score pass "
        "beside the layer",
    ),
    MethodSpec(
        name="finercam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.relatives:finercam",
        title="Finer-CAM",
        summary="Grad-CAM of what tells the class from those most like it, or from one that is named.",
        paper="Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details, CVPR 2025",
        options=FinerCAMOptions,
        backward="1 (head)",
    ),
    MethodSpec(
        name="shapleycam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.relatives:shapleycam",
        title="ShapleyCAM",
        summary="Grad-CAM with half of the curvature taken off: Shapley values to second order.",
        paper="Cai, CAMs as Shapley Value-based Explainers, 2025",
        options=ShapleyCAMOptions,
        backward="2 (head)",
    ),
    MethodSpec(
        name="fullgrad",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.relevance.fullgrad:fullgrad",
        title="FullGrad",
        summary="Share of the image and of every bias in the score, added up at the pixels.",
        paper="Srinivas & Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019",
        needs=("trace",),
        nodes="cnnviz.methods.relevance.fullgrad:cut_nodes",
        space="input",
        forward="1",
        backward="1",
        gap="a layer adds what FullGrad has no formula for; completeness_gap in the report has each",
    ),
    MethodSpec(
        name="scorecam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.perturbed:scorecam",
        title="Score-CAM",
        summary="Feature maps weighted by the score of the image seen through each of them.",
        paper="Wang et al., Score-CAM: Score-Weighted Visual Explanations for CNNs, CVPR workshop 2020",
        options=ScoreCAMOptions,
        forward="1 + channels",
        singly=True,
        dry_run_params={"channels": 2},
    ),
    MethodSpec(
        name="sscam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.perturbed:sscam",
        title="SS-CAM",
        summary="Score-CAM with scores averaged over noise on the masks or on the image.",
        paper="Wang et al., SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization, 2020",
        options=SSCAMOptions,
        forward="1 + samples × channels",
        singly=True,
        dry_run_params={"samples": 1, "channels": 2},
    ),
    MethodSpec(
        name="iscam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.perturbed:iscam",
        title="IS-CAM",
        summary="Score-CAM with scores integrated from a blank image to the masked one.",
        paper="Naidu et al., IS-CAM: Integrated Score-CAM for axiomatic-based explanations, 2020",
        options=ISCAMOptions,
        forward="1 + steps × channels",
        singly=True,
        dry_run_params={"steps": 1, "channels": 2},
    ),
    MethodSpec(
        name="opticam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.opticam:opticam",
        title="Opti-CAM",
        summary="Feature maps with the weights through whose sum the image scores highest, found by climbing.",
        paper="Zhang et al., Opti-CAM: Optimizing saliency maps for interpretability, CVIU 2024",
        options=OptiCAMOptions,
        needs=("layer",),
        space="input",
        forward="2 + iterations",
        backward="1 + iterations",
        dry_run_params={"iterations": 1},
    ),
    MethodSpec(
        name="ablationcam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.cam.perturbed:ablationcam",
        title="Ablation-CAM",
        summary="Feature maps weighted by the share of the score that goes when each is set to zero.",
        paper="Desai & Ramaswamy, Ablation-CAM: Visual Explanations via Gradient-free Localization, WACV 2020",
        options=AblationCAMOptions,
        forward="1 + channels (head)",
        dry_run_params={"channels": 2},
    ),
)
