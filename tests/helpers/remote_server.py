"""A web server of a folder that can be slow and can fail by script."""

from __future__ import annotations

import gzip
import http.server
import socket
import threading
import time
from collections import Counter
from pathlib import Path

FAULTS = ("reset", "stall", "short", "wrong", "503", "404", "closed")
"""Cut off with a reset; cut off after a silence of 2 s; fewer bytes than said; one bit wrong; refused; not there; fewer
bytes, and none said.
"""


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True
    served: Server

    def handle_error(self, *args: object) -> None:
        pass  # clients that are killed


class Answer(http.server.BaseHTTPRequestHandler):
    server: Quiet

    def do_GET(self) -> None:
        outer = self.server.served
        path = self.path.lstrip("/")
        outer.asked[path] += 1
        script = outer.faults.get(path) or outer.faults.get("*") or []
        fault = script.pop(0) if script else ""
        try:
            data = (outer.folder / path).read_bytes()
        except OSError:
            fault = "404"
        if fault in ("503", "404"):
            return self.send_error(int(fault))
        self.send_response(200)
        if fault == "packed":
            self.send_header("Content-Encoding", "gzip")
            data = gzip.compress(data)
        if fault == "plain":
            self.send_header("Content-Encoding", "Identity")
        if fault != "closed":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "wrong":
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        if fault in ("reset", "stall", "short", "closed"):
            return self.cut_off(data[: len(data) // 2], fault)
        for first in range(0, len(data), outer.piece):
            self.wfile.write(data[first : first + outer.piece])
            if outer.bytes_s:
                time.sleep(outer.piece / outer.bytes_s)

    def cut_off(self, half: bytes, fault: str) -> None:
        self.wfile.write(half)
        self.wfile.flush()
        if fault == "stall":
            time.sleep(2)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close_connection = True

    def log_message(self, *words: object) -> None:
        pass


class Server:
    """Serves a folder; a path's next answers follow a script of faults, and every answer is counted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.faults, self.asked, self.bytes_s, self.piece = folder, {}, Counter(), None, 1 << 14
        self.server = Quiet(("127.0.0.1", 0), Answer)
        self.server.served = self
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def shards(self) -> dict[str, int]:
        return {path: times for path, times in self.asked.items() if path.endswith(".tar")}
