"""``python -m pyg_match``: the same as the command ``pyg-match``."""

from pyg_match.cli import main

if __name__ == "__main__":
    main()
