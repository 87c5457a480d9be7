import re
from pathlib import Path

import pytest

from posttrain.release import ReportSection, judge, write_report
from posttrain.release.report import diff_parts

CHROMIUM = Path("/usr/bin/chromium")
ATTACK = "</pre><script>window.stolen = 1</script><img src=x onerror='window.stolen = 2'>\"><b>"


@pytest.fixture
def report(bench, yes_no):
    """A blocked candidate whose prompts and answers try to run scripts; 8 regressed, 4 improved."""
    slices = ["a<b>" if i % 2 else "plain" for i in range(40)]
    bench.write(40, slices=slices, prompt="question {} " + ATTACK.replace("{", "").replace("}", ""))
    old = bench.run("old " + ATTACK.replace("/", ""), ["yes"] * 30 + ["no"] * 10)
    new = bench.run("new", ["yes"] * 22 + [f"no {ATTACK}"] * 14 + ["yes"] * 4)
    gate = bench.gate
    verdict = judge(new, old, gate)
    sections = [ReportSection("Curation <i>", [["rows & <u>", 3]], ["what", "n"]), ReportSection("Curve", html="<svg id='curve'></svg>")]
    write_report(bench.root / "report.html", verdict, new, old, gate, sections=sections)
    return bench.root / "report.html", verdict


def test_the_page_opens_with_the_verdict_then_checks_then_figures_then_samples(report):
    path, verdict = report
    page = path.read_text(encoding="utf-8")
    places = [page.index(part) for part in (f"<strong>{verdict.status}</strong>", 'id="checks"', 'id="figures"', 'id="samples"')]
    assert places == sorted(places)
    changes = re.findall(r'<details class="card sample" data-change="(\w+)"', page)
    assert changes == ["regressed"] * 8 + ["both_bad"] * 6 + ["improved"] * 4 + ["both_good"] * 22


def test_the_page_refers_to_nothing_outside_itself(report):
    page = report[0].read_text(encoding="utf-8")
    escaped = re.sub(r"&lt;.*?&gt;", "", page)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(""", escaped)
    assert "default-src 'none'" in page


def test_what_a_model_wrote_is_text(report):
    page = report[0].read_text(encoding="utf-8")
    assert page.count("<script>") == 1, "the page's own"
    assert "<img" not in page
    assert "<b>" not in page
    assert "<svg id='curve'></svg>" in page, "a section's html is taken as it is"
    assert "rows &amp; &lt;u&gt;" in page


def test_differences_join_to_the_original_texts():
    before, after = '{"answer": "1,452.4", "scale": ""}', '{"answer": "1,496.5", "scale": "million"}'
    left, right = diff_parts(before, after)
    assert "".join(text for text, _ in left) == before
    assert "".join(text for text, _ in right) == after
    assert [text for text, changed in right if changed] == ["496", "5", "million"]


def test_long_answers_keep_their_ends():
    left, right = diff_parts("a " * 3000 + "end", "b")
    assert "".join(text for text, _ in left).endswith("end")
    assert "".join(text for text, _ in right) == "b"


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
def test_in_a_browser_filters_work_and_no_script_of_a_model_runs(report):
    from playwright.sync_api import sync_playwright

    path, verdict = report
    problems: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 900}, color_scheme="dark")
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.on("request", lambda request: problems.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        assert page.locator(".verdict strong").inner_text().lower() == verdict.status
        assert page.locator(".verdict strong").bounding_box()["y"] < 200, "the verdict is what one sees first"
        shown = page.locator(".sample:visible")
        assert shown.count() == 40
        page.get_by_role("button", name="regressed 8").click()
        assert shown.count() == 8
        page.select_option("#slice", "a<b>")
        assert shown.count() == 4
        page.fill("#find", "question 23 ")
        assert shown.count() == 1
        shown.locator("summary").first.click()
        assert ATTACK in shown.first.inner_text()
        page.fill("#find", "nowhere to be found")
        assert shown.count() == 0
        assert page.locator("#none").is_visible()
        assert page.evaluate("window.stolen") is None
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "no sideways scrolling"
        browser.close()
    assert problems == []
