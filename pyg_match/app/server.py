"""Serving the page, on this machine alone."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from pyg_match.app.exploration import Exploration, PairChoice
from pyg_match.app.page import build
from pyg_match.app.settings import Limits, Setting
from pyg_match.app.uploads import read_upload
from pyg_match.checks import shown
from pyg_match.files import is_file, user_path
from pyg_match.pretrained import DETECTORS, packaged

if TYPE_CHECKING:
    import gradio

_CSS = Path(__file__).with_name("page.css")


def launch(
    start: Optional[PairChoice] = None,
    limits: Optional[Limits] = None,
    port: Optional[int] = None,
    browser: bool = False,
    block: bool = True,
    resize: Optional[int] = 768,
) -> "gradio.Blocks":
    """Serve the page on this machine alone.

    Args:
        start: The pair, weights and number of keypoints to start with.
        limits: How large an image may be.
        port: The port; the first free one from 7860 on by default.
        browser: Whether to open the page in a browser.
        block: Whether to serve until interrupted.
        resize: Longer side in pixels at which keypoints are detected.

    Raises:
        ImportError: If Gradio is not installed.
        OSError: If the port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError("the page needs Gradio: pip install 'pyg-match[app]'") from error

    limits = limits or Limits()
    exploration = Exploration(limits, resize)
    page = build(exploration, start)
    try:
        page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            inbrowser=browser,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=limits.max_bytes,
            allowed_paths=[],
            footer_links=[],
            css_paths=[_CSS],
        )
    except OSError as error:
        where = f"port {port} is" if port else "all ports from 7860 on are"
        raise OSError(f"{where} taken, choose another one") from error
    # Matched while the browser is opened, so that the first page has less to wait for.
    threading.Thread(target=_prepare, args=(exploration, start or PairChoice())).start()
    print(f"open {page.local_url} in a browser, stop with Ctrl+C", flush=True)
    if block:
        page.block_thread()
    return page


def starting_choice(
    image0: Optional[Path], image1: Optional[Path], weights: str, max_keypoints: int, limits: Limits
) -> PairChoice:
    """The pair to start with, checked before anything is loaded.

    Raises:
        ValueError: If there is one image only, an image is refused, or the weights are unknown.
        FileNotFoundError: If there is no such file.
    """
    known = [*DETECTORS, *packaged()]
    if weights not in known and not is_file(weights):
        raise ValueError(
            f"unknown matcher {shown(weights)}, expected one of {', '.join(known)} or a file of weights"
        )
    if image0 is None:
        return PairChoice(None, weights, max_keypoints)
    if image1 is None:
        raise ValueError("give two images or none, got one")
    image0, image1 = user_path(image0), user_path(image1)
    for path in (image0, image1):
        read_upload(path, limits, str(path))
    return PairChoice((str(image0), str(image1)), weights, max_keypoints)


def _prepare(exploration: Exploration, choice: PairChoice) -> None:
    with suppress(ValueError, OSError):  # said on the page, which tries again
        exploration.matching(choice, Setting())
