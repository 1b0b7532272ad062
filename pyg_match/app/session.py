"""A visitor of the served page: what was asked for, and what comes back."""

import base64
import binascii
import json
import re
import tempfile
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional
from urllib.parse import urlencode

from bokeh.document import Document
from bokeh.models import ColumnDataSource

from pyg_match.app.exploration import IMAGES, Exploration, PairChoice
from pyg_match.app.figures import build, page, payload, payload_source
from pyg_match.app.settings import GRAPH_HELP, GRAPHS, VALUE_SOURCES, Setting
from pyg_match.checks import shown, whole_number
from pyg_match.weight_registry import matchers

SAMPLE, STARTED_WITH, UPLOADS = "sample", "start", "uploads"
MOST_KEYPOINTS = 4096  # that a visitor may ask for
_KS = (4, 8, 16, 32, 64, 128)
_BUSY = "Looking for keypoints, and matching them …"


@dataclass(frozen=True)
class Wish:
    """What to match, and how."""

    images: str
    choice: PairChoice
    setting: Setting
    compare: Optional[Setting] = None

    def form(self) -> dict[str, Any]:
        """The fields of the page's form."""
        second = self.compare or Setting()
        fields: dict[str, Any] = {
            "images": self.images,
            "weights": self.choice.weights,
            "max_keypoints": self.choice.max_keypoints,
            "compare": self.compare is not None,
        }
        for number, setting in (("", self.setting), ("2", second)):
            fields |= {f"graph{number}": setting.graph, f"k{number}": setting.k}
            fields[f"values{number}"] = setting.value_source
        return fields

    def query(self) -> str:
        """The same as part of an address. Uploaded images are not in it."""
        words = {"weights": self.choice.weights, "max_keypoints": self.choice.max_keypoints}
        words |= {"setting": self.setting.short()}
        words |= {"compare": self.compare.short()} if self.compare else {}
        words |= {"images": self.images} if self.images != UPLOADS else {}
        return urlencode(words)


class Session:
    """The page of one visitor.

    Args:
        document: The visitor's document, empty.
        exploration: What computes.
        start: What to begin with, unless the address asks for something else.
        workers: Where it computes.
        query: The words of the address.
    """

    def __init__(
        self,
        document: Document,
        exploration: Exploration,
        start: Wish,
        workers: Executor,
        query: Optional[Mapping[str, str]] = None,
    ) -> None:
        self._document = document
        self._exploration = exploration
        self._start = start
        self._workers = workers
        self._folder = tempfile.TemporaryDirectory(prefix="pyg_match_")
        self._payload = payload_source()
        request = ColumnDataSource(data={"wish": [""], "a": [""], "b": [""]}, name="wish")
        self._status = build(document, self._payload, request)
        document.title = "pyg_match explore"
        template, variables = page(served=True, **self._form())
        document.template = template  # type: ignore[assignment]
        document.template_variables.update(variables)
        request.on_change("data", lambda _attr, _old, new: self.ask(new))
        self._latest = 0
        try:
            self.match(self._from_query(query or {}))
        except ValueError as error:
            self._say(_sentence(error), error=True)

    def ask(self, request: Mapping[str, Any]) -> None:
        """Match what the form asks for; what is wrong with it is said on the page."""
        try:
            self.match(self._from_form(json.loads(request["wish"][0]), request["a"][0], request["b"][0]))
        except (ValueError, TypeError, LookupError, AttributeError, OSError, OverflowError) as error:
            self._say(_sentence(error), error=True)

    def match(self, wish: Wish) -> None:
        """Compute in the background, and show the result unless something else has been asked for since."""
        self._latest += 1
        number = self._latest
        self._say(_BUSY)

        def show(content: str, attention: list[str], problem: str) -> None:
            if number != self._latest:
                return
            self._say(problem, error=bool(problem))
            if not problem:
                self._payload.data = payload(content, attention)

        def compute() -> None:
            if number != self._latest:
                return
            content, attention, problem = "", [""], ""
            try:
                explorer = self._exploration.explorer(wish.choice, wish.setting, wish.compare)
                values, attention = explorer.content()
                content = json.dumps({**values, "form": wish.form(), "query": wish.query()})
            except Exception as error:  # a visitor is to see whatever went wrong
                problem = _sentence(error)
            self._document.add_next_tick_callback(lambda: show(content, attention, problem))

        self._workers.submit(compute)

    def close(self) -> None:
        """Delete the images of the visitor, and compute nothing more."""
        self._latest += 1
        self._folder.cleanup()

    def _say(self, text: str, error: bool = False) -> None:
        self._status.data = {"text": [text], "error": [error]}

    def _form(self) -> dict[str, Any]:
        """What the form offers."""
        choices = [(SAMPLE, "sample pair"), (UPLOADS, "your own")]
        if self._start.images == STARTED_WITH:
            choices.insert(0, (STARTED_WITH, "the pair you started with"))
        settings = [setting for setting in (self._start.setting, self._start.compare) if setting]
        return {
            "image_choices": choices,
            "max_bytes": self._exploration.limits.max_bytes,
            "weights": self._weights(),
            "counts": sorted({256, 512, 1024, 2048, self._start.choice.max_keypoints}),
            "graphs": GRAPHS,
            "graph_help": GRAPH_HELP,
            "ks": sorted({*_KS, *(setting.k for setting in settings)}),
            "value_sources": list(
                dict.fromkeys([*VALUE_SOURCES, *(setting.value_source for setting in settings)])
            ),
        }

    def _weights(self) -> list[str]:
        return list(dict.fromkeys([*matchers(), self._start.choice.weights]))

    def _choice(self, images: str, weights: str, max_keypoints: Any) -> PairChoice:
        """A pair that need not be uploaded, with weights that the server offers."""
        if weights not in self._weights():
            raise ValueError(
                f"unknown weights {shown(weights)}, expected one of {', '.join(self._weights())}"
            )
        most = max(MOST_KEYPOINTS, self._start.choice.max_keypoints)
        count = whole_number("max_keypoints", int(max_keypoints), most=most)
        if images == STARTED_WITH:
            return replace(self._start.choice, weights=weights, max_keypoints=count)
        if images in (SAMPLE, UPLOADS):
            return PairChoice(None, weights, count)
        raise ValueError(f"unknown images {shown(images)}, expected {SAMPLE}, {STARTED_WITH} or {UPLOADS}")

    def _from_query(self, query: Mapping[str, str]) -> Wish:
        start = self._start
        images = query.get("images", start.images)
        images = start.images if images == UPLOADS else images
        weights = query.get("weights", start.choice.weights)
        choice = self._choice(images, weights, query.get("max_keypoints", start.choice.max_keypoints))
        setting = Setting.parse(query["setting"]) if "setting" in query else start.setting
        compare = Setting.parse(query["compare"]) if "compare" in query else None
        return Wish(images, choice, setting, compare if query else start.compare)

    def _from_form(self, form: Mapping[str, Any], *uploads: str) -> Wish:
        choice = self._choice(str(form["images"]), str(form["weights"]), form["max_keypoints"])
        if form["images"] == UPLOADS:
            missing = [f"image {name}" for name, text in zip(IMAGES, uploads, strict=True) if not text]
            if missing:
                raise ValueError(f"choose {' and '.join(missing)}")
            names = [_file_name(name) for name in form["names"]]
            paths = [self._keep(*of) for of in zip(IMAGES, names, uploads, strict=True)]
            choice = replace(choice, paths=(paths[0], paths[1]), names=(names[0], names[1]))
        first, second = (
            Setting(str(form[f"graph{n}"]), int(form[f"k{n}"]), str(form[f"values{n}"])) for n in ("", "2")
        )
        return Wish(str(form["images"]), choice, first, second if form["compare"] else None)

    def _keep(self, image: str, name: str, text: str) -> str:
        """Write an upload to the visitor's folder."""
        most = self._exploration.limits.max_bytes
        if len(text) * 3 // 4 > most + 2:
            raise ValueError(f"image {image} is too large: at most {most / 2**20:.3g} MiB are read")
        path = Path(self._folder.name) / image / name
        path.parent.mkdir(exist_ok=True)
        try:
            path.write_bytes(base64.b64decode(text, validate=True))
        except binascii.Error:
            raise ValueError(f"image {image} has not arrived whole") from None
        return str(path)


def _file_name(name: Any) -> str:
    """The name of an upload, without folders and anything that is special to a file system."""
    plain = re.sub(r"[^\w.\- ]", "_", re.split(r"[/\\]", str(name))[-1]).strip(". ")
    return plain[-100:] or "image"


def _sentence(error: Exception) -> str:
    text = str(error) if not isinstance(error, KeyError) else f"{error} is missing"
    return f"{text[:1].upper()}{text[1:]}."
