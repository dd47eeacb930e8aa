"""Pickled tables: every version of pandas that writes them, and nothing run of what a file asks for."""

import base64
import gzip
import io
import os
import pickle
import pickletools
import sys
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jrouter.io.errors import DataError
from jrouter.io.pickles import ALLOWED, read_pickle

pd = pytest.importorskip("pandas", reason="pandas writes the files that are read here")

PLAIN = {
    "query": ["a", "b\n", "['é']"],
    "score": [0.5, 1.0, 0.0],
    "n": [1, 2, -3],
    "yes": [True, False, True],
    "mixed": [None, 0.25, 1],
}

# The frame of `OLD_FRAME`, as other versions of pandas wrote it: its pickle, compressed, in base64.
OLD_FRAME = {"query": ["a", "b\n"], "score": [0.5, 1.0], "n": [1, 2], "mixed": [None, 0.25]}
WRITTEN_BY = {
    "1.2.5, numpy 1.19.5, protocol 2": """
        eNp1lGl/20QQxmUnTVsVSilHKdCDcqkcbgMFAgQMpfQSdctyicOIlbzxmsqyH+2qiaGCpJA44b55y0fgO/AF+EYwu1L8Szn0Qtrdmf88
        O7OaXa7HQ552uGrEg0w0FjLeF+4prvlpO4JzdAW1AnUvmHYcJ+x3M0xdR/RSLbKUJ6rR5ynviky5J5NBfPlCOXMxTRG2eW3MeP/gOmJJ
        qEbElXDDVCyG58yKi+3/71Z57Ciws9xPhzYKN07z/nBU+vfzRPd4lvGRG2YiHqRKZ3msXewqvVwKba24wXdWcWMcxoOOiJUrUjNwsTuo
        UeAINwUz9E247qWz2LOGmxn2jnELw62eX/OnV3FbFbCjR0Pibg/q5H9xDvs21se4g2G/50/ZWFdxZ6vVOv8XPfblNzXuijbauNsLtpEd
        uchGOGDHyiSBg5ZLcciu9XtLooPDQuOeyGad0sngSCtfw70M98n/LljG065wmXlXZbu/wAOePNIqhTTPNB70HRtR6cEQnl+vJmKIo36N
        4j/E8LBo4xFP7pK2Xo9KKkKD4ZgpQs2vr+G4LDNfmMOsyfwxhsc3M5/HieszdzSeiDbk7mCvs/n88VuzGvzexJOSKv0Uw5zG09Gm5jNG
        81mG+Ynmc5Vmbw7PG80mwwukKf+t9qJV20O+tUqvXn1x0mi9xHBK4+WJ1mmjdYbh7ETrnNxPR3Xeswlx+FY4cvEKnceFCdcy3EWGSxPu
        Vcsxr3Wm+WepSMBrEVXzdU9ul/QPv+FJd5N/0/BvMQSWX8Xbln5HHuQa70bSHvZ7DO2SfH8LGRryAwZekZElY3mIyE5FCoaFkuxuIaUh
        ewwfVuRlSybyAJH9ikwZBiU53ELCkBmDqkhtyVweJvJKRS4yLIkCI9tGxxuzJxqz+KjAx2XjcvpFcVXOWGtk7guFoo1PvAKfenbxCk9y
        8lmWx4Idpgm6WUhuCitxGEZ5j7o8DUNXJb2Ymu+aqblfG+Mzhs/zAqueXJbzckVeo+UpY1hjGJNh3RjOWoNj9j7GBsMXZPjSGC5Zw5Q/
        bQxfMXydi1xpfFO2XUiNjm+DndW9Y69KfGfnYV9obi+j79v4wTYY1zpT+LHATzadcCHhXYWfC/wS7DPmJBksqrCTDykDrkWY8EgkCr+u
        qzxq/A05m8cR""",
    "1.3.5, numpy 1.19.5, protocol 4": """
        eNqlU8Fu00AQtR0bSEEVIEGpQIgDh5RDzhyQIlEEAgsj9V5Za3udtbDXZr1WGolKcEhppb11+C8+gU/gxBVm1qmaQE5gy96xd/zem/Gb
        T/7XnwPHHuZWw2TG2nFaKz7OFas4mOELptlLG5/D3mc4hpHx42qqwDxcTS+k5kqysh1XTLIpVy2YG8/LOn3/tn/Gz0dmmHcy1XVd4u7V
        hildsBI3zIPNUAl9j6lDyWexfcDkBRzASGzvHYPxZVZUEHptpCExd2RXNfMeo+pKxFaKzVFGrHhay1arLtXEFthEVICcNuUcQmcB+24C
        Xwg8dPH0TkDsmCDT84ZKN17+FM5O+/2BcZ9BFEVvfuFhb6GDCs72b/ad/D7p1x8TIGHXkq5AORIrCdqySAmPGEKX4E7wEtfF9mVd4vay
        JHFX7JIycX9d1yPjFStqxOONWtxehOMtV9IiniDt4H+I36214eMfbZgQ9SH+aZdhy5It4D2pQxD/SBoSYPRq8q0vY4k4CP1LRA3EeW/d
        RRk/4ugh1qKNt2Ky0Gt6h80XuQkuYmvoDE0Of/P7iyW7CT50XM3p/xE4GFdiXBVHPLMVohNpQqLOlifM7iYliskpSTmgdYVezCLE1TgN
        aEPjt7pu0NMUcAxci8nphoOHbsRxILkX8xlXXDOr/xAlMa1x8nA0rsR5yaY23GFlWc/aOOsaNB/TPC5ZwnEET9suGf8GpBGG+g==""",
    "1.5.3, numpy 1.25.2, protocol 5": """
        eNp1U91q1UAQPjk//rRFa8Fqb3pdbw6ICILCASuKBiMcvC3LJtmchCabuLuhLVjQi9YW5s7Rh/BpfAQfwTfQmSSlOf7sxc5ks/N938zO
        fJh8+TYaNAtuVVLH0k6j0qhpYmShEK4/k04+b/zPeO8jHuMOjEWxMAjb/euZdspomdtpIbVcKGMR1p7mZbT/uv2m8B3Y7EJEnoX2Mgbh
        pqh1lUX7uRIhB9Ft2NB1UR218OQqk0UIqyIxZRHWSdJCfl0f9NePWWt/zhAmTTzZ2B1VLB+GySM8P/uEc9zxR+A9wSAIXv2i1Wz+wGHo
        e/7wFMHbRUfX4FpYZ7nLNEmc2DyLGIav+B6j+EPe09X0xqUOr7PDzmK6AcOsx5tu/o813WLOdJvgR8sEcLtXi6ImRdIYSbmtCaOiUltn
        6siRtnQdrlKFm5+kdHCCu16ILbPXsZCeN0t1eP9HHWak6HyPnsuTVLNwBRUdkKwBQyzlfT99wBzpw2WGxxwdvJh9b0vQhY/8cT/cIVPc
        XW6iWB0qOw2lpdZbEVodiJd8xpnNYXLhN00YU2Pi3wrGJx0/TN7VyvD7WwanN9XkF9mhipuEYKy5q4P6lHN5C1v/UmKkXrCUOdsefRoF
        hOukcVRkGFtXVpQWO4ocr8FUvNGwUPfRHLHci5kShXKy0b9HkqRzNC3HCFdEkstF496ReV4eWBHXFXWddErkMlQ0KWe2Dqe/AdN+ZrI=""",
    "2.3.3, numpy 1.25.2, protocol 5": """
        eNp1VEtv1DAQTvZB6UNlqaC0HMp1uewNiQPSqrQCQUSQyg1RLCfxrqPmVdtRuxKVyqGlleaG6e/iwA/gJ/APYCbJ0l1EfciMnXl8/mbG
        p91vPzpOteBuwbOI60GYKzEYKZ4KC4u73PAXlf7VPv5sT2wfOiwdKwtbs+ZxZoTKeKIHKc/4WChtYeV5kocHb+o9uvdhvXFhSRzoax8L
        d1iZFXF4kAgWkBNaw1pWpsWkDo+qUHFoYZmNVJ4G5WhUh7zqObPr57CWv4YWupU/yshMCoIPrdFTe3nxxe7ZvtcG95n1ff/1b1zVx3OM
        DTzXa51bcHesQTO4HZRxYuIMIXZ1EocUhkw8l6J4LfrKZbl6jcNtZKuRVq5BK57JK9dvyio3KafcwvDt+QTwaJZrrhSf6IE2Ks7GDHf5
        kYXeNsl31dk2GVzXa5EVnFVOyF8xqRwGWAELq0wJbTBm8xsJlU9glfhio1wxnsRcE3MrCVdjweqU9qyC5jmes2/7PnosFhP2tyZXG878
        mlLSnlJC/nJ4Nd3zYKk6EvvWN5UGt1hdNHh488XxMvV1d6f1XWguZ+HeXKOlsdaEG1r+NtqdY4YyQJ4d5H2e5/szPZeWWPmGthUkKswz
        zFyGBkPIHixggoY0zzmzO25g6wq7TTWx7m/n+u3TP/02xMpfEoMvh99rJgSeIK6215nFZSwawcb8uEXiWOhBwDWStMQyccRe0Rlhy6E7
        1atxjXCErXwvPxBO+XGKsoObiPJD97AUiiZFU3Ds/gz1ND4WkSVE0Mlo/v2SiJOHsPk/JIpnY4KyR3ImvTz1Ma7hyiBN0MFuK/BapAhU
        3CqmoA8+K1hHfHEI7vT1YakwvMK/j5C4MfiunFB7jBI+rtQHPEnyI82issD55EawhAcC35QLXQaDP0591G0=""",
    "3.0.6, numpy 2.4.6, protocol 3": """
        eNptVFt720QQle2kJdsCLreWewsU1ALmDgEKJnXa0IqqsOUiLkas5LVXRJZ1pFUTQ01bQHbCr+Mn8BP6yBvs6pIQQA+ab3dn5pwzuzO3
        Wn7MogFLyTqT7GLCxpzAOHMbjRmaprNkGIY7HiWo3Tr+JOGdIJI8iViYdsYsYiOepOR8OPE3r5QrgiWz9nfDwEv3A4ibRXHgb4bc9XQE
        wXLtyZKETVOyliSTrWsyCaLRmt4hOKToHJ7hLtNZ0XRi5hauWPHjKdPeHYVB3ISnUpErDwmIeeBYTmPuDieJy8JAqcUR56hKFrJkxN20
        QMPRHHdT3GM1LcMy+rjXtA9kiKeulw2HWl7b97IglEGUEm8qeYV4rHfCqL5GZVuVxX057qd4IMeDFA+JtjjWazGP4HiOExQP53iE4lHe
        x2O2xOM5nqB40jmkxQ40b5ysL6msy7reJDjlHFYuFUU8tXHzzxJsjqcpnsm8fZJpGPgq4LQS1rAaCzxL8ZzVXMCkOCOW/Sgbx9OOW1zt
        OFMhpSBVUX8SqeJkviQ4W7oRxaOU+7xl5Hih1/Dw4gIdipdMndxqzvFy5Tooeb7iNBWr4Spe3d1Z4DWK102r5egSncMbtm1f/kt9xc8y
        JN70dnvtUsgf3dLe6eItiVVPnNb5tYC3Kd7RAt6lOCeWxVlRkHlPKCbvU3T3mHwgSvBgFWsa/DxFT4GL/8Kua9j62pr1tV2QuKhhm1ZL
        w25QfKhhL1Fc3oe1NOxHFFf2YO0K9uoqrmrYjyk+qTXfAD0I3pW45u328alpb3R/L4G5xGcat2UtadzPKb7QuA7FlxJf9fG1+a9+HPBt
        nnY8lnLiRnzLvaR3CL6pH0617s/wbdnVA9XucIXure9mYKZYEcQU/9MVXg6fYqCIFF3BTbt4vmb91JcrSyp7pLLtuobDHCMKkSOg+L6I
        bSPjyTTV1KNxsM0H2MwRUoxzRBQT1Qex6gPkSChScVKcEv983JIiy7xCRKTGFa7b2RxbFNtiTy1l0YhXkqcz/GCK67ajiaaSJRI/WkYR
        ruZFjBtWs1rwGDOroZL9RHGTz3GL4nY5AdU7xs/F9NFlG+opiV/KaTTmkhW1/LWPvMBgUiYp5jMsyhYehmyUYmeGXee4Pg7DyVbqDrJY
        NSWT3A2Zx8MUv+2kmdf5G1luwec=""",
}


def plain():
    return pd.DataFrame(PLAIN | {"mixed": pd.Series(PLAIN["mixed"], dtype=object)})


def everything(names, file):
    return {name: name for name in names}


def read(path):
    return {name: column.to_pylist() for name, column in read_pickle(path, everything).columns.items()}


def dumped(tmp_path, value, protocol=5):
    path = tmp_path / "t.pkl"
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
    return path


def fails(path, *parts, choose=everything):
    with pytest.raises(DataError) as caught:
        read_pickle(path, choose)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message, message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_equals_the_frame(tmp_path, protocol):
    frame = plain()
    assert read(dumped(tmp_path, frame, protocol)) == PLAIN
    assert read(dumped(tmp_path, frame.astype({"query": object}), protocol)) == PLAIN
    frame = frame.assign(**{"again": [1.0, 2.0, 3.0]}).set_index(pd.Index(["x", "y", "z"]))  # one more block
    assert read(dumped(tmp_path, frame, protocol))["again"] == [1.0, 2.0, 3.0]
    part = frame[["score", "n", "query"]].iloc[::2]
    assert read(dumped(tmp_path, part, protocol)) == {"score": [0.5, 0.0], "n": [1, -3], "query": ["a", "['é']"]}


@pytest.mark.parametrize("version", WRITTEN_BY)
def test_other_versions(tmp_path, version):
    path = dumped(tmp_path, zlib.decompress(base64.b64decode(WRITTEN_BY[version])))
    assert read(path) == OLD_FRAME


@pytest.mark.parametrize("protocol", [2, 5])
def test_kinds_of_columns(tmp_path, protocol):
    """Each column comes back as pandas itself gives it."""
    frame = pd.DataFrame(
        {
            "f4": np.array([0.1, 2], np.float32),
            "i2": np.array([-1, 2], np.int16),
            "big": np.array([1.5, 2.5], ">f8"),
            "u1": np.array([1, 255], np.uint8),
            "text": pd.array(["a", None], "string"),
            "python": pd.array(["a", None], pd.StringDtype("python")),
            "float": pd.array([0.5, None], "Float64"),
            "int": pd.array([None, 3], "Int64"),
            "scalars": pd.Series([np.float64(0.5), np.int64(2)], dtype=object),
            "words": pd.Series([np.str_("é"), pd.NA], dtype=object),
        }
    )
    expected = {name: [None if value is pd.NA else value for value in column] for name, column in frame.items()}
    assert read(dumped(tmp_path, frame, protocol)) == expected


def test_fortran_order_and_old_blocks(tmp_path):
    values = np.arange(6.0).reshape(2, 3)
    for array in (values, np.asfortranarray(values), values[:, ::-1]):
        for protocol in (2, 5):
            frame = pd.DataFrame(array, columns=list("abc"))
            assert read(dumped(tmp_path, frame, protocol)) == {n: list(frame[n]) for n in "abc"}


def test_only_the_chosen_columns(tmp_path):
    frame = pd.DataFrame({"query": ["a", "b"], "odd": [{1}, {2}]})
    source = read_pickle(dumped(tmp_path, frame), lambda names, file: {"text": "query"})
    assert source.columns["text"].to_pylist() == ["a", "b"] and source.original == {"text": "query"}
    path = dumped(tmp_path, pd.DataFrame({"query": ["a"], "other": [{"a": 1j}]}))
    fails(path, "builtins.complex")
    path = dumped(tmp_path, pd.DataFrame({"query": ["a"], "other": [1j]}))
    assert read_pickle(path, lambda names, file: {"query": "query"}).columns["query"].to_pylist() == ["a"]
    fails(path, "column 'other'", "complex128", "`to_parquet`")


def test_gzip_and_suffix(tmp_path):
    path = tmp_path / "t.pkl.gz"
    path.write_bytes(gzip.compress(pickle.dumps(plain())))
    assert read(path) == PLAIN
    path.write_bytes(path.read_bytes()[:-20])
    fails(path, "cannot be read", "whole")
    (tmp_path / "t.npz").write_bytes(b"x")
    fails(tmp_path / "t.npz", "unknown suffix", ".pkl")
    fails(tmp_path / "none.pkl", "does not exist")


def test_needs_no_pandas(tmp_path, monkeypatch):
    path = dumped(tmp_path, plain())
    monkeypatch.setitem(sys.modules, "pandas", None)  # an import raises
    assert read(path) == PLAIN


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def global_of(module, name, protocol=4):
    """Opcodes that put a global on the stack, however it is spelled."""
    if protocol < 4:
        return f"c{module}\n{name}\n".encode()
    texts = (b"\x8c" + bytes([len(text.encode())]) + text.encode() for text in (module, name))
    return b"".join(texts) + b"\x93"


HOSTILE = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("__builtin__", "eval"),
    ("numpy.f2py.crackfortran", "myeval"),
    ("numpy.f2py.crackfortran", "getlincoef"),
    ("numpy.testing._private.utils", "runstring"),
    ("numpy", "load"),
    ("pandas", "read_pickle"),
    ("pandas", "eval"),
    ("pandas", "io.common.os.system"),
    ("pandas.core.frame", "DataFrame.eval"),
    ("pandas.core.frame", "DataFrame.__init__.__globals__"),
    ("numpy", "ndarray.tofile"),
    ("builtins", "bytearray.__class__"),
    ("functools", "partial.__class__"),
    ("pyarrow.lib", "_restore_array.__globals__"),
    ("jrouter.io.pickles", "os.system"),
    ("copyreg", "_reconstructor"),
    ("pandas.core.frame ", "DataFrame"),
]


@pytest.mark.parametrize(("module", "name"), HOSTILE)
@pytest.mark.parametrize("protocol", [2, 4])
def test_refuses_by_name(tmp_path, module, name, protocol):
    touched = tmp_path / "touched"
    argument = f"touch {touched}".encode()
    call = b"X" + len(argument).to_bytes(4, "little") + argument + b"\x85R."
    path = dumped(tmp_path, b"\x80" + bytes([protocol]) + global_of(module, name, protocol) + call)
    fails(path, f"asks for {module}.{name},", "nothing was run", "`to_parquet`")
    assert not touched.exists()


def test_refuses_code_in_a_table(tmp_path):
    """Also where the table around it is whole, and for what Python itself would run at once."""
    touched = tmp_path / "touched"
    bad = Calls(os.system, f"touch {touched}")
    frame = pd.DataFrame({"query": ["a", bad], "score": [0.0, 1.0]}, dtype=object)
    for protocol in (2, 3, 4, 5):
        path = dumped(tmp_path, frame, protocol)
        fails(path, f"{os.system.__module__}.system", choose=lambda names, file: {"score": "score"})
        assert not touched.exists()
    attrs = frame.assign(query="a")
    attrs.__dict__["_attrs"] = {"source": Calls(eval, f"__import__('pathlib').Path({str(touched)!r}).touch()")}
    fails(dumped(tmp_path, attrs), "builtins.eval")
    assert not touched.exists()
    pickle.loads(path.read_bytes())  # the file does run where nothing stops it
    assert touched.exists()


def test_allowed_names_call_nothing(tmp_path):
    """What is allowed is inert: it neither makes arrays nor sets attributes of anything that outlives the reading."""
    huge = b"\x80\x04" + global_of("builtins", "bytearray") + b"\x8a\x06" + b"\xff" * 5 + b"\x00\x85R."
    fails(dumped(tmp_path, huge), "no pickled DataFrame", "bytearray")  # 2^40 bytes, were it called
    on_class = b"\x80\x04" + global_of("pandas", "DataFrame") + b"N}\x8c\x01xK\x01s\x86b."  # sets DataFrame.x = 1
    fails(dumped(tmp_path, on_class), "no pickle of a table")
    assert not hasattr(pd.DataFrame, "x")
    fails(dumped(tmp_path, b"\x80\x04" + global_of("pandas", "NA") + b"."), "no pickled DataFrame", "a type")
    assert not {name for _, name in ALLOWED} & {"eval", "exec", "getattr", "setattr", "system", "open", "load", "loads"}


def test_arrays_that_lie(tmp_path):
    """Types with fields, offsets outside of the text, and blocks that are not the table's."""
    rows = np.zeros(2, [("a", "O"), ("b", "f8")])
    frame = pd.DataFrame({"query": ["a", "b"], "score": [0.0, 1.0]})
    good = pickle.dumps(frame, 2)
    fields = Calls(pd.DataFrame, rows)
    fails(dumped(tmp_path, fields), "no pickled DataFrame")
    as_objects = good.replace(b"X\x02\x00\x00\x00f8", b"X\x02\x00\x00\x00O8")
    assert as_objects != good
    fails(dumped(tmp_path, as_objects), "column 'score'", "its type is object")
    text = pickle.dumps(pd.DataFrame({"query": pd.array(["abc", "d"], "string[pyarrow]")}), 5)
    offsets = np.array([0, 3, 4], np.int64).tobytes()
    assert offsets in text
    for wrong in ([0, 3, 4000], [0, 5000, 4], [-8, 3, 4]):
        fails(dumped(tmp_path, text.replace(offsets, np.array(wrong, np.int64).tobytes())), "column 'query'")
    fails(dumped(tmp_path, frame.assign(time=pd.to_datetime(["2024-01-01"] * 2))), "pandas")


def test_what_is_no_table(tmp_path):
    fails(dumped(tmp_path, [1, 2]), "it holds a list")
    fails(dumped(tmp_path, {"a": [1]}), "it holds a dict")
    fails(dumped(tmp_path, pd.Series([1.0])), "pandas")
    fails(dumped(tmp_path, pd.DataFrame({"a": pd.Categorical(["x"])})), "Categorical")
    fails(dumped(tmp_path, pd.DataFrame({"a": []})), "0 rows")
    fails(dumped(tmp_path, pd.DataFrame([[1.0, 2.0]], columns=["a", "a"])), "column 'a'", "2 times")
    fails(dumped(tmp_path, pd.DataFrame({"a": ["x", 1]}, dtype=object)), "row 1, column 'a'", "one type")
    fails(dumped(tmp_path, b"query,score\n"), "whole")
    fails(dumped(tmp_path, b"PAR1"), "whole")
    fails(dumped(tmp_path, b"\x80\x04P1\n."), "holds PERSID")  # an object kept elsewhere
    fails(dumped(tmp_path, b"\x80\x04\x82\x01."), "holds EXT1", "nothing was run")  # a name from copyreg's registry
    fails(dumped(tmp_path, b"\x80\x09."), "unsupported pickle protocol")


def test_what_never_ends(tmp_path):
    """Lists in themselves, buffers of buffers of buffers, and a range of labels as long as there are integers."""
    column: list = ["a"]
    column.append(column)
    fails(dumped(tmp_path, pd.DataFrame({"query": pd.Series([column], dtype=object)})), "column 'query'", "a list")
    text = pickle.dumps(pd.DataFrame({"query": pd.array(["abc"], "string[pyarrow]")}), 4)
    buffer = b"C\x03abc\x94"
    assert buffer in text and len(text) < 1 << 16
    for depth in (10, 5000):
        nested = global_of("pyarrow.lib", "py_buffer") * depth + buffer + b"\x85R" * depth
        deep = text.replace(buffer, nested)
        path = dumped(tmp_path, deep[:2] + deep[11:])  # without the frame, which says how long it is
        if depth == 10:
            assert read(path) == {"query": ["abc"]}
        else:
            fails(path, "column 'query'", "recursion")
    memo = b"\x80\x04]r\xff\xff\xff\x7f."  # the memo would take 32 GiB
    fails(dumped(tmp_path, memo), "LONG_BINPUT 2147483647")
    fails(dumped(tmp_path, b"\x80\x05\x96" + b"\xff" * 5 + b"\x00" * 3 + b"abc."), "whole")
    labels = pickle.dumps(pd.DataFrame([[0.5, 1.0]]), 2)
    stop = b"stopq"
    place = labels.index(stop) + len(stop) + 1
    assert labels[place : place + 2] == b"K\x02"
    huge = labels[:place] + b"\x8a\x07" + b"\xff" * 6 + b"\x00" + labels[place + 2 :]
    fails(dumped(tmp_path, huge), "it has 281474976710655 columns")


def test_cut_short(tmp_path):
    whole = pickle.dumps(plain(), 4)
    for length in range(0, len(whole), 37):
        fails(dumped(tmp_path, whole[:length]), "0 bytes" if length == 0 else "whole")


GOOD = {protocol: pickle.dumps(plain(), protocol) for protocol in (2, 5)}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([2, 5]), st.data())
def test_a_changed_file_is_read_or_refused(tmp_path, protocol, data):
    """Whatever bytes change: a table, or an error of ours, and no opcode is needed that runs something."""
    content = bytearray(GOOD[protocol])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path = dumped(tmp_path, bytes(content))
    try:
        assert read_pickle(path, everything).rows >= 1
    except DataError as problem:
        assert str(problem).startswith(str(path))


def test_fixtures_are_what_they_say():
    opcodes = {name.split(", ")[0]: zlib.decompress(base64.b64decode(text)) for name, text in WRITTEN_BY.items()}
    for version, content in opcodes.items():
        named = {str(argument) for op, argument, _ in pickletools.genops(io.BytesIO(content)) if argument is not None}
        assert any("BlockManager" in name for name in named), version
