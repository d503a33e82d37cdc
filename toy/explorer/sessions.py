"""What a server of pages that are left open, closed and forged needs: an end to each session, and one name only."""

from __future__ import annotations

from typing import Any

from panel.links import Callback
from tornado.web import RequestHandler


def release(template: Any, location: Any, visitor: Any) -> None:
    """Let go of what a closed session has shown, so that its memory can be had again.

    Panel keeps the links between widgets (an editable slider has one from its box to its handle) in a table that holds
    each source weakly, but the link strongly; as the link refers to the slider, and the slider to its box, neither
    would ever be freed, nor would the page that listens to them. The address holds on to what it follows likewise.
    """
    for shown in template.select():
        Callback.registry.pop(shown, None)
    location.unsync(visitor)


def refuse_other_hosts(server: Any) -> None:
    """Answer 403 to whatever was asked of another name than localhost.

    A page elsewhere whose name was made to point at this machine ("DNS rebinding") is of the same origin as the
    explorer to a browser: only the name in the request gives it away.
    """
    server._tornado.add_handlers(r"(?!localhost$).*$", [(r".*", _Refusal, {"port": server.port})])


class _Refusal(RequestHandler):
    """403 for every method, web sockets included."""

    def initialize(self, port: int) -> None:
        self._port = port

    def prepare(self) -> None:
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"The explorer answers to its own name alone: http://localhost:{self._port}/\n")
