"""What the network learned, and images that it makes."""

from __future__ import annotations

from cnnviz.specs import MethodSpec, Param

STUDIES: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="embed",
        command="embed",
        family="studies",
        entry="cnnviz.studies.embed:Embed",
        title="Embedding",
        summary="The vector before the classifier for every image: t-SNE, PCA, a grid of thumbnails, neighbours.",
        paper="van der Maaten & Hinton, Visualizing Data using t-SNE, JMLR 2008",
        kind="study",
        uses=("layer", "class_"),
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
    ),
    MethodSpec(
        name="top-patches",
        command="top-patches",
        family="studies",
        entry="cnnviz.studies.top_patches:TopPatches",
        title="Top patches",
        summary="The patches of a folder that each unit of a layer responds to most, with their receptive fields.",
        paper="Girshick et al., Rich feature hierarchies for accurate object detection, CVPR 2014, figure 4; "
        "Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014",
        kind="study",
        uses=("layer", "class_"),
        params=(
            Param("units", "text", "top:16", "0,7,20-30, all, random:N, or top:N: the N that fire most."),
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
            Param("against", "text", None, "Report of another model's run: which units changed most."),
            Param("boxes", "text", None, "COCO JSON: which of its categories each unit overlaps with (IoU)."),
            Param("masks", "text", None, "Folder of masks CONCEPT/IMAGE.png: the same with masks."),
        ),
    ),
    MethodSpec(
        name="adversarial",
        command="adversarial",
        family="studies",
        entry="cnnviz.studies.adversarial:Adversarial",
        title="Adversarial",
        summary="The smallest change of a picture that fools the network, written so that its file still does.",
        paper="Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015; Madry et al., ICLR 2018; "
        "Moosavi-Dezfooli et al., DeepFool, CVPR 2016; Carlini & Wagner, S&P 2017",
        kind="study",
        uses=("layer", "class_"),
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
        entry="cnnviz.studies.classmap:ClassMap",
        title="Class map",
        summary="The classifier read as a fully convolutional network: a class for every place of a larger image.",
        paper="Sermanet et al., OverFeat, ICLR 2014; Long et al., Fully Convolutional Networks for Semantic "
        "Segmentation, CVPR 2015",
        kind="study",
        uses=("class_", "save", "colormap", "alpha", "image_format", "png_level"),
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
)
