import socket
import threading

import pytest

from tests.benchmarks.wire import CLOSED, SILENT, ask, parsed, request

pytestmark = pytest.mark.slow

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"


def test_answers_are_found_one_after_the_other() -> None:
    data = (
        b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"
    )
    first, end = parsed(data) or pytest.fail("no answer")
    assert (first.outcome, first.body) == ("200", b"abcde")
    second, end = parsed(data[end:]) or pytest.fail("no answer")
    assert (second.outcome, second.body) == ("404", b"no")


def test_part_of_an_answer_is_none() -> None:
    assert all(parsed(CHUNKED[:end]) is None for end in range(len(CHUNKED)))


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    data = b"HTTP/1.0 200 OK\r\n\r\nabc"
    assert parsed(data) is None
    found = parsed(data, closed=True)
    assert found is not None
    assert found[0].body == b"abc"


def test_an_answer_to_head_has_no_body() -> None:
    found = parsed(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", head_only=True)
    assert found is not None
    assert found[0].size == 0


def test_what_is_no_http_is_an_error() -> None:
    with pytest.raises(ValueError, match="no HTTP"):
        parsed(b"SSH-2.0\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", "413"), (b"", CLOSED), (None, SILENT)],
)
def test_who_answers_before_all_was_sent_is_heard(answer: bytes | None, outcome: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                if answer is None:
                    done.wait(10)
                else:
                    connection.sendall(answer)
                    # What has been sent by now is taken, or the answer would be lost with it.
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(2**20):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        came = ask(server.getsockname()[1], request("/encode", bytes(2**22)), patience=0.5)
        done.set()
        thread.join()
    assert came.outcome == outcome
