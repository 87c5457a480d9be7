import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.metrics import Evidence, find_codes, find_numbers, ground_claim

REPORT = Evidence(
    [
        "(in millions) Fixed Price | $ 1,452.4 | 2019\nOther | 44.1 | 56.7\nTax rate 8.1 % | Loss | (3.2) | balance -70",
        "> Invoice INV-2031 of 2019-03-31 was paid\n> on a cost-plus basis.",
        "Headcount 250, raised on April 2, 2020, in FY2021.",
    ]
)
QUESTION = Evidence(["What was sold in 2022 for 77 under INV-9?"])


def status(claim, judge=None):
    return ground_claim(claim, REPORT, given=QUESTION, judge=judge).status


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1,234.5", [(1234.5, "", 1)]),
        ("a loss of (3.2)", [(3.2, "", 0)]),
        ("12 % and 12% and 12 percent, 12 per cent", [(12, "percent", 1)] * 4),
        ("$1.5 million, €2bn, 3k", [(1.5, "million", 1), (2, "billion", 1), (3, "thousand", 1)]),
        ("-5, −5, -$5, $-5 and 4-5", [(5, "", -1)] * 4 + [(4, "", 1), (5, "", 1)]),
        ("$ (1,452.4) and (8.1)%", [(1452.4, "", 0), (8.1, "percent", 0)]),
        ("44.1 - 56.7 = -12.6", [(44.1, "", 1), (56.7, "", 1), (12.6, "", -1)]),
        ("In 2019. A 12-month plan (5 people)", [(2019, "", 1), (12, "", 1), (5, "", 1)]),
        ("INV-2031 2019-03-31 14:30 Q3 v1.2 3.2.1 21st 1990s x2 12,34", []),
        ("", []),
    ],
)
def test_numbers_are_found_in_all_their_forms(text, numbers):
    assert [(one.magnitude, one.scale, one.sign) for one in find_numbers(text)] == numbers


def test_codes_are_what_has_digits_and_is_no_number():
    text = "INV-2031 on 2019-03-31 at 14:30, Q3, v1.2, 3.2.1, x2; 12-month 21st 1,234.5 5bn 10-12 4%"
    assert find_codes(text) == ["INV-2031", "2019-03-31", "14:30", "Q3", "v1.2", "3.2.1", "x2"]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 4), st.sampled_from(["", " million", " %", "bn"]))
def test_a_number_as_written_is_read_back(whole, decimals, scale):
    value = whole / 10**decimals
    (one,) = find_numbers(f"It was {value:,.{decimals}f}{scale}, they say.")
    assert one.magnitude == pytest.approx(value, rel=1e-12)
    assert one.unit == pytest.approx(one.size / value * 10**-decimals if value else one.unit)


@pytest.mark.parametrize(
    "claim",
    [
        "Fixed Price was $1,452.4 million in 2019.",
        "It was 1.4524 billion.",  # the same value in another scale
        "About 1.45 billion, or 1,452 million.",  # rounds to what is written
        "The rate is 8.1%, about 0.081.",
        "A loss of 3.2, i.e. -3.2 or (3.2).",
        "It fell by 70 to -70.",
        "Change: 44.1 - 56.7 = -12.6.",
        "(44.1 - 56.7) / 56.7 × 100 = -22.2%",
        "The average is (44.1 + 56.7) / 2 = 50.4 million.",
        "INV-2031 was paid on March 31, 2019, that is 2019-03-31.",
        "On 2020-04-02, in FY2021.",
        'It says “paid on a cost-plus basis”, or "invoice inv-2031 ... paid on a COST-plus".',
        "In 2022 it was 250.",  # the year is the question's, the number the report's
    ],
)
def test_what_the_evidence_says_is_grounded(claim):
    assert ground_claim(claim, REPORT, given=QUESTION).missing == ()
    assert status(claim) == "grounded"


@pytest.mark.parametrize(
    ("claim", "missing"),
    [
        ("It was $1,452.5 million.", ["1,452.5 million"]),
        ("It was 1,452.4 billion.", ["1,452.4 billion"]),
        ("It was 1.46 billion.", ["1.46 billion"]),
        ("It was 1 billion.", ["1 billion"]),  # one digit is no rounding
        ("In 2018.", ["2018"]),
        ("The balance is -44.1.", ["44.1"]),  # the report says plus
        ("The rate is 8.1.", ["8.1"]),  # per cent left out
        ("There are 250 million.", ["250 million"]),  # nothing there says millions
        ("Change: 44.1 - 56.7 = -12.7.", ["12.7"]),
        ("Change: 44.1 - 56.8 = -12.7.", ["56.8", "12.7"]),
        ("It was " + "1" * 400, ["1" * 400]),  # more than a float can hold
        ("INV-2032 of 2019-04-31.", ["INV-2032", "2019-04-31"]),
        ('It says "paid on a fixed basis".', ['"paid on a fixed basis"']),
        ("It rose by 5% to 1,452.4 million.", ["5%"]),
    ],
)
def test_what_it_does_not_say_is_named(claim, missing):
    assert sorted(ground_claim(claim, REPORT, given=QUESTION).missing) == sorted(missing)


@pytest.mark.parametrize("claim", ["It is good.", "In 2022 it was 77.", 'So called "good" ones.', "INV-9 it is."])
def test_what_has_nothing_to_check_is_not_checkable_without_a_judge(claim):
    assert status(claim) == "not_checkable"


def test_json_is_read_value_by_value():
    evidence = Evidence(['{"amounts":[100,200],"balance":-1500.5,"rate":0.081,"note":"He said \\"pay it at once\\".","due":"2019-03-31"}'])
    claim = "The amounts are 100 and 200, the balance -1,500.50, the rate 8.1%, due March 31, 2019: \"he said 'pay it at once'\"."
    assert ground_claim(claim.replace("'", ""), evidence).missing == ('"he said pay it at once"',)
    assert ground_claim(claim.split(":")[0], evidence).status == "grounded"
    assert ground_claim('It says "pay it at once".', evidence).status == "grounded"
    assert ground_claim("It is 100,200.", evidence).missing == ("100,200",)


def test_a_judge_decides_what_no_rule_can_and_only_that():
    asked = []

    def judge(claim, texts):
        asked.append((claim, texts))
        return {"yes.": True, "no.": False}.get(claim.split()[-1])

    assert [status(f"They say {word}.", judge) for word in ("yes", "no", "perhaps")] == ["grounded", "unsupported", "not_checkable"]
    assert status("It was 999, yes.", judge) == "unsupported"
    assert [claim for claim, _ in asked] == ["They say yes.", "They say no.", "They say perhaps."]
    assert asked[0][1] == REPORT.texts


@pytest.mark.parametrize("part", ["1", "1,", "( ", "1-", "$ -", "1.1", '"', "“", "1+", "a1-", "...", "%"])
def test_checking_takes_time_in_proportion_to_the_text(part):
    text = part * (20_000 // len(part)) + " = 5"
    ground_claim(text, Evidence([text]))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from('0123456789.,-()$% =+*/xabQ"“”…million '), max_size=80))
def test_what_is_said_in_its_own_words_is_never_unsupported(text):
    assert ground_claim(text, Evidence([text])).status != "unsupported"
