"""The bodies of requests in /openapi.json: they are read by us, not by FastAPI, so it does not know them by itself."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

REFERENCE = "#/components/schemas/{model}"


def body(schema: type[BaseModel]) -> dict[str, Any]:
    """What a route says of its body."""
    referred = {"$ref": REFERENCE.format(model=schema.__name__)}
    return {"requestBody": {"content": {"application/json": {"schema": referred}}, "required": True}}


def describe(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Puts the bodies, and what they are made of, where the routes refer to."""
    made_by_fastapi = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        described = made_by_fastapi()
        for each in bodies:
            schema = each.model_json_schema(ref_template=REFERENCE)
            described["components"]["schemas"] |= {**schema.pop("$defs", {}), each.__name__: schema}
        return described

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it
