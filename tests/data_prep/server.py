"""A local web server with configurable faults."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """Serves `files`; `requests` collects (path, Range header or None)."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """Bytes after which to close the connection, for each of the next requests."""
    ranges: bool = True
    errors: list[int] = field(default_factory=list)
    """Status codes of the next requests."""


@contextmanager
def serve() -> Iterator[Server]:
    """Serve on a free port until the block ends."""
    server = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        http.shutdown()
        thread.join()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.requests.append((self.path, asked))
            if server.errors:
                self.send_error(server.errors.pop(0))
                return
            content = server.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            body = self.start(content, asked)
            cut = server.cuts.pop(0) if server.cuts else len(body)
            self.wfile.write(body[:cut])
            self.close_connection = True

        def start(self, content: bytes, asked: str | None) -> bytes:
            if not (asked and server.ranges):
                return self.head(200, content)
            match = re.fullmatch(r"bytes=(\d+)-", asked)
            assert match is not None
            first, size = int(match[1]), len(content)
            if first >= size:
                return self.head(416, b"", f"bytes */{size}")
            return self.head(206, content[first:], f"bytes {first}-{size - 1}/{size}")

        def head(self, status: int, body: bytes, content_range: str | None = None) -> bytes:
            self.send_response(status)
            if content_range:
                self.send_header("Content-Range", content_range)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            return body

        def log_message(self, *_: object) -> None:
            pass

    return Handler
