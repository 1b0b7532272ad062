import base64
import json
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

pytest.importorskip("bokeh", reason="the page needs the extra 'app'")

from bokeh.document import Document

from pyg_match.app import Exploration, Limits, PairChoice, Setting
from pyg_match.app.session import SAMPLE, STARTED_WITH, UPLOADS, Session, Wish


class Later:
    """An executor that keeps what it is given."""

    def __init__(self):
        self.tasks = []

    def submit(self, task):
        self.tasks.append(task)
        return Future()


class Recorder(Exploration):
    """Keeps what is asked for, and computes nothing."""

    def __init__(self):
        super().__init__(Limits(max_bytes=3000))
        self.asked = []

    def explorer(self, choice, setting, compare=None):
        self.asked.append((choice, setting, compare))
        raise ValueError("nothing is computed")


FORM = {
    "images": SAMPLE, "weights": "disk-lightglue", "max_keypoints": "512", "compare": False, "names": ["", ""],
    "graph": "knn", "k": "8", "values": "initial", "graph2": "complete", "k2": "32", "values2": "trained",
}  # fmt: skip


@pytest.fixture
def session(photos):
    start = Wish(STARTED_WITH, PairChoice(photos, "xfeat-lighterglue", 128), Setting("knn", 4), Setting())
    session = Session(Document(), Recorder(), start, Later())
    yield session
    session.close()


def test_what_is_wished_for_no_more_is_not_computed(session):
    session.ask({"wish": [json.dumps(FORM)], "a": [""], "b": [""]})
    first, second = session._workers.tasks
    first()
    assert session._exploration.asked == []
    session.close()
    second()
    assert session._exploration.asked == []


def run(session):
    session._workers.tasks[-1]()
    return session._exploration.asked[-1]


def said(session):
    return session._status.data["text"][0]


def ask(session, a="", b="", **changes):
    session.ask({"wish": [json.dumps({**FORM, **changes})], "a": [a], "b": [b]})


def test_starts_with_what_the_command_said(session, photos):
    choice, setting, compare = run(session)
    assert choice.paths == photos and (setting, compare) == (Setting("knn", 4), Setting())
    assert session._document.template_variables["image_choices"][0][0] == STARTED_WITH


def test_what_the_form_asks_for(session, photos):
    ask(session)
    assert run(session) == (PairChoice(None, "disk-lightglue", 512), Setting("knn", 8, "initial"), None)
    ask(session, images=STARTED_WITH, compare=True)
    choice, _, compare = run(session)
    assert choice == PairChoice(photos, "disk-lightglue", 512) and compare == Setting()


def test_uploads_lie_in_a_folder_of_their_own(session):
    image = base64.b64encode(b"image").decode()
    ask(session, image, image, images=UPLOADS, names=["../../etc/a b.png", "C:\\x\\<y>.png"])
    choice, _, _ = run(session)
    assert choice.names == ("a b.png", "_y_.png")
    assert all(Path(path).is_relative_to(session._folder.name) for path in choice.paths)
    assert Path(choice.paths[0]).read_bytes() == b"image"
    folder = Path(session._folder.name)
    session.close()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"weights": "/etc/passwd"}, "Unknown weights '/etc/passwd', expected one of"),
        ({"max_keypoints": "1000000"}, "'max_keypoints'"),
        ({"max_keypoints": "many"}, "Invalid literal"),
        ({"images": "/etc/passwd"}, "Unknown images"),
        ({"graph": "ring"}, "'graph' must be one of"),
        ({"k": "-1"}, "'k' must be positive, got -1"),
        ({"images": UPLOADS}, "Choose image A and image B."),
        ({"images": UPLOADS, "a": "AAAA", "b": "A" * 5000}, "Image B is too large: at most"),
        ({"images": UPLOADS, "a": "AAAA", "b": "A.A"}, "Image B has not arrived whole."),
        ({"names": None, "images": UPLOADS, "a": "AAAA", "b": "AAAA"}, "'NoneType'"),
    ],
)
def test_what_is_refused(session, changes, text):
    tasks = len(session._workers.tasks)
    ask(session, **changes)
    assert text in said(session) and session._status.data["error"] == [True]
    assert len(session._workers.tasks) == tasks


@pytest.mark.parametrize("wish", ["", "null", "[]", "{}"])
def test_requests_of_another_form(session, wish):
    session.ask({"wish": [wish], "a": [""], "b": [""]})
    assert session._status.data["error"] == [True] and said(session)


def test_an_address_leads_back(photos):
    wish = Wish(
        SAMPLE, PairChoice(None, "disk-lightglue", 99), Setting("knn", 7, "every:2"), Setting("sparse", 3)
    )
    query = dict(parse_qsl(wish.query()))
    start = Wish(STARTED_WITH, PairChoice(photos), Setting())
    session = Session(Document(), Recorder(), start, Later(), query)
    assert run(session) == (wish.choice, wish.setting, wish.compare)
    session.close()
