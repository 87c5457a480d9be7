import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.errors import ConfigError, DataError
from posttrain.tools.retrieval import Document, build_index, check_citations, find_citations, find_claims, retrieved_spans
from posttrain.tools.retrieval.passages import cut
from posttrain.tools.retrieval.sentences import paragraph_spans, sentence_spans

TEXTS = st.text(alphabet=st.sampled_from('ab.!? \n\t\r-1()…"é世。\u2028\x00#'), max_size=400)


def sentences(text):
    return [text[start:end] for start, end in sentence_spans(text)]


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(20, 60))
def test_a_span_names_exactly_the_text_and_only_white_space_is_left_out(text, max_chars):
    passages = list(cut(Document("d", text), max_chars))
    end = 0
    for one in passages:
        assert one.text == text[one.start : one.end]
        assert 0 < len(one.text) <= max_chars
        assert one.id == f"d:{one.start}-{one.end}"
        assert text[end : one.start].strip() == ""
        end = one.end
    assert text[end:].strip() == ""


def test_passages_end_at_paragraphs_then_sentences_then_words():
    first, second = "One is here. Two is here.", "Three is here."
    assert [one.text for one in cut(Document("d", f"{first}\n\n{second}"), 100)] == [f"{first}\n\n{second}"]
    assert [one.text for one in cut(Document("d", f"{first}\n\n{second}"), 30)] == [first, second]
    assert [one.text for one in cut(Document("d", first), 20)] == ["One is here.", "Two is here."]
    assert [one.text for one in cut(Document("d", "alpha beta gamma delta epsilon"), 20)] == ["alpha beta gamma", "delta epsilon"]
    assert [one.text for one in cut(Document("d", "x" * 45), 20)] == ["x" * 20, "x" * 20, "x" * 5]


def test_abbreviations_numbers_and_initials_do_not_end_a_sentence():
    text = 'Sales rose 3.2% vs. 2018. Mr. J. Smith of Acme Inc. agreed, see No. 5. "Why?" he asked. No. It fell!\n- one\n- two\n\n1. third'
    assert sentences(text) == [
        "Sales rose 3.2% vs. 2018.",
        "Mr. J. Smith of Acme Inc. agreed, see No. 5.",
        '"Why?" he asked.',
        "No.",
        "It fell!",
        "- one",
        "- two",
        "1. third",
    ]


@pytest.mark.parametrize("part", [".", " .", "\n", "a. ", "[", "[a:1-2,", "\n ", '."', "1.", "\n1."])
def test_splitting_takes_time_in_proportion_to_the_text(part):
    text = part * (50_000 // len(part))
    sentence_spans(text), paragraph_spans(text), find_claims(text), find_citations(text)  # quadratic time would be minutes


@pytest.mark.parametrize("name", ["", "a b", "a\n", "[a]", "a,b", "a;b", '"a"', "policy:3-9", "a>b", "a\x1b", "x" * 201])
def test_a_document_that_could_not_be_cited_is_refused(name):
    with pytest.raises(DataError, match="cannot be cited"):
        build_index([Document(name, "text")], None)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (Document("d", "half \ud800"), "surrogate"),
        (Document("d", "text", tenant=""), "empty tenant"),
        (Document("d", "text", metadata={"when": object()}), "not plain JSON"),
        (Document("d", "text", metadata={"value": float("nan")}), "not plain JSON"),
        (Document("d", " \n "), "nothing to index"),
    ],
)
def test_a_document_that_cannot_be_indexed_is_named(document, says):
    with pytest.raises(DataError, match=says):
        build_index([document], None)


def test_two_documents_of_one_name_and_too_short_passages_are_refused():
    with pytest.raises(DataError, match=r"document 2: a second document is called 'd'"):
        build_index([Document("d", "one"), Document("d", "two", tenant="other")], None)
    with pytest.raises(ConfigError, match="too small"):
        build_index([Document("d", "one")], None, max_chars=10)


# ---- citations -------------------------------------------------------------------------------------------------------------


def test_citations_are_found_in_their_forms_and_nothing_else():
    found = find_citations("a [p.md:10-40] b [q] c [p.md:1-2; q:3-4] [x:5-6,y:7-8] [two words] [link](http://a) [] [a,b] d[3:")
    assert [str(one) for one in found] == ["[p.md:10-40]", "[q]", "[p.md:1-2]", "[q:3-4]", "[x:5-6]", "[y:7-8]"]
    assert (found[0].document, found[0].start, found[0].end, found[0].position) == ("p.md", 10, 40, 2)


def test_every_mark_is_found_again():
    draw = random.Random(3)
    letters = "aZ09._-/:é#&@"
    for _ in range(200):
        document = Document("".join(draw.choices(letters, k=draw.randint(1, 12))) + "x", "A text of some length. " * 3)
        for one in cut(document, 40):
            (citation,) = find_citations(f"It says so {one.mark}.")
            assert (citation.document, citation.start, citation.end) == (one.document, one.start, one.end)


def test_claims_are_the_sentences_that_state_something_with_the_citations_that_follow_them():
    text = "Sum:\nIt is 5. [a:0-9] Then 6 [b:3-4]. Why? 7 [c]\n\n[d:1-2]\n1. one thing [e:1-2]"
    claims = [(claim.text, [str(one) for one in claim.citations]) for claim in find_claims(text)]
    assert claims == [("It is 5.", ["[a:0-9]"]), ("Then 6.", ["[b:3-4]"]), ("7", ["[c]"]), ("one thing", ["[e:1-2]"])]


def test_a_citation_counts_when_it_lies_in_something_retrieved():
    with build_index([Document("a", "Rent is 5 EUR. " * 3), Document("b", "Tax is 9 EUR.")], None) as index:
        hits = index.search("rent", 1)
    passage = hits[0].passage
    text = f"Rent is 5 {passage.mark}. Part of it [a:2-9]. Whole [a]. Beyond [a:2-{passage.end + 1}]. Empty [a:5-5]. Tax is 9 [b]. None."
    check = check_citations(text, hits)
    assert [str(one) for one in check.cited] == [passage.mark, "[a:2-9]", "[a]"]
    assert [str(one) for one in check.unknown] == [f"[a:2-{passage.end + 1}]", "[a:5-5]", "[b]"]
    assert check.coverage == 3 / 7
    assert check_citations("", hits).coverage is None


def test_only_marks_on_lines_of_their_own_are_retrieved():
    assert [str(one) for one in retrieved_spans("[a:0-5]\n> [b:0-5]\n> text [c:0-5]\nsee [d:0-5]\n[e]")] == ["[a:0-5]"]
