"""The Bokeh document: pictures to pan, zoom and hover over, whose callbacks run in the browser.

Python lays out empty figures and hands over all numbers at once; the scripts beside this file fill them.
"""

from pathlib import Path
from typing import Any, Optional

from bokeh.document import Document
from bokeh.embed import file_html
from bokeh.models import ColumnDataSource, CustomJS, ImageURL, Plot, Range1d, Rect, Scatter, Segment, Text
from bokeh.plotting import figure
from bokeh.resources import Resources

SIDES = 2  # settings that can be seen side by side
_FOLDER = Path(__file__).parent
# In this order; each uses what those before it define.
_SCRIPTS = (
    "attention", "pair", "picture", "grid", "panels", "figure_file", "files", "link", "server_form", "controls",
    "explorer",
)  # fmt: skip

# The columns that each glyph draws, empty at first.
_LINE = ("x0", "y0", "x1", "y1", "color", "alpha", "width")
_COLUMNS = {
    "image": ("url", "x", "y", "w", "h"),
    "keypoints": ("x", "y"),
    "matches": _LINE,
    "veil": ("x", "y", "w", "h"),
    "lines": _LINE,
    "ends": ("x", "y", "color", "alpha", "size"),
    "marks": ("x", "y", "color", "marker", "size", "width"),
    "texts": ("x", "y", "text"),
}


def standalone(content: str, attention: list[str], title: str) -> str:
    """The page as one file.

    Args:
        content: What it shows, in JSON.
        attention: The attention of each setting, packed.
        title: The title of the window.
    """
    document = Document(title=title)
    build(document, payload_source(content, attention))
    resources = Resources(mode="inline")
    template, variables = page()
    return file_html(document, resources, title, template=template, template_variables=variables)


def payload_source(content: str = "", attention: Optional[list[str]] = None) -> ColumnDataSource:
    """What carries all numbers to the browser."""
    return ColumnDataSource(data=payload(content, attention), name="payload")


def payload(content: str = "", attention: Optional[list[str]] = None) -> dict[str, list[Any]]:
    """The columns of :func:`payload_source`."""
    return {"content": [content], "attention": [attention or []]}


def page(served: bool = False, **variables: Any) -> tuple[str, dict[str, Any]]:
    """The template of the page, and what stands in it.

    Args:
        served: Whether a server answers, so that another pair can be chosen.
        **variables: What the form for that needs.
    """
    scripts = "\n".join((_FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    values = {"explorer_script": scripts, "explorer_style": style, "served": served, "sides": range(SIDES)}
    return (_FOLDER / "page.html").read_text(encoding="utf-8"), {**values, **variables}


def build(
    document: Document, source: ColumnDataSource, wish: Optional[ColumnDataSource] = None
) -> ColumnDataSource:
    """Lay out a document.

    Args:
        document: The document, empty.
        source: See :func:`payload_source`.
        wish: What carries wishes to the server, if there is one.

    Returns:
        What carries messages to the browser, in its columns ``text`` and ``error``.
    """
    wish = wish or ColumnDataSource(name="wish")
    status = ColumnDataSource(data={"text": [""], "error": [False]}, name="status")
    # One range for all pictures, so that they move together.
    x_range, y_range = Range1d(start=0, end=1), Range1d(start=-1, end=0)
    for side in range(SIDES):
        document.add_root(_picture(side, x_range, y_range))
        document.add_root(_grid(side))
    # A document holds what its roots refer to.
    document.roots[0].tags = [source, wish, status]
    models: dict[str, Any] = {"payload": source, "wish": wish, "status": status}
    document.js_on_event(
        "document_ready", CustomJS(args=models, code="explorer.start(payload, wish, status)")
    )
    source.js_on_change("data", CustomJS(code="explorer.load(cb_obj)"))
    status.js_on_change("data", CustomJS(code="explorer.report(cb_obj)"))
    return status


def _plot(name: str, x_range: Range1d, y_range: Range1d, tools: str) -> figure:
    plot = figure(
        name=name,
        x_range=x_range,
        y_range=y_range,
        sizing_mode="stretch_both",
        tools=tools,
        active_scroll="wheel_zoom" if tools else None,
        toolbar_location=None,
        min_border=0,
        outline_line_color=None,
        background_fill_color=None,
        border_fill_color=None,
    )
    plot.axis.visible = False
    plot.grid.visible = False
    return plot


def _picture(side: int, x_range: Range1d, y_range: Range1d) -> figure:
    plot = _plot(f"picture{side}", x_range, y_range, "pan,wheel_zoom")
    _image(plot, f"image{side}", "large")
    _segments(plot, f"matches{side}", "glyph")
    dots = Scatter(x="x", y="y", size=4, line_color=None, fill_alpha=0.75)
    plot.add_glyph(_source(f"keypoints{side}", "keypoints"), dots, name=f"dots{side}")
    # What follows the mouse is drawn on a canvas of its own, so that the rest is not drawn again.
    veil = Rect(x="x", y="y", width="w", height="h", line_color=None, fill_alpha=0.6)
    plot.add_glyph(_source(f"veil{side}", "veil"), veil, level="overlay", name=f"veil_glyph{side}")
    _segments(plot, f"lines{side}", "overlay")
    _ends(plot, f"ends{side}", "overlay")
    marks = Scatter(
        x="x", y="y", size="size", fill_color=None, line_color="color", line_width="width", marker="marker"
    )
    plot.add_glyph(_source(f"marks{side}", "marks"), marks, level="overlay")
    numbers = Text(
        x="x", y="y", text="text", x_offset=9, y_offset=-5, text_font_size="12px", text_font_style="bold"
    )
    plot.add_glyph(_source(f"texts{side}", "texts"), numbers, level="overlay", name=f"numbers{side}")
    for event, call in (
        ("mousemove", "hover(cb_obj.x, cb_obj.y)"),
        ("mouseleave", "leave()"),
        ("tap", "click(cb_obj.x, cb_obj.y)"),
        # Two clicks in quick succession, of which Bokeh tells as one event.
        ("doubletap", "click(cb_obj.x, cb_obj.y)"),
    ):
        plot.js_on_event(event, CustomJS(code=f"explorer.{call}"))
    for size in ("inner_width", "inner_height"):
        plot.js_on_change(size, CustomJS(code="explorer.resized()"))
    return plot


def _grid(side: int) -> figure:
    plot = _plot(f"grid{side}", Range1d(start=0, end=1), Range1d(start=-1, end=0), "")
    _image(plot, f"grid_image{side}", "small")
    frame = Rect(x="x", y="y", width="w", height="h", fill_color=None, line_width=3)
    plot.add_glyph(_source(f"grid_frame{side}", "veil"), frame, name=f"frame{side}")
    _segments(plot, f"grid_lines{side}", "glyph")
    _ends(plot, f"grid_ends{side}", "glyph")
    labels = Text(
        x="x", y="y", text="text", text_font_size="12px", text_align="center", text_baseline="middle"
    )
    plot.add_glyph(_source(f"grid_texts{side}", "texts"), labels, name=f"grid_labels{side}")
    plot.js_on_event("tap", CustomJS(code="explorer.chooseCell(cb_obj.x, cb_obj.y)"))
    return plot


def _source(name: str, kind: str) -> ColumnDataSource:
    return ColumnDataSource(data={column: [] for column in _COLUMNS[kind]}, name=name)


def _image(plot: Plot, name: str, glyph_name: str) -> None:
    glyph = ImageURL(url="url", x="x", y="y", w="w", h="h", global_alpha=0.5)
    plot.add_glyph(_source(name, "image"), glyph, level="image", name=f"{name}_{glyph_name}")


def _segments(plot: Plot, name: str, level: str) -> None:
    lines = Segment(
        x0="x0", y0="y0", x1="x1", y1="y1", line_color="color", line_alpha="alpha", line_width="width",
        line_cap="round",
    )  # fmt: skip
    plot.add_glyph(_source(name, "matches"), lines, level=level)


def _ends(plot: Plot, name: str, level: str) -> None:
    dots = Scatter(
        x="x", y="y", size="size", line_color=None, fill_color="color", fill_alpha="alpha", marker="circle"
    )
    plot.add_glyph(_source(name, "ends"), dots, level=level)
