"""The report as a browser shows it: on a phone's width, offline. Skipped where there is no Chromium."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from lungsyn.evaluation import report
from tests.evaluation.test_report import COHORT, CONFIG

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE_PX, DESK_PX = 390, 1280

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install the package chromium to look at the report"),
]

# A frame of the wanted width around the page (a headless window has a smallest width); what it measures is its text.
FRAME = """<!doctype html><meta charset="utf-8"><title>frame</title>
<iframe id="page" style="width:{width}px;height:800px;border:0" srcdoc="{page}"></iframe><pre id="found"></pre>
<script>
document.getElementById("page").onload = event => {{
  const inside = event.target.contentDocument, root = inside.documentElement;
  const wide = [...inside.querySelectorAll("body *")].filter(e =>
    e.getBoundingClientRect().right > {width} + 1 && !e.closest(".scroll, pre"));
  document.getElementById("found").textContent = JSON.stringify({{
    scroll: root.scrollWidth, wide: wide.map(e => e.tagName + " " + e.textContent.slice(0, 40)),
    images: [...inside.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width]),
    text_px: parseFloat(getComputedStyle(inside.body).fontSize)}});
}};
</script>"""


def look_at(page: str, width: int, folder: Path) -> tuple[dict, str]:
    """What the frame measured, and the browser's console."""
    (folder / "frame.html").write_text(FRAME.format(page=html.escape(page), width=width), encoding="utf-8")
    ended = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--window-size=1400,900", "--dump-dom",
         (folder / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.*?)</pre>', ended.stdout, re.DOTALL)
    assert found and found[1], ended.stderr[-2000:]
    return json.loads(html.unescape(found[1])), "\n".join(
        line for line in ended.stderr.splitlines() if "CONSOLE" in line
    )


@pytest.fixture
def page(comparison, tmp_path) -> str:
    figure, axes = plt.subplots(figsize=(11, 4))
    axes.plot([0, 1], [1, 0])
    figure.savefig(tmp_path / "a.png", dpi=100)
    plt.close(figure)
    cost = {"stage": "generation", "verb": "synthesise", "of": "a-long-name", "jobs": 1, "seconds": 3, "peak_mb": 9,
            "ran_on": "cuda (a long name of a device), bfloat16, 8 threads"}  # fmt: skip
    config = CONFIG | {"study": {"name": "a_name_without_spaces_that_is_longer_than_a_phone_is_wide_" * 2, "seed": 1}}
    pictures = [{"file": tmp_path / "a.png", "caption": words} for words in ("the difference", "a case")]
    found = report.Findings({"unet": comparison}, cohort=COHORT, pictures=pictures, costs=[cost],
                            versions={"a-package-with-a-long-name": "1.2.3"})  # fmt: skip
    return report.build("title_" * 20, json.dumps(config), found)


@pytest.mark.parametrize("width", [PHONE_PX, DESK_PX])
def test_everything_is_visible_and_nothing_is_wider_than_the_screen(page, width, tmp_path):
    found, console = look_at(page, width, tmp_path)
    assert console == ""
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert len(found["images"]) == 2
    assert all(complete and natural == 1100 and 300 < shown <= width for complete, natural, shown in found["images"])
    assert found["text_px"] >= 15


def test_the_look_finds_what_is_wrong(page, tmp_path):
    """A picture that does not load, a table that is too wide, an error of a script."""
    bad = page.replace("</body>", '<img src="nowhere.png"><table style="width:900px"><tr><td>x</td></tr></table>'
                       "<script>console.error('broken')</script></body>")  # fmt: skip
    found, console = look_at(bad, PHONE_PX, tmp_path)
    assert "broken" in console
    assert found["scroll"] > PHONE_PX and found["wide"]
    assert 0 in [natural for _, natural, _ in found["images"]]
