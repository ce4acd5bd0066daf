"""The explorer's server: for this machine only, behind a random token, with nothing but four fixed files to read."""

import contextlib
import json
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

from sedcast.data.errors import MissingDependencyError, ParameterError, SedcastError
from sedcast.explore.compute import MAX_SAMPLES, Explorer, Observed
from sedcast.explore.downloads import samples_csv, samples_hdf5
from sedcast.explore.mcmc import McmcJob

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise MissingDependencyError(
        f"the explorer needs Starlette and uvicorn ({error}): pip install 'sedcast[explore]'"
    ) from error

__all__ = ["ExplorerServer", "make_app"]

_HOST = "127.0.0.1"
_HTTP_PORT = 80
_MAX_BODY = 16_384
_PAGE = {
    "": ("index.html", "text/html"),
    "explore.css": ("explore.css", "text/css"),
    "charts.js": ("charts.js", "text/javascript"),
    "explore.js": ("explore.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_KINDS = {"csv": "text/csv", "hdf5": "application/x-hdf5"}


class _Guard:
    """Refuse requests that do not come from the page itself: another Host (DNS rebinding), another origin, a long body."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin")
        if headers.get("host") not in self.hosts:
            refusal = Response("this host name is not served", 421)
        elif origin is not None and origin not in {f"http://{host}" for host in self.hosts}:
            refusal = Response("requests from other origins are refused", 403)
        elif _too_long(headers):
            refusal = Response(f"a request holds at most {_MAX_BODY} bytes, and says how many", 413)
        else:
            await self.app(scope, receive, _with_headers(send))
            return
        await refusal(scope, receive, send)


def _too_long(headers: dict[str, str]) -> bool:
    length = headers.get("content-length", "0")
    return "transfer-encoding" in headers or not length.isdecimal() or int(length) > _MAX_BODY


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
            message["headers"] = [*message["headers"], *extra]
        await send(message)

    return wrapped


class _Pages:
    """What each address answers."""

    def __init__(self, explorer: Explorer, job: McmcJob) -> None:
        self.explorer, self.job = explorer, job
        # Each answer uses every core.
        self.lock = threading.Lock()

    def routes(self, token: str) -> list[Route]:
        at = f"/{token}/"
        found = [Route(at + name, _page(*about), methods=["GET"]) for name, about in _PAGE.items()]
        return [
            *found,
            Route(at + "api/setup", _json(self.setup), methods=["GET"]),
            Route(at + "api/galaxy", _json(self.galaxy), methods=["POST"]),
            Route(at + "api/posterior", _json(self.posterior), methods=["POST"]),
            Route(at + "api/mcmc/start", _json(self.mcmc_start), methods=["POST"]),
            Route(at + "api/mcmc/state", _json(self.mcmc_state), methods=["POST"]),
            Route(at + "api/mcmc/cancel", _json(self.mcmc_cancel), methods=["POST"]),
            Route(at + "api/samples", _json(self.samples), methods=["POST"]),
        ]

    def setup(self, _: Any) -> Any:
        return self.explorer.setup()

    def galaxy(self, body: Any) -> Any:
        row = body.get("row") if isinstance(body, dict) else None
        if isinstance(row, bool) or not isinstance(row, int):
            raise ParameterError(f"galaxy: expected a row number, got {str(row)[:40]!r}")
        return self.explorer.galaxy(row)

    def posterior(self, body: Any) -> Any:
        observed, shown = self.explorer.observed(body), _shown(body)
        with self.lock:
            began = time.perf_counter()
            answer = self.explorer.answer(observed, shown)
        return answer | {"server_ms": round(1e3 * (time.perf_counter() - began), 1)}

    def mcmc_start(self, body: Any) -> Any:
        self.job.start(self.explorer.observed(body))
        return self.job.state()

    def mcmc_state(self, body: Any) -> Any:
        state, samples = self.job.state(), self.job.samples
        if _run(body) not in (None, state["run"]):
            return {"status": "failed", "message": "another run was started, which ended this one"}
        if state["status"] == "done" and samples is not None:
            with self.lock:
                state["posterior"] = self.explorer.answer(samples.observed, _shown(body), samples.theta)
        return state

    def mcmc_cancel(self, body: Any) -> Any:
        self.job.cancel(_run(body))
        return self.job.state()

    def samples(self, body: Any) -> Any:
        observed: Observed = self.explorer.observed(body)
        kind, method = body.get("format"), body.get("method")
        if kind not in _KINDS or method not in ("flow", "mcmc"):
            raise ParameterError("samples: expected format csv or hdf5, and method flow or mcmc")
        with self.lock:
            if method == "mcmc":
                self.job.state()
                found = self.job.samples
                if found is None or _run(body) not in (None, found.run):
                    raise ParameterError("there are no samples of MCMC: run it first")
                observed, theta = found.observed, found.theta
            else:
                theta = self.explorer.sample(observed, MAX_SAMPLES)
            if kind == "csv":
                content = samples_csv(self.explorer, observed, theta)
            else:
                content = samples_hdf5(self.explorer, observed, theta, method=method)
        return Response(content, media_type=_KINDS[kind])


def _run(body: Any) -> Any:
    """The number of the run that a request is about, None for whichever there is."""
    return body.get("run") if isinstance(body, dict) else None


def _shown(body: Any) -> list[str]:
    shown = body.get("shown") if isinstance(body, dict) else None
    if not isinstance(shown, list) or not all(isinstance(name, str) for name in shown):
        raise ParameterError("shown: expected a list of names of quantities")
    return shown


def _page(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = (files("sedcast.explore") / "page" / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer


def _json(function: Callable[[Any], Any]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that answers in JSON, and what the user got wrong with status 422 and the message."""

    async def answer(request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"null")
        except (ValueError, RecursionError):
            return JSONResponse({"error": "expected JSON"}, 400)
        try:
            found = await run_in_threadpool(function, body)
        except SedcastError as error:
            return JSONResponse({"error": str(error)}, 422)
        return found if isinstance(found, Response) else JSONResponse(found)

    return answer


def make_app(explorer: Explorer, job: McmcJob, *, token: str, port: int) -> ASGIApp:
    """The application, at ``http://127.0.0.1:port/token/``; other Host names and origins are refused."""
    if len(token) < 16:
        raise ParameterError(f"the token has {len(token)} characters, expected 16 or more: it keeps others out")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        job.cancel()

    app = Starlette(routes=_Pages(explorer, job).routes(token), lifespan=lifespan)
    # Clients leave out the port that is HTTP's own.
    ports = (f":{port}", "") if port == _HTTP_PORT else (f":{port}",)
    return _Guard(app, tuple(f"{host}{end}" for host in (_HOST, "localhost") for end in ports))


class ExplorerServer:
    """The explorer on a port of the loopback interface.

    Parameters
    ----------
    explorer : what answers.
    model : the posterior's file or name, for the process of MCMC.
    port : 0 for any that is free.

    Raises
    ------
    ParameterError : if the port cannot be had.
    """

    def __init__(self, explorer: Explorer, model: str, *, port: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((_HOST, port))
        except OSError as error:
            self._socket.close()
            raise ParameterError(f"port {port} of {_HOST} cannot be had ({error.strerror}): give another, or 0") from error
        # Requests that come before `run` wait for it.
        self._socket.listen()
        token = secrets.token_urlsafe(24)
        self.port = int(self._socket.getsockname()[1])
        self.url = f"http://{_HOST}:{self.port}/{token}/"
        app = make_app(explorer, McmcJob(model), token=token, port=self.port)
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))

    def run(self) -> None:
        """Serve until interrupted."""
        with self._socket:
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Let `run`, in another thread, come to its end."""
        self._server.should_exit = True
