import io
import sys

import pytest

from experiments import errors
from experiments.errors import InputError
from experiments.output import Console


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_no_character_is_too_much_for_a_locale(monkeypatch, stream):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, stream, io.TextIOWrapper(raw, "ascii"))
    console = Console()
    sentence = "9.1 ± 0.2 °F [bold] :smile: ção \udcff"
    console.print(sentence) if stream == "stdout" else errors.say(sentence)
    getattr(sys, stream).flush()
    assert raw.getvalue() == b"9.1 +- 0.2 deg F [bold] :smile: ??o ?\n"


def test_a_file_takes_lines_of_any_length(capsys):
    Console().print("word " * 100)
    assert capsys.readouterr().out.count("\n") == 1


class Closed(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_an_output_that_takes_nothing_is_named(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(OSError, match=r"^cannot write to the standard output: Broken pipe$"):
        Console().print("x")


def test_a_sentence_needs_no_stderr(monkeypatch):
    tried = []

    class Noted(Closed):
        def write(self, text):
            tried.append(text)
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Noted())
    errors.say("x")
    assert "x" in "".join(tried)


def test_an_error_is_one_line_of_fewer_than_400_characters():
    assert str(InputError("got a\n  b")) == "got a b"
    assert len(str(InputError("got " + "long " * 100))) <= 400
