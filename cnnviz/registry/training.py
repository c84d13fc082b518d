"""What trains a network that is then explained."""

from __future__ import annotations

from typing import Literal

from cnnviz.registry.specs import Options, TrainingSpec, option


class TrainOptions(Options):
    """Options of Training."""

    arch: str = option(
        "efficientnet_lite0",
        "Network to cut: torchvision name or timm/NAME. Its weights: --weights, --checkpoint.",
    )
    cut: str | None = option(
        None,
        "Layer that feeds the new head, by module path, or -1, -2, … for stages from the end: an earlier one makes a "
        "finer map. [default: the last stage]",
    )
    head: Literal["gap", "gmp", "fc"] = option(
        "gap", "gap, gmp: 3x3 convolution, global average or maximum pooling, linear; fc: two linear layers, no CAM."
    )
    units: int = option(
        1024, "Channels of that convolution, width of the first linear layer; 0: none.", minimum=0, maximum=65536
    )
    freeze: str | None = option(
        None, "Layer up to which weights and batch norm stay as they are; all: everything before the head."
    )
    batch_norm: Literal["train", "frozen"] = option(
        "train", "What batch norm does where weights are trained: learn, or keep the statistics that it came with."
    )
    val_fraction: float = option(
        0.2, "Share of each class to validate with, where INPUT has no train/ and val/.", minimum=0.01, maximum=0.9
    )
    epochs: int = option(20, "Passes over the training pictures.", minimum=1, maximum=100_000)
    patience: int = option(0, "Stop after so many epochs that are not better; 0: never.", minimum=0)
    optimizer: Literal["adamw", "sgd"] = option("adamw", "SGD has a Nesterov momentum of 0.9.")
    learning_rate: float | None = option(
        None, "Largest learning rate. [default: 0.001 of adamw, 0.01 of sgd]", minimum=0.0, maximum=1e6
    )
    weight_decay: float = option(0.0001, "Of weights, not of biases and normalisation.", minimum=0.0, maximum=1e3)
    warmup: float = option(1.0, "Epochs in which the learning rate grows, before it falls along a cosine.", minimum=0.0)
    crop_scale: float = option(
        0.35, "Smallest share of a picture that a random crop shows; 1: the whole one.", minimum=0.01, maximum=1.0
    )
    flip: float = option(0.5, "How often a picture is mirrored.", minimum=0.0, maximum=1.0)
    jitter: float = option(0.0, "Strength of random brightness, contrast and saturation.", minimum=0.0, maximum=1.0)


TRAINING: tuple[TrainingSpec, ...] = (
    TrainingSpec(
        name="train",
        entry="cnnviz.training.run:train",
        title="Training",
        summary="Cuts a network, gives it a head with class activation maps, and trains it on a folder of classes.",
        paper="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016",
        command="train",
        family="training",
        options=TrainOptions,
        views=("crop", "squash"),
        why_views="trains at one input size",
        shared_options=("resume",),
        model_option="arch",
        help_overrides={
            "inputs": "Folder of class folders; or with train/ and val/, which have them.",
            "checkpoint": "Weights to begin with: .pth, .pt or .safetensors.",
            "out": "Output folder. [default: cnnviz-out/COMMAND]",
            "precision": "fp32, or bf16: convolutions and products in bfloat16, weights in float32.",
            "batch_size": "Pictures in a step; auto: 32.",
            "workers": "Threads that decode. [default: from the CPU count]",
            "view": "What the network is shown: the centre crop of the weights, or the whole picture pressed into the "
            "input size.",
        },
    ),
)
