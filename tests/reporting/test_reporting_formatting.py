from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from withstand.core.writing import epsilon_text, norm_text, percent, with_signs
from withstand.reporting import formatting
from withstand.results.measurements import Measurement
from withstand.results.shares import Share


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(0.0, "0"), (0.1, "0.1"), (0.2, "0.2"), (8 / 255, "8/255"), (16 / 255, "16/255"), (0.12345, "0.1235")],
)
def test_epsilon_text_is_short(epsilon: float, text: str) -> None:
    assert epsilon_text(epsilon) == text


@pytest.mark.parametrize(
    ("text", "whole"), [("It is so", "It is so."), ("It is. ", "It is."), ("Is it?", "Is it?"), ("", "")]
)
def test_sentence_ends_once(text: str, whole: str) -> None:
    assert formatting.sentence(text) == whole


@given(st.integers(min_value=0, max_value=255))
def test_epsilon_text_has_the_value_of_pixel_levels(level: int) -> None:
    numerator, _, denominator = epsilon_text(level / 255).partition("/")
    assert float(numerator) / float(denominator or 1) == pytest.approx(level / 255, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0008, "0.8 ms"),
        (12.34, "12.3 s"),
        (59.96, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3599.7, "1 h 0 min"),
        (7440, "2 h 4 min"),
    ],
)
def test_duration_has_two_units(seconds: float, text: str) -> None:
    assert plain(formatting.duration(seconds)) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(5, "5 bytes"), (2048, "2.0 KiB"), (123_456_789, "117.7 MiB"), (3 * 2**30, "3.0 GiB")],
)
def test_memory_has_its_unit(num_bytes: int, text: str) -> None:
    assert plain(formatting.memory(num_bytes)) == text


def test_percent_has_one_decimal() -> None:
    assert [plain(percent(share)) for share in (0.98034, 0.0, 1.0)] == ["98.0 %", "0.0 %", "100.0 %"]


def test_as_published_has_the_same_digits() -> None:
    assert plain(formatting.as_published(0.94)) == "94 %"
    assert plain(formatting.as_published(0.9021)) == "90.21 %"


def test_share_in_words() -> None:
    share = Share(0.98, 0.9712, 0.9873, 980, 1000)
    assert plain(formatting.interval(share)) == "97.1\N{EN DASH}98.7 %"
    assert plain(formatting.share_text(share)) == "98.0 %"
    assert formatting.counted(share) == "980 of 1,000"
    bare = Measurement("mean radius", value=0.5)
    assert (formatting.interval(bare), formatting.counted(bare)) == ("", "")


@pytest.mark.parametrize(("norm", "sign"), [("inf", "ℓ∞"), ("2", "ℓ₂"), ("1", "ℓ₁"), ("none", "none")])
def test_norm_text_is_a_sign(norm: str, sign: str) -> None:
    assert norm_text(norm) == sign


def test_dataset_note_is_of_inexact_data_sets_alone() -> None:
    assert "not bit-exact CIFAR-10" in (formatting.dataset_note("cifar10-jpeg") or "")
    assert formatting.dataset_note("cifar10") is None
    assert formatting.dataset_title("cifar10-jpeg") == "cifar10-jpeg"
    assert formatting.dataset_title("of my own") == "of my own"


def test_norms_have_signs_where_they_stand_alone_and_in_names_of_attacks() -> None:
    write = with_signs(["pgd-20-linf", "pgd-20", "certified-l2"])
    assert write("PGD, linf, 20 steps; l2.") == "PGD, ℓ∞, 20 steps; ℓ₂."
    assert (
        write("Worst of pgd-20-linf, certified-l2, an example.")
        == "Worst of pgd-20-ℓ∞, certified-ℓ₂, an example."
    )
    assert plain(write("broke 3 at epsilon 0.3")) == "broke 3 at ε = 0.3"


def test_names_that_people_gave_keep_their_spelling() -> None:
    text = "loss-gradient-l2-0.1, runs/linf/report.html, --norm=linf, pgd-20-linf-more, all2"
    assert with_signs(["pgd-20-linf"])(text) == text
