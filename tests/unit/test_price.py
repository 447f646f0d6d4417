"""What a call costs, in whole micro-dollars."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from safelight.domain.image import Dimensions, InputImage, OutputImage, Usage
from safelight.domain.job import Production
from safelight.domain.price import ImagePrice, Price, TokenPrices, cost_micros, expected_micros
from tests.making import image, production, request

TOKENS = TokenPrices(text_in=Decimal(5), image_in=Decimal(8), image_out=Decimal(30))
BY_TOKENS = Price(per_million_tokens=TOKENS)
SENT = (InputImage(image=image("in")),)
amounts = st.decimals(min_value=0, max_value=1000, places=9)
counts = st.integers(min_value=0, max_value=10**9)


def row(usd: str, size: str | None = None, quality: str | None = None) -> ImagePrice:
    return ImagePrice(usd=Decimal(usd), size=size, quality=quality)


def pictures(count: int = 1, width: int = 1024, height: int = 1024, **members: Any) -> Production:
    stored = structs.replace(image("o"), dimensions=Dimensions(width=width, height=height))
    return production(0, outputs=(OutputImage(image=stored),) * count, **members)


def usage(**members: Any) -> Usage:
    return Usage(
        **{
            "input_tokens": 14,
            "input_tokens_details": {"text_tokens": 14, "image_tokens": 0},
            "output_tokens": 439,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": 439},
            "total_tokens": 453,
            **members,
        }
    )


class TestTokens:
    def test_each_kind_has_its_price(self) -> None:
        said = usage(input_tokens=214, input_tokens_details={"text_tokens": 14, "image_tokens": 200})
        # 14 x 5 + 200 x 8 + 439 x 30 micro-dollars
        assert cost_micros(BY_TOKENS, request(images=SENT), pictures(usage=said)) == 70 + 1600 + 13_170

    def test_a_plain_output_count_is_pictures(self) -> None:
        said = usage(output_tokens_details=None)
        assert cost_micros(BY_TOKENS, request(), pictures(usage=said)) == 70 + 13_170

    def test_a_plain_input_count_is_text_where_no_picture_was_sent(self) -> None:
        said = usage(input_tokens_details=None)
        assert cost_micros(BY_TOKENS, request(), pictures(usage=said)) == 70 + 13_170
        assert cost_micros(BY_TOKENS, request(images=SENT), pictures(usage=said)) is None

    def test_what_is_no_picture_is_billed_as_text(self) -> None:
        price = Price(per_million_tokens=replace(TOKENS, text_out=Decimal(10)))
        said = usage(output_tokens=500, output_tokens_details={"image_tokens": 439})
        assert cost_micros(price, request(), pictures(usage=said)) == 70 + 13_170 + 610
        assert cost_micros(BY_TOKENS, request(), pictures(usage=said)) is None

    @pytest.mark.parametrize(
        "said",
        [
            None,
            Usage(total_tokens=453),
            usage(output_tokens=None, output_tokens_details=None),
            usage(input_tokens_details={"cached_tokens": 3}),
            usage(input_tokens_details={"text_tokens": 14}),
        ],
    )
    def test_where_usage_says_too_little_the_pictures_count(self, said: Usage | None) -> None:
        price = replace(BY_TOKENS, per_image=(row("0.053"),))
        assert cost_micros(price, request(), pictures(2, usage=said)) == 106_000
        assert cost_micros(BY_TOKENS, request(), pictures(2, usage=said)) is None

    def test_usage_wins_over_the_pictures(self) -> None:
        price = replace(BY_TOKENS, per_image=(row("9"),))
        assert cost_micros(price, request(), pictures(usage=usage())) == 70 + 13_170

    @given(text_in=counts, image_in=counts, image_out=counts, usd=st.tuples(amounts, amounts, amounts))
    def test_the_sum_is_exact_and_rounded_once(
        self, text_in: int, image_in: int, image_out: int, usd: tuple[Decimal, Decimal, Decimal]
    ) -> None:
        price = Price(per_million_tokens=TokenPrices(text_in=usd[0], image_in=usd[1], image_out=usd[2]))
        said = Usage(
            input_tokens_details={"text_tokens": text_in, "image_tokens": image_in},
            output_tokens_details={"image_tokens": image_out},
        )
        exact = sum(Fraction(a) * n for a, n in zip(usd, (text_in, image_in, image_out), strict=True))
        cost = cost_micros(price, request(), pictures(usage=said))
        assert cost is not None
        assert -Fraction(1, 2) < cost - exact <= Fraction(1, 2)


class TestPictures:
    PRICE = Price(per_image=(row("0.006", "1024x1024", "low"), row("0.04", "2K"), row("0.03", "16:9"), row("0.053")))

    @pytest.mark.parametrize(
        ("asked", "came", "expected"),
        [
            ({"quality": "low"}, {}, 6_000),
            ({"quality": "high"}, {}, 53_000),
            ({"quality": "auto"}, {"quality": "low"}, 6_000),
            ({"quality": "low"}, {"quality": "high"}, 53_000),
            ({"quality": "low"}, {"width": 512}, 53_000),
            ({"quality": "low"}, {"width": 512, "size": "1024x1024"}, 6_000),
            ({"quality": "low", "size": "1024x1024"}, {"width": 512}, 6_000),
            ({"resolution": "2k"}, {}, 40_000),
            ({"aspect_ratio": "16:9"}, {}, 30_000),
            ({"size": "auto"}, {}, 53_000),
        ],
    )
    def test_the_first_row_that_fits(self, asked: dict[str, Any], came: dict[str, Any], expected: int) -> None:
        assert cost_micros(self.PRICE, request(**asked), pictures(**came)) == expected

    def test_no_row_that_fits_is_no_price(self) -> None:
        price = Price(per_image=(row("0.006", "1024x1024", "low"),))
        assert cost_micros(price, request(quality="high"), pictures()) is None
        assert cost_micros(replace(price, per_megapixel=Decimal(1)), request(), pictures(1, 1000, 1000)) == 1_000_000

    def test_pictures_that_were_sent_cost_too(self) -> None:
        price = Price(per_image=(row("0.04"),), per_input_image=Decimal("0.01"))
        assert cost_micros(price, request(images=SENT * 3), pictures(2)) == 110_000

    @given(usd=amounts, count=st.integers(min_value=1, max_value=16))
    def test_many_are_rounded_together(self, usd: Decimal, count: int) -> None:
        cost = cost_micros(Price(per_image=(ImagePrice(usd=usd),)), request(), pictures(count))
        assert cost is not None
        assert -Fraction(1, 2) < cost - Fraction(usd) * count * 10**6 <= Fraction(1, 2)

    def test_half_a_micro_dollar_goes_up(self) -> None:
        assert cost_micros(Price(per_image=(row("0.0000005"),)), request(), pictures()) == 1
        assert cost_micros(Price(per_image=(row("0.0000005"),)), request(), pictures(3)) == 2


class TestMegapixels:
    def test_every_pixel_counts(self) -> None:
        price = Price(per_megapixel=Decimal("0.04"))
        assert cost_micros(price, request(), pictures(2, 1024, 1024)) == 83_886  # 2 x 1.048576 x 0.04 USD

    def test_without_a_picture_there_is_nothing_to_count(self) -> None:
        price = Price(per_megapixel=Decimal(1), per_image=(row("1"),))
        assert cost_micros(price, request(), production(0)) is None


@pytest.mark.parametrize("price", [Price(), Price(reported=True), Price(per_million_tokens=TokenPrices())])
def test_an_unknown_price_is_none_and_not_nothing(price: Price) -> None:
    assert cost_micros(price, request(), pictures(usage=usage())) is None


class TestExpectation:
    ROWS = Price(per_image=(row("0.01", "1024x1024", "low"), row("0.04", "1024x1024"), row("0.06", "1536x1024")))

    def test_is_what_the_row_that_fits_says_for_each_picture(self) -> None:
        asked = request(size="1024x1024", quality="low", n=3)
        assert expected_micros(Price(per_image=(row("0.01", "1024x1024", "low"),)), asked) == 30_000

    def test_takes_the_dearest_row_where_the_model_may_choose(self) -> None:
        assert expected_micros(self.ROWS, request(size=None)) == 60_000
        assert expected_micros(self.ROWS, request(size="auto", quality="auto")) == 60_000
        assert expected_micros(self.ROWS, request(size="1024x1024")) == 40_000

    def test_counts_inputs_and_pixels(self) -> None:
        price = Price(per_megapixel=Decimal("0.5"), per_input_image=Decimal("0.25"))
        assert expected_micros(price, request(size="1000x2000", n=2, images=SENT)) == 2_250_000
        assert expected_micros(price, request(size=None)) == 524_288

    def test_is_unknown_where_tokens_decide_or_no_row_fits(self) -> None:
        assert expected_micros(BY_TOKENS, request()) is None
        assert expected_micros(self.ROWS, request(size="16x16")) is None

    @given(usd=amounts, n=st.integers(min_value=1, max_value=10))
    def test_agrees_with_what_is_booked(self, usd: Decimal, n: int) -> None:
        price = Price(per_image=(ImagePrice(usd=usd),))
        asked = request(n=n)
        assert expected_micros(price, asked) == cost_micros(price, asked, pictures(n))
