"""The report as a browser shows it, offline: on a phone, on a desk, on paper. Skipped where there is no Chromium."""

import json

import matplotlib.pyplot as plt
import pytest

from lungsyn.evaluation import report, sets
from lungsyn.volume.tables import write_table
from tests.browser import DESK_PX, PHONE_PX, look_at, needs_browser
from tests.evaluation.test_report import COHORT, CONFIG, QUALITY

pytestmark = needs_browser
IMAGES = """found.images = [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width]);
  found.text_px = parseFloat(getComputedStyle(document.body).fontSize);"""
OPEN = 'document.querySelectorAll("details").forEach(one => { one.open = true; });'


@pytest.fixture
def page(comparison, big_study, tmp_path):
    figure, axes = plt.subplots(figsize=(11, 4))
    axes.plot([0, 1], [1, 0])
    figure.savefig(tmp_path / "a.png", dpi=100)
    plt.close(figure)
    write_table(tmp_path / "a.tsv", [{"x": 0, "y": 1.5}], ["x", "y"])
    cost = {"stage": "generation", "verb": "synthesise", "of": "a-long-name", "jobs": 1, "seconds": 3, "peak_mb": 9,
            "ran_on": "cuda (a long name of a device), bfloat16, 8 threads"}  # fmt: skip
    config = CONFIG | {"study": {"name": "a_name_without_spaces_that_is_longer_than_a_phone_is_wide_" * 2, "seed": 1}}
    pictures = [{"file": tmp_path / "a.png", "caption": words} for words in ("the difference", "a case")]
    checks = [{"check": "nodule: beyond", "value": 0.01, "low": 0.002, "high": 0.04, "threshold": 0.05,
               "result": "pass", "sentence": "2 of 162 synthetic nodules"}]  # fmt: skip
    verdict = {"set": "a", "size": 100, "held_out_splits": ["test"], "result": "pass", "checks": checks, "controls": [],
               "not_found": ["scaled"]}  # fmt: skip
    beside = dict.fromkeys(sets.COLUMNS, 1) | {"set": "a-long-name-of-a-set", "generator": "a", "outlines": "pass"}
    use = {"set": beside["set"], "size": 1, "segmenter": "unet", "arm": "synthetic", "real": "no", "dice": 0.4,
           "difference": -0.1}  # fmt: skip
    found = report.Findings(
        {"unet": comparison}, {"unet": big_study["strata"]}, COHORT, pictures, [verdict], quality={"a": QUALITY},
        sets=[beside], uses=[use], versions={"a-package-with-a-long-name": "1.2.3"},
        costs=[cost, cost | {"verb": None, "of": ""}], viewer="viewer/index.html",
    )  # fmt: skip
    (tmp_path / "report.html").write_text(report.build("title_" * 20, json.dumps(config), found), encoding="utf-8")
    return tmp_path / "report.html"


@pytest.mark.parametrize("width", [PHONE_PX, DESK_PX])
def test_everything_is_visible_and_can_be_read_by_everybody(page, width):
    """What is folded, and then all of it: nothing is wider than the screen, and axe finds nothing wrong."""
    found, console = look_at(page, f"""
      found.first = [...document.querySelectorAll(".answer, .glance")].map(e => e.getBoundingClientRect().bottom);
      found.folded = document.querySelectorAll("details:not([open])").length;
      {OPEN} await sleep(200); {IMAGES} found.broken = await broken();""", width=width, flags=(), axe=True)  # fmt: skip
    assert console == "" and found.get("error") is None
    assert found["broken"] == []
    assert found["scroll"] <= width and found["wide"] == []
    assert len(found["images"]) == 2
    assert all(complete and natural == 1100 and 300 < shown <= width for complete, natural, shown in found["images"])
    assert found["text_px"] >= 15 and found["folded"] > 5
    assert max(found["first"]) < (1100 if width == PHONE_PX else 700)  # though both names are longer than any


def test_tables_are_sorted_by_number_and_copied_and_figures_bring_their_data(page):
    found, _ = look_at(page, f"""
      {OPEN}
      const table = [...document.querySelectorAll("table")].find(t => t.rows[0].innerText.includes("mean Dice"));
      const column = k => [...table.rows].slice(1).map(row => row.cells[k].textContent.trim());
      const click = k => table.rows[0].cells[k].querySelector("button").click();
      click(3); found.rising = column(3); found.how = table.rows[0].cells[3].getAttribute("aria-sort");
      click(3); found.falling = column(3); click(0); found.names = column(0);
      let copied = null;
      Object.defineProperty(navigator, "clipboard", {{value: {{writeText: async text => {{ copied = text; }}}}}});
      const button = table.closest(".scroll").previousElementSibling; button.click(); await sleep(50);
      found.copied = copied; found.said = button.textContent;
      found.links = await Promise.all([...document.querySelectorAll("a[download]")].map(
        async a => [a.download, atob(a.href.split(",")[1])]));
      document.querySelectorAll("details").forEach(one => {{ one.open = false; }});
      document.querySelector('a[href="#cost"]').click(); await sleep(50);
      found.open = [...document.querySelectorAll("details[open] > summary h2")].map(h => h.innerText);
      dispatchEvent(new Event("beforeprint"));
      found.printed = document.querySelectorAll("details:not([open])").length;
      """, flags=())  # fmt: skip
    assert found.get("error") is None
    numbers = [float(text) if text else None for text in found["rising"]]
    shown = [number for number in numbers if number is not None]
    assert shown == sorted(shown) and numbers[len(shown) :] == [None] * (len(numbers) - len(shown))
    assert [text for text in found["falling"] if text] == [text for text in reversed(found["rising"]) if text]
    assert found["falling"][-1] == "" and found["how"] == "ascending"
    assert [found["names"][k] for k in (0, -1)] == ["real", "synthetic"]
    lines = [line.split("\t") for line in found["copied"].split("\n")]
    assert len({len(line) for line in lines}) == 1 and lines[0][:2] == ["arm", "mean Dice"]
    assert [line[0] for line in lines[1:]] == found["names"] and found["said"] == "Copied"
    assert found["links"] == [["a.tsv", "x\ty\n0\t1.5\n"]] * 2 and found["printed"] == 0
    assert found["open"] == ["Settings, versions, cost"]


def test_the_look_finds_what_is_wrong(page):
    """A picture that does not load, a table that is too wide, an error of a script, grey on grey."""
    bad = '<img src="nowhere.png"><table style="width:900px"><tr><td>x</td></tr></table><p style="color:#ccc">pale</p>'
    page.write_text(page.read_text().replace("</main>", f"{bad}<script>console.error('broken')</script></main>"))
    found, console = look_at(page, f"{IMAGES} found.broken = await broken();", PHONE_PX, flags=(), axe=True)
    assert "broken" in console
    assert found["scroll"] > PHONE_PX and found["wide"]
    assert 0 in [natural for _, natural, _ in found["images"]]
    assert {line.partition(":")[0] for line in found["broken"]} >= {"image-alt", "color-contrast"}
