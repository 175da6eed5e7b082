"""From JSON Schema 2020-12, which pydantic writes, to the schemas of OpenAPI 3.0, which Swagger UI reads."""

from typing import Any


def as_3_0(node: Any) -> Any:
    """Return schemas with what JSON Schema 2020-12 says differently put as OpenAPI 3.0 has it.

    Titles go, too: pydantic's are the names once more, in wrong letters.
    """
    if isinstance(node, list):
        return [as_3_0(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "anyOf" in node and {"type": "null"} in node["anyOf"]:
        return as_3_0(_nullable(node))
    if isinstance(node.get("examples"), list):
        node = {key: value for key, value in node.items() if key != "examples"} | {"example": node["examples"][0]}
    if isinstance(node.get("exclusiveMinimum"), int | float) and not isinstance(node["exclusiveMinimum"], bool):
        node = node | {"minimum": node["exclusiveMinimum"], "exclusiveMinimum": True}
    if "const" in node and "type" in node:
        node = {key: value for key, value in node.items() if key != "const"} | {"enum": [node["const"]]}
    kept = {key: value for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    return {key: value if key in ("example", "examples") else as_3_0(value) for key, value in kept.items()}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    choices = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    if len(choices) > 1:
        return rest | {"anyOf": choices, "nullable": True}
    (choice,) = choices
    return rest | ({"allOf": [choice]} if "$ref" in choice else choice) | {"nullable": True}
