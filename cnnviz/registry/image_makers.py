"""Options of the studies that make images."""

from typing import Literal

from cnnviz.registry.specs import FilePath, Options, option


class SynthesizeOptions(Options):
    """Options of Synthesized images."""

    unit: tuple[str, ...] = option((), "LAYER:K, or 0.5*LAYER:K: channel K of a layer; repeatable, as all objectives.")
    neuron: tuple[str, ...] = option((), "LAYER:K:y:x: one position of a channel; LAYER:K for the one in the middle.")
    plus: tuple[str, ...] = option((), "Also this class, unit or neuron: hen, 0.5*hen, LAYER:K.")
    minus: tuple[str, ...] = option((), "Less of this class, unit or neuron.")
    pool: Literal["mean", "max"] = option("mean", "Of a unit: its mean or its maximum over the layer.")
    each: bool = option(False, "An image for each objective, instead of one for their sum.")
    images: int = option(1, "Images of each objective, made to differ.", minimum=1, maximum=64)
    diversity: float | None = option(None, "How much several images must differ; 0: only by chance.", minimum=0)
    steps: int = option(128, "Steps of the ascent.", minimum=1)
    param: Literal["fourier", "pixel"] = option(
        "fourier", "What changes: Fourier coefficients of decorrelated colours, or pixels, whose pictures are noisy."
    )
    optimizer: Literal["adam", "gradient"] = option("adam", "adam, or gradient: the gradient over its own size.")
    rate: float | None = option(None, "Size of a step; fourier 0.05, pixel 0.03 by default.", minimum=0)
    l2: float | None = option(None, "Decay towards grey; 3 by default.", minimum=0)
    tv: float | None = option(
        None, "Total variation; fourier 30, pixel 300 by default, less for inputs under 224 pixels.", minimum=0
    )
    blur: float | None = option(
        None, "Gaussian that every fourth step blurs with; fourier 0, pixel 0.8 by default.", minimum=0, unit="pixels"
    )
    jitter: int | None = option(
        None, "Largest shift of the view; a seventh of the input by default.", minimum=0, unit="pixels"
    )
    rotate: float = option(20.0, "Largest turn of the view.", minimum=0, maximum=180, unit="degrees")
    zoom: float = option(0.5, "Largest relative change of the view's size.", minimum=0, maximum=4)
    noise: float = option(
        0.0,
        "Noise on the first views, which fades: its standard deviation, for pixels in 0 to 1.",
        minimum=0,
        maximum=1,
    )
    gif: bool = option(False, "Also the ascent as a GIF.")
    video: bool = option(False, "Also the ascent as an MP4.")


class DeepDreamOptions(Options):
    """Options of DeepDream."""

    guide: FilePath | None = option(None, "Image whose features the dream is drawn to.")
    octaves: int = option(4, "Sizes at which the image is dreamed on.", minimum=1, maximum=20)
    octave_scale: float = option(1.4, "Ratio of one size to the next.", minimum=1.01, maximum=4)
    steps: int = option(10, "Steps at each size.", minimum=1)
    step_size: float = option(1.5, "Mean change of a pixel a step.", minimum=0, unit="1/255")
    jitter: int = option(32, "Largest shift under the network's grid.", minimum=0, unit="pixels")
    tile: int = option(512, "Largest side of what goes through the network at once.", minimum=32, unit="pixels")
    overlap: int = option(64, "Surroundings that go through with a tile.", minimum=0, unit="pixels")


class InvertOptions(Options):
    """Options of Feature inversion."""

    steps: int = option(256, "Steps for each layer.", minimum=1)
    starts: int = option(1, "Images of each layer, from different noise.", minimum=1, maximum=16)
    param: Literal["fourier", "pixel"] = option(
        "fourier", "What changes: Fourier coefficients of decorrelated colours, or pixels."
    )
    tv: float = option(3.0, "Weight of the total variation beside the error.", minimum=0)
    rate: float | None = option(None, "Size of a step; fourier 0.05, pixel 0.03 by default.", minimum=0)
    jitter: int = option(0, "Largest shift of the view in a step.", minimum=0, unit="pixels")
