"""Requests and answers as bytes, over sockets."""

import json
import socket
from typing import Any

RECOMMEND = b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def answers_of(connection: socket.socket, number: int) -> list[tuple[bytes, dict[str, Any]]]:
    """Head and body of the next answers over a connection that may stay open."""
    found, data = [], b""
    while len(found) < number:
        head, is_whole, rest = data.partition(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if is_whole and len(rest) >= length:
            found.append((head, json.loads(rest[:length])))
            data = rest[length:]
        else:
            part = connection.recv(65536)
            assert part, data
            data += part
    assert not data
    return found


def message(body: bytes) -> bytes:
    return RECOMMEND + b"content-length: %d\r\n\r\n" % len(body) + body
