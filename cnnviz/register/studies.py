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
)
