"""Render the reports' pages: every value is escaped, and a missing name is an error."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from covseg_ray import __version__


def render(template: str, **values: object) -> str:
    """The HTML page of ``template``, a file of ``templates/``, with ``values``."""
    environment = Environment(
        loader=PackageLoader("covseg_ray.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=__version__, **values)
