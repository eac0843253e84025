"""The page and what it asks for."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from halonet.analysis.overlay import BRIGHTNESS, GLOW
from halonet.explore.guard import Guard
from halonet.explore.pictures import MOST_BYTES, SAMPLES, NoLongerKept, add_sample
from halonet.explore.workbench import Wish, Workbench, describe
from halonet.explore.worker import Worker

PAGE = Path(__file__).parent / "page"
FILES = {file.name: file for file in sorted(PAGE.iterdir()) if file.suffix in (".css", ".js")}
TYPES = {".css": "text/css", ".js": "text/javascript"}
Result = TypeVar("Result")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LookBody(_Body):
    """See `workbench.Wish`."""

    key: str
    picture: int
    right: int | None = None
    changes: dict[str, int] = {}
    side: int | None = None
    whole: bool = False


class CostBody(_Body):
    """See `Workbench.cost`."""

    key: str
    changes: dict[str, int] = {}
    input: tuple[int, int, int]


class SampleBody(_Body):
    """See `pictures.add_sample`."""

    name: str
    index: int = 0


class _Newest:
    """Which request of a kind is the last one that came: the ones before need no answer any more."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def note(self, kind: str, number: int) -> Callable[[], bool]:
        """Returns what tells whether a later request came since."""
        self._last[kind] = max(number, self._last.get(kind, number))
        return lambda: self._last[kind] > number


def create_app(workbench: Workbench, *, port: int, first: dict[str, Any] | None = None) -> Guard:
    """The server's application.

    Args:
        workbench: what it works with.
        port: it is reached at; other addresses are refused, see `guard`.
        first: what the page opens with: "key" of a model, "picture" as `Picture.to_dict` tells it.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    running, looking = Worker("models"), Worker("attention")
    _add_errors(app)
    _add_page(app, workbench, first or {})
    _add_pictures(app, workbench)
    _add_work(app, workbench, running)
    _add_attention(app, workbench, looking)
    return Guard(app, port=port)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ValueError)
    @app.exception_handler(OSError)
    async def told(_: Request, error: Exception) -> JSONResponse:
        return _error(" ".join(str(error).split()) or type(error).__name__, 400)

    @app.exception_handler(RequestValidationError)
    async def misunderstood(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = "body" if first["type"] == "json_invalid" else ".".join(map(str, first["loc"][1:])) or "body"
        return _error(f"{where}: {first['msg']}", 400)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return _error(str(error.detail), error.status_code)  # no such path or method, or a body that is no JSON

    @app.exception_handler(NoLongerKept)
    async def gone(_: Request, error: Exception) -> JSONResponse:
        return _error(str(error), 410)


def _error(message: str, status: int) -> JSONResponse:
    return JSONResponse({"error": message}, status)


def _add_page(app: FastAPI, workbench: Workbench, first: dict[str, Any]) -> None:
    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", media_type="text/html; charset=utf-8")

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in FILES:
            return _error(f"no file {name}", 404)
        return FileResponse(FILES[name], media_type=TYPES[FILES[name].suffix])

    @app.get("/api/start")
    async def start() -> dict[str, Any]:
        return {
            "models": workbench.catalog,
            "samples": list(SAMPLES),
            "most_bytes": MOST_BYTES,
            "glow": {"colours": GLOW, "brightness": BRIGHTNESS},
            "first": first,
        }

    @app.get("/api/doing")
    async def doing() -> dict[str, str]:
        return {"doing": workbench.doing}


def _add_pictures(app: FastAPI, workbench: Workbench) -> None:
    @app.post("/api/pictures")
    async def add(request: Request) -> dict[str, object]:
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > MOST_BYTES:
                raise ValueError(f"a picture may have {MOST_BYTES >> 20} MiB at most")
        name = unquote(request.headers.get("x-name", "picture"))[:200]
        picture = await asyncio.to_thread(workbench.pictures.read, bytes(data), name)
        return picture.to_dict()

    @app.post("/api/samples")
    async def sample(body: SampleBody) -> dict[str, object]:
        picture = await asyncio.to_thread(add_sample, workbench.pictures, body.name, body.index)
        return picture.to_dict()


def _add_work(app: FastAPI, workbench: Workbench, running: Worker) -> None:
    newest = _Newest()

    async def run(task: Callable[[], Result]) -> Result:
        try:
            return await _done(running.submit(lambda: _plainly(task)))
        finally:
            workbench.doing = ""

    @app.post("/api/look")
    async def look(body: LookBody, page: str = "", number: int = 0) -> Any:
        is_old = newest.note(page, number)
        wish = Wish(**body.model_dump())

        def task() -> dict[str, Any] | None:
            return None if is_old() else describe(workbench.look(wish))

        told = await run(task)
        if told is None:
            return {"old": True}  # a later choice took its place
        dials = [asdict(dial) for dial in workbench.dials(wish.key)]
        return {**told, "dials": dials, "changes": wish.changes}

    @app.post("/api/ask")
    async def ask(record: int, page: str = "", number: int = 0) -> Any:
        is_old = newest.note(page, number)
        return await run(lambda: {"old": True} if is_old() else workbench.ask(record))

    @app.post("/api/cost")
    async def cost(body: CostBody) -> Any:
        return await run(lambda: workbench.cost(body.key, body.changes, body.input))

    @app.get("/api/view/{record}")
    async def view(record: int) -> Response:
        return Response(workbench.looked(record).view, media_type="image/png")

    @app.get("/api/answer/{record}")
    async def answer(record: int, threshold: Annotated[float, Query(ge=0, le=1)] = 0.5) -> Response:
        drawn = await asyncio.to_thread(workbench.answer_picture, record, threshold=threshold)
        return Response(drawn, media_type="image/png")


def _add_attention(app: FastAPI, workbench: Workbench, looking: Worker) -> None:
    newest = _Newest()

    @app.get("/api/attention/{record}")
    async def attention(
        record: int, layer: str, row: int, column: int, head: int = -1, page: str = "", number: int = 0
    ) -> Response:
        is_old = newest.note(page, number)
        began = time.perf_counter()

        def task() -> bytes | None:
            if is_old():
                return None
            return _plainly(lambda: workbench.attention(record, layer, (row, column), head=head))

        told = await _done(looking.submit(task))
        if told is None:
            return Response(status_code=204)
        spent = f"{1000 * (time.perf_counter() - began):.2f}"
        return Response(told, media_type="application/octet-stream", headers={"x-milliseconds": spent})


async def _done(future: Future[Result]) -> Result:
    """What a worker's future tells; Ctrl-C, for which nothing is waited, as an answer and no traceback."""
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        raise HTTPException(503, "halonet explore was ended") from None


def _plainly(task: Callable[[], Result]) -> Result:
    """What a task returns; what went wrong within as ValueError, with the traceback on the terminal."""
    try:
        return task()
    except (ValueError, OSError, NoLongerKept):
        raise
    except MemoryError as error:
        raise ValueError("not enough memory for a picture of this size") from error
    except Exception as error:
        if "allocate memory" in str(error):  # how torch says it
            raise ValueError("not enough memory for a picture of this size") from error
        traceback.print_exc()
        raise ValueError(f"this went wrong inside halonet ({type(error).__name__}); the terminal tells more") from error
