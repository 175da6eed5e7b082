"""`/api`: Swagger UI from the package, and the document it shows. Nothing is loaded from another host."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

from gateway.problems import Kind, Problem

DOCUMENT_PATH = "/api/openapi.json"
_ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")

# Addresses are relative to /api, and the calls go to where the page came from: it works under a proxy's prefix, too.
_SCRIPT = """
const root = new URL(".", location.href).href.replace(/\\/$/, "");
fetch("api/openapi.json").then((answer) => answer.json()).then((spec) => {
  window.ui = SwaggerUIBundle({
    spec: {...spec, servers: [{url: root}]},
    dom_id: "#swagger-ui",
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    validatorUrl: null,
  });
});
"""
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Voltline API</title>
<link rel="stylesheet" href="api/assets/swagger-ui.css">
<link rel="icon" href="api/assets/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="api/assets/swagger-ui-bundle.js"></script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def documentation_routes(document: dict[str, Any]) -> list[Route]:
    """Return the page, its files and the document."""
    content = orjson.dumps(document)
    policy = _content_security_policy()

    async def page(_: Request) -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": policy})

    async def page_with_slash(_: Request) -> Response:
        return RedirectResponse("../api", status_code=308)

    async def openapi(_: Request) -> Response:
        return Response(content, media_type="application/json")

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _ASSETS:
            raise Problem(Kind.NOT_FOUND, "No such file.")
        return FileResponse(Path(str(swagger_ui_path)) / name)

    return [
        Route("/api", page),
        Route("/api/", page_with_slash),
        Route(DOCUMENT_PATH, openapi),
        Route("/api/assets/{name}", asset),
    ]


def _content_security_policy() -> str:
    """Swagger UI styles inline and draws its icons from data URLs; scripts are the bundle and ours."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
