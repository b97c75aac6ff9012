"""Who may talk to the viewer's server, its own page and nobody else, and what may be asked for.

viser answers every WebSocket that knows its version, whatever page opened it, so that any page open in the same browser
could drive the viewer of somebody who only visits it. A browser always states the page's origin, and a page cannot
change it: a connection is refused unless its origin is the very host that it asks for, and that host is a name of ours
(a foreign name that was pointed at this machine is not).
"""

import contextlib
import io
import ipaddress
import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from worldstereo.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import viser

LOOPBACK = "127.0.0.1"
_FIRST_PORT = 8080


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def own_names(host: str) -> set[str]:
    """Names of a server bound to `host`; beyond loopback also this machine's, and any address is one, see `admits`."""
    names = {"localhost", host.lower()}
    if not is_loopback(host):
        name = socket.gethostname().lower()
        names |= {name, f"{name}.local"}
    return names


def admits(asked: str | None, origin: str | None, is_websocket: bool, names: set[str]) -> bool:
    """Whether a request may be answered.

    Args:
        asked: the header `Host`.
        origin: the header `Origin`.
        is_websocket: whether it asks for a WebSocket; those need the origin of our own page.
        names: what the server is called. Addresses are admitted as they are: they cannot be pointed elsewhere.
    """
    if asked is None:
        return False
    try:
        name = urlsplit(f"//{asked}").hostname
    except ValueError:
        return False
    if name is None or not (name.lower() in names or _is_address(name)):
        return False
    return not is_websocket or origin in (f"http://{asked}", f"https://{asked}")


def is_inside(target: str) -> bool:
    """Whether what a request asks for can only lie in the page's own folder.

    viser refuses "..", but joins paths that begin with a drive, which on Windows lead out of any folder.
    """
    return ":" not in unquote(target.partition("?")[0])


def start_server(host: str, port: int | None, title: str) -> "viser.ViserServer":
    """Start a viser server that only its own page can talk to, and that cannot be put on the internet from the page.

    Args:
        host: address to bind to.
        port: port to bind to; the first free one from 8080 on if none.
        title: plain text at the top of the page's controls.

    Raises:
        MissingExtraError: viser is not installed.
        InputError: the host is none of this machine's addresses, or the port is taken.
    """
    try:
        import viser
    except ImportError:
        raise MissingExtraError("viser", "viewer", "the viewer in the browser") from None
    port = _free_port(host, port)

    class Server(viser.ViserServer):
        """viser's server without its tunnel to a public address."""

        def request_share_url(self, verbose: bool = True) -> str | None:
            return None

    with _guarded_handshakes(own_names(host)) as guarded, contextlib.redirect_stdout(io.StringIO()):
        server = Server(host=host, port=port, label=title, verbose=False)
    if not guarded:
        stop_server(server)
        raise InputError(
            f"viser {viser.__version__} opens its server in a way that cannot be guarded against foreign pages; "
            f"install another release of it"
        )
    return server


def stop_server(server: "viser.ViserServer") -> None:
    """Stop a server without viser's remarks."""
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()


@contextlib.contextmanager
def _guarded_handshakes(names: set[str]) -> Iterator[list[str]]:
    """While the context lasts, servers that are opened refuse what `admits` or `is_inside` does; gives a list of those.

    viser has no option for it: the function of its WebSocket library that opens a server is wrapped meanwhile.
    """
    from websockets.asyncio import server as websockets_server

    open_plain = websockets_server.serve
    opened: list[str] = []

    def open_guarded(*arguments: Any, process_request: Callable[..., Any], **options: Any) -> Any:
        def answer(connection: Any, request: Any) -> Any:
            headers = request.headers
            is_websocket = headers.get("Upgrade", "").lower() == "websocket"
            admitted = admits(headers.get("Host"), headers.get("Origin"), is_websocket, names)
            if not admitted or not is_inside(request.path):
                return connection.respond(HTTPStatus.FORBIDDEN, "only the viewer's own page is answered\n")
            return process_request(connection, request)

        opened.append("guarded")
        return open_plain(*arguments, process_request=answer, **options)

    websockets_server.serve = open_guarded  # type: ignore[assignment, misc]
    try:
        yield opened
    finally:
        websockets_server.serve = open_plain  # type: ignore[misc]


def _free_port(host: str, port: int | None) -> int:
    """The port, or the first free one; viser itself waits for ever on an address that is not ours."""
    if port is not None and not 0 < port < 65536:
        raise InputError(f"--port {port}: must lie between 1 and 65535")
    if not _can_bind(host, 0):
        raise InputError(
            f"--host {host}: is not an address of this machine; use {LOOPBACK}, or 0.0.0.0 for all of them"
        )
    for candidate in (port,) if port is not None else range(_FIRST_PORT, _FIRST_PORT + 1000):
        if _can_bind(host, candidate):
            return candidate
    raise InputError(f"--port {port}: is taken by another program, or not allowed; choose another one")


def _can_bind(host: str, port: int) -> bool:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
