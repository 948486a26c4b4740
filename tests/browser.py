"""Pages as a headless Chromium shows them, opened from the disk. A script that is put into a page looks at it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE_PX, DESK_PX = 390, 1280
AXE = Path(__file__).parent / "axe/axe.min.js"
needs_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install the package chromium to look at pages"),
]
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")

# A frame of the wanted width around the page (a headless window has a smallest width). The page says what it found.
FRAME = """<!doctype html><meta charset="utf-8"><title>frame</title>
<iframe src="looked_at.html" style="width:{width}px;height:900px;border:0"></iframe><pre id="found"></pre>
<script>addEventListener("message", event => {{
  document.getElementById("found").textContent = JSON.stringify(event.data); }});</script>"""

# `look` is the body of an asynchronous function. What is wider than the screen is always asked; axe when it is there.
SCRIPT = """
<script>{axe}</script><script>
addEventListener("load", async () => {{
  const found = {{}}, sleep = ms => new Promise(then => setTimeout(then, ms));
  const until = async is => {{ for (let k = 0; k < 400 && !is(); k++) await sleep(50); return is(); }};
  const broken = async () => (await axe.run(document, {{resultTypes: ["violations"], preload: false}})).violations.map(
    one => `${{one.id}}: ${{one.nodes.slice(0, 3).map(node => node.html.slice(0, 120)).join(" | ")}}`);
  try {{ {look} }} catch (error) {{ found.error = String(error && error.stack || error); }}
  const width = document.documentElement.clientWidth;
  found.scroll = document.documentElement.scrollWidth;
  found.wide = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > width + 1
    && !e.closest(".scroll, pre")).map(e => e.tagName + " " + e.textContent.slice(0, 40));
  parent.postMessage(found, "*");
}});
</script>"""


def look_at(page: Path, look: str, width: int = DESK_PX, flags=WEBGL, axe: bool = False) -> tuple[dict, str]:
    """What the script ``look`` found in a page of its own folder, and the browser's console."""
    script = SCRIPT.format(axe=AXE.read_text(encoding="utf-8") if axe else "", look=look)
    looked_at = page.with_name("looked_at.html")
    looked_at.write_text(page.read_text(encoding="utf-8") + script, encoding="utf-8")
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    ended = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--enable-logging=stderr", *flags,
         f"--user-data-dir={page.with_name('profile')}", "--virtual-time-budget=60000", "--window-size=1400,1000",
         "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.*?)</pre>', ended.stdout, re.DOTALL)
    assert found and found[1], ended.stderr[-2000:]
    console = "\n".join(line for line in ended.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(html.unescape(found[1])), console
