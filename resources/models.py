"""The one gateway to fhir.resources: its R4B models, for resources of our own making.

R4B 4.3.0 has the elements, cardinalities and types of R4 4.0.1 in all our types. A model is never the truth: it
loses digits of decimals and rewrites instants, so what was sent is kept as sent and checked by
`resources.validation`; a model is built from it only to be read.

The library is loaded on first use (a fifth of a second, 45 MB with a dozen types).
https://pypi.org/project/fhir.resources/, http://hl7.org/fhir/R4B/versions.html
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from resources.json import Json


def build(type_name: str, **elements: Any) -> Json:
    """A resource of our own making as JSON; elements that are None are left out.

    Takes JSON values, dates and datetimes with a zone, and models. A mistake here is ours, hence a ValueError.
    """
    given = {name: value for name, value in elements.items() if value is not None}
    try:
        model = _model(type_name).model_validate({"resourceType": type_name, **given})
    except KeyError as unknown:
        raise ValueError(f"An inner resource of {type_name} has no R4B model") from unknown
    built: Json = json.loads(model.model_dump_json())
    return built


@cache
def _model(name: str) -> Any:
    from fhir.resources.R4B import get_fhir_model_class

    return get_fhir_model_class(name)
