"""Serving the page, on this machine alone."""

import errno
import threading
import webbrowser
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import Server
from tornado.ioloop import IOLoop
from tornado.web import ErrorHandler

from pyg_match.app.exploration import Exploration, PairChoice
from pyg_match.app.session import SAMPLE, STARTED_WITH, Session, Wish
from pyg_match.app.settings import Limits, Setting

_ADDRESS = "127.0.0.1"
# What was sent to another name than that of this machine is refused: a page of another place could otherwise have its
# own name lead here, and read the answers.
_NAMES_ELSEWHERE = r"(?!(127\.0\.0\.1|localhost)$).*"
_FIRST_PORT, _PORTS = 7860, 100
# Base64 takes 4/3 of two images; a message above that ends the connection.
_MESSAGE = 4


class Served:
    """A page that is being served.

    Attributes:
        url: Where a browser finds it.
    """

    def __init__(self, exploration: Exploration, start: Wish, port: Optional[int]) -> None:
        self.url = ""
        self._exploration = exploration
        self._start = start
        self._workers = ThreadPoolExecutor(1)  # one thread, as one matcher works at a time anyway
        self._problem: Optional[BaseException] = None
        self._loop: Any = None
        self._sessions: set[Session] = set()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(port, ready), daemon=True)
        self._thread.start()
        ready.wait()
        if self._problem is not None:
            raise self._problem

    def wait(self) -> None:
        """Serve until interrupted."""
        try:
            while self._thread.is_alive():
                self._thread.join(0.5)
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Stop serving."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._loop.add_callback(self._loop.stop)
        self._thread.join(10)

    def _serve(self, port: Optional[int], ready: threading.Event) -> None:
        # A server belongs to the loop of the thread that makes it.
        self._loop = IOLoop()
        try:
            server = self._listen(port)
        except BaseException as error:
            self._problem = error
            ready.set()
            return
        self.url = f"http://{_ADDRESS}:{server.port}/"
        self._loop.add_callback(ready.set)
        # Without it, what visitors leave behind stays.
        server.start()
        self._loop.start()
        server.stop()
        for session in list(self._sessions):
            self._leave(session)
        self._loop.close()

    def _listen(self, port: Optional[int]) -> Server:
        last = _FIRST_PORT + _PORTS - 1
        for candidate in [port] if port else range(_FIRST_PORT, last + 1):
            try:
                server = Server(
                    {"/": Application(FunctionHandler(self._visit))},
                    io_loop=self._loop,
                    address=_ADDRESS,
                    port=candidate,
                    # Pages of other places may not talk to it.
                    allow_websocket_origin=[f"{_ADDRESS}:{candidate}", f"localhost:{candidate}"],
                    websocket_max_message_size=_MESSAGE * self._exploration.limits.max_bytes + 2**20,
                )
                server._tornado.add_handlers(_NAMES_ELSEWHERE, [(".*", ErrorHandler, {"status_code": 403})])
                return server
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
        where = f"port {port} is" if port else f"all ports from {_FIRST_PORT} to {last} are"
        raise OSError(f"{where} taken, choose another one")

    def _visit(self, document: Document) -> None:
        request = getattr(document.session_context, "request", None)
        words = request.arguments if request is not None else {}
        query = {name: values[0].decode(errors="replace") for name, values in words.items()}
        session = Session(document, self._exploration, self._start, self._workers, query)
        self._sessions.add(session)
        document.on_session_destroyed(lambda _: self._leave(session))

    def _leave(self, session: Session) -> None:
        self._sessions.discard(session)
        session.close()


def launch(
    start: Optional[PairChoice] = None,
    limits: Optional[Limits] = None,
    port: Optional[int] = None,
    browser: bool = False,
    block: bool = True,
    resize: Optional[int] = 768,
    device: Any = "cpu",
    setting: Optional[Setting] = None,
    compare: Optional[Setting] = None,
) -> Served:
    """Serve the page on this machine alone.

    Args:
        start: The pair, weights and number of keypoints to start with.
        limits: How large an image may be.
        port: The port; the first free one from 7860 on by default.
        browser: Whether to open the page in a browser.
        block: Whether to serve until interrupted.
        resize: Longer side in pixels at which keypoints are detected.
        device: Where to compute.
        setting: The setting to start with, the one that the weights were trained with by default.
        compare: Another one to put beside it.

    Raises:
        OSError: If the port is taken.
    """
    start = start or PairChoice()
    wish = Wish(
        SAMPLE if start.paths is None else STARTED_WITH, start, setting or Setting("trained"), compare
    )
    served = Served(Exploration(limits, resize, device=device), wish, port)
    print(f"open {served.url} in a browser, stop with Ctrl+C", flush=True)
    if browser:
        webbrowser.open(served.url)
    if block:
        served.wait()
    return served
