"""What setup.cfg cannot say: the C library, which serves all versions of Python and torch, and README's links."""

import configparser
import importlib.util
import re
import warnings
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
FILE = ROOT / "pyg_match" / "ops" / "native" / "build.py"
SPEC = importlib.util.spec_from_file_location("native_build", FILE)
native = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(native)


class BuildLibrary(build_ext):
    """Compiles the library where setuptools would put an extension of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")[:-1]) / native.NAME)

    def build_extension(self, extension: Extension) -> None:
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            native.build(target)
        except (OSError, RuntimeError) as error:  # plain torch does the work then, and says so
            warnings.warn(f"the library of pyg_match is not built: {error}", stacklevel=2)
            extension.optional = True


class LibraryWheel(bdist_wheel):
    """A wheel for all versions of Python on one kind of machine."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


def description() -> str:
    """README with links that work outside of the repository, to the state of this version."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    page = config["metadata"]["url"]
    version = re.search(r'"(.+)"', (ROOT / "pyg_match" / "_version.py").read_text(encoding="utf-8"))[1]
    raw = page.replace("github.com", "raw.githubusercontent.com")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^\]]*\]\()(?!http)", rf"\g<1>{raw}/v{version}/", text)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?!http|#)", rf"\g<1>{page}/blob/v{version}/", text)


setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    ext_modules=[Extension("pyg_match.ops.native.library_file", sources=[])],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": LibraryWheel},
    setup_requires=[] if native.has_compiler() else ["ziglang"],
)
