"""The viewer as a browser shows it, opened from the disk without a network. Skipped where there is no Chromium."""

import shutil

import pytest

from tests.browser import DESK_PX, PHONE_PX, look_at, needs_browser
from tests.viewer.test_folder import study_of

pytestmark = needs_browser
SHOWN = 'await until(() => document.body.dataset.shown || !byId("told").hidden);'
# How bright the middle of the canvas is, in drawn pixels: black where nothing was drawn.
BRIGHT = """const bright = side => { const nv = panes[side]; nv.drawScene();
  const gl = nv.gl, pixels = new Uint8Array(4 * gl.canvas.width * gl.canvas.height);
  gl.readPixels(0, 0, gl.canvas.width, gl.canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  let lit = 0; for (let k = 0; k < pixels.length; k += 4) lit += pixels[k] > 40; return lit / (pixels.length / 4); };"""


@pytest.fixture
def page(viewer, tmp_path):
    shutil.copytree(viewer, tmp_path / "viewer")
    return tmp_path / "viewer/index.html"


@pytest.mark.parametrize("width", [PHONE_PX, DESK_PX])
def test_it_loads_moves_and_switches_and_can_be_read_by_everybody(page, viewer, width):
    found, console = look_at(page, f"""
      {SHOWN} {BRIGHT}
      found.told = byId("told").textContent;
      found.first = byId("name-left").textContent;
      found.lit = SIDES.map(bright);
      found.begin = SIDES.map(side => whereMm(panes[side]));
      byId("canvas-left").dispatchEvent(new WheelEvent("wheel", {{deltaY: 100, clientX:
        byId("canvas-left").getBoundingClientRect().left + 60, clientY:
        byId("canvas-left").getBoundingClientRect().top + 60, bubbles: true, cancelable: true}}));
      found.wheeled = whereMm(panes.left);
      const press = key => document.body.dispatchEvent(new KeyboardEvent("keydown", {{key, bubbles: true}}));
      const right = whereMm(panes.right), left = whereMm(panes.left);
      press("ArrowUp");
      found.left = whereMm(panes.left).map((mm, k) => mm - left[k]);
      found.right = whereMm(panes.right).map((mm, k) => mm - right[k]);
      found.masks = [...byId("masks").querySelectorAll("input")].map(box => [box.parentNode.textContent, box.checked]);
      press("m"); found.none = panes.left.volumes.map(one => one.opacity);
      press("m"); found.all = panes.left.volumes.map(one => one.opacity);
      byId("window").value = 2; byId("window").onchange();
      found.window = SIDES.map(side => [panes[side].volumes[0].cal_min, panes[side].volumes[0].cal_max]);
      document.body.dataset.shown = ""; press("n"); {SHOWN}
      found.second = byId("name-left").textContent;
      document.body.dataset.shown = ""; press("p"); {SHOWN}
      found.again = byId("name-left").textContent;
      document.body.dataset.shown = ""; byId("view").value = 1; byId("view").onchange({{target: byId("view")}}); {SHOWN}
      found.test = SIDES.map(side => [byId("name-" + side).textContent, byId("choice-" + side).selectedOptions[0].text,
        byId("words-" + side).firstChild.textContent, panes[side].volumes.map(one => one.lungsyn || "ct")]);
      byId("zoom").value = 2; byId("zoom").onchange(); found.zoomed = SIDES.map(bright);
      found.broken = await broken();
      """, width=width, axe=True)  # fmt: skip
    assert found.get("error") is None and found["told"] == "" and console == ""
    assert found["first"] == found["again"] == "made-0 (synthetic)" and found["second"] == "made-1 (synthetic)"
    assert min(found["lit"]) > 0.03 and min(found["zoomed"]) > 0.03
    side = study_of(viewer)["views"][0]["cases"][0]["right"][0]  # it begins at the nodules that the audit compared
    for at, wanted in zip(found["begin"], (side["beside_at"], side["at"]), strict=True):
        assert at == pytest.approx(wanted, abs=2.0)  # a voxel
    assert found["wheeled"] != found["begin"][0]
    assert found["left"] == pytest.approx([0, 0, 2], abs=0.1) and found["right"] == pytest.approx(
        found["left"], abs=0.1
    )
    assert found["masks"] == [["nodules", True], ["lungs", False], ["body", False]]
    assert found["none"][1:] == [0, 0, 0] and found["all"][1:] == [0.5, 0.5, 0.5]
    assert found["window"] == [[-160, 240]] * 2
    ct = ["ct", "nodules", "lungs", "body", "prediction"]
    assert found["test"] == [
        ["test-c (real, test)", "arm real, replicate 0", "Dice 0.500", ct],
        ["test-c (real, test)", "arm real+synthetic, replicate 0", "Dice 0.700", ct],
    ]
    assert found["scroll"] <= width and found["wide"] == []
    assert found["broken"] == []


def test_without_webgl_it_says_so_and_shows_pictures(page):
    found, console = look_at(page, """
      await until(() => byId("picture-left").complete && byId("picture-right").naturalWidth > 0);
      const shown = () => SIDES.map(side => [byId("picture-" + side).naturalWidth, byId("picture-" + side).alt]);
      found.told = byId("told").textContent; found.first = shown();
      byId("next").click(); found.second = byId("name-left").textContent;
      found.canvas = getComputedStyle(byId("canvas-left")).display;
      found.broken = await broken();
      """, flags=("--disable-gpu", "--disable-3d-apis"), axe=True)  # fmt: skip
    assert found.get("error") is None and "no WebGL 2" in found["told"] and console == ""
    assert found["canvas"] == "none" and found["second"] == "made-1 (synthetic)" and found["broken"] == []
    assert [words for _, words in found["first"]] == [
        "Three planes through the largest nodule of made-0, synthetic",
        "Three planes through the largest nodule of train-a, real, train",
    ]
    assert min(width for width, _ in found["first"]) > 500


def test_a_volume_that_is_not_there_is_told(page):
    (page.parent / study_of(page.parent)["volumes"]["0"]["file"]).unlink()
    found, _ = look_at(page, f'{SHOWN} found.told = byId("told").textContent;')
    assert "volumes/0.js is not beside this page" in found["told"]
