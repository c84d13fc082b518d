"""What the network learned, and images that it makes."""

from typing import Literal

from cnnviz.registry.image_makers import DeepDreamOptions, InvertOptions, SynthesizeOptions
from cnnviz.registry.specs import ClassName, FilePath, Options, Package, StudySpec, option
from cnnviz.settings import View

_ONE_LAYER = "Layer by module path, or -1, -2, … for stages from the end. [default: {}]"
_LABELS = "Where labels come from: folder, or FILE.csv with path,label. [default: the folder's name]"
# Views that show the network an image once; and those that show it at one size.
_ONE_PASS: tuple[View, ...] = ("crop", "whole", "squash")
_ONE_SIZE: tuple[View, ...] = ("crop", "squash")


class EmbedOptions(Options):
    """Options of Embedding."""

    neighbours: int = option(5, "Nearest others to find for every image.", minimum=0, maximum=1000)
    metric: Literal["cosine", "euclidean"] = option("cosine", "Nearness of neighbours, t-SNE and UMAP.")
    perplexity: float = option(30.0, "Of t-SNE: neighbours that count; less for few images.", minimum=1)
    umap: bool = option(False, "Also UMAP (pip install 'cnnviz[umap]').")
    color: Literal["auto", "label", "prediction"] = option("auto", "What colours say; auto: labels if there are any.")
    table: Literal["csv", "parquet"] = option("csv", "parquet: also embeddings.parquet.")


class TopPatchesOptions(Options):
    """Options of Top patches."""

    units: str = option(
        "selective:16",
        "0,7,20-30, all, random:N, top:N: the N that fire most, or selective:N: the N whose strongest patches stand "
        "out most from all images.",
    )
    patches: int = option(9, "Patches of each unit.", minimum=1, maximum=100)
    per_image: int = option(1, "Patches that one image may have of a unit.", minimum=1, maximum=100)
    overlap: float = option(0.3, "Largest IoU of two receptive fields of a unit in one image.", minimum=0, maximum=1)
    patch_gradient: Literal["auto", "guided", "deconvnet", "saliency", "none"] = option(
        "auto", "The same crops by gradients from the unit; auto: guided for up to 32 units."
    )
    crops: bool = option(False, "Also write each crop to crops/: a PNG of its own pixels for each patch of each unit.")
    compare_to: FilePath | None = option(
        None, "Another model's run, its folder or its report.json: which units changed most.", metavar="PATH"
    )
    boxes: FilePath | None = option(None, "COCO JSON: which of its categories each unit overlaps with (IoU).")
    masks: FilePath | None = option(None, "Folder of masks CONCEPT/IMAGE.png: the same with masks.", metavar="DIR")


class AdversarialOptions(Options):
    """Options of Adversarial."""

    attack: Literal["fgsm", "ifgsm", "pgd", "deepfool", "cw"] = option(
        "pgd", "In the maximum norm: fgsm, ifgsm, pgd; in L2: deepfool, cw."
    )
    target_class: str | None = option(None, "Class to reach; without it any other class will do.")
    epsilon: str | None = option(None, "Largest change of a channel, 8/255 or 0.03 (of fgsm, ifgsm, pgd: 4/255).")
    steps: int | None = option(None, "At most so many (fgsm 1, ifgsm and pgd 10, deepfool 50, cw 100).", minimum=1)
    step_size: str | None = option(None, "Of ifgsm (default: epsilon / steps) and pgd (2.5 epsilon / steps).")
    at: Literal["image", "input"] = option(
        "image", "image: the picture itself, through resize and crop; input: what the network sees, at its size."
    )
    amplify: float = option(10.0, "Factor on the noise that is drawn.", minimum=0)
    curve: str | None = option(
        None,
        "Epsilons of the robust accuracy (without labels: of the share of unchanged predictions), in 1/255 (L2: of "
        "pixels in 0-1), or none; --epsilon is always among them. By default 0,0.5,1,2,4,8 (L2: 0,0.1,0.25,0.5,1,2) "
        "where there are several images.",
    )
    explain: str | None = option(None, "Also the map of this method before and after, such as gradcam.")


class ClassMapOptions(Options):
    """Options of Class map."""

    size: int | None = option(None, "Shorter side that the network sees; by default twice the trained.", minimum=1)
    fit: Literal["whole", "crop", "squeeze"] = option(
        "whole", "whole: the image at its aspect ratio; crop: its centre, as in training; squeeze: a square of it."
    )
    scales: str = option("1", "Also at these multiples of the size, such as 1,1.5,2; merged into one map.")
    merge: Literal["mean", "max"] = option("mean", "How probabilities of several scales become one.")


class ConceptsOptions(Options):
    """Options of Concepts."""

    of: ClassName | None = option(None, "Class that is explained: an index or a label.")
    images: Literal["predicted", "all"] = option(
        "predicted", "predicted: images that the network takes for the class; all: every image."
    )
    components: int = option(6, "Concepts that the crops are made of.", minimum=1, maximum=12)
    crop: float = option(0.35, "Side of a crop, as a share of what the network sees.", minimum=0.05, maximum=1)
    designs: int = option(
        128, "Points of each half of the design of the Sobol indices. A power of two covers best.", minimum=2
    )
    patches: int = option(5, "Crops of each concept in the sheet.", minimum=0, maximum=20)
    iterations: int = option(200, "Iterations of the factorisation, at most.", minimum=1)


class TcavOptions(Options):
    """Options of TCAV."""

    concept: tuple[str, ...] = option(
        (), "Pictures of a concept: a folder, an archive or a list; repeatable.", metavar="PATH"
    )
    random: FilePath | None = option(
        None, "Random pictures, at least twice as many: a folder, an archive or a list.", metavar="PATH"
    )
    pool: Literal["none", "mean"] = option(
        "none", "none: every activation counts, as in the paper; mean: their means over positions."
    )
    partitions: int = option(10, "Random partitions: vectors of each concept, and of chance.", minimum=2, maximum=500)
    level: float = option(0.05, "Level of the test, over all concepts.", minimum=1e-6, maximum=0.5)


class FactorsOptions(Options):
    """Options of Factors."""

    components: int = option(5, "Factors that the activations are made of.", minimum=1, maximum=12)
    iterations: int = option(200, "Iterations of the factorisation, at most.", minimum=1)
    patches: int = option(5, "Patches of each factor in the legend.", minimum=0, maximum=20)


class FiltersOptions(Options):
    """Options of Filters."""

    filters: str | None = option(None, "0,7,20-30 or all; of deeper layers 16 by default.")
    channels: str | None = option(None, "Input channels of deeper layers, alike; 32 by default.")
    per_filter: bool = option(False, "Each filter on its own scale, not all on one.")


class ActivationsOptions(Options):
    """Options of Activations."""

    sort: Literal["auto", "index", "mean", "max"] = option(
        "auto", "Order of the channels; auto: by index, and by mean, most active first, where there are more than 64."
    )
    channel: str | None = option(None, "Drawn over the image, such as 7 or 3,20-22; by default the strongest.")
    per_channel: bool = option(True, "Each channel on its own scale; otherwise all on one.")
    raw: bool = option(False, "Also images/NAME.activations.npz with the values.")


STUDIES: tuple[StudySpec, ...] = (
    StudySpec(
        name="embed",
        command="embed",
        family="studies",
        entry="cnnviz.studies.embed.study:Embed",
        title="Embedding",
        summary="The vector before the classifier for every image: t-SNE, PCA, a grid of thumbnails, neighbours.",
        paper="van der Maaten & Hinton, Visualizing Data using t-SNE, JMLR 2008",
        views=_ONE_PASS,
        why_views="describes every image by one vector, and each tile has its own",
        shared_options=("layer", "class_"),
        help_overrides={"layer": _ONE_LAYER.format("what the classifier reads"), "class_": _LABELS},
        options=EmbedOptions,
        joins=True,
        packages=(
            Package("sklearn", "scikit-learn", "embed"),
            Package("scipy", "scipy", "embed"),
            Package("umap", "umap-learn", "umap", ("umap", True)),
            Package("pyarrow", "pyarrow", "parquet", ("table", "parquet")),
        ),
    ),
    StudySpec(
        name="top-patches",
        command="top-patches",
        family="studies",
        entry="cnnviz.studies.top_patches.study:TopPatches",
        title="Top patches",
        summary="The patches of a folder that each unit of a layer responds to most, with their receptive fields.",
        paper="Girshick et al., Rich feature hierarchies for accurate object detection, CVPR 2014, figure 4; "
        "Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014",
        views=_ONE_SIZE,
        why_views="compares places in inputs of one size",
        shared_options=("layer", "class_"),
        help_overrides={"layer": _ONE_LAYER.format("the last convolutional stage"), "class_": _LABELS},
        options=TopPatchesOptions,
        joins=True,
    ),
    StudySpec(
        name="adversarial",
        command="adversarial",
        family="studies",
        entry="cnnviz.studies.adversarial.study:Adversarial",
        title="Adversarial",
        summary="A change of a picture, too small to see, that fools the network; written so that its file still does.",
        paper="Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015; Madry et al., ICLR 2018; "
        "Moosavi-Dezfooli et al., DeepFool, CVPR 2016; Carlini & Wagner, S&P 2017; of segmentations Xie et al., ICCV "
        "2017; Arnab et al., CVPR 2018",
        views=_ONE_PASS,
        why_views="changes what the network sees in one pass, and each tile has its own",
        shared_options=("layer", "class_", "target_", "resume"),
        help_overrides={
            "layer": _ONE_LAYER.format("the last convolutional stage, of --explain"),
            "class_": _LABELS,
            "target_": "Of a segmentation network the region whose prediction is to change, such as class:car, "
            "class:car@box:x,y,w,h or segment:1; repeatable, and joined. [default: all that the network sees]",
        },
        tasks=("segment",),
        options=AdversarialOptions,
    ),
    StudySpec(
        name="classmap",
        command="classmap",
        family="studies",
        entry="cnnviz.studies.classmap.study:ClassMap",
        title="Class map",
        summary="The classifier read as a fully convolutional network: a class for every place of a larger image.",
        paper="Sermanet et al., OverFeat, ICLR 2014; Long et al., Fully Convolutional Networks for Semantic "
        "Segmentation, CVPR 2015",
        views=_ONE_SIZE,
        why_views="shows the network what --fit says: by default the whole picture",
        shared_options=("class_", "only", "save", "colormap", "alpha", "image_format", "png_level", "resume"),
        help_overrides={
            "only": "Map only the images that the network gets wrong, for the truth and for the prediction; or only "
            "those that it gets right. The truth is that of --class folder, --class FILE, or a list with labels.",
            "save": "Any of overlay,heatmap,raw,none. [default: overlay,heatmap]",
        },
        options=ClassMapOptions,
        caveat=(
            "a cell averages over its window, and what lies around the window has a part in it: of objects larger than "
            "a window it can say something else than the network says of the window cut out"
        ),
    ),
    StudySpec(
        name="synthesize",
        command="synthesize",
        family="studies",
        entry="cnnviz.studies.synthesize.study:Synthesize",
        title="Synthesized images",
        summary="An image that a class, a unit, a neuron or a layer responds to most, from noise or from an image.",
        paper="Simonyan et al., Deep Inside Convolutional Networks, ICLR workshop 2014; Yosinski et al., Understanding "
        "Neural Networks Through Deep Visualization, 2015; Olah et al., Feature Visualization, Distill 2017",
        views=_ONE_SIZE,
        why_views="makes images of the network's own input size",
        inputs="optional",
        shared_options=("layer", "class_", "target_", "resume"),
        help_overrides={
            "layer": "Everything in this layer at once, as DeepDream does; repeatable.",
            "class_": "Index or label to maximise; several with commas, or repeatable, and added up unless --each.",
            "target_": "Of a segmentation network a class in a region of the input, class:car@box:10%,40%,30%,50% or "
            "@point:x,y; repeatable.",
        },
        tasks=("segment",),
        hidden_options=("top",),
        options=SynthesizeOptions,
    ),
    StudySpec(
        name="dream",
        command="dream",
        family="studies",
        entry="cnnviz.studies.dream:Dream",
        title="DeepDream",
        summary="What a layer sees in an image, made stronger at several sizes; or what another image shows it.",
        paper="Mordvintsev, Olah & Tyka, Inceptionism: Going Deeper into Neural Networks, 2015",
        views=_ONE_PASS,
        why_views="goes through the picture in tiles of its own (--tile)",
        shared_options=("layer", "resume"),
        help_overrides={"layer": _ONE_LAYER.format("the stage before the last")},
        hidden_options=("top", "activation", "batch_size"),
        options=DeepDreamOptions,
    ),
    StudySpec(
        name="invert",
        command="invert",
        family="studies",
        entry="cnnviz.studies.invert:Invert",
        title="Feature inversion",
        summary="What layers keep of an image: images that are made from their values alone.",
        paper="Mahendran & Vedaldi, Understanding Deep Image Representations by Inverting Them, CVPR 2015; Visualizing "
        "Deep Convolutional Neural Networks Using Natural Pre-images, IJCV 2016",
        views=_ONE_SIZE,
        why_views="makes images of the network's own input size",
        shared_options=("layer", "resume"),
        help_overrides={
            "layer": "Layer by module path, or -1, -2, … for stages from the end; repeatable. [default: up to four "
            "stages, from the first to the last]"
        },
        hidden_options=("activation", "batch_size"),
        options=InvertOptions,
    ),
    StudySpec(
        name="concepts",
        command="concepts",
        family="studies",
        entry="cnnviz.studies.concepts.study:Concepts",
        title="Concepts",
        summary="What a class is recognised by: concepts of crops of its images, with maps and their importance.",
        paper="Fel et al., CRAFT: Concept Recursive Activation FacTorization for Explainability, CVPR 2023",
        views=_ONE_SIZE,
        why_views="cuts crops of inputs of one size",
        shared_options=("layer",),
        help_overrides={"layer": _ONE_LAYER.format("the last convolutional stage")},
        options=ConceptsOptions,
        packages=(
            Package("sklearn", "scikit-learn", "embed"),
            Package("scipy", "scipy", "embed"),
        ),
    ),
    StudySpec(
        name="factors",
        command="factors",
        family="studies",
        entry="cnnviz.studies.factors.study:DeepFeatureFactors",
        title="Factors",
        summary="The parts that the activations of a layer are made of, over all images: a colour for each part.",
        paper="Collins, Achanta & Süsstrunk, Deep Feature Factorization for Concept Discovery, ECCV 2018",
        views=_ONE_SIZE,
        why_views="compares places in inputs of one size",
        shared_options=("layer",),
        help_overrides={"layer": _ONE_LAYER.format("the last convolutional stage")},
        options=FactorsOptions,
        packages=(
            Package("sklearn", "scikit-learn", "embed"),
            Package("scipy", "scipy", "embed"),
        ),
    ),
    StudySpec(
        name="tcav",
        command="tcav",
        family="studies",
        entry="cnnviz.studies.tcav.study:Tcav",
        title="TCAV",
        summary="Whether a concept, given by pictures, moves a class's logit: a score, tested against chance.",
        paper="Kim et al., Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation "
        "Vectors (TCAV), ICML 2018",
        views=_ONE_SIZE,
        why_views="compares activations of inputs of one size",
        shared_options=("layer", "class_"),
        help_overrides={
            "layer": _ONE_LAYER.format("the last convolutional stage"),
            "class_": "Class whose logit is asked about: an index or a label. Give images of this class.",
        },
        options=TcavOptions,
        packages=(
            Package("sklearn", "scikit-learn", "embed"),
            Package("scipy", "scipy", "embed"),
        ),
    ),
    StudySpec(
        name="filters",
        command="filters",
        family="studies",
        entry="cnnviz.studies.filters.study:Filters",
        title="Filters",
        summary="The weights of the first convolution as pictures, of deeper ones as tables; which filters are dead.",
        paper="Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, NeurIPS 2012, "
        "figure 3",
        inputs="none",
        shared_options=("layer", "colormap"),
        help_overrides={
            "layer": "Convolution by module path; repeatable. [default: the first that looks at the image]"
        },
        options=FiltersOptions,
    ),
    StudySpec(
        name="activations",
        command="activations",
        family="studies",
        entry="cnnviz.studies.activations.study:Activations",
        title="Activations",
        summary="All channels of a layer for an image, one of them over the image; dead channels of a folder.",
        paper="Yosinski et al., Understanding Neural Networks Through Deep Visualization, ICML workshop 2015",
        views=_ONE_PASS,
        why_views="draws the channels of one pass, and each tile has its own",
        shared_options=("layer", "colormap", "alpha", "image_format", "png_level", "resume"),
        help_overrides={
            "layer": "Layer by module path, or -1, -2, … for stages from the end; repeatable, a row each. "
            "[default: the last convolutional stage]"
        },
        options=ActivationsOptions,
    ),
)
