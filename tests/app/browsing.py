"""A visitor of the page, in a real headless Chromium."""

from pathlib import Path

# The system's, or the one that playwright installs.
CHROMIUM = Path("/usr/bin/chromium")
# Without these, Chromium calls home by itself.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Where a keypoint is on the screen.
PLACE = """([node, side]) => {
  const { layout, plot } = explorer.pictures[side];
  const box = document.getElementById(`box${side}`).getBoundingClientRect();
  const { x_range: xs, y_range: ys } = plot;
  return [
    box.x + (box.width * (layout.x[node] - xs.start)) / (xs.end - xs.start),
    box.y + (box.height * (ys.end - layout.y[node])) / (ys.end - ys.start),
  ];
}"""


class Visitor:
    """What a visitor does and sees."""

    def __init__(self, browser, url, width=1440, height=900, **options):
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type == "error" else None,
        )
        self.page.goto(url)

    def ready(self):
        """The visitor, once the pictures are there and have their size."""
        self.page.wait_for_function("document.body.dataset.ready === 'true'")
        self.page.wait_for_function(
            "explorer.pictures[explorer.views[0].side].plot.inner_width > 0 && explorer.size"
        )
        self.page.wait_for_timeout(150)
        return self

    def state(self, name):
        return self.page.evaluate(f"explorer.state.{name}")

    def wait_for(self, condition):
        self.page.wait_for_function(condition, timeout=60_000)

    def rows(self, name):
        """The number of rows that a glyph draws."""
        return self.page.evaluate(
            "name => Math.max(...Object.values(explorer.models(name).data).map((c) => c.length))", name
        )

    def column(self, name, column):
        return self.page.evaluate("([name, c]) => [...explorer.models(name).data[c]]", [name, column])

    def place(self, node, side=0):
        self.page.locator(f"#box{side}").scroll_into_view_if_needed()
        return self.page.evaluate(PLACE, [node, side])

    def hover(self, node, side=0):
        self.page.mouse.move(*self.place(node, side))

    def click(self, node, side=0):
        self.page.mouse.click(*self.place(node, side))

    def zoom(self):
        return self.page.evaluate("explorer.pictures[0].zoom")

    def text(self, name):
        return self.page.locator(f"#{name}").inner_text()

    def download(self, name, folder):
        with self.page.expect_download() as download:
            self.page.locator(f"#{name}").click()
        target = folder / download.value.suggested_filename
        download.value.save_as(target)
        return target

    def close(self):
        self.context.close()
