"""A local page on which the three problems are dragged, watched and compared: ``unlearn explore``.

State and numbers (``state``, ``levels``, ``compute``, ``noise``, ``compare``, ``export``) need no browser and no Panel;
``figures``, ``controls``, ``page`` and ``sessions`` are the view, loaded by ``serve``.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any


def serve(port: int = 5006, show: bool = True) -> None:
    """Serve the explorer at http://localhost:port/ until interrupted; port 0 takes a free one.

    Only this machine can reach the page, under the name localhost alone, and the page asks no other host.

    Args:
        show: whether to open a browser.

    Raises ``ImportError`` where Panel or Matplotlib is missing, and ``OSError`` where the port is taken.
    """
    server = _server(port, show)
    print(f"The explorer is at http://localhost:{server.port}/ (Ctrl+C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.run_until_shutdown()


def _server(port: int, show: bool) -> Any:
    """Bokeh's server of the page, not yet running."""
    try:
        import matplotlib  # noqa: F401
        import panel
    except ImportError as error:
        raise ImportError("the explorer needs Panel and Matplotlib: install unlearning-duality[explore]") from error
    from toy.explorer.page import page
    from toy.explorer.sessions import refuse_other_hosts

    _check_port(port)
    server: Any = panel.serve(
        {"/": page}, port=port, address="localhost", show=show, start=False, title="Unlearning explorer", verbose=False
    )
    refuse_other_hosts(server)
    return server


def _check_port(port: int) -> None:
    """``OSError`` that names the port where something else listens on it."""
    with socket.socket() as trial:
        # As servers do it: a port that was just given up may be taken again at once.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("localhost", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise OSError(errno.EADDRINUSE, f"port: {port} is taken; give another, or 0 for any that is free") from None
