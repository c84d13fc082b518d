"""The operations that cnnviz knows: name, kind, parameters, and the modules that compute them.

A line is all that a new spelling of a known kind needs. Names are those of ``torch.nn.functional`` where there is one,
else those of ``torch``; parameters are written as in a signature, ``*`` before one that may also be given as several
positional arguments (``x.permute(0, 2, 1)``).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Kind = Literal[
    "convolution", "transposed_convolution", "linear", "normalisation", "scaling", "activation", "softmax", "gated",
    "pooling", "reduction", "addition", "subtraction", "product", "division", "matrix_product", "pointwise",
    "concatenation", "stack", "split", "index", "reshaping", "permutation", "expansion", "padding", "resizing",
    "shuffling", "attention", "recurrent", "identity", "constant", "other",
]  # fmt: skip

REQUIRED = object()
"""Stands for the default of a parameter that has none."""


@dataclass(frozen=True)
class Entry:
    """One operation.

    Attributes:
        name: Its canonical name.
        kind: What it does.
        parameters: Names and defaults, in order.
        several: Name of the parameter that may be given as several positional arguments; empty if none.
    """

    name: str
    kind: Kind
    parameters: Mapping[str, Any]
    several: str = ""


def _entry(name: str, kind: Kind, signature: str) -> Entry:
    parameters, several = {}, ""
    for word in signature.split():
        key, given, default = word.partition("=")
        if key.startswith("*"):
            key = several = key[1:]
        parameters[key] = ast.literal_eval(default) if given else REQUIRED
    return Entry(name, kind, parameters, several)


_CONV = "input weight bias=None stride=1 padding=0 dilation=1 groups=1 padding_mode='zeros'"
_UPCONV = "input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1 padding_mode='zeros'"
_MAX = "input kernel_size stride=None padding=0 dilation=1 ceil_mode=False return_indices=False"
_AVERAGE = "input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True divisor_override=None"
_BATCH_NORM = "input running_mean running_var weight=None bias=None training=False momentum=0.1 eps=1e-5"
_INSTANCE_NORM = "input running_mean=None running_var=None weight=None bias=None use_input_stats=True eps=1e-5"
_DROPOUT = "input p=0.5 training=True"

_SIGNATURES: dict[Kind, dict[str, str]] = {
    "convolution": dict.fromkeys(("conv1d", "conv2d", "conv3d", "_convolution"), _CONV),
    "transposed_convolution": dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _UPCONV),
    "linear": {"linear": "input weight bias=None"},
    "normalisation": {
        "batch_norm": _BATCH_NORM,
        "instance_norm": _INSTANCE_NORM,
        "layer_norm": "input normalized_shape weight=None bias=None eps=1e-5",
        "group_norm": "input num_groups weight=None bias=None eps=1e-5",
        "local_response_norm": "input size alpha=1e-4 beta=0.75 k=1.0",
    },
    # Normalisations that multiply each value, and add nothing.
    "scaling": {
        "normalize": "input p=2.0 dim=1 eps=1e-12",
        "rms_norm": "input normalized_shape weight=None eps=None",
    },
    "activation": {
        **dict.fromkeys(
            "relu relu6 selu silu mish hardswish hardsigmoid sigmoid tanh logsigmoid softsign tanhshrink".split(),
            "input",
        ),
        "leaky_relu": "input negative_slope=0.01",
        "elu": "input alpha=1.0",
        "celu": "input alpha=1.0",
        "gelu": "input approximate='none'",
        "hardtanh": "input min_val=-1.0 max_val=1.0",
        "clamp": "input min=None max=None",
        "threshold": "input threshold value",
        "softplus": "input beta=1.0 threshold=20.0",
        "softshrink": "input lambd=0.5",
        "hardshrink": "input lambd=0.5",
        "prelu": "input weight",
        "rrelu": "input lower=0.125 upper=0.3333333333333333 training=False",
    },
    "softmax": dict.fromkeys(("softmax", "softmin", "log_softmax"), "input dim=None"),
    "gated": {"glu": "input dim=-1"},
    "pooling": {
        **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _MAX),
        **dict.fromkeys(("avg_pool2d", "avg_pool3d"), _AVERAGE),
        "avg_pool1d": "input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True",
        **dict.fromkeys(
            ("lp_pool1d", "lp_pool2d", "lp_pool3d"), "input norm_type kernel_size stride=None ceil_mode=False"
        ),
        **dict.fromkeys(
            (f"adaptive_{which}_pool{d}d" for which in ("avg", "max") for d in (1, 2, 3)), "input output_size"
        ),
        **dict.fromkeys(
            ("fractional_max_pool2d", "fractional_max_pool3d"), "input kernel_size output_size=None output_ratio=None"
        ),
    },
    "reduction": {
        **dict.fromkeys(
            "mean sum amax amin max min prod all any median logsumexp".split(), "input dim=None keepdim=False"
        ),
        **dict.fromkeys(("var", "std"), "input dim=None unbiased=True keepdim=False"),
        "norm": "input p='fro' dim=None keepdim=False",
        "vector_norm": "input ord=2 dim=None keepdim=False",
    },
    "addition": {"add": "input other alpha=1"},
    "subtraction": {"sub": "input other alpha=1"},
    "product": {"mul": "input other"},
    "division": {"div": "input other"},
    "matrix_product": {
        **dict.fromkeys(("matmul", "mm"), "input other"),
        "bmm": "input mat2",
        "baddbmm": "input batch1 batch2",
        "einsum": "equation *operands",
    },
    "pointwise": {
        **dict.fromkeys(
            "detach to float half double bfloat16 type type_as neg abs exp log log1p expm1 sqrt rsqrt square sign sin "
            "cos reciprocal erf nan_to_num round floor ceil".split(),
            "input",
        ),
        **dict.fromkeys("floor_divide maximum minimum fmax fmin copysign".split(), "input other"),
        **dict.fromkeys("eq ne gt lt ge le and_ or_".split(), "input other"),
        "pow": "input exponent",
        "where": "condition input other",
        "lerp": "input end weight",
        "addcmul": "input tensor1 tensor2 value=1",
        "masked_fill": "input mask value",
    },
    "concatenation": {"cat": "tensors dim=0"},
    "stack": {"stack": "tensors dim=0"},
    "split": {
        "chunk": "input chunks dim=0",
        "unsafe_chunk": "input chunks dim=0",
        "split": "input split_size_or_sections dim=0",
        "split_with_sizes": "input split_sizes dim=0",
        "tensor_split": "input indices_or_sections dim=0",
        "unbind": "input dim=0",
        "narrow": "input dim start length",
    },
    "index": {"getitem": "input index"},
    "reshaping": {
        "view": "input *shape",
        "reshape": "input *shape",
        "view_as": "input other",
        "reshape_as": "input other",
        "flatten": "input start_dim=0 end_dim=-1",
        "squeeze": "input dim=None",
        "unsqueeze": "input dim",
        "unflatten": "input dim sizes",
    },
    "permutation": {"permute": "input *dims", "transpose": "input dim0 dim1", "t": "input"},
    "expansion": {"expand": "input *sizes", "repeat": "input *sizes", "expand_as": "input other"},
    "padding": {"pad": "input pad mode='constant' value=None"},
    "resizing": {
        "interpolate": "input size=None scale_factor=None mode='nearest' align_corners=None",
        "pixel_shuffle": "input upscale_factor",
        "pixel_unshuffle": "input downscale_factor",
    },
    "attention": {
        "scaled_dot_product_attention": "query key value",
        "multi_head_attention_forward": "query key value",
    },
    "recurrent": {"rnn": "input"},
    "identity": {
        **dict.fromkeys(
            "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout stochastic_depth "
            "drop_path".split(),
            _DROPOUT,
        ),
        **dict.fromkeys("identity contiguous clone".split(), "input"),
    },
    "shuffling": {"channel_shuffle": "input groups"},
    "constant": dict.fromkeys(
        "zeros_like ones_like rand_like randn_like full_like new_zeros new_ones new_full".split(), "input"
    ),
}  # fmt: skip

ENTRIES: Mapping[str, Entry] = {
    name: _entry(name, kind, signature)
    for kind, signatures in _SIGNATURES.items()
    for name, signature in signatures.items()
}

ALIASES: Mapping[str, str] = {
    **dict.fromkeys(("iadd", "radd"), "add"),
    **dict.fromkeys(("isub", "subtract"), "sub"),
    **dict.fromkeys(("imul", "rmul", "multiply"), "mul"),
    **dict.fromkeys(("truediv", "itruediv", "true_divide", "divide"), "div"),
    **dict.fromkeys(("floordiv", "ifloordiv"), "floor_divide"),
    **dict.fromkeys(("concat", "concatenate"), "cat"),
    **dict.fromkeys(("clip", "clamp_min"), "clamp"),
    **dict.fromkeys(("swapaxes", "swapdims"), "transpose"),
    **dict.fromkeys(("absolute",), "abs"),
    **dict.fromkeys(("linalg_vector_norm", "linalg_norm"), "vector_norm"),
    "imatmul": "matmul",
    "ipow": "pow",
    "negative": "neg",
    "swish": "silu",
    "hard_swish": "hardswish",
    "hard_sigmoid": "hardsigmoid",
    "log_sigmoid": "logsigmoid",
    "boolean_dispatch": "max_pool2d",
    "upsample": "interpolate",
}
"""Other spellings of a name; those that end in an underscore are in place and known by the name without it."""

OTHER_ORDERS: Mapping[Callable[..., Any] | str, Entry] = {
    torch.batch_norm: _entry(
        "batch_norm", "normalisation", "input weight bias running_mean running_var training momentum eps"
    ),
    torch.instance_norm: _entry(
        "instance_norm", "normalisation", "input weight bias running_mean running_var use_input_stats momentum eps"
    ),
    "where": _entry("where", "pointwise", "input condition other"),  # the method
    "clamp_max": _entry("clamp", "activation", "input max min=None"),
    "rsub": _entry("sub", "subtraction", "other input alpha=1"),
    "rtruediv": _entry("div", "division", "other input"),
}
"""Functions, or names, whose arguments come in another order than those of the operation that they compute."""

MODULES: Mapping[type[nn.Module], str] = {
    nn.Conv1d: "conv1d", nn.Conv2d: "conv2d", nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d", nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d", nn.Linear: "linear",
    nn.modules.batchnorm._BatchNorm: "batch_norm", nn.modules.instancenorm._InstanceNorm: "instance_norm",
    nn.LayerNorm: "layer_norm", nn.GroupNorm: "group_norm", nn.LocalResponseNorm: "local_response_norm",
    nn.RMSNorm: "rms_norm",
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.LeakyReLU: "leaky_relu", nn.PReLU: "prelu", nn.RReLU: "rrelu",
    nn.ELU: "elu", nn.CELU: "celu", nn.SELU: "selu", nn.GELU: "gelu", nn.SiLU: "silu", nn.Mish: "mish",
    nn.Hardswish: "hardswish", nn.Hardtanh: "hardtanh", nn.Hardsigmoid: "hardsigmoid", nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh", nn.Softplus: "softplus", nn.Threshold: "threshold", nn.LogSigmoid: "logsigmoid",
    nn.Softsign: "softsign", nn.Tanhshrink: "tanhshrink", nn.Softshrink: "softshrink", nn.Hardshrink: "hardshrink",
    nn.Softmax: "softmax", nn.Softmin: "softmin", nn.LogSoftmax: "log_softmax", nn.Softmax2d: "softmax",
    nn.GLU: "glu",
    nn.MaxPool1d: "max_pool1d", nn.MaxPool2d: "max_pool2d", nn.MaxPool3d: "max_pool3d",
    nn.AvgPool1d: "avg_pool1d", nn.AvgPool2d: "avg_pool2d", nn.AvgPool3d: "avg_pool3d",
    nn.LPPool1d: "lp_pool1d", nn.LPPool2d: "lp_pool2d", nn.LPPool3d: "lp_pool3d",
    nn.AdaptiveAvgPool1d: "adaptive_avg_pool1d", nn.AdaptiveAvgPool2d: "adaptive_avg_pool2d",
    nn.AdaptiveAvgPool3d: "adaptive_avg_pool3d", nn.AdaptiveMaxPool1d: "adaptive_max_pool1d",
    nn.AdaptiveMaxPool2d: "adaptive_max_pool2d", nn.AdaptiveMaxPool3d: "adaptive_max_pool3d",
    nn.FractionalMaxPool2d: "fractional_max_pool2d", nn.FractionalMaxPool3d: "fractional_max_pool3d",
    nn.Flatten: "flatten", nn.Unflatten: "unflatten",
    **dict.fromkeys(
        (nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd,
         nn.modules.padding._ReplicationPadNd, nn.modules.padding._CircularPadNd), "pad"
    ),
    nn.Upsample: "interpolate", nn.PixelShuffle: "pixel_shuffle", nn.PixelUnshuffle: "pixel_unshuffle",
    nn.MultiheadAttention: "multi_head_attention_forward", nn.RNNBase: "rnn",
    nn.Dropout: "dropout", nn.Dropout1d: "dropout1d", nn.Dropout2d: "dropout2d", nn.Dropout3d: "dropout3d",
    nn.AlphaDropout: "alpha_dropout", nn.FeatureAlphaDropout: "feature_alpha_dropout", nn.Identity: "identity",
    nn.ChannelShuffle: "channel_shuffle",
}  # fmt: skip
"""Classes of torch and the function that each calls; a subclass computes what the nearest of its bases does."""

ATTRIBUTES: Mapping[str, Mapping[str, str]] = {
    "pad": {"pad": "padding"},
    "unflatten": {"sizes": "unflattened_size"},
}
"""Attributes of modules that have another name than the parameter of the function."""
