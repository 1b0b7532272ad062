"""What setup.cfg cannot say: the C code becomes one library, which serves all versions of Python and torch."""

import importlib.util
import warnings
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FILE = Path(__file__).parent / "pyg_match" / "ops" / "native" / "build.py"
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


setup(
    ext_modules=[Extension("pyg_match.ops.native.library_file", sources=[])],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": LibraryWheel},
    setup_requires=[] if native.has_compiler() else ["ziglang"],
)
