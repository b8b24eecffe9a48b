"""A web server on this machine that can be told to misbehave."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """`files` by path. `requests` lists (path, Range header or None) as they come in."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """For each of the next requests: close the connection after so many bytes."""
    ranges: bool = True
    errors: list[int] = field(default_factory=list)
    """Status of the next requests."""


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
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                return content
            match = re.fullmatch(r"bytes=(\d+)-", asked)
            assert match is not None
            first = int(match[1])
            if first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return b""
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            return content[first:]

        def log_message(self, *_: object) -> None:
            pass

    return Handler
