"""The pages of the catalogue say what the data say."""

from scripts import catalogue_pages


def test_the_pages_of_the_catalogue_are_those_of_its_data() -> None:
    assert catalogue_pages.MODELS.read_text() == catalogue_pages.models_page(), "make reference"
    assert catalogue_pages.INSTANCE_TYPES.read_text() == catalogue_pages.instance_types_page(), "make reference"
    assert catalogue_pages.ESTIMATES.read_text() == catalogue_pages.estimates_page(), "make reference"
