"""Order the documentation's pages for a reader; mkdocs runs this as a hook (see mkdocs.yml).

The navigation is built from the folders, so a new page needs no entry anywhere. What is not named
here follows in alphabetical order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mkdocs.utils import nest_paths

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ORDER = ("index.md", "tutorial.md", "tutorial", "how-to", "reference", "explanation", "decisions")


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Set the navigation, once it is known which pages there are."""
    config.nav = nest_paths(
        sorted((page.src_uri for page in files.documentation_pages()), key=place)
    )


def place(uri: str) -> tuple[int, str, bool, str]:
    """Return what a page is sorted by: its top folder, its folder, the index, its name."""
    top, _, _ = uri.partition("/")
    folder, _, name = uri.rpartition("/")
    return ORDER.index(top) if top in ORDER else len(ORDER), folder, name != "index.md", name
