"""The application: what a page asks, as HTTP. Everything that computes runs in the worker's thread."""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cnnviz.errors import CnnvizError, ImageError, first_line, shown
from cnnviz.registry.params import Param
from cnnviz.serve import dossier, places
from cnnviz.serve.activations import LayerValues, values_of
from cnnviz.serve.engine import DOWNLOADS, Explorer
from cnnviz.serve.network import Latest
from cnnviz.serve.pages import page_file
from cnnviz.serve.questions import Drawing, fields_of, read_question, text_of
from cnnviz.serve.security import MOST_BYTES, TooLargeError
from cnnviz.serve.worker import CancelledError, Job, Jobs, StoppedError, SupersededError, Worker

T = TypeVar("T")

_MOST_JSON, _MOST_TAB = 1 << 16, 40
_STEPS = Param("steps", "int", 64, "Steps of the ascent.", minimum=1, maximum=2048)
_UNIT = Param("unit", "int", 0, "A channel.", minimum=0, maximum=1 << 20)
_TYPES = {"png": "image/png", "jpg": "image/jpeg", "npz": "application/octet-stream"}
Endpoint = Callable[[Request], Awaitable[Response]]


class _Json(JSONResponse):
    """JSON in ASCII: names of files may hold bytes that are no UTF-8, which Python has as lone surrogates."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Site:
    """The endpoints.

    Args:
        explorer: The network and the images.
        worker: The thread that computes.
        note: Told of failures that are nobody's request.
    """

    def __init__(self, explorer: Explorer, worker: Worker, note: Callable[[str], None]) -> None:
        self.explorer, self.worker, self.note = explorer, worker, note
        self.jobs = Jobs(worker)
        self._layers: Latest[LayerValues] = Latest(16, 1 << 28)

    def app(self) -> Starlette:
        """The application, without the wall around it."""
        get, post = ["GET"], ["POST"]
        made = [
            ("/", self.page, get),
            ("/page/{name:path}", self.page, get),
            ("/api/model", self.model, get),
            ("/api/layers", self.layers, get),
            ("/api/status", self.status, get),
            ("/api/images", self.upload, post),
            ("/api/images/{image}", self.image, get),
            ("/api/images/{image}/photo.jpg", self.photo, get),
            ("/api/images/{image}/thumbnail.jpg", self.thumbnail, get),
            ("/api/images/{image}/at", self.at, get),
            ("/api/images/{image}/layer", self.layer, get),
            ("/api/images/{image}/layer/channels.png", self.channels, get),
            ("/api/images/{image}/layer/{channel:int}.png", self.channel, get),
            ("/api/explain", self.explain, post),
            ("/api/explain", self.give_up, ["DELETE"]),
            ("/api/results/{result}/layer.png", self.map_layer, get),
            ("/api/results/{result}/shown.jpg", self.shown, get),
            ("/api/results/{result}/outline.png", self.outline, get),
            ("/api/results/{result}/download/{kind}", self.download, get),
            ("/api/jobs", self.start, post),
            ("/api/jobs/{job}", self.job, get),
            ("/api/jobs/{job}", self.cancel, ["DELETE"]),
            ("/api/jobs/{job}/files/{name}", self.job_file, get),
        ]
        routes = [Route(path, _answering(endpoint, self.note), methods=methods) for path, endpoint, methods in made]
        return Starlette(routes=routes)

    async def computed(self, request: Request, work: Callable[[], T], view: str | None = None) -> T:
        """What the worker's thread makes of it, which is given up where the client goes before.

        Args:
            request: Who waits for it.
            work: What is to be done.
            view: Which part of a page waits; a newer request of it supersedes this one.
        """

        def alone() -> T:
            with self.explorer.threads():
                return work()

        asked = self.worker.submit(alone, view)
        made, gone = asyncio.wrap_future(asked), asyncio.ensure_future(_gone(request))
        try:
            first: set[asyncio.Future[Any]] = {made, gone}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not made.done():
                gone.result()
                raise CancelledError
            return made.result()
        finally:
            gone.cancel()
            self.worker.forget(asked)
            made.cancel()

    async def newest(self, request: Request, work: Callable[[], T]) -> T:
        """The same, unless a newer request of the same path comes from the same tab."""
        return await self.computed(request, work, _view(request, request.scope["endpoint"].__name__))

    # The page and the network.

    async def page(self, request: Request) -> Response:
        data, kind = page_file(request.path_params.get("name", "index.html"))
        return Response(data, media_type=kind)

    async def model(self, request: Request) -> Response:
        return _Json(await self.computed(request, self.explorer.model))

    async def layers(self, request: Request) -> Response:
        return _Json({"layers": await self.computed(request, self.explorer.layers)})

    async def status(self, request: Request) -> Response:
        return _Json({"busy": self.worker.busy, "waiting": self.worker.waiting})

    # Images.

    async def upload(self, request: Request) -> Response:
        name, data = unquote(request.query_params.get("name", "image")), await request.body()

        def add() -> dict[str, Any]:
            return self._described(self.explorer.shelf.add(data, name).key)

        return _Json(await self.computed(request, add))

    async def image(self, request: Request) -> Response:
        key = request.path_params["image"]
        return _Json(await self.newest(request, lambda: self._described(key)))

    def _described(self, key: str) -> dict[str, Any]:
        """What the network says of an image, and what can be asked of it."""
        image = self.explorer.shelf.find(key)
        found = self.explorer.look(image)
        said = found.to_dict()
        rect = list(found.item.geometry.rect)
        return {"image": key, "name": image.item.ref.name, "given": image.given, "seen": rect, **said}

    async def photo(self, request: Request) -> Response:
        key = request.path_params["image"]
        return _file(await self.computed(request, lambda: self.explorer.shelf.photo(key)), "jpg")

    async def thumbnail(self, request: Request) -> Response:
        key = request.path_params["image"]
        return _file(await asyncio.to_thread(self.explorer.shelf.thumbnail, key), "jpg")

    async def at(self, request: Request) -> Response:
        key, layer = request.path_params["image"], request.query_params.get("layer") or None
        x, y = (_number(request.query_params, name) for name in ("x", "y"))

        def ask() -> list[dict[str, Any]]:
            image = self.explorer.shelf.find(key)
            found = self.explorer.look(image)
            if found.boxes or found.classes is not None:
                return places.of_parts(found, x, y)
            return places.of_neurons(self._values(key, layer), image.item.geometry.rect, x, y)

        return _Json({"asked": await self.newest(request, ask)})

    # A layer of an image.

    def _values(self, key: str, layer: str | None) -> LayerValues:
        explorer = self.explorer
        known = self._layers.get((key, layer))
        if known is not None:
            return known
        image = explorer.shelf.find(key)
        made = values_of(image, layer, explorer.base, explorer.shared.prepared, explorer.store)
        return self._layers.put((key, layer), made, made.values.nbytes + len(made.grid))

    async def layer(self, request: Request) -> Response:
        key, layer = request.path_params["image"], request.query_params.get("layer") or None
        return _Json((await self.newest(request, lambda: self._values(key, layer))).to_dict())

    async def channels(self, request: Request) -> Response:
        key, layer = request.path_params["image"], request.query_params.get("layer") or None
        return _file((await self.computed(request, lambda: self._values(key, layer))).grid, "png")

    async def channel(self, request: Request) -> Response:
        key, layer = request.path_params["image"], request.query_params.get("layer") or None
        number, how = request.path_params["channel"], _drawing(request.query_params)
        return _file(await self.computed(request, lambda: self._values(key, layer).channel_png(number, how)), "png")

    # Maps.

    async def explain(self, request: Request) -> Response:
        question = read_question(await _json(request))
        result = await self.newest(request, lambda: self.explorer.explain(question))
        return _Json(result.to_dict())

    async def give_up(self, request: Request) -> Response:
        view = _view(request, self.explain.__name__)
        if view is not None:
            self.worker.cancel(view)
        return _Json({})

    async def map_layer(self, request: Request) -> Response:
        result, how = self.explorer.result(request.path_params["result"]), _drawing(request.query_params)
        return _file(await asyncio.to_thread(self.explorer.layer_png, result, how), "png")

    async def shown(self, request: Request) -> Response:
        result, how = self.explorer.result(request.path_params["result"]), _drawing(request.query_params)
        return _file(await asyncio.to_thread(self.explorer.shown_jpg, result, how), "jpg")

    async def outline(self, request: Request) -> Response:
        result = self.explorer.result(request.path_params["result"])
        return _file(await asyncio.to_thread(self.explorer.outline_png, result), "png")

    async def download(self, request: Request) -> Response:
        result, how = self.explorer.result(request.path_params["result"]), _drawing(request.query_params)
        kind = request.path_params["kind"]
        if kind not in DOWNLOADS:
            raise CnnvizError(f"{shown(kind)} is no kind of file.", f"Use {', '.join(DOWNLOADS)}.")
        data = await self.computed(request, lambda: self.explorer.download(result, kind, how))
        (item,) = result.done.maps
        name = f"{result.done.ref.name.rsplit('/', 1)[-1]}.{item.slug}.{item.method.name}.{DOWNLOADS[kind]}"
        return _file(data, name.rsplit(".", 1)[-1], name)

    # Jobs.

    async def start(self, request: Request) -> Response:
        body = fields_of(await _json(request), {"kind", "layer", "unit", "class", "steps"})
        kind, explorer = text_of(body, "kind"), self.explorer
        wanted: dict[str, Any] = {"steps": _STEPS.check(body.get("steps", _STEPS.default))}
        if "class" in body:
            wanted["class"] = _UNIT.check(body["class"])
        else:
            wanted["unit"] = _UNIT.check(body.get("unit"))
            wanted["layer"] = text_of(body, "layer") if body.get("layer") else None

        def work(job: Job) -> Mapping[str, Any]:
            with explorer.threads():
                if kind == "top-patches":
                    return dossier.top_patches(job, wanted, explorer.base, explorer.shared.prepared, explorer.scratch)
                if "unit" in wanted:
                    wanted["unit"] = f"{wanted['layer'] or '-1'}:{wanted['unit']}"
                return dossier.synthesize(job, wanted, explorer.base, explorer.shared.prepared, explorer.store)

        if kind not in ("synthesize", "top-patches"):
            raise CnnvizError(f"{shown(kind)} is no kind of job.", "Use synthesize or top-patches.")
        return _Json(self.jobs.start(kind, work).to_dict())

    async def job(self, request: Request) -> Response:
        return _Json(self.jobs.find(request.path_params["job"]).to_dict())

    async def cancel(self, request: Request) -> Response:
        job = self.jobs.find(request.path_params["job"])
        job.cancel()
        return _Json(job.to_dict())

    async def job_file(self, request: Request) -> Response:
        job = self.jobs.find(request.path_params["job"])
        data = job.files.get(request.path_params["name"])
        if data is None:
            raise CnnvizError("There is no such file.", "Start the job again.")
        return _file(data, "png")


def _answering(endpoint: Endpoint, note: Callable[[str], None]) -> Endpoint:
    """What can go wrong, as an answer: in words, never with a traceback."""

    @functools.wraps(endpoint)
    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except SupersededError:
            return _Json({"superseded": True}, 409)
        except (CancelledError, ClientDisconnect):
            return _Json({"cancelled": True, "error": "Stopped.", "hint": ""}, 409)
        except (StoppedError, asyncio.CancelledError):
            # It is cancelled by the loop alone, as the last that this does: nothing waits for the cancellation.
            ended = {"error": "cnnviz serve was ended before this was computed.", "hint": "Start it again."}
            return _Json({**ended, "type": "stopped"}, 503)
        except TooLargeError:
            most = f"At most {MOST_BYTES >> 20} MiB are taken."
            return _Json({"error": most, "hint": "Make the file smaller.", "type": "too-large"}, 413)
        except ImageError as error:
            return _Json({"error": error.message, "hint": error.hint, "type": error.kind}, 422)
        except FileNotFoundError:
            return _Json({"error": "There is no such page.", "hint": "", "type": "not-found"}, 404)
        except CnnvizError as error:
            return _Json({"error": error.message, "hint": error.hint, "type": "request"}, 400)
        except Exception as error:
            said = first_line(error, "")
            note(f"{request.method} {request.url.path}: {type(error).__name__}: {said}")
            return _Json({"error": said or type(error).__name__, "hint": "", "type": type(error).__name__}, 500)

    return answered


async def _gone(request: Request) -> None:
    """Until its client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _view(request: Request, name: str) -> str | None:
    """Which part of which tab asks; None of a script that does not say."""
    tab = request.headers.get("x-cnnviz-tab")
    return None if tab is None else f"{tab[:_MOST_TAB]} {name}"


def _file(data: bytes, suffix: str, name: str | None = None) -> Response:
    headers = {} if name is None else {"content-disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
    return Response(data, media_type=_TYPES[suffix], headers=headers)


def _drawing(given: Mapping[str, str]) -> Drawing:
    alpha = _number(given, "alpha") if "alpha" in given else 0.5
    return Drawing(given.get("colormap", "auto"), alpha)


def _number(given: Mapping[str, str], name: str) -> float:
    try:
        value = float(given.get(name, ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CnnvizError(f"{name}: expected a number, got {shown(given.get(name))}.", "Reload the page.")
    return value


async def _json(request: Request) -> Any:
    body = await request.body()
    try:
        if len(body) > _MOST_JSON:
            raise ValueError
        return json.loads(body)
    except (ValueError, RecursionError):
        raise CnnvizError("The request is no JSON.", "Reload the page.") from None
