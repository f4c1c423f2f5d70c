"""The colours of a page: text and series stand out from their ground."""

import pytest

from salsa_cli.pages import styles


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [styles.LIGHT, styles.DARK])
def test_colours_stand_out_from_the_ground(scheme: dict[str, str]) -> None:
    for ground in ("ground", "raised"):
        for name in ("text", "muted", "warning", "accent"):
            assert contrast(scheme[name], scheme[ground]) >= 4.5, (name, ground)
    for index in range(7):
        assert contrast(scheme[f"c{index}"], scheme["ground"]) >= 3, index


def test_contrast_by_hand() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)


def test_both_schemes_name_the_same_colours() -> None:
    assert styles.LIGHT.keys() == styles.DARK.keys()
