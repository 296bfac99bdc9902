import gc
import tracemalloc

import pytest

from service.codecs import forms
from service.errors import BadBody

FORM = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n%s\r\n'
END = b"--x--\r\n"


def test_files_have_the_order_of_the_form() -> None:
    assert forms.files(PART % b"second" + PART % b"first" + END, FORM, 2) == [b"second", b"first"]


@pytest.mark.parametrize("end", [b"", END[:-4], b"--y--\r\n"])
def test_a_form_that_is_cut_off_is_refused(end: bytes) -> None:
    with pytest.raises(BadBody, match="is truncated"):
        forms.files(PART % b"first" + PART % b"second" + end, FORM, 2)


@pytest.mark.parametrize("end", [END, b""])
def test_the_files_of_a_form_do_not_wait_for_the_garbage_collector(end: bytes) -> None:
    body = PART % bytes(2**22) + PART % bytes(2**22) + end
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        try:
            assert len(forms.files(body, FORM, 2)) == 2
        except BadBody:
            assert end == b""
        assert tracemalloc.get_traced_memory()[0] < 2**20
    finally:
        tracemalloc.stop()
        gc.enable()
