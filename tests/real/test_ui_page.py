"""The page in a real Chromium, on a store with images that share layers and a container that runs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Generator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser, Page
from tests.support.cli import Lamella
from tests.support.manyimages import ManyImages, make_many
from tests.support.page import ServedPage

DAMAGES_STORES = True  # on purpose: they are looked at with that

pytestmark = pytest.mark.xdist_group("ui-page")

DOCKERFILES = {
    "runtime:1": (
        "FROM base:1\n"
        "RUN mkdir -p /usr/lib/runtime && head -c 300000 /dev/zero > /usr/lib/runtime/core.so"
        " && head -c 100000 /dev/zero > /usr/lib/runtime/extra.so && echo one > /etc/version\n"
    ),
    "service:1": (
        "FROM runtime:1\nENV A=b\nRUN rm /usr/lib/runtime/extra.so && echo two > /etc/version && echo s > /srv\n"
    ),
    "worker:1": "FROM runtime:1\nRUN rm /usr/lib/runtime/extra.so && echo w > /etc/role\n",
    "tool:1": "FROM base:1\nRUN echo tool > /etc/role\n",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Generator[Lamella]:
    place = tmp_path_factory.mktemp("page")
    lamella = Lamella(place / "root")
    lamella.run("import", str(base_tar), "base:1")
    for name, text in DOCKERFILES.items():
        context = place / name
        context.mkdir()
        (context / "Dockerfile").write_text(text)
        lamella.run("build", "-q", "-t", name, str(context))
    lamella.run("run", "-d", "--name", "runs", "service:1", "sh", "-c", "echo mine > /etc/version; sleep 100000")
    yield lamella
    for container in lamella.run("ps", "-aq").split():
        lamella.run("rm", "-f", container)


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture(scope="module")
def served(store: Lamella) -> Generator[ServedPage]:
    with ServedPage(store.root) as page:
        yield page


Opener = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser) -> Generator[Opener]:
    """Open pages, and see at the end that no script failed and nothing was asked for elsewhere."""
    pages: list[tuple[Page, str]] = []

    def opener(served: ServedPage, where: str = "", *, scheme: str = "light") -> Page:
        page = browser.page()
        page.colours(scheme)
        pages.append((page, served.address))
        page.go(served.address + where)
        page.wait("document.documentElement.dataset.version")
        return page

    yield opener
    for page, address in pages:
        # What is gone from the store is gone: that the page asked for it once more is no fault.
        assert [each for each in page.complaints() if "404" not in each or "/api/" not in each] == []
        asked = page.requested()
        assert len(asked) > 5
        assert [url for url in asked if not url.startswith((address, "about:"))] == []
        page.call("Page.close")


BOXES = """[...document.querySelectorAll('.box')].map(e => { const r = e.getBoundingClientRect(); return {
    kind: e.dataset.kind, id: e.dataset.id, span: +e.dataset.span, name: e.querySelector('.name').textContent,
    left: r.left, right: r.right, top: r.top, bottom: r.bottom }; })"""


def boxes(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.run(BOXES)
    return found


def box_of(page: Page, kind: str, name: str) -> dict[str, Any]:
    found = [box for box in boxes(page) if box["kind"] == kind and name in box["name"]]
    assert len(found) == 1, (kind, name, [(box["kind"], box["name"]) for box in boxes(page)])
    return found[0]


def choose(page: Page, kind: str, identity: str) -> None:
    page.click(f'.box[data-kind="{kind}"][data-id="{identity}"]')


def layers_of(store: Lamella, name: str) -> list[str]:
    from lamella.readers.docker import DockerReader

    return list(DockerReader(store.root).find_image(name).layers)


def test_images_stand_side_by_side_and_a_shared_layer_is_one_box(
    store: Lamella, served: ServedPage, opened: Opener, screenshots: Path
) -> None:
    page = opened(served)
    page.picture(screenshots / "stacks-light.png")
    names = {"base:1", "runtime:1", "service:1", "worker:1", "tool:1"}
    caps = {box["name"]: box for box in boxes(page) if box["kind"] == "image"}
    assert set(caps) == names
    by_layer: dict[str, list[dict[str, Any]]] = {}
    for box in boxes(page):
        if box["kind"] == "layer":
            by_layer.setdefault(box["id"], []).append(box)
    for name in names:
        above = caps[name]
        for layer in reversed(layers_of(store, name)):
            (box,) = by_layer[layer]
            assert abs(box["top"] - above["bottom"] - 3) < 1, (name, layer)
            assert box["left"] <= above["left"] + 1
            assert box["right"] >= above["right"] - 1
            above = box
    (base,) = by_layer[layers_of(store, "base:1")[0]]
    assert base["span"] == 5
    (runtime,) = by_layer[layers_of(store, "runtime:1")[1]]
    assert runtime["span"] == 3
    assert "shared by 5 images" in page.text()


def test_a_container_stands_on_its_image_with_its_init_and_its_writable_layer(
    served: ServedPage, opened: Opener
) -> None:
    page = opened(served)
    tower = [box_of(page, "image", "service:1"), box_of(page, "init", ""), box_of(page, "writable", ""), box_of(page, "container", "runs")]  # fmt: skip
    for below, above in pairwise(tower):
        assert abs(below["top"] - above["bottom"] - 3) < 1
    choose(page, "container", tower[-1]["id"])
    page.wait("document.querySelector('.inspector .kicker')?.textContent === 'Container'")
    assert "running" in page.text()


def test_a_layer_opens_to_its_step_its_directory_and_its_digests(
    store: Lamella, served: ServedPage, opened: Opener, screenshots: Path
) -> None:
    page = opened(served)
    layer = layers_of(store, "runtime:1")[1]
    choose(page, "layer", layer)
    page.wait("document.querySelector('.cell')")
    page.picture(screenshots / "layer-light.png")
    inspected = store.inspect("runtime:1")
    facts = page.run("Object.fromEntries([...document.querySelectorAll('.facts dt')].map(e => [e.textContent, e.nextElementSibling.textContent]))")  # fmt: skip
    assert facts["Directory"] == inspected["GraphDriver"]["Data"]["UpperDir"]
    assert facts["Diff ID"] == inspected["RootFS"]["Layers"][1]
    assert facts["Chain ID"] == layer
    assert facts["Cache ID"] == Path(facts["Directory"]).parent.name
    assert page.texts(".inspector h2")[0].startswith("RUN mkdir -p /usr/lib/runtime")
    assert {"runtime:1", "service:1", "worker:1"} <= set(page.texts(".inspector .chip"))


def test_the_map_shows_files_by_size_and_hatches_what_is_hidden(
    store: Lamella, served: ServedPage, opened: Opener, screenshots: Path
) -> None:
    page = opened(served)
    layer = layers_of(store, "runtime:1")[1]
    stack = store.inspect("service:1")["Id"]
    page.run(f"location.hash = 'stacks/layer/' + encodeURIComponent({layer!r}) + '/' + encodeURIComponent({stack!r})")
    page.wait("document.querySelector('.cell')")
    assert page.texts(".map-figures dd") == ["3", "400 kB", "100 kB", "0 B"]  # runtime:1 itself shows all of it
    page.run("document.querySelector('.cell.folder').focus()")
    assert "usr/lib/runtime/" in page.run("document.activeElement.title")
    page.press("Enter")
    page.wait(
        "document.querySelectorAll('.crumbs button').length === 2 && document.querySelectorAll('.cell').length === 2"
    )
    area = "((e) => e.offsetWidth * e.offsetHeight)(document.querySelector('.cell[title^=\"{}\"]'))"
    ratio = page.run(area.format("core.so")) / page.run(area.format("extra.so"))
    assert 2.7 < ratio < 3.3
    assert page.run("document.querySelector('.cell[title^=\"extra.so\"] .hatch').style.height") == "100%"
    assert not page.run("document.querySelector('.cell[title^=\"core.so\"] .hatch')")
    assert "deleted by layer 3" in page.text()
    page.picture(screenshots / "map-light.png")
    page.press("Backspace")
    page.wait("document.querySelectorAll('.crumbs button').length === 1")


def test_a_path_is_searched_in_all_images_and_containers(
    store: Lamella, served: ServedPage, opened: Opener, screenshots: Path
) -> None:
    page = opened(served, "#find")
    page.wait("document.activeElement.id === 'path'")
    page.write("/etc/version")
    page.press("Enter")
    page.wait("document.querySelector('.version')")
    page.picture(screenshots / "find-light.png")
    cards = [sorted(card) for card in page.run("[...document.querySelectorAll('.card')].map(c => [...c.querySelectorAll('.chip')].map(e => e.textContent))")]  # fmt: skip
    assert sorted(cards) == sorted([["runtime:1", "worker:1"], ["service:1"], ["runs"], ["base:1", "tool:1"]])
    page.click(".version .from a")
    page.wait("location.hash.startsWith('#stacks/layer/') && document.querySelector('.inspector .cell')")
    assert layers_of(store, "runtime:1")[1] in page.text()


def test_a_path_that_no_image_has_is_absent_everywhere(served: ServedPage, opened: Opener) -> None:
    page = opened(served, "#find/" + "%2Fno%2Fsuch%2Ffile")
    page.wait("document.querySelector('.absent')")
    assert "No image or container has /no/such/file" in page.text()


def test_everything_can_be_reached_by_keyboard(served: ServedPage, opened: Opener) -> None:
    page = opened(served)
    page.wait("document.querySelector('.box')")

    def here() -> list[str]:
        found: list[str] = page.run("[document.activeElement.dataset.kind || '', document.activeElement.textContent]")
        return found

    for _ in range(30):
        page.press("Tab")
        if here()[0]:
            break
    assert here()[0] == "image"
    page.press("Home")
    page.wait("document.activeElement.title.startsWith('Image base:1')")
    page.press("ArrowDown")
    page.wait("document.activeElement.dataset.kind === 'layer'")
    page.press("ArrowUp")
    page.wait("document.activeElement.title.startsWith('Image base:1')")
    page.press("End")
    page.wait("document.activeElement.title.startsWith('Image tool:1')")
    page.press("ArrowLeft")
    page.wait("document.activeElement.classList.contains('box') && !document.activeElement.title.includes('tool:1')")
    page.press("Enter")
    page.wait("!document.getElementById('inspector').hidden")
    page.press("Escape")
    page.wait("document.getElementById('inspector').hidden && document.activeElement.classList.contains('box')")
    page.press("/")
    page.wait("document.activeElement.id === 'filter'")
    page.write("worker")
    page.wait("document.querySelectorAll('.box.image').length === 1")
    page.press("ArrowDown")
    page.wait("document.activeElement.classList.contains('box')")
    page.press("2")
    page.wait("!document.getElementById('view-find').hidden && document.activeElement.id === 'path'")
    page.press("Escape")
    page.press("3")
    page.wait("document.querySelector('.stackbar')")
    page.press("4")
    page.wait("!document.getElementById('view-check').hidden")
    page.press("?")
    page.wait("document.getElementById('help').open")
    page.press("Escape")
    page.wait("!document.getElementById('help').open")


def test_every_control_has_a_name_for_those_who_do_not_see_it(served: ServedPage, opened: Opener) -> None:
    page = opened(served)
    choose(page, "image", box_of(page, "image", "service:1")["id"])
    page.wait("document.querySelector('.inspector .steps')")
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    wanted = {"button", "link", "textbox", "searchbox", "checkbox", "combobox"}
    controls = [node for node in nodes if node.get("role", {}).get("value") in wanted and not node.get("ignored")]
    assert len(controls) > 20
    assert [node for node in controls if not node.get("name", {}).get("value", "").strip()] == []
    page.call("Accessibility.disable")


CONTRAST = """(() => {
  const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = (colours) => { pen.fillStyle = '#000'; pen.fillRect(0, 0, 1, 1);
    for (const each of colours) { pen.fillStyle = each; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = (c) => { const [r, g, b] = c.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const found = {};
  for (const selector of SELECTORS) { for (const e of document.querySelectorAll(selector)) {
    if (!e.getClientRects().length || e.closest('.far')) continue;
    const back = []; for (let up = e; up; up = up.parentElement) back.unshift(getComputedStyle(up).backgroundColor);
    const a = light(rgb(back)), b = light(rgb([...back, getComputedStyle(e).color]));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    found[selector] = Math.min(found[selector] ?? 99, ratio); } }
  return found; })()"""
SELECTORS = [
    "nav a", ".where", ".tag", ".live", ".legend li", "#counts", ".box.image .name", ".box.layer .name",
    ".box.layer .size", ".box.layer .note", ".box.writable .name", ".box.container .note", ".kicker", ".facts dt",
    ".facts dd", ".figures dt", ".steps code", ".steps .size", ".segments button",
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_dark_and_in_light(
    served: ServedPage, opened: Opener, screenshots: Path, scheme: str
) -> None:
    page = opened(served, scheme=scheme)
    choose(page, "image", box_of(page, "image", "service:1")["id"])
    page.wait("document.querySelector('.inspector .steps')")
    page.picture(screenshots / f"image-{scheme}.png")
    ground = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground) > 600) == (scheme == "light")
    page.run("location.hash = 'stacks'")
    page.wait("document.getElementById('inspector').hidden")
    contrast = page.run(CONTRAST.replace("SELECTORS", json.dumps(SELECTORS[:13])))
    choose(page, "image", box_of(page, "image", "service:1")["id"])
    page.wait("document.querySelector('.inspector .steps')")
    contrast |= page.run(CONTRAST.replace("SELECTORS", json.dumps(SELECTORS[13:])))
    assert set(contrast) >= set(SELECTORS) - {".kicker"}
    assert {name: ratio for name, ratio in contrast.items() if ratio < 4.5} == {}


def test_the_page_follows_the_store(store: Lamella, served: ServedPage, opened: Opener) -> None:
    page = opened(served)
    page.wait("document.querySelectorAll('.box.image').length === 5")
    store.run("tag", "tool:1", "also:1")
    page.wait("[...document.querySelectorAll('.box.image')].some(e => e.textContent.includes('also:1'))")
    store.run("create", "--name", "comes", "tool:1", "sh")
    page.wait("[...document.querySelectorAll('.box.container')].some(e => e.textContent.includes('comes'))")
    choose(page, "container", box_of(page, "container", "comes")["id"])
    page.wait("document.querySelector('.inspector .kicker')?.textContent === 'Container'")
    store.run("rm", "comes")
    page.wait("![...document.querySelectorAll('.box.container')].some(e => e.textContent.includes('comes'))")
    page.wait("document.querySelector('.inspector').textContent.includes('No such container')")
    store.run("rmi", "also:1")
    page.wait("[...document.querySelectorAll('.box.image')].some(e => e.textContent.includes('tool:1'))")
    store.run("kill", "runs")
    page.wait("document.querySelector('.box.container').textContent.includes('exited')")
    store.run("start", "runs")
    page.wait("document.querySelector('.box.container').textContent.includes('running')")
    assert page.run("document.getElementById('live').className") == "live on"


def test_the_ledger_adds_up_on_the_page(store: Lamella, served: ServedPage, opened: Opener, screenshots: Path) -> None:
    page = opened(served, "#ledger")
    page.wait("document.querySelector('.stackbar')")
    page.picture(screenshots / "ledger-light.png")
    ledger = served.ask("ledger")
    assert sum(section["bytes"] for section in ledger["sections"]) == ledger["bytes"]
    du = subprocess.run(["du", "-sxB1", store.root], capture_output=True, text=True, check=True).stdout
    assert abs(int(du.split()[0]) - ledger["bytes"]) < 1 << 20  # the container's own mount and log move meanwhile
    text = page.text()
    assert "Unaccounted" in text
    assert {"base:1", "runtime:1", "service:1", "worker:1", "tool:1"} <= set(page.texts("#ledger a"))


def test_the_check_tells_what_it_found(tmp_path: Path, base_tar: Path, opened: Opener, screenshots: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    lamella.run("import", str(base_tar), "base:1")
    with ServedPage(lamella.root) as served:
        page = opened(served, "#check")
        page.click("#check-run")
        page.wait("document.querySelector('.verdict')")
        assert page.texts(".verdict") == ["The store is sound"]
        orphan = lamella.root / "overlay2" / ("f" * 64)
        (orphan / "diff").mkdir(parents=True)
        directory = Path(lamella.inspect("base:1")["GraphDriver"]["Data"]["UpperDir"])
        (directory / "etc/issue").unlink()
        page.click("#check-run")
        page.wait("document.querySelectorAll('.finding').length === 2")
        page.picture(screenshots / "check-light.png")
        assert page.texts(".verdict") == ["1 error, 1 warning"]
        assert str(orphan) in page.text()
        assert "etc/issue" in page.text()
        page.run("document.getElementById('deep').click()")
        page.click("#check-run")
        page.wait("document.querySelector('#findings').textContent.includes('read whole')")


def test_a_thousand_images_stay_usable(tmp_path: Path, opened: Opener, screenshots: Path) -> None:
    with ServedPage(make_many(tmp_path / "root")) as served:
        page = opened(served)
        page.wait("document.querySelectorAll('.box').length > 20")
        most = 1500

        def elements() -> int:
            return int(page.run("document.querySelectorAll('*').length"))

        assert "1,000 images" in page.text()
        assert elements() < most
        page.picture(screenshots / "thousand-light.png")
        page.run("document.querySelector('.box').focus()")
        page.press("End")
        page.wait(
            "document.activeElement.classList.contains('box') && document.getElementById('sheet').scrollLeft > 100000"
        )
        assert elements() < most
        page.press("Home")
        page.wait("document.getElementById('sheet').scrollLeft < 100")
        page.click("[data-zoom='60']")
        page.run("document.getElementById('sheet').scrollLeft = 30000")
        page.wait(
            "document.querySelectorAll('.box').length > 20 && document.getElementById('sheet').scrollLeft === 30000"
        )
        assert elements() < most
        page.picture(screenshots / "thousand-narrow-light.png")
        page.run("document.getElementById('filter').focus()")
        page.write("service-0777")
        page.wait("document.querySelectorAll('.box.image').length === 1")
        assert "1 match" in page.text()
        choose(page, "image", page.run("document.querySelector('.box.image').dataset.id"))
        page.wait("document.querySelector('.inspector .steps')")
        page.run("location.hash = 'find/' + encodeURIComponent('/etc/os-release')")
        page.wait("document.querySelectorAll('.version').length === 10")
        assert "10 versions in 1,000 of 1,000" in page.text()
        assert elements() < most
        page.run("location.hash = 'ledger'")
        page.wait("document.querySelector('.stackbar')")
        assert elements() < most
        assert "Show 50 more of 950" in page.text()


HOSTILE = '<img src=x onerror="document.title=1">\u202e\u0007'


def test_names_from_images_are_text_and_nothing_else(tmp_path: Path, opened: Opener) -> None:
    many = ManyImages(tmp_path / "root")
    files = {HOSTILE + "/a": b"1" * 50, os.fsdecode(b"bad\xff\xfe") + "/b": b"2" * 60, "#?%25&x": b"3" * 40}
    base = many.layer(None, f"RUN {HOSTILE}", files)
    many.image(base, "hostile:1", config={"Labels": {HOSTILE: HOSTILE}, "Env": [HOSTILE], "Cmd": [HOSTILE]})
    with ServedPage(many.close()) as served:
        page = opened(served)
        title = page.run("document.title")
        choose(page, "image", page.run("document.querySelector('.box.image').dataset.id"))
        page.wait("document.querySelector('.inspector .steps')")
        assert "\\u{202e}" in page.text()
        choose(page, "layer", base.chain)
        page.wait("document.querySelectorAll('.cell').length === 3")
        for number in range(2):
            page.run(f"document.querySelectorAll('.cell.folder')[{number}].click()")
            page.wait(
                "document.querySelectorAll('.crumbs button').length === 2 && document.querySelector('.cell.file')"
            )
            page.press("Backspace")
            page.wait("document.querySelectorAll('.cell').length === 3")
        assert page.run("document.querySelectorAll('img').length") == 0
        assert page.run("document.title") == title
        assert "\u202e" not in page.text()


def test_a_lost_layer_and_one_without_an_image_are_drawn_as_such(tmp_path: Path, opened: Opener) -> None:
    many = ManyImages(tmp_path / "root")
    base = many.layer(None, "ADD base", {"a": b"1"})
    top = many.layer(base, "RUN more", {"b": b"2"})
    many.image(top, "whole:1")
    many.image(many.layer(base, "RUN lost", {"c": b"3"}), "loses:1")
    lone = many.layer(None, "ADD lone", {"d": b"4"})
    root = many.close()
    lost = next(
        path
        for path in (root / "image/overlay2/layerdb/sha256").iterdir()
        if (path / "parent").exists() and path.name != top.chain.removeprefix("sha256:")
    )
    subprocess.run(["rm", "-r", lost], check=True)
    with ServedPage(root) as served:
        page = opened(served)
        assert box_of(page, "missing", "RUN lost")["id"] == f"sha256:{lost.name}"
        assert abs(box_of(page, "loose", "no image")["bottom"] - box_of(page, "layer", lone.chain[7:19])["top"] + 3) < 1
        choose(page, "missing", f"sha256:{lost.name}")
        page.wait("document.querySelector('.inspector').textContent.includes('not in the store')")
        directory = (
            root / "image/overlay2/layerdb/sha256" / top.chain.removeprefix("sha256:") / "cache-id"
        ).read_text()
        subprocess.run(["rm", "-r", root / "overlay2" / directory], check=True)
        page = opened(served)
        gone = f"document.querySelector('.box[data-id=\"{top.chain}\"]')"
        assert page.run(f"{gone}.classList.contains('gone')")
        assert "its directory is missing" in page.run(f"{gone}.getAttribute('aria-label')")
        assert page.run("document.querySelectorAll('.gone').length") == 1
        choose(page, "layer", top.chain)
        page.wait("document.querySelector('.inspector .error-text')")
        assert "is not there" in page.texts(".inspector .error-text")[0]


def test_when_lamella_ends_the_page_says_so(tmp_path: Path, browser: Browser) -> None:
    with ServedPage(make_many(tmp_path / "root", images=2)) as served:
        page = browser.page()
        page.go(served.address)
        page.wait("document.getElementById('live').className === 'live on'")
    page.wait("document.getElementById('live').className === 'live off'")
    assert "not connected" in page.text()


# ------------------------------------------------------------------------------------------- keeping one's place

HERE = "(e => (e.getAttribute('href') || e.getAttribute('aria-label') || e.textContent).trim())(document.activeElement)"


@pytest.fixture
def few(tmp_path: Path) -> Generator[ServedPage]:
    """Sixty images on one base, written by hand, so that their names can be changed quickly."""
    with ServedPage(make_many(tmp_path / "few", images=60)) as served:
        yield served


def change(page: Page, served: ServedPage) -> None:
    """Change a name in the store as a command would, and wait until the page has followed."""
    (root,) = [Path(served.ask("store")["root"])]
    names = root / "image/overlay2/repositories.json"
    document = json.loads(names.read_text())
    before = page.run("document.documentElement.dataset.version")
    image = next(iter(document["Repositories"]["team0/service-0000"].values()))
    document["Repositories"].setdefault("also", {})[f"also:{len(document['Repositories'].get('also', {}))}"] = image
    names.with_suffix(".new").write_text(json.dumps(document))
    names.with_suffix(".new").rename(names)
    page.wait(f"document.documentElement.dataset.version !== {before!r}")


SIGHT = """(e => { const r = e.getBoundingClientRect(), s = document.getElementById('sheet').getBoundingClientRect();
    return r.left >= s.left && r.right <= s.right && r.top >= s.top && r.bottom <= s.bottom })"""


@pytest.mark.parametrize("width", [1420, 1024, 700])
def test_a_chosen_stack_is_not_left_under_the_panel(few: ServedPage, opened: Opener, width: int) -> None:
    page = opened(few)
    page.size(width, 800)
    page.wait("document.querySelector('.box.image')")
    seen = [box for box in boxes(page) if box["kind"] == "image" and box["right"] < width]
    last = max(seen, key=lambda box: float(box["left"]))
    choose(page, "image", last["id"])
    page.wait("document.querySelector('.inspector .steps')")
    page.wait(f"{SIGHT}(document.querySelector('.box[data-kind=image][aria-current]'))")
    page.press("Escape")
    page.wait("document.getElementById('inspector').hidden")
    # What spans the sheet is looked at in the stack that was pointed at.
    page.run("document.getElementById('sheet').scrollLeft = 0")
    page.wait("document.getElementById('sheet').scrollLeft === 0")
    base = max((box for box in boxes(page) if box["kind"] == "layer"), key=lambda box: int(box["span"]))
    x, y = float(last["left"]) + 40, (base["top"] + base["bottom"]) / 2
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1})
    page.wait("document.querySelector('.as-seen select')")
    assert page.run("document.querySelector('.as-seen select').value") == last["id"]
    cap = f"document.querySelector('.box[data-kind=image][data-id=\"{last['id']}\"]')"
    page.wait(f"{SIGHT}({cap})")


def test_another_image_that_a_layer_is_seen_in_comes_into_sight(few: ServedPage, opened: Opener) -> None:
    page = opened(few)
    page.wait("document.querySelector('.box.image')")
    base = max((box for box in boxes(page) if box["kind"] == "layer"), key=lambda box: int(box["span"]))
    choose(page, "layer", base["id"])
    page.wait("document.querySelector('.as-seen select')")
    other = page.run("document.querySelector('.as-seen select').options[7].value")
    page.run(
        "(e => { e.selectedIndex = 7; e.dispatchEvent(new Event('change')) })(document.querySelector('.as-seen select'))"
    )
    cap = f"document.querySelector('.box[data-kind=image][data-id=\"{other}\"]')"
    page.wait(f"{cap} && {SIGHT}({cap})")


def test_a_layer_of_very_many_images_tells_which_it_is_seen_in(tmp_path: Path, opened: Opener) -> None:
    many = ManyImages(tmp_path / "root")
    base = many.layer(None, "ADD base", {"a": b"1" * 100})
    images = [many.image(many.layer(base, f"RUN {number}", {}), f"i:{number:03}") for number in range(90)]
    with ServedPage(many.close()) as served:
        page = opened(served)
        page.run(
            f"location.hash = 'stacks/layer/' + encodeURIComponent({base.chain!r}) + '/' + encodeURIComponent({images[80]!r})"
        )
        page.wait("document.querySelector('.as-seen select')")
        assert page.run("document.querySelector('.as-seen select').value") == images[80]
        assert page.run("document.querySelector('.as-seen select').selectedOptions[0].textContent") == "i:080"
        assert "and 30 more" in page.text()
        page.run(f"location.hash = 'stacks/layer/' + encodeURIComponent({base.chain!r})")
        page.wait("document.querySelector('.as-seen select').value === ''")
        assert page.run("document.querySelector('.as-seen select').selectedOptions[0].textContent") == "none"


def test_what_is_open_stays_so_while_the_store_changes(few: ServedPage, opened: Opener) -> None:
    page = opened(few)
    page.wait("document.querySelector('.box.image')")
    page.run("document.querySelector('.box.image').focus()")
    page.press("End")  # to images that what changes has nothing to do with
    page.wait(
        "document.activeElement.classList.contains('image') && document.getElementById('sheet').scrollLeft > 5000"
    )
    base = max((box for box in boxes(page) if box["kind"] == "layer"), key=lambda box: float(box["right"]))
    choose(page, "layer", base["id"])
    page.wait("document.querySelector('.cell.folder')")
    page.run("document.querySelector('.as-seen select').focus()")
    page.run("document.querySelector('.as-seen select').mark = 1")
    change(page, few)
    assert page.run("document.activeElement.mark") == 1  # a list that is let down stays down
    page.run("document.querySelector('.cell.folder').focus()")
    page.press("Enter")
    page.wait("document.querySelectorAll('.crumbs button').length === 2")
    before = page.run(HERE)
    change(page, few)
    assert page.texts(".crumbs button") == ["/", "bin/"]
    assert page.run(HERE) == before
    page.press("Escape")
    page.wait("document.getElementById('inspector').hidden")
    image = next(box["id"] for box in few.ask("stacks?filter=service-0000")["boxes"] if box["kind"] == "image")
    page.run(f"location.hash = 'stacks/image/' + encodeURIComponent({image!r})")
    page.wait("document.querySelector('.steps a')")
    page.run("document.querySelectorAll('.steps a')[1].focus()")
    before = page.run(HERE)
    change(page, few)  # this image's own names
    page.wait("document.querySelector('.facts').textContent.includes('also:')")
    assert page.run(HERE) == before


def test_the_column_under_the_cursor_stays_while_the_store_changes(few: ServedPage, opened: Opener) -> None:
    page = opened(few)
    page.wait("document.querySelector('.box.image')")
    page.run("document.querySelector('.box.image').focus()")
    page.press("End", "ArrowLeft")
    page.wait("document.activeElement.classList.contains('image')")
    cap = page.run(HERE)
    for _ in range(6):
        page.press("ArrowDown")
    page.wait("document.activeElement.dataset.span > 1")
    change(page, few)
    for _ in range(6):
        page.press("ArrowUp")
    page.wait("document.activeElement.classList.contains('image')")
    assert page.run(HERE) == cap


def test_the_ledger_and_what_was_found_keep_ones_place(few: ServedPage, opened: Opener) -> None:
    page = opened(few, "#ledger")
    page.wait("document.querySelector('#ledger .quiet:not([hidden])')")
    page.run("document.querySelector('#ledger .quiet:not([hidden])').focus()")
    page.press("Enter")
    page.wait("document.querySelectorAll('#ledger a').length === 60")
    assert page.run("document.activeElement.tagName") == "TR"  # the button has gone; on with what it brought
    page.run("document.querySelectorAll('#ledger a')[55].focus()")
    page.run("document.querySelectorAll('#ledger a')[55].scrollIntoView()")
    before = (page.run(HERE), page.run("document.getElementById('view-ledger').scrollTop"))
    page.run("document.querySelectorAll('#ledger a')[0].mark = 1")
    change(page, few)
    page.wait("!document.querySelectorAll('#ledger a')[0].mark")
    assert page.run("document.querySelectorAll('#ledger a').length") == 60
    assert (page.run(HERE), page.run("document.getElementById('view-ledger').scrollTop")) == before
    page.run("location.hash = 'find/' + encodeURIComponent('/etc/os-release')")
    page.wait("document.querySelector('.version')")
    page.run("document.querySelector('.version .from a').focus()")
    before = page.run(HERE)
    page.run("document.getElementById('path').value = '/half/a/pa'")
    change(page, few)
    assert page.run(HERE) == before
    assert page.run("document.getElementById('path').value") == "/half/a/pa"


def test_the_map_fills_its_place_at_any_width(few: ServedPage, opened: Opener) -> None:
    page = opened(few)
    page.size(1420, 800)
    base = max((box for box in boxes(page) if box["kind"] == "layer"), key=lambda box: int(box["span"]))
    choose(page, "layer", base["id"])
    page.wait("document.querySelector('.cell')")
    full = """Math.abs(Math.max(...[...document.querySelectorAll('.map > .cell')].map(e => e.offsetLeft + e.offsetWidth))
        - document.querySelector('.map').clientWidth) < 3"""
    for width in (700, 1420):
        page.size(width, 800)
        page.wait(full)


def test_the_keyboard_is_never_led_nowhere(few: ServedPage, opened: Opener) -> None:
    page = opened(few)
    page.wait("document.querySelector('.box.image')")
    page.run("document.querySelector('.box.image').focus()")
    page.press("3")
    page.wait("document.activeElement.id === 'main' && document.querySelector('#ledger a')")
    page.press("Tab")
    page.wait("document.activeElement.closest('#ledger')")
    page.press("/")
    page.wait("document.activeElement.id === 'filter' && document.getElementById('filter').clientWidth")
    page.press("Escape", "4")
    page.wait("document.activeElement.id === 'main'")
    page.press("Tab")
    page.wait("document.activeElement.id === 'check-run'")
    page.press("Enter")
    page.wait("document.querySelector('.verdict')")
    assert page.run("document.activeElement.id") == "check-run"
    said = "document.getElementById('said').textContent"
    assert page.run(said) == page.texts(".verdict")[0]
    page.press("/")
    page.wait("document.activeElement.id === 'filter'")
    page.press("Enter")
    page.wait("document.activeElement.classList.contains('box')")
    page.press("Enter")
    page.wait("document.querySelector('.inspector .steps')")
    assert page.run(said) == "Image team0/service-0000:1.0 is open; Tab leads into it"
    page.press("Tab")
    assert page.run("document.activeElement.getAttribute('aria-label')") == "Close"
    change(page, few)
    page.wait("document.querySelector('.outdated')")


def test_escape_closes_what_is_only_about_to_open(few: ServedPage, opened: Opener) -> None:
    page = opened(few)
    page.wait("document.querySelector('.box.image')")
    page.run("document.querySelector('.box.image').focus()")
    page.run("""window.real = fetch; window.fetch = async (...all) => {
        if (String(all[0]).includes('api/image')) await new Promise((done) => { window.release = done; });
        return real(...all); }""")
    page.press("Enter")
    page.wait("window.release")
    page.press("Escape")
    page.wait("location.hash === '#stacks' && !document.querySelector('.box[aria-current]')")
    page.run("release()")
    page.wait("performance.getEntriesByType('resource').some(e => e.name.includes('api/image'))")
    assert page.run("new Promise(done => setTimeout(() => done(document.getElementById('inspector').hidden), 50))")


def test_nothing_is_said_twice(few: ServedPage, opened: Opener) -> None:
    page = opened(few)
    page.wait("document.getElementById('live').className === 'live on'")
    page.run("""window.said = 0; window.asked = performance.getEntriesByType('resource').length;
        for (const each of document.querySelectorAll('[role=status]'))
            new MutationObserver(() => { window.said += 1; }).observe(each, {childList: true, characterData: true, subtree: true})""")
    page.wait("performance.getEntriesByType('resource').length >= window.asked + 3")
    assert page.run("window.said") == 0


def test_a_store_that_goes_is_told_of_and_comes_back(tmp_path: Path, browser: Browser) -> None:
    root = make_many(tmp_path / ("a-rather-long-name-for-a-directory-" * 5), images=3)
    with ServedPage(root) as served:
        page = browser.page(width=700, height=800)
        page.go(served.address)
        page.wait("document.querySelectorAll('.box.image').length === 3")
        root.rename(tmp_path / "away")
        page.wait("document.getElementById('live').className === 'live off'")
        assert page.run("document.documentElement.scrollWidth") == 700  # nothing is pushed out of sight
        assert "no such directory" in page.run("document.getElementById('live').title")
        page.run("document.getElementById('filter').focus()")
        page.write("service-0001")
        page.wait("document.querySelector('#ground .error-text')")
        (tmp_path / "away").rename(root)
        page.wait("document.querySelectorAll('.box.image').length === 1")
        page.call("Page.close")


def test_layers_are_numbered_as_explain_numbers_them(store: Lamella, served: ServedPage, opened: Opener) -> None:
    page = opened(served)
    page.run(f"location.hash = 'stacks/image/' + encodeURIComponent({store.inspect('service:1')['Id']!r})")
    page.wait("document.querySelector('.steps')")
    explained = [line.split()[1] for line in store.run("explain", "service:1").splitlines() if line.startswith("│  ") and line[3:6].strip()]  # fmt: skip
    assert page.texts(".steps .n") == explained == ["1", "2", "·", "3"]
    page.run("document.querySelectorAll('.steps a')[2].click()")
    page.wait("document.querySelector('.inspector .kicker').textContent === 'Layer 3 · step 4'")


def test_what_cannot_be_read_is_told_of(tmp_path: Path, opened: Opener) -> None:
    root = make_many(tmp_path / "root", images=4)
    config = next((root / "image/overlay2/imagedb/content/sha256").iterdir())
    whole = config.read_bytes()
    with ServedPage(root) as served:
        page = opened(served)
        page.wait("document.querySelectorAll('.box.image').length === 4")
        assert not page.run("document.getElementById('problems').clientWidth")
        config.write_text("{<b>")
        os.utime(config.parent)
        page.wait("document.querySelectorAll('.box.image').length === 3")
        page.wait("document.getElementById('problems').textContent === '1 record cannot be read'")
        page.click("#problems")
        page.wait("!document.getElementById('view-check').hidden")
        (told,) = page.texts("#unread li")
        assert f"image sha256:{config.name}: its config is damaged" in told
        config.write_bytes(whole)
        os.utime(config.parent)
        page.wait("document.querySelectorAll('#unread li').length === 0")
