"""The page of `niello inspect` in a real browser, where one is installed: search, click, zoom."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import niello as nl
from niello.cli.app import app

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((b for b in BROWSERS if shutil.which(b)), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"the page is not tried: none of {', '.join(BROWSERS)} is installed"
)

WATCH = """<script>
window.failures = [];
window.addEventListener("error", (e) => failures.push(e.message));
</script>"""
# What a user does, and what the page shows after each step.
USE = """<script>
{
const seen = {}, text = () => document.getElementById("details").textContent;
const all = (s) => [...document.querySelectorAll(s)];
const transform = () => document.querySelector("#canvas > svg").style.transform;
function press(element) {
  const place = element.getBoundingClientRect();
  const at = { bubbles: true, clientX: place.x + 3, clientY: place.y + 3, pointerId: 1, button: 0 };
  element.dispatchEvent(new PointerEvent("pointerdown", at));
  element.dispatchEvent(new PointerEvent("pointerup", at));
}
seen.first = text();
const box = document.getElementById("search");
box.value = "relu";
box.dispatchEvent(new Event("input"));
seen.hits = all(".hit").map((e) => e.dataset.name);
seen.count = document.getElementById("count").textContent;
box.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
seen.found = text();
box.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
seen.after = all(".hit").length;
press(document.querySelector(".box .title"));
seen.clicked = text();
seen.near = all(".edge.near").length;
press(document.querySelector(".box .op"));
seen.operation = text();
seen.chosen = all(".chosen").length;
document.getElementById("fit").click();
seen.fit = transform();
document.getElementById("in").click();
seen.zoomed = transform();
const canvas = document.getElementById("canvas");
const turn = { bubbles: true, cancelable: true, deltaY: 120, clientX: 9, clientY: 9 };
canvas.dispatchEvent(new WheelEvent("wheel", turn));
seen.wheeled = transform();
const move = (kind, x, on) => on.dispatchEvent(
  new PointerEvent(kind, { bubbles: true, clientX: x, clientY: 50, pointerId: 1, button: 0 }));
move("pointerdown", 50, canvas);
move("pointermove", 150, window);
move("pointerup", 150, window);
seen.dragged = transform();
const overview = document.getElementById("overview");
const small = overview.getBoundingClientRect();
overview.setPointerCapture = () => {};
overview.dispatchEvent(new PointerEvent("pointerdown", {
  bubbles: true, clientX: small.x + small.width - 1, clientY: small.y + small.height - 1,
  pointerId: 1, button: 0 }));
seen.jumped = transform();
seen.blocks = overview.querySelectorAll("rect:not(.view)").length;
seen.boxes = all(".box").length;
seen.frame = Number(overview.querySelector(".view").getAttribute("width"));
seen.colours = new Set(all(".box > rect").map((e) => e.getAttribute("fill"))).size;
seen.failures = failures;
document.body.dataset.seen = JSON.stringify(seen);
}
</script>"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page showed while it was used."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    graph = nl.Graph("network")
    x = graph.placeholder((4, 64), name="x")
    first = graph.constant(rng.normal(size=(64, 32)).astype(np.float32), name="first")
    second = graph.constant(rng.normal(size=(32, 8)).astype(np.float32), name="second")
    hidden = ((x @ first) * 0.5).relu(name="hidden")
    y = nl.softmax(hidden @ second, name="y")
    graph.compile({x: (4, 64)}, [y]).save(folder / "p.niello")
    page = folder / "page.html"
    done = CliRunner().invoke(app, ["inspect", str(folder / "p.niello"), "--picture", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text().replace("<head>", f"<head>{WATCH}").replace("</body>", f"{USE}</body>")
    page.write_text(text)
    assert BROWSER is not None
    browser = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--window-size=1200,800",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=2000", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = re.search(r'data-seen="([^"]*)"', browser.stdout)
    assert found is not None, browser.stderr[-2000:]
    return json.loads(html.unescape(found[1]))  # type: ignore[no-any-return]


def test_nothing_fails(seen: dict[str, Any]) -> None:
    assert seen["failures"] == []


def test_kernels_are_listed_and_coloured(seen: dict[str, Any]) -> None:
    assert "Kernels" in seen["first"] and "matmul" in seen["first"]
    assert seen["colours"] >= 2


def test_search_finds_and_forgets(seen: dict[str, Any]) -> None:
    assert "hidden" in " ".join(seen["hits"])
    assert "found; Enter goes to the next" in seen["count"]
    assert seen["hits"][0] in seen["found"] and "Text" in seen["found"]
    assert seen["after"] == 0


def test_clicks_show_details(seen: dict[str, Any]) -> None:
    assert "As it is compiled" in seen["clicked"] and "Stitched operations" in seen["clicked"]
    assert "contract<float32>" in seen["clicked"]
    assert seen["near"] >= 1
    assert "float32" in seen["operation"] or "f32" in seen["operation"]
    assert seen["chosen"] >= 1


def test_the_picture_zooms_and_moves(seen: dict[str, Any]) -> None:
    places = [seen[k] for k in ("fit", "zoomed", "wheeled", "dragged", "jumped")]
    assert len(set(places)) == 5, places
    assert all("scale(" in p for p in places)


def test_the_overview_shows_every_kernel(seen: dict[str, Any]) -> None:
    assert seen["blocks"] == seen["boxes"] > 1
    assert seen["frame"] > 0


def test_the_script_is_sound() -> None:
    """The script is what a browser's parser takes, on its own."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    script = Path(nl.__file__).parent / "cli" / "inspection" / "page.js"
    done = subprocess.run([node, "--check", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
