import pytest

from posttrain.tools.docstrings import read_docstring

GOOGLE = """Balance of an account.

    Reads the ledger
    of today.

    Args:
        account (str): the number,
            four digits: 1000 to 9999
        currency: of the answer
        **rest: ignored

    Returns:
        float: the balance

    Note:
        nothing else
    """

NUMPY = """Balance of an account.

    Reads the ledger
    of today.

    Parameters
    ----------
    account : str
        the number,
        four digits: 1000 to 9999
    currency
        of the answer

    Returns
    -------
    float
        the balance
    """

SPHINX = """Balance of an account.

    Reads the ledger
    of today.

    :param str account: the number,
        four digits: 1000 to 9999
    :param currency: of the answer
    :type currency: str
    :returns: the balance
    :raises ValueError: never
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_three_styles_say_the_same(text):
    description, arguments = read_docstring(text)
    assert description == "Balance of an account.\nReads the ledger of today."
    assert arguments["account"] == "the number, four digits: 1000 to 9999"
    assert arguments["currency"] == "of the answer"
    assert set(arguments) <= {"account", "currency", "rest"}


def test_numpy_names_may_share_a_line():
    assert read_docstring("X.\n\nParameters\n----------\na, b : int\n    both\n")[1] == {"a": "both", "b": "both"}


def test_prose_that_looks_like_a_section_stays_prose():
    description, arguments = read_docstring("Returns the balance.\n\nExamples are in the manual.\nnote: read it")
    assert description == "Returns the balance.\nExamples are in the manual. note: read it"
    assert arguments == {}


@pytest.mark.parametrize("text", [None, "", "   \n  "])
def test_no_docstring_is_no_description(text):
    assert read_docstring(text) == ("", {})


def test_text_after_a_google_section_belongs_to_the_description():
    description, arguments = read_docstring("A.\n\nArgs:\n    x: one\n\nMore words.")
    assert arguments == {"x": "one"}
    assert description == "A.\nMore words."
