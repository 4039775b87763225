"""Nothing of a stranger's text acts where people read it."""

import logging
import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.utils.console import reporting_errors
from dilt_hf.utils.errors import DataError
from dilt_hf.utils.text import markdown_text, visible

EVIL = "\x1b[31mred \x9b2J \u202eevil \u2066x \r\x07 \ud800"


@given(st.text())
def test_only_what_shows_is_left(text):
    shown = visible(text)
    kinds = {unicodedata.category(c) for c in shown} - {"Cf", "Cn", "Co"}
    assert not kinds & {"Cs", "Zl", "Zp"}
    assert all(c in "\n\t" for c in shown if unicodedata.category(c) == "Cc")
    assert not any(unicodedata.bidirectional(c) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI"} for c in shown)
    assert visible(shown) == shown
    shown.encode()


def test_letters_of_all_scripts_stay():
    for name in ("Größe", "кошка", "猫", "گربه", "👩‍👧", "naïve – “x”"):
        assert visible(name) == name


def test_markdown_shows_what_is_written():
    shown = markdown_text("![x](http://x) **b** <img src=x> `a` @user #1 | row\n# head")
    assert shown == r"\!\[x\]\(http://x\) \*\*b\*\* &lt;img src=x&gt; \`a\` @user \#1 \| row \# head"


def test_errors_and_warnings_are_escaped(capsys, monkeypatch):
    assert "\x1b" not in str(DataError(EVIL))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(SystemExit) as stop, reporting_errors():  # noqa: PT012 (both lines are the program)
        logging.getLogger("dilt_hf").warning(EVIL)
        raise OSError(EVIL)
    printed = capsys.readouterr().err + str(stop.value)
    assert "red" in printed
    assert not set("\x1b\x9b\u202e\u2066\r\x07") & set(printed)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("huggingface_hub.model_info('no such id')", "Repo id must use alphanumeric chars"),
        ("huggingface_hub.create_repo('me/x', token='hf_x')", "the Hub does not answer ("),
    ],
)
def test_what_the_client_of_the_hub_raises_is_one_sentence(call, said):
    program = f"import huggingface_hub\n{PROGRAM.format(call)}"
    nowhere = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=nowhere)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1


PROGRAM = "from dilt_hf.utils.console import reporting_errors\nwith reporting_errors():\n    {}"


def test_a_reader_that_goes_away_ends_the_program_quietly():
    program = PROGRAM.format("for n in range(10**6): print('line', n)")
    done = subprocess.run(["bash", "-c", f'{sys.executable} -c "{program}" | head -1'], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("line 0\n", "")


def test_a_terminal_that_lacks_a_character_gets_its_escape():
    program = PROGRAM.format("print('θ0 – 猫')")
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONIOENCODING": "latin-1"}, capture_output=True, check=True
    )
    assert done.stdout.decode("latin-1") == "\\u03b80 \\u2013 \\u732b\n"
