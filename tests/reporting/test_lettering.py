"""Names in any script are drawn where a font has their letters, and stood in for where none has."""

import shutil

import numpy as np
import pytest

from pipeline.inference import drawing
from pipeline.reporting import lettering


@pytest.fixture(autouse=True)
def forgotten():
    """No font and no warning of another test is remembered."""

    def forget():
        for cached in (lettering.font, lettering._installed, lettering._warn):
            cached.cache_clear()

    forget()
    yield
    forget()


def test_a_name_without_a_font_is_stood_in_for_and_said_once(monkeypatch, caplog):
    monkeypatch.setattr(lettering.font_manager, "findSystemFonts", list)
    assert lettering.legible("vase, ваза", "class 1") == "vase, ваза"
    assert [lettering.legible(name, "class 2") for name in ("瓶", "椅子")] == ["class 2", "class 2"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_font_of_the_machine_is_taken_where_it_has_the_letters(monkeypatch, tmp_path):
    """Matplotlib's own mathematical font stands for that of a script: DejaVu Sans has no private letters."""
    letters = chr(0xE000)
    other = lettering.PLAIN.with_name("STIXNonUni.ttf")
    assert other.exists()
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    installed = [str(tmp_path / "broken.ttf"), str(shutil.copy(other, tmp_path / "script.ttf"))]
    monkeypatch.setattr(lettering.font_manager, "findSystemFonts", lambda: installed)
    assert lettering.legible(letters, "class 1") == letters
    assert lettering.font(letters).name == "script.ttf"
    drawn = drawing.overlay(np.zeros((60, 80, 3), np.uint8), [(0, np.ones((60, 80), bool), letters)])
    assert drawn.any()
