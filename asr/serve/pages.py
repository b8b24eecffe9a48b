"""The web page at `/`: a few files of the package, each by its name."""

import hashlib
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).with_name("page")
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FILES = {"/": "index.html"} | {f"/{name}": name for name in ("app.js", "worklet.js", "style.css", "icon.svg")}
"""Paths and what they show; nothing else is read."""
HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; media-src blob:; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@cache
def _read(name: str) -> tuple[bytes, str]:
    """Content and ETag."""
    content = (FOLDER / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:16]}"'


async def show(request: Request) -> Response:
    """GET a file of the page, unless the browser has it."""
    name = FILES[request.url.path]
    content, tag = _read(name)
    headers = HEADERS | {"etag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=TYPES[Path(name).suffix])


def routes() -> list[Route]:
    """Routes of the page, which need no key."""
    return [Route(path, show) for path in FILES]
