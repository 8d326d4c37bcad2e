"""docs/recipes.md is generated and current."""

from pipeline.reporting import recipes


def test_the_document_is_what_the_module_writes():
    assert recipes.DOCUMENT.read_text() == recipes.document(), "run `python -m pipeline.reporting.recipes`"
