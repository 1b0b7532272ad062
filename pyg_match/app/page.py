"""The layout of the page, and which event leads to what."""

import tempfile
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pyg_match.app import look as looks
from pyg_match.app.drawing import PARTS
from pyg_match.app.exploration import IMAGES, Exploration, PairChoice
from pyg_match.app.export import FORMATS
from pyg_match.app.look import Look
from pyg_match.app.settings import GRAPH_HELP, GRAPHS, Setting
from pyg_match.pretrained import DETECTORS, packaged

if TYPE_CHECKING:
    import gradio

LABELS = {"aliked-lightglue": "ALIKED", "disk-lightglue": "DISK", "xfeat-lighterglue": "XFeat"}
VALUE_SOURCES = ("current", "initial", "every:2", "every:3")
SAMPLE, GIVEN, UPLOADED = "sample pair", "the pair you started with", "your images"
_HELP = (
    "<h1>What does attention see?</h1>&emsp;"
    "<p><b>Click a keypoint in either image.</b> Lines lead to the keypoints it attends to: blue in its own image, "
    "orange in the other. Move through layers and heads, or compare two graphs.</p>"
)


def build(exploration: Exploration, start: Optional[PairChoice] = None) -> "gradio.Blocks":
    """Lay out the page.

    Args:
        exploration: What computes.
        start: The pair, weights and number of keypoints to start with.
    """
    import gradio as gr

    start = start or PairChoice()
    paths = start.paths
    pairs = [GIVEN, SAMPLE, UPLOADED] if paths else [SAMPLE, UPLOADED]
    names = dict.fromkeys([*DETECTORS, *packaged(), start.weights])
    detectors = [(LABELS.get(name, Path(name).name), name) for name in names]
    counts = sorted({256, 512, 1024, 2048, start.max_keypoints})
    folder = tempfile.TemporaryDirectory(prefix="pyg_match_")  # removed with the page

    with gr.Blocks(
        title="pyg_match explore", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as page:
        state = gr.State(None)  # the last pair that was matched, a Look
        picked_state = gr.State(None)  # the keypoint that was picked, and in which pair
        gr.HTML(_HELP)
        with gr.Row():
            with gr.Column(scale=1, min_width=270):
                pair = gr.Radio(pairs, value=pairs[0], label="Images", elem_id="pair")
                with gr.Group(visible=False) as upload_box:
                    uploads = [
                        gr.File(label=f"Image {name}", type="filepath", height=110, elem_id=f"upload{name}")
                        for name in IMAGES
                    ]
                with gr.Row():
                    weights = gr.Dropdown(
                        detectors, value=start.weights, label="Detector", min_width=150, elem_id="detector"
                    )
                    max_keypoints = gr.Dropdown(
                        counts,
                        value=start.max_keypoints,
                        label="Max. keypoints",
                        min_width=100,
                        elem_id="max_keypoints",
                    )
                first = _setting(gr, "", Setting())
                gr.HTML(f"<p class='hint'>{GRAPH_HELP}</p>")
                compare = gr.Checkbox(False, label="Compare with a second setting", elem_id="compare")
                with gr.Group(visible=False) as second_box:
                    second = _setting(gr, " 2", Setting("anchors"))
                with gr.Accordion("Go to a keypoint by number", open=False):
                    with gr.Row():
                        goto_image = gr.Radio(list(IMAGES), value="A", label="Image", min_width=90)
                        goto_index = gr.Number(0, label="Keypoint", precision=0, minimum=0, min_width=90)
                    goto = gr.Button("Show it", size="sm")
                with gr.Accordion("Download figure and numbers", open=True):
                    form = gr.Radio(list(FORMATS), value="svg", label="Format of the figure")
                    make = gr.Button("Make files", size="sm", elem_id="make")
                    files = gr.File(label="Files", interactive=False, visible=False, elem_id="files")
            with gr.Column(scale=4):
                message = gr.HTML(_message("Looking for keypoints, and matching them …"), elem_id="message")
                with gr.Row():
                    layer = gr.Slider(1, 9, value=5, step=1, label="Layer", elem_id="layer")
                    head = gr.Radio(
                        ["mean", "max", "0", "1", "2", "3"],
                        value="mean",
                        label="Head",
                        elem_id="head",
                        scale=2,
                    )
                    threshold = gr.Slider(
                        0, 1, value=0.05, step=0.01, label="Hide opacity below",
                        elem_id="threshold",
                    )  # fmt: skip
                parts = gr.CheckboxGroup(
                    [(name, key) for key, name in PARTS.items()],
                    value=["self", "cross", "match", "alike"],
                    label="Show",
                    elem_id="parts",
                )
                picture = gr.Image(**_picture("Both images with attention drawn over them", "picture"))
                picture2 = gr.Image(**_picture("The same with the second setting", "picture2"), visible=False)
                gr.HTML(looks.legend())
                details = gr.HTML(elem_id="details")

        def match(
            current: Optional[Look], kind: str, file_a: Any, file_b: Any, name: str, count: Any, *rest: Any
        ) -> list[Any]:
            *values, compared = rest
            visible = [gr.update(visible=kind == UPLOADED), gr.update(visible=bool(compared))]
            try:
                chosen: Optional[tuple[str, str]] = paths if kind == GIVEN else None
                if kind == UPLOADED:
                    if file_a is None or file_b is None:
                        for file, image in ((file_a, "image A"), (file_b, "image B")):
                            if file is not None:
                                looks.check(exploration, file, image)
                        missing = [i for i, f in zip(IMAGES, (file_a, file_b), strict=True) if f is None]
                        raise _NotYetError(f"Choose image {' and image '.join(missing)}.")
                    chosen = (file_a, file_b)
                settings = [Setting(values[0], int(values[1]), values[2])]
                if compared:
                    settings.append(Setting(values[3], int(values[4]), values[5]))
                choice = PairChoice(chosen, name, int(count))
                found = looks.begin(exploration, choice, tuple(settings))
                text = looks.summary(exploration, found)
            except _NotYetError as waiting:
                return [current, _message(str(waiting)), gr.skip(), gr.skip(), *visible]
            except (ValueError, TypeError, OSError) as error:
                text = f"{str(error)[:1].upper()}{str(error)[1:]}."
                text += " The picture below is still the one before." if current is not None else ""
                return [current, _message(text, error=True), gr.skip(), gr.skip(), *visible]
            depth, heads = looks.shape(exploration, found)
            layer_update, head_update = gr.skip(), gr.skip()
            if current is not None and current.choice == choice:
                found = replace(current, settings=tuple(settings))
            if current is None or current.choice.weights != choice.weights:
                layer_update = gr.update(maximum=depth, value=found.layer + 1)
                head_update = gr.update(choices=["mean", "max", *map(str, range(heads))], value="mean")
            return [found, _message(text), layer_update, head_update, *visible]

        def seen(
            matched: Look,
            picked: Optional[tuple[PairChoice, int]],
            layer: float,
            head: str,
            parts: list[str],
            threshold: float,
        ) -> Look:
            # A keypoint that was picked in another pair means nothing in this one.
            node = picked[1] if picked is not None and picked[0] == matched.choice else matched.node
            return replace(
                matched,
                node=node,
                layer=int(layer) - 1,
                head=looks.head_of(head),
                parts=tuple(parts),
                threshold=float(threshold),
            )

        def draw(look: Look) -> list[Any]:
            drawn = looks.pictures(exploration, look)
            labels = [str(setting) for setting in look.settings]
            second_update = (
                gr.update(value=drawn[1], visible=True, label=labels[1])
                if len(drawn) > 1
                else gr.update(value=None, visible=False)
            )
            return [
                (look.choice, look.node),
                gr.update(value=drawn[0], label=labels[0]),
                second_update,
                looks.details(exploration, look),
                gr.update(visible=False),
            ]

        def place(look: Look) -> list[Any]:
            image, index = exploration.features(look.choice).place(look.node)
            return [IMAGES[image], index]

        def show(matched: Optional[Look], *rest: Any) -> list[Any]:
            return [gr.skip()] * 5 if matched is None else draw(seen(matched, *rest))

        def show_pair(
            matched: Optional[Look], picked: Optional[tuple[PairChoice, int]], *rest: Any
        ) -> list[Any]:
            if matched is None:
                return [gr.skip()] * 7
            look = seen(matched, picked, *rest)
            same = picked == (look.choice, look.node)
            return [*draw(look), *([gr.skip()] * 2 if same else place(look))]

        def click(
            matched: Optional[Look],
            picked: Any,
            layer: float,
            head: str,
            parts: list[str],
            threshold: float,
            event: gr.SelectData,
        ) -> list[Any]:
            if matched is None:
                return [gr.skip()] * 7
            look = seen(matched, picked, layer, head, parts, threshold)
            look = looks.click(exploration, look, *event.index)
            return [*draw(look), *place(look)]

        def go(image: str, index: Optional[float], matched: Optional[Look], *rest: Any) -> list[Any]:
            if matched is None:
                return [gr.skip()] * 6
            try:
                node = exploration.features(matched.choice).node(IMAGES.index(image), int(index or 0))
            except ValueError as error:
                return [_message(f"{error}.", error=True), *[gr.skip()] * 5]
            look = replace(seen(matched, *rest), node=node)
            return [_message(looks.summary(exploration, look)), *draw(look)]

        def write(form: str, matched: Optional[Look], *rest: Any) -> Any:
            if matched is None:
                return gr.skip()
            target = Path(tempfile.mkdtemp(dir=folder.name))
            written = looks.write_files(exploration, seen(matched, *rest), target, form)
            return gr.update(value=[str(path) for path in written], visible=True)

        seen_by = [state, picked_state, layer, head, parts, threshold]
        shown = [picked_state, picture, picture2, details, files]
        # Only a keypoint that was picked in a picture fills in the fields: a visitor may be typing into them.
        placed = [*shown, goto_image, goto_index]
        matched_by = [state, pair, *uploads, weights, max_keypoints, *first, *second, compare]
        choices = [pair, weights, max_keypoints, *first, *second, compare]
        latest: dict[str, Any] = {"trigger_mode": "always_last", "api_visibility": "private"}
        quiet: dict[str, Any] = {**latest, "show_progress": "hidden"}
        gr.on(
            [page.load, *[c.input for c in choices], *[u.change for u in uploads]],
            match,
            matched_by,
            [state, message, layer, head, upload_box, second_box],
            show_progress_on=message,
            **latest,
        ).then(show_pair, seen_by, placed, **quiet)
        # Typing a number into a slider's box is a change, but no input.
        gr.on([layer.change, threshold.change, head.input, parts.input], show, seen_by, shown, **quiet)
        for image in (picture, picture2):
            image.select(click, seen_by, placed, **quiet)
        goto.click(go, [goto_image, goto_index, *seen_by], [message, *shown], **quiet)
        make.click(write, [form, *seen_by], files, api_visibility="private")
    return page


class _NotYetError(Exception):
    """Something is still to be chosen."""


def _message(text: str, error: bool = False) -> str:
    role, kind = ("alert", "message error") if error else ("status", "message")
    return f"<div role='{role}' class='{kind}'>{escape(text)}</div>"


def _setting(gr: Any, number: str, setting: Setting) -> list[Any]:
    """The controls of one setting."""
    graphs = [(text, name) for name, text in GRAPHS.items()]
    graph = gr.Dropdown(
        graphs,
        value=setting.graph,
        label=f"Graph{number}",
        elem_id=f"graph{number.strip()}",
    )
    with gr.Row():
        k = gr.Dropdown([4, 8, 16, 32, 64, 128], value=setting.k, label=f"k{number}", min_width=80)
        values = gr.Dropdown(
            list(VALUE_SOURCES),
            value=setting.value_source,
            label=f"Values from{number}",
            allow_custom_value=True,
            min_width=120,
        )
    return [graph, k, values]


def _picture(text: str, name: str) -> dict[str, Any]:
    return {
        "type": "numpy",
        "format": "jpeg",
        "interactive": False,
        "alt_text": text,
        "buttons": [],
        "elem_id": name,
        "label": "",
    }
