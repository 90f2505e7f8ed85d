"""Sphinx settings: the website is the repository's own pages, and the docstrings of the package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_scorer import __version__
from batch_scorer.errors import CxrError

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent

project = "cxr-batch"
author = "The cxr-batch authors"
release = __version__

# The source folder is the repository, so that links between its files are links between pages.
root_doc = "README"
include_patterns = [
    "*.md",
    "batch_scorer/models/*.md",
    "deploy/README.md",
    "deploy/*/README.md",
    "docs/*.md",
    "docs/video/script.md",
]
exclude_patterns = [".*", "out", "build", "dist", "runs"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "cxr-batch"
html_copy_source = False
html_show_sphinx = False

CONTENTS = """
```{toctree}
:hidden:
:caption: Read the results

The story in plain words <docs/article>
Report and rows <docs/report>
Model card of VGG16 <batch_scorer/models/vgg16>
Model card of the CNN <batch_scorer/models/cnn>
Model card of the MLP <batch_scorer/models/mlp>
```

```{toctree}
:hidden:
:caption: Run it

Command line <docs/cli>
Images, buckets, identifiers <docs/images>
Speed and many machines <docs/machines>
Scheduled runs <docs/jobs>
Platforms <deploy/README>
Kubernetes <deploy/kubernetes/README>
Cloud Run <deploy/cloud-run/README>
AWS Batch <deploy/aws-batch/README>
AWS Lambda <deploy/aws-lambda/README>
Azure Container Apps <deploy/azure-container-apps/README>
```

```{toctree}
:hidden:
:caption: Train and study

Audit, train, export <docs/training>
Experiments <docs/experiments>
Every use of the test images <docs/test-log>
Words of the video <docs/video/script>
```

```{toctree}
:hidden:
:caption: Develop

Python API in use <docs/python>
Python API reference <docs/api>
Contribute <CONTRIBUTING>
Report a vulnerability <SECURITY>
Changes <CHANGELOG>
```
"""


def setup(app: Sphinx) -> None:
    """Add what Sphinx needs and the repository's pages should not show."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-skip-member", skip_imported_error)
    app.connect("build-finished", finish_site)


def add_contents(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Add the navigation to the start page."""
    if docname == root_doc:
        source[0] += CONTENTS


def skip_imported_error(*arguments: Any) -> bool:
    """Skip the errors among the public names: their own module follows on the same page."""
    _app, _kind, _name, member, skip, options = arguments
    is_error = isinstance(member, type) and issubclass(member, CxrError)
    return skip or (is_error and bool(options.imported_members))


def finish_site(app: Sphinx, error: Exception | None) -> None:
    """Copy the start page to index.html, and the figures that pages show by HTML."""
    if error is None:
        output = Path(app.outdir)
        shutil.copyfile(output / f"{root_doc}.html", output / "index.html")
        shutil.copytree(DOCS / "figures", output / "docs" / "figures", dirs_exist_ok=True)
