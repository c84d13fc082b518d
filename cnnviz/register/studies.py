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
        ),
    ),
)
