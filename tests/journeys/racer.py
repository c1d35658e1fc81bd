"""A process that sends one request many times at once, at an agreed instant. Asked on stdin, it tells on stdout."""

from __future__ import annotations

import json
import sys
import threading
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit


def main() -> None:
    asked = json.load(sys.stdin)
    url = urlsplit(asked["url"])
    answers: list[tuple[int, object]] = []
    starting = threading.Barrier(asked["times"])

    def run() -> None:
        connection = HTTPConnection(url.hostname or "", url.port, timeout=100)
        connection.connect()
        starting.wait()
        time.sleep(max(0.0, asked["at"] - time.time()))
        connection.request(asked["method"], url.path, asked["body"].encode(), asked["headers"])
        answer = connection.getresponse()
        body = answer.read()
        answers.append((answer.status, json.loads(body) if body else {}))
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(asked["times"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
