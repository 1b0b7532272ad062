"""The lowest versions of what the package and its tests need, for pip."""

import configparser
import re

settings = configparser.ConfigParser()
settings.read("setup.cfg")
needs = settings["options"]["install_requires"] + settings["options.extras_require"]["dev"]
for name, version in re.findall(r"^([\w-]+)>=([\d.]+)", needs, re.M):
    print(f"{name}=={version}.*" if "." in version else f"{name}=={version}.0.*")
