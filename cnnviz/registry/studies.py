"""What the network learned, and images that it makes."""

from __future__ import annotations

from cnnviz.registry.specs import MethodSpec, Package, Param

_ONE_LAYER = "Layer by module path, or -1, -2, … for stages from the end. [default: {}]"
_LABELS = "Where labels come from: folder, or FILE.csv with path,label. [default: the folder's name]"
# Views that show the network an image once; and those that show it at one size.
_ONE_PASS, _ONE_SIZE = ("crop", "whole", "squash"), ("crop", "squash")

STUDIES: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="embed",
        command="embed",
        family="studies",
        entry="cnnviz.studies.embed.study:Embed",
        title="Embedding",
        summary="The vector before the classifier for every image: t-SNE, PCA, a grid of thumbnails, neighbours.",
        paper="van der Maaten & Hinton, Visualizing Data using t-SNE, JMLR 2008",
        kind="study",
        views=_ONE_PASS,
        why_views="describes every image by one vector, and each tile has its own",
        uses=("layer", "class_"),
        says={"layer": _ONE_LAYER.format("what the classifier reads"), "class_": _LABELS},
        params=(
            Param("neighbours", "int", 5, "Nearest others to find for every image.", minimum=0, maximum=1000),
            Param("metric", "choice", "cosine", "Nearness of neighbours, t-SNE and UMAP.", ("cosine", "euclidean")),
            Param("perplexity", "float", 30.0, "Of t-SNE: neighbours that count; less for few images.", minimum=1),
            Param("umap", "bool", False, "Also UMAP (pip install 'cnnviz[umap]')."),
            Param(
                "color", "choice", "auto", "What colours say; auto: labels if there are any.",
                ("auto", "label", "prediction"),
            ),
            Param("table", "choice", "csv", "parquet: also embeddings.parquet.", ("csv", "parquet")),
        ),
        packages=(
            Package("sklearn", "scikit-learn", "embed"),
            Package("scipy", "scipy", "embed"),
            Package("umap", "umap-learn", "umap", ("umap", True)),
            Package("pyarrow", "pyarrow", "parquet", ("table", "parquet")),
        ),
    ),
    MethodSpec(
        name="top-patches",
        command="top-patches",
        family="studies",
        entry="cnnviz.studies.top_patches.study:TopPatches",
        title="Top patches",
        summary="The patches of a folder that each unit of a layer responds to most, with their receptive fields.",
        paper="Girshick et al., Rich feature hierarchies for accurate object detection, CVPR 2014, figure 4; "
        "Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014",
        kind="study",
        views=_ONE_SIZE,
        why_views="compares places in inputs of one size",
        uses=("layer", "class_"),
        says={"layer": _ONE_LAYER.format("the last convolutional stage"), "class_": _LABELS},
        params=(
            Param(
                "units", "text", "selective:16",
                "0,7,20-30, all, random:N, top:N: the N that fire most, or selective:N: the N whose strongest patches "
                "stand out most from all images.",
            ),
            Param("patches", "int", 9, "Patches of each unit.", minimum=1, maximum=100),
            Param("per_image", "int", 1, "Patches that one image may have of a unit.", minimum=1, maximum=100),
            Param(
                "overlap", "float", 0.3, "Largest IoU of two receptive fields of a unit in one image.",
                minimum=0, maximum=1,
            ),
            Param(
                "with", "choice", "auto", "The same crops by gradients from the unit; auto: guided for up to 32 units.",
                ("auto", "guided", "deconvnet", "saliency", "none"),
            ),
            Param("crops", "bool", False, "Also write each crop to crops/."),
            Param("against", "file", None, "Report of another model's run: which units changed most."),
            Param("boxes", "file", None, "COCO JSON: which of its categories each unit overlaps with (IoU)."),
            Param("masks", "file", None, "Folder of masks CONCEPT/IMAGE.png: the same with masks."),
        ),
    ),
    MethodSpec(
        name="adversarial",
        command="adversarial",
        family="studies",
        entry="cnnviz.studies.adversarial.study:Adversarial",
        title="Adversarial",
        summary="A change of a picture, too small to see, that fools the network; written so that its file still does.",
        paper="Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015; Madry et al., ICLR 2018; "
        "Moosavi-Dezfooli et al., DeepFool, CVPR 2016; Carlini & Wagner, S&P 2017",
        kind="study",
        views=_ONE_PASS,
        why_views="changes what the network sees in one pass, and each tile has its own",
        uses=("layer", "class_", "resume"),
        says={"layer": _ONE_LAYER.format("the last convolutional stage, of --explain"), "class_": _LABELS},
        params=(
            Param(
                "attack", "choice", "pgd", "In the maximum norm: fgsm, ifgsm, pgd; in L2: deepfool, cw.",
                ("fgsm", "ifgsm", "pgd", "deepfool", "cw"),
            ),
            Param("to", "text", None, "Class to reach; without it any other class will do."),
            Param("epsilon", "text", None, "Largest change of a channel, 8/255 or 0.03 (of fgsm, ifgsm, pgd: 4/255)."),
            Param("steps", "int", None, "At most so many (fgsm 1, ifgsm and pgd 10, deepfool 50, cw 100).", minimum=1),
            Param("step_size", "text", None, "Of ifgsm (default: epsilon / steps) and pgd (2.5 epsilon / steps)."),
            Param(
                "at", "choice", "image",
                "image: the picture itself, through resize and crop; input: what the network sees, at its size.",
                ("image", "input"),
            ),
            Param("amplify", "float", 10.0, "Factor on the noise that is drawn.", minimum=0),
            Param(
                "curve", "text", None,
                "Epsilons of the robust accuracy, in 1/255 (L2: of pixels in 0-1), or none. "
                "By default 0,0.5,1,2,4,8 (L2: 0,0.1,0.25,0.5,1,2) where there are several images.",
            ),
            Param("explain", "text", None, "Also the map of this method before and after, such as gradcam."),
        ),
    ),
    MethodSpec(
        name="classmap",
        command="classmap",
        family="studies",
        entry="cnnviz.studies.classmap.study:ClassMap",
        title="Class map",
        summary="The classifier read as a fully convolutional network: a class for every place of a larger image.",
        paper="Sermanet et al., OverFeat, ICLR 2014; Long et al., Fully Convolutional Networks for Semantic "
        "Segmentation, CVPR 2015",
        kind="study",
        views=_ONE_SIZE,
        why_views="shows the network what --fit says: by default the whole picture",
        uses=("class_", "save", "colormap", "alpha", "image_format", "png_level", "resume"),
        params=(
            Param("size", "int", None, "Shorter side that the network sees; by default twice the trained.", minimum=1),
            Param(
                "fit", "choice", "whole",
                "whole: the image at its aspect ratio; crop: its centre, as in training; squeeze: a square of it.",
                ("whole", "crop", "squeeze"),
            ),
            Param("scales", "text", "1", "Also at these multiples of the size, such as 1,1.5,2; merged into one map."),
            Param("merge", "choice", "mean", "How probabilities of several scales become one.", ("mean", "max")),
        ),
    ),
    MethodSpec(
        name="synthesize",
        command="synthesize",
        family="studies",
        entry="cnnviz.studies.synthesize.study:Synthesize",
        title="Synthesized images",
        summary="An image that a class, a unit, a neuron or a layer responds to most, from noise or from an image.",
        paper="Simonyan et al., Deep Inside Convolutional Networks, ICLR workshop 2014; Yosinski et al., Understanding "
        "Neural Networks Through Deep Visualization, 2015; Olah et al., Feature Visualization, Distill 2017",
        kind="study",
        views=_ONE_SIZE,
        why_views="makes images of the network's own input size",
        inputs="optional",
        uses=("layer", "class_", "resume"),
        says={
            "layer": "Everything in this layer at once, as DeepDream does; repeatable.",
            "class_": "Index or label to maximise; repeatable, and added up unless --each.",
        },
        hidden=("top",),
        params=(
            Param("unit", "texts", (), "LAYER:K, or 0.5*LAYER:K: channel K of a layer; repeatable, as all objectives."),
            Param("neuron", "texts", (), "LAYER:K:y:x: one position of a channel; LAYER:K for the one in the middle."),
            Param("plus", "texts", (), "Also this class, unit or neuron: hen, 0.5*hen, LAYER:K."),
            Param("minus", "texts", (), "Less of this class, unit or neuron."),
            Param("pool", "choice", "mean", "Of a unit: its mean or its maximum over the layer.", ("mean", "max")),
            Param("each", "bool", False, "An image for each objective, instead of one for their sum."),
            Param("images", "int", 1, "Images of each objective, made to differ.", minimum=1, maximum=64),
            Param("diversity", "float", None, "How much several images must differ; 0: only by chance.", minimum=0),
            Param("steps", "int", 64, "Steps of the ascent.", minimum=1),
            Param(
                "param", "choice", "fourier",
                "What changes: Fourier coefficients of decorrelated colours, or pixels, whose pictures are noisy.",
                ("fourier", "pixel"),
            ),
            Param(
                "optimizer", "choice", "adam", "adam, or gradient: the gradient over its own size.",
                ("adam", "gradient"),
            ),
            Param("rate", "float", None, "Size of a step; fourier 0.05, pixel 0.03 by default.", minimum=0),
            Param("l2", "float", None, "Decay towards grey; 3 by default.", minimum=0),
            Param(
                "tv", "float", None,
                "Total variation; fourier 30, pixel 300 by default, less for inputs under 224 pixels.", minimum=0,
            ),
            Param(
                "blur", "float", None, "Gaussian that every fourth step blurs with; fourier 0, pixel 0.8 by default.",
                minimum=0, unit="pixels",
            ),
            Param(
                "jitter", "int", None, "Largest shift of the view; a fourteenth of the input by default.", minimum=0,
                unit="pixels",
            ),
            Param("rotate", "float", 10.0, "Largest turn of the view.", minimum=0, maximum=180, unit="degrees"),
            Param("zoom", "float", 0.3, "Largest relative change of the view's size.", minimum=0, maximum=4),
            Param("gif", "bool", False, "Also the ascent as a GIF."),
            Param("video", "bool", False, "Also the ascent as an MP4."),
        ),
    ),
    MethodSpec(
        name="dream",
        command="dream",
        family="studies",
        entry="cnnviz.studies.dream:Dream",
        title="DeepDream",
        summary="What a layer sees in an image, made stronger at several sizes; or what another image shows it.",
        paper="Mordvintsev, Olah & Tyka, Inceptionism: Going Deeper into Neural Networks, 2015",
        kind="study",
        views=_ONE_PASS,
        why_views="goes through the picture in tiles of its own (--tile)",
        uses=("layer", "resume"),
        says={"layer": _ONE_LAYER.format("the stage before the last")},
        hidden=("top", "activation", "batch_size"),
        params=(
            Param("guide", "file", None, "Image whose features the dream is drawn to."),
            Param("octaves", "int", 4, "Sizes at which the image is dreamed on.", minimum=1, maximum=20),
            Param("octave_scale", "float", 1.4, "Ratio of one size to the next.", minimum=1.01, maximum=4),
            Param("steps", "int", 10, "Steps at each size.", minimum=1),
            Param("step_size", "float", 1.5, "Mean change of a pixel a step.", minimum=0, unit="1/255"),
            Param("jitter", "int", 32, "Largest shift under the network's grid.", minimum=0, unit="pixels"),
            Param(
                "tile", "int", 512, "Largest side of what goes through the network at once.", minimum=32, unit="pixels"
            ),
            Param("overlap", "int", 64, "Surroundings that go through with a tile.", minimum=0, unit="pixels"),
        ),
    ),
    MethodSpec(
        name="filters",
        command="filters",
        family="studies",
        entry="cnnviz.studies.filters.study:Filters",
        title="Filters",
        summary="The weights of the first convolution as pictures, of deeper ones as tables; which filters are dead.",
        paper="Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, NeurIPS 2012, "
        "figure 3",
        kind="study",
        inputs="none",
        uses=("layer", "colormap"),
        says={"layer": "Convolution by module path; repeatable. [default: the first that looks at the image]"},
        params=(
            Param("filters", "text", None, "0,7,20-30 or all; of deeper layers 16 by default."),
            Param("channels", "text", None, "Input channels of deeper layers, alike; 32 by default."),
            Param("per_filter", "bool", False, "Each filter on its own scale, not all on one."),
        ),
    ),
    MethodSpec(
        name="activations",
        command="activations",
        family="studies",
        entry="cnnviz.studies.activations.study:Activations",
        title="Activations",
        summary="All channels of a layer for an image, one of them over the image; dead channels of a folder.",
        paper="Yosinski et al., Understanding Neural Networks Through Deep Visualization, ICML workshop 2015",
        kind="study",
        views=_ONE_PASS,
        why_views="draws the channels of one pass, and each tile has its own",
        uses=("layer", "colormap", "alpha", "image_format", "png_level", "resume"),
        says={
            "layer": "Layer by module path, or -1, -2, … for stages from the end; repeatable, a row each. "
            "[default: the last convolutional stage]"
        },
        params=(
            Param(
                "sort", "choice", "auto",
                "Order of the channels; auto: by index, and by mean, most active first, where there are more than 64.",
                ("auto", "index", "mean", "max"),
            ),
            Param("channel", "text", None, "Drawn over the image, such as 7 or 3,20-22; by default the strongest."),
            Param("per_channel", "bool", True, "Each channel on its own scale; otherwise all on one."),
            Param("raw", "bool", False, "Also images/NAME.activations.npz with the values."),
        ),
    ),
)
