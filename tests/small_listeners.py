"""Real listeners on loopback that notices are sent to: an HTTP server and a mail server that note what came."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Heard:
    """What came, and what is answered next: HTTP statuses, or SMTP codes by command."""

    port: int = 0
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)  #: of HTTP, used up from the front; then 200
    refusals: dict[str, str] = field(default_factory=dict)  #: of SMTP, by the command's first word


@contextmanager
def web_listener() -> Iterator[Heard]:
    """A webhook's other end."""
    heard = Heard()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = heard.answers.pop(0) if heard.answers else 200
            heard.came.append(({"path": self.path, **dict(self.headers)}, body))
            self.send_response(status)
            if status in {301, 302, 307, 308}:
                self.send_header("Location", f"http://127.0.0.1:{heard.port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    heard.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def mail_listener() -> Iterator[Heard]:
    """A mail server that takes everything but what it was told to refuse, and knows no TLS."""
    heard = Heard()
    server = socket.create_server(("127.0.0.1", 0))
    heard.port = server.getsockname()[1]
    thread = threading.Thread(target=_serve, args=(server, heard))
    thread.start()
    try:
        yield heard
    finally:
        with socket.create_connection(("127.0.0.1", heard.port)) as last:
            last.sendall(b"STOP\r\n")
        thread.join()
        server.close()


def _serve(server: socket.socket, heard: Heard) -> None:
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rwb") as stream:
            stream.write(b"220 listener\r\n")
            stream.flush()
            if _speak(stream, heard):
                return


def _speak(stream, heard: Heard) -> bool:  # type: ignore[no-untyped-def]
    """One conversation; True when the listener is to end."""
    envelope = {"from": "", "to": ""}
    while line := stream.readline():
        word = line.split(b" ")[0].strip().upper().decode()
        if word == "STOP":
            return True
        answer = heard.refusals.get(word, {"DATA": "354 go on", "QUIT": "221 bye"}.get(word, "250 listener"))
        if word in {"MAIL", "RCPT"}:
            key = "from" if word == "MAIL" else "to"
            envelope[key] += line.decode().strip().partition(":")[2] + " "
        stream.write(answer.encode() + b"\r\n")
        stream.flush()
        if word == "DATA" and answer.startswith("354"):
            body = b"".join(iter(stream.readline, b".\r\n"))
            heard.came.append((dict(envelope), body))
            stream.write(heard.refusals.get(".", "250 taken").encode() + b"\r\n")
            stream.flush()
        if word == "QUIT":
            break
    return False
