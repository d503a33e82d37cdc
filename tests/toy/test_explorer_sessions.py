"""Sessions of the explorer: what closes is forgotten, and what comes under a false name is refused."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("panel", reason="the page needs Panel: install unlearning-duality[explore]")

from bokeh.document import Document
from panel.io.state import set_curdoc
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

import toy.explorer
from toy.explorer import page as module

SESSIONS = 200


class Visitors:
    """Every ``Page`` made while a test runs, held weakly."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        alive: weakref.WeakSet[module.Page] = weakref.WeakSet()
        self.alive, self.made = alive, 0
        visitors = self

        class Counted(module.Page):
            def __init__(self, link: str = "") -> None:
                super().__init__(link)
                alive.add(self)
                visitors.made += 1

        monkeypatch.setattr(module, "Page", Counted)


@pytest.fixture
def visitors(monkeypatch: pytest.MonkeyPatch) -> Visitors:
    return Visitors(monkeypatch)


def test_a_closed_session_lets_go_of_its_page(visitors: Visitors) -> None:
    """One session as a server makes and ends it, without the server."""
    document = Document()
    with set_curdoc(document):
        module.page()
    assert visitors.made == 1
    assert len(document.session_destroyed_callbacks) > 0
    for callback in document.session_destroyed_callbacks:
        callback(None)  # type: ignore[arg-type]  # what ends is known to the callback
    del callback, document
    gc.collect()
    assert len(visitors.alive) == 0


def served(what: Callable[[Any], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a coroutine beside the explorer's own server on a free port."""
    panel = pytest.importorskip("panel")
    real = panel.serve

    def impatient(*given: Any, **named: Any) -> Any:
        # A session that nobody is connected to ends at the next look.
        times = {"check_unused_sessions_milliseconds": 250, "unused_session_lifetime_milliseconds": 250}
        return real(*given, **named, **times)

    monkeypatch.setattr(panel, "serve", impatient)

    async def main() -> None:
        server = toy.explorer._server(0, show=False)
        server.start()
        try:
            await what(server)
        finally:
            server.stop()

    asyncio.run(main())


async def visit(port: int) -> None:
    """Load the page and connect as a browser does, then leave."""
    loaded = await AsyncHTTPClient().fetch(f"http://localhost:{port}/", request_timeout=120)
    token = re.search(rb'"token":"([^"]+)"', loaded.body)
    assert token is not None
    request = HTTPRequest(f"ws://localhost:{port}/ws", headers={"Origin": f"http://localhost:{port}"})
    socket = await websocket_connect(request, subprotocols=["bokeh", token[1].decode()])
    header = await socket.read_message()
    assert header is not None
    assert "ACK" in str(header)
    socket.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_sessions_leave_nothing_behind(visitors: Visitors, monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = pytest.importorskip("psutil")
    held: list[int] = []

    async def sessions(server: Any) -> None:
        for k in range(SESSIONS):
            await visit(server.port)
            await asyncio.sleep(0.3)
            gc.collect()
            # The last may not have been looked for yet.
            assert len(visitors.alive) <= 2, f"after {k + 1} sessions"
            held.append(psutil.Process().memory_info().rss)
        await asyncio.sleep(1)
        assert server.get_sessions("/") == []

    served(sessions, monkeypatch)
    gc.collect()
    assert visitors.made >= SESSIONS
    assert len(visitors.alive) == 0
    # A page is some 4 MB; what allocators and compiled templates take settles within the first fifty.
    grown = (held[-1] - held[SESSIONS // 4]) / (SESSIONS - SESSIONS // 4)
    assert grown < 200_000, f"{grown / 1e6:.2f} MB more for each session"


def test_other_names_are_refused(visitors: Visitors, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one origin with a page elsewhere, to a browser whose name server was deceived: the request's host tells."""

    async def asked(server: Any) -> None:
        port, client = server.port, AsyncHTTPClient()
        script = f"http://localhost:{port}/static/js/bokeh.min.js"
        assert (await client.fetch(script, method="HEAD", raise_error=False)).code == 200
        for path in ("", "autoload.js", "static/js/bokeh.min.js", "nowhere"):
            for host in (
                f"rebound.example:{port}",
                f"127.0.0.1:{port}",
                f"localhost.rebound.example:{port}",
                "10.0.0.1",
            ):
                found = await client.fetch(f"http://localhost:{port}/{path}", headers={"Host": host}, raise_error=False)
                assert found.code == 403, (path, host)
                assert found.body.decode() == (
                    f"The explorer answers to its own name alone: http://localhost:{port}/\n"
                )
        # Web sockets: a false name, with the origin to match, and the right name with the origin of somebody else.
        for host, origin in ((f"rebound.example:{port}",) * 2, (f"localhost:{port}", "rebound.example")):
            request = HTTPRequest(f"ws://localhost:{port}/ws", headers={"Host": host, "Origin": f"http://{origin}"})
            with pytest.raises(HTTPClientError, match="403"):
                await websocket_connect(request, subprotocols=["bokeh", "token"])
        assert visitors.made == 0

    served(asked, monkeypatch)
