"""``cnnviz embed``: the vector of every image, and what lies near to what."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.engine.cut import Cut
from cnnviz.engine.session import ForwardPass
from cnnviz.errors import CnnvizError, in_percent
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.label_tables import is_label_table
from cnnviz.io.sources import ImageRef
from cnnviz.io.store import Store
from cnnviz.io.write_tables import Spool, VectorFile, write_csv, write_npy, write_parquet
from cnnviz.models.loading.load import LoadedModel
from cnnviz.registry.studies import EmbedOptions
from cnnviz.render import embedding as drawing
from cnnviz.report.embedding_page import Key, Plot, Point, page
from cnnviz.report.gallery import Gallery
from cnnviz.report.headline import notices, unseen
from cnnviz.run.command_line import command_line
from cnnviz.run.images import DecodedImage, failed
from cnnviz.run.named_folders import FOLDERS_AS_LABELS
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.run.share import packed, unpacked
from cnnviz.schema.images import AnyImage
from cnnviz.schema.studies.embed import Embedding, EmbedFacts, Neighbour, Neighbours
from cnnviz.settings import RunSettings
from cnnviz.studies.base import Findings, Observed, Study
from cnnviz.studies.embed import arrange, embedding
from cnnviz.studies.embed.layout import (
    Entry,
    Features,
    Floats,
    Layout,
    headline,
    legend_entries,
    pooled,
    small,
    spread,
    takes_folders,
    thumbnail_name,
)

ON_PAGE = 5_000
"""Points of the page; of more images, this many spread evenly over the inputs."""
_SHEET_ROWS = 36
_PATIENCE = 1_000
_JPEG, _PNG = ImageFormat("jpg"), ImageFormat("png")


class Embed(Study[EmbedOptions]):
    """The vector before the classifier, or a layer's mean over positions, for every input."""

    def __init__(self, prepared: PreparedModel, params: EmbedOptions, store: Store) -> None:
        super().__init__(prepared, params, store)
        for spec in prepared.asked_classes:
            if spec not in {"pred", "folder"} and not is_label_table(spec):
                raise CnnvizError(
                    f"--class {spec}: embed explains no class; here --class says where labels come from.",
                    "Use --class folder, or --class FILE.csv with path,label.",
                )
        self._name, self._channels_last = self._source()
        self.vectors, self.thumbnails, self.rows = VectorFile(), Spool(), list[Entry]()
        self.names: list[str] = []
        self.of_shares: dict[str, NDArray[np.float32]] = {}
        self._by_folder = takes_folders(prepared.settings, prepared.asked_classes)

    @classmethod
    def cut(cls, settings: RunSettings, params: EmbedOptions) -> Cut:
        layers = settings.target.layers
        if len(layers) > 1:
            raise CnnvizError(f"embed takes one layer, not {len(layers)}.", "Run it once a layer, each with its --out.")
        return Cut.at_layers(*layers) if layers else Cut.before_classifier()

    @classmethod
    def adapt(cls, loaded: LoadedModel, settings: RunSettings, params: EmbedOptions) -> LoadedModel:
        # Here, not at the end: nobody should learn after an hour that a package is missing.
        embedding.optional("sklearn.manifold", "embed", "embed")
        embedding.optional("scipy.optimize", "embed", "embed")
        if params.umap:
            embedding.optional("umap", "umap", "--umap")
        if params.table == "parquet":
            embedding.optional("pyarrow.parquet", "parquet", "--table parquet")
        return loaded

    def _source(self) -> tuple[str, bool]:
        """Where the vectors come from, and whether channels are the last axis: what a linear layer reads."""
        prepared = self.prepared
        if prepared.settings.target.layers:
            return str(prepared.layer_name), False
        session = prepared.session
        if session.graph is not None and session.nodes[0] is not session.graph.logits:
            return "input of the classifier", True
        prepared.session = prepared.open(Cut.at_layers())
        prepared.note(f"no linear layer at the end of the network: the mean of {prepared.layer_name} is taken")
        return str(prepared.layer_name), False

    def known_label(self, ref: ImageRef) -> str | None:
        given = super().known_label(ref)
        return self._class_name(ref.folder) if given is None and self._by_folder else given

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        vectors = pooled(run.activations[0].detach(), self._channels_last).cpu().numpy()
        return [
            Features(vector) if np.isfinite(vector).all() else failed(item, "not-finite", "its vector is not finite")
            for item, vector in zip(items, vectors, strict=True)
        ]

    def draw(self, done: Observed) -> EmbedFacts:
        done.seen.thumbnail = encode(small(done.rgb), _JPEG)
        name = thumbnail_name(done.ref.index)
        self.store.write(name, done.seen.thumbnail)
        return {"thumbnail": name}

    def fold(self, done: Observed) -> None:
        self.vectors.append(done.seen.vector)
        self.thumbnails.append(done.seen.thumbnail)
        best = done.predictions[0] if done.predictions else None
        said = (None, None) if best is None else (best.label, best.probability)
        self.rows.append(Entry(done.ref.uri, thumbnail_name(done.ref.index), done.label, *said))
        self.names.append(done.ref.name)

    def state(self) -> Mapping[str, NDArray[Any]]:
        return {"names": packed(self.names), "vectors": self.vectors.rows()} if self.names else {}

    def take_up(self, states: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        for state in states:
            self.of_shares.update(zip(unpacked(state["names"]), state["vectors"], strict=True))

    def recall(self, record: AnyImage) -> None:
        facts = cast("Mapping[str, Any]", record)
        vector = self.of_shares[record["name"]]
        best = next(iter(facts["predictions"]), None)
        said = (None, None) if best is None else (best["label"], best["probability"])
        self.vectors.append(vector)
        self.thumbnails.append(self.store.read(facts["thumbnail"]) or b"")
        self.rows.append(Entry(record["path"], facts["thumbnail"], facts["label"], *said))
        self.names.append(record["name"])

    def writes(self) -> Sequence[str]:
        names = ["embeddings.npy", "embeddings.csv", "scatter.png", "grid.png", "neighbours.png", "thumbnails/any"]
        return [*names, "embeddings.parquet"] if self.params.table == "parquet" else names

    def finish(self) -> Findings:
        if not self.rows:
            return Findings({"embedding": None}, unmeasured="no image could be used")
        if len(self.rows) > _PATIENCE:
            self.prepared.say(f"arranging {len(self.rows)} vectors")
        began = time.perf_counter()
        vectors = self.vectors.rows()
        layout = self._lay_out(vectors)
        if layout.labelled_by == "folder":
            self.prepared.note(FOLDERS_AS_LABELS)
        self._write_tables(vectors, layout)
        self._write_pictures(layout)
        summary = self._summary(vectors, layout)
        summary["seconds_arranging"] = round(time.perf_counter() - began, 3)
        told = [", ".join(f"{name}: {value}" for name, value in headline(summary))]
        report = {"neighbours": self._report(layout)}

        def page_of(run: Mapping[str, Any]) -> Iterator[bytes]:
            return self._page(layout, [*headline(summary), *unseen(run, "not shown to the network"), *notices(run)])

        return Findings({"embedding": summary}, report, index=page_of, sentences=told)

    # Computing.

    def _lay_out(self, vectors: NDArray[np.float32]) -> Layout:
        params, seed = self.params, self.prepared.settings.runtime.seed
        pca = embedding.pca(vectors)
        reduced = embedding.reduced(vectors, params.metric)
        points: dict[str, Floats | None] = {
            "tsne": arrange.tsne(reduced, perplexity=params.perplexity, seed=seed),
            "pca": pca.points,
        }
        if params.umap:
            points["umap"] = arrange.umap(reduced, seed=seed)
        different = len(arrange.distinct(reduced)[0])
        for text in arrange.said_of_few(different, len(vectors), params.perplexity):
            self.prepared.note(text)
        arranged = points["tsne"]
        grid_of: Literal["tsne", "pca"] = "pca" if arranged is None else "tsne"
        cells = embedding.grid_cells(pca.points if arranged is None else arranged)
        near = embedding.neighbours(vectors, params.neighbours, params.metric)
        labels, labelled_by = self._labels()
        said = {"label": labels, "prediction": tuple(row.prediction for row in self.rows)}
        purity = {kind: embedding.purity(near.index, values) for kind, values in said.items()}
        shape = embedding.grid_shape(len(vectors))
        return Layout(pca, points, cells, shape, grid_of, near, labels, labelled_by, purity, different)

    def _labels(self) -> tuple[tuple[str | None, ...], Literal["given", "folder"] | None]:
        """The label of every image, and where it comes from: what was given; else the folders, if there are several."""
        labels = tuple(row.label for row in self.rows)
        if all(label is None for label in labels):
            return labels, None
        return labels, "folder" if self._by_folder else "given"

    def _class_name(self, folder: str | None) -> str | None:
        classes = self.prepared.classes
        try:
            return None if folder is None else classes.labels[classes.exact(folder)]
        except CnnvizError:
            return folder

    # Writing.

    def _write_tables(self, vectors: NDArray[np.float32], layout: Layout) -> None:
        columns: dict[str, Sequence[object]] = {
            "path": [row.path for row in self.rows],
            "label": layout.labels,
            "prediction": [row.prediction for row in self.rows],
        }
        for name in ("pca", "tsne", "umap"):
            if name in layout.points:
                found = layout.points[name]
                for axis, letter in enumerate("xy"):
                    none = [None] * len(self.rows)
                    columns[f"{name}_{letter}"] = none if found is None else found[:, axis].tolist()
        columns["grid_row"], columns["grid_col"] = layout.cells[:, 0].tolist(), layout.cells[:, 1].tolist()
        with self.store.stream("embeddings.npy") as stream:
            write_npy(stream, vectors)
        with self.store.stream("embeddings.csv") as stream:
            write_csv(stream, tuple(columns), zip(*columns.values(), strict=True))
        if self.params.table == "parquet":
            with self.store.stream("embeddings.parquet") as stream:
                write_parquet(stream, columns)

    def _write_pictures(self, layout: Layout) -> None:
        kind = self._colouring(layout)
        categories = drawing.categorize(self._values(layout, kind))
        found = [(self._title(name, layout), points) for name, points in layout.points.items()]
        views = [drawing.View(title, points) for title, points in found if points is not None]
        self.store.write(
            "scatter.png", encode(drawing.scatter(views, categories, drawing.colour_heading(kind, categories)), _PNG)
        )
        side = drawing.cell_side(layout.shape[1])
        grid = drawing.thumbnail_grid(self._thumbnail, layout.cells, layout.shape, side)
        self.store.write("grid.png", encode(grid, _PNG))
        if layout.near.index.shape[1]:
            sheet = self._sheet(layout, kind)
            every = len(self.rows)
            of = "each picture, then" if len(sheet) == every else f"{len(sheet)} of {every} pictures, each before"
            heading = f"{of} its nearest by {self.params.metric} {self._measure()}"
            self.store.write("neighbours.png", encode(drawing.neighbour_sheet(sheet, heading), _PNG))

    def _sheet(self, layout: Layout, kind: str) -> list[list[drawing.Near]]:
        values, shown = self._values(layout, kind), layout.near.index[:, :8]
        counts = Counter(values)
        rows = []
        for place in spread(len(self.rows), _SHEET_ROWS):
            row = [drawing.Near(self._thumbnail(place), values[place] or "")]
            for other, value in zip(shown[place].tolist(), layout.near.value[place].tolist(), strict=False):
                # Where no other image could match, a bar that says "another" says nothing.
                told = values[place] is not None and counts[values[place]] > 1
                same = values[place] == values[other] if told else None
                row.append(drawing.Near(self._thumbnail(other), f"{value:.2f} {values[other] or ''}", same))
            rows.append(row)
        return rows

    def _report(self, layout: Layout) -> list[Neighbours]:
        rows: list[Neighbours] = []
        for place, row in enumerate(self.rows):
            pairs = zip(layout.near.index[place].tolist(), layout.near.value[place].tolist(), strict=True)
            near = [self._neighbour(other, value) for other, value in pairs]
            shares = {
                kind: float(values[place]) if embedding.is_shared(self._values(layout, kind)) else None
                for kind, values in layout.purity.items()
            }
            rows.append(
                {
                    "path": row.path,
                    "label": layout.labels[place],
                    "neighbours": near,
                    "label_purity": shares["label"],
                    "prediction_purity": shares["prediction"],
                }
            )
        return rows

    def _neighbour(self, other: int, value: float) -> Neighbour:
        path = self.rows[other].path
        return (
            {"path": path, "similarity": value}
            if self._measure() == "similarity"
            else {"path": path, "distance": value}
        )

    def _summary(self, vectors: NDArray[np.float32], layout: Layout) -> Embedding:
        count = len(vectors)
        block = count > embedding.OPTIMAL_UP_TO
        perplexity = arrange.effective_perplexity(layout.different, self.params.perplexity)
        purity = {
            kind: embedding.mean_purity(values, self._values(layout, kind)) for kind, values in layout.purity.items()
        }
        return {
            "source": self._name,
            "images": count,
            "different": layout.different,
            "dimensions": int(vectors.shape[1]),
            "metric": self.params.metric,
            "labels": layout.labelled_by,
            "pca": {"explained": layout.pca.explained.tolist()},
            "tsne": None if layout.points["tsne"] is None else {"perplexity": perplexity},
            "grid": {
                "rows": layout.shape[0],
                "columns": layout.shape[1],
                "of": layout.grid_of,
                "assignment": "optimal in blocks" if block else "optimal",
            },
            "neighbours": int(layout.near.index.shape[1]),
            "purity": {"label": purity["label"], "prediction": purity["prediction"]},
        }

    def _page(self, layout: Layout, head: Sequence[tuple[str, str]]) -> Iterator[bytes]:
        kinds = [self._colouring(layout), *(k for k in ("label", "prediction") if k != self._colouring(layout))]
        kinds = [kind for kind in kinds if any(value is not None for value in self._values(layout, kind))]
        sorted_ = [drawing.categorize(self._values(layout, kind)) for kind in kinds]
        names = [name for name, found in layout.points.items() if found is not None]
        found = [layout.points[name] for name in names]
        places = [drawing.placed(points) for points in found if points is not None]
        places.append((layout.cells[:, ::-1] + 0.5) / np.array(layout.shape[::-1]))
        chosen = spread(len(self.rows), ON_PAGE)
        note = "The pointer on a point shows its picture and the nearest others; Tab goes from point to point."
        if len(chosen) < len(self.rows):
            note += f" {len(chosen)} of {len(self.rows)} images are shown here; the tables have all."
        links = [("grid.png", "grid of thumbnails"), ("scatter.png", "scatter"), ("embeddings.csv", "table")]
        if layout.near.index.shape[1]:
            links.insert(2, ("neighbours.png", "neighbours"))
        plot = Plot(
            Gallery("cnnviz embed", command_line(self.prepared.settings, out=True), self._model(), head),
            [self._title(name, layout) for name in names] + ["grid"],
            (len(names), "grid.png", layout.shape),
            [Key(kind, legend_entries(known), known.rest) for kind, known in zip(kinds, sorted_, strict=True)],
            links,
            note,
            float(np.clip(44.0 / len(chosen) ** 0.25, 5.0, 13.0)),
        )
        return page(plot, (self._point(place, layout, places, sorted_) for place in chosen))

    def _point(
        self, place: int, layout: Layout, places: Sequence[Floats], categories: Sequence[drawing.Categories]
    ) -> Point:
        row = self.rows[place]
        facts = [] if layout.labels[place] is None else [f"labelled {layout.labels[place]}"]
        if row.prediction is not None and row.probability is not None:
            facts.append(f"predicted {row.prediction}, {in_percent(row.probability)}")
        near = [self.rows[other].file for other in layout.near.index[place, :5].tolist()]
        where = [(float(points[place, 0]), float(points[place, 1])) for points in places]
        return Point(row.path, row.file, facts, where, [int(known.of[place]) for known in categories], near)

    # Words.

    def _colouring(self, layout: Layout) -> str:
        wanted = str(self.params.color)
        if wanted != "auto":
            return wanted
        return "prediction" if layout.labelled_by is None else "label"

    def _values(self, layout: Layout, kind: str) -> tuple[str | None, ...]:
        return layout.labels if kind == "label" else tuple(row.prediction for row in self.rows)

    def _title(self, name: str, layout: Layout) -> str:
        if name == "pca":
            first, second = (in_percent(share) for share in layout.pca.explained.tolist())
            return f"PCA ({first} + {second} of the variance)"
        if name == "tsne":
            used = arrange.effective_perplexity(layout.different, self.params.perplexity)
            return f"t-SNE (perplexity {used:.3g})"
        return "UMAP"

    def _measure(self) -> str:
        return "similarity" if self.params.metric == "cosine" else "distance"

    def _model(self) -> str:
        return f"{self.prepared.loaded.name}, {self._name}"

    def _thumbnail(self, place: int) -> NDArray[np.uint8]:
        data = np.frombuffer(self.thumbnails[place], dtype=np.uint8)
        decode: Callable[..., Any] = cv2.imdecode
        return np.asarray(cv2.cvtColor(decode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), dtype=np.uint8)
