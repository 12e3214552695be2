"""What a page itself says of its encoding."""

from stages.meta_charset import declared_in_page


def test_what_a_page_declares():
    found = {
        b'<meta charset="gbk">': ["gbk"],
        b"<META CHARSET=gbk />": ["gbk"],
        b"<meta http-equiv='Content-Type' content='text/html; charset=koi8-r'>": ["koi8-r"],
        b'<meta content="text/html;charset=koi8-r" http-equiv=content-type>': ["koi8-r"],
        b'<meta name="description" content="charset=gbk is old">': [],
        b'<!-- <meta charset="gbk"> --><meta charset=big5>': ["big5"],
        b'<!-- <meta charset="gbk">': [],
        b'<meta name="x" content="a > b" charset="big5">': ["big5"],
        b'<?xml version="1.0" encoding="ISO-8859-1"?><html>': ["ISO-8859-1"],
        b'\n<?xml version="1.0" encoding=\'a\'?><meta charset="b"><meta charset="c">': ["b", "c", "a"],
        b"<!--" + b"x" * 4000 + b'--><meta charset="gbk">': ["gbk"],
        b"<metadata charset=gbk><p>charset=gbk": [],
    }
    assert {raw: list(declared_in_page(raw)) for raw in found} == found
